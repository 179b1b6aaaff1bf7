"""Whether a device multiplies bf16 in its hardware: what `precision=auto` goes by, and what the doctor says."""

from pathlib import Path

import torch

FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""Of x86, the last one of ARM; elsewhere than on Linux nobody says."""


def has_bf16(device: torch.device) -> bool:
    """What is emulated, as oneDNN offers on any CPU with AVX-512, is slower than single precision."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and _flags_of_cpu() & FLAGS != set()


def _flags_of_cpu() -> set[str]:
    try:
        return set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return set()
