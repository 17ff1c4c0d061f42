"""Infrastructure of every run: ranks, seeds, checkpoints, atomic writes. Not needed to understand the methods."""
