"""Optimizers that torch does not have; any of torch's, timm's or your own is named in YAML in the same way."""

from simmim_pl.optimizers.muon import Muon

__all__ = ["Muon"]
