"""Pretrain image encoders without labels, and judge them honestly. Start at ``methods/contrastive.py``."""

__version__ = "0.1.0"
