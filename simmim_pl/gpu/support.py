"""Which devices run Triton kernels."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

import torch


@lru_cache
def runs_kernels(device: torch.device) -> bool:
    """Whether Triton compiles for this device: a GPU of NVIDIA's since Volta, or of AMD's, on Linux."""
    if device.type != "cuda" or find_spec("triton") is None:
        return False
    return torch.version.hip is not None or torch.cuda.get_device_capability(device) >= (7, 0)
