"""The command lines: of training and evaluation, of sweeps, of the W&B workspace."""
