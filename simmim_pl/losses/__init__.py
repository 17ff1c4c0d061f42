"""Losses, each as a pure function and a thin module."""

from simmim_pl.losses.barlow_twins import BarlowTwins, barlow_twins
from simmim_pl.losses.loss import Loss
from simmim_pl.losses.nt_xent import NTXent, nt_xent
from simmim_pl.losses.sigreg import SIGReg, sigreg
from simmim_pl.losses.vicreg import VICReg, vicreg

__all__ = ["BarlowTwins", "Loss", "NTXent", "SIGReg", "VICReg", "barlow_twins", "nt_xent", "sigreg", "vicreg"]
