"""Optimisations for CPUs. They have no effect on other devices."""
