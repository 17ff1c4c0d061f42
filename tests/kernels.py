"""Kernels are tested on a GPU, or in Triton's interpreter if ``TRITON_INTERPRET=1`` is set at the start.

Without either these tests are skipped; tests/gpu/test_support.py runs them in a separate process with the interpreter.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda", 0) if torch.cuda.is_available() and not INTERPRETED else torch.device("cpu")
needs_kernels = pytest.mark.skipif(False, reason="interpreted") if INTERPRETED else pytest.mark.cuda
