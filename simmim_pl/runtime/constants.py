"""Cached constant tensors on a device."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor


@lru_cache(maxsize=256)
def constant(values: tuple[Any, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A cached tensor of numbers, which must not be modified: only the first call waits for the device."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)
