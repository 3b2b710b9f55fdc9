"""A GPU platform: what one GPU can do at most, and how GPUs are wired and hosted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from search_spaces.base import Noun

Precision = Literal["fp4", "fp8", "bf16"]


class Hardware(Noun):
    """One GPU platform. Peaks are dense, per GPU and per direction; `sources` cites each number."""

    name: str
    """Catalog name, lower case, such as `gb300`."""
    gpu: str
    """Marketing name of the GPU."""
    sm: int = Field(ge=80)
    """CUDA compute capability times ten: 90 Hopper, 100 and 103 Blackwell."""
    num_sms: int = Field(gt=0)
    """Streaming multiprocessors."""
    hbm_bytes: float = Field(gt=0)
    """Memory the driver reports per GPU, bytes."""
    hbm_bytes_per_s: float = Field(gt=0)
    """Peak memory bandwidth per GPU, bytes/s."""
    fp4_flops: float = Field(ge=0)
    """Dense FP4 tensor peak, FLOP/s; 0 where the GPU has none."""
    fp8_flops: float = Field(gt=0)
    """Dense FP8 tensor peak, FLOP/s."""
    bf16_flops: float = Field(gt=0)
    """Dense BF16 tensor peak, FLOP/s."""
    nvlink_bytes_per_s: float = Field(gt=0)
    """NVLink bandwidth per GPU and direction, bytes/s."""
    nvlink_domain_gpus: int = Field(gt=0)
    """GPUs that reach each other over NVLink (72 on NVL72 racks, 8 on HGX nodes)."""
    nic_bytes_per_s: float = Field(gt=0)
    """Network bandwidth per GPU and direction outside the NVLink domain, bytes/s."""
    gpus_per_node: int = Field(gt=0)
    host_cpu: Literal["grace", "x86"]
    """CPU of the host; eager launches and Python cost differ."""
    power_w: float = Field(gt=0)
    """Board power per GPU, watts."""
    price_per_gpu_hour: float = Field(gt=0)
    """Assumed rental price, US dollars per GPU-hour; an input to change, not a quote."""
    kernel_profile: str
    """Name of the kernel profile that was measured on this platform."""
    sources: dict[str, str]
    """Field name to citation."""

    def peak_flops(self, precision: Precision) -> float:
        """Dense tensor peak for `precision`, FLOP/s; FP4 falls back to FP8 where absent."""
        if precision == "fp4":
            return self.fp4_flops or self.fp8_flops
        return self.fp8_flops if precision == "fp8" else self.bf16_flops
