"""Losses: a pure function and a thin module each."""

from simmim_pl.losses.loss import Loss
from simmim_pl.losses.nt_xent import NTXent, nt_xent

__all__ = ["Loss", "NTXent", "nt_xent"]
