"""The GPU that kernels run on, and what identifies a measurement's environment."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec

from search_spaces.errors import MissingData

PACKAGES = (
    "torch", "triton", "sglang", "sglang-kernel", "sgl-deep-gemm", "deep-gemm", "flashinfer-python",
    "tilelang", "apache-tvm-ffi", "sgl-deep-ep", "nvidia-nccl-cu13",
)  # fmt: skip
"""Distributions whose versions decide which kernels run."""
WITHOUT_GPU = (
    "without one, `servecast profile report` shows the records that ship, and predictions use the "
    "kernel tables in the catalog"
)


@dataclass(frozen=True, slots=True)
class Gpu:
    """The current device and its neighbours."""

    name: str
    """As the driver prints it."""
    sm: int
    """Compute capability times ten."""
    count: int
    """GPUs that this process sees."""
    num_sms: int
    l2_bytes: int
    total_bytes: int
    driver: str
    cuda: str
    device: str = "cuda"
    """Where tensors are made."""


def find_gpu() -> Gpu:
    """The first GPU; raises `MissingData` that says what is missing and what works without it."""
    if find_spec("torch") is None:
        raise MissingData(
            f"torch is not installed and kernels are measured with it: pip install 'servecast[gpu]' on a "
            f"machine with an NVIDIA GPU; {WITHOUT_GPU}"
        )
    import torch

    if not torch.cuda.is_available():
        raise MissingData(f"PyTorch {torch.__version__} sees no NVIDIA GPU; run this on one; {WITHOUT_GPU}")
    found = torch.cuda.get_device_properties(0)
    return Gpu(
        name=found.name,
        sm=10 * found.major + found.minor,
        count=torch.cuda.device_count(),
        num_sms=found.multi_processor_count,
        l2_bytes=found.L2_cache_size,
        total_bytes=found.total_memory,
        driver=_nvidia_smi("driver_version") or "unknown",
        cuda=torch.version.cuda or "none",
    )


def sm_clock_mhz() -> int | None:
    """The SM clock now; None where `nvidia-smi` is absent."""
    found = _nvidia_smi("clocks.sm")
    return int(found) if found.isdigit() else None


def package_versions() -> dict[str, str]:
    """Version of each installed package of `PACKAGES`, and of Python."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _nvidia_smi(query: str) -> str:
    import subprocess

    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader,nounits", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()
