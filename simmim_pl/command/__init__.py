"""The command lines: of training and evaluation, of sweeps, of the W&B workspace."""

import os

# What a Mac's GPU cannot do its CPU does, and torch says so. It reads this when it is imported, so this comes first.
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
