"""One kernel at one shape: what is measured, and the least time it could take."""

from __future__ import annotations

from dataclasses import dataclass

from search_spaces.hardware import Hardware, Precision

Shape = tuple[tuple[str, int | str], ...]


def key_of(kernel: str, shape: Shape) -> str:
    """The stable name of a kernel at a shape: `fp8_gemm/m=1,n=1536,k=4096`."""
    return f"{kernel}/" + ",".join(f"{name}={value}" for name, value in shape)


@dataclass(frozen=True, slots=True)
class KernelCase:
    """A kernel at a shape. Two cases with the same key are the same measurement."""

    family: str
    """Module of `profiler.kernels` that knows how to run it."""
    kernel: str
    shape: Shape
    """Names and values in the order of the key."""
    flops: float
    """Floating-point operations that the result needs; padding is not counted."""
    num_bytes: float
    """Bytes that must at least be read or written once in GPU memory."""
    precision: Precision = "bf16"
    """Tensor-core mode whose peak bounds the FLOPs."""
    link_bytes: float = 0.0
    """Bytes that must leave or enter one GPU over NVLink."""
    level: int = 0
    """0 coarse grid, then refinements."""
    role: str = ""
    """Which product of which model and plan asks for the shape first."""

    @property
    def key(self) -> str:
        """See `key_of`."""
        return key_of(self.kernel, self.shape)

    def size(self, name: str) -> int:
        """A shape value that is a number."""
        return int(dict(self.shape)[name])

    def text(self, name: str) -> str:
        """A shape value that is a word."""
        return str(dict(self.shape)[name])

    def roofline_s(self, hw: Hardware) -> float:
        """Seconds that no kernel beats on `hw`: see `roofline_s`."""
        return roofline_s(hw, self.flops, self.num_bytes, self.precision, self.link_bytes)


def roofline_s(
    hw: Hardware, flops: float, num_bytes: float, precision: Precision, link_bytes: float = 0.0
) -> float:
    """The longest of FLOPs over the dense peak, bytes over HBM and bytes over NVLink bandwidth."""
    return max(
        flops / hw.peak_flops(precision), num_bytes / hw.hbm_bytes_per_s, link_bytes / hw.nvlink_bytes_per_s
    )
