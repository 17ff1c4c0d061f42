"""Triton kernels for GPUs. They have no effect on other devices."""
