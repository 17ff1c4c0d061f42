"""Self-supervised methods, one per file. Start with :mod:`simmim_pl.methods.contrastive`."""

from simmim_pl.methods.byol import BYOL
from simmim_pl.methods.contrastive import Contrastive
from simmim_pl.methods.masked_image import MaskedImage
from simmim_pl.methods.method import Method, Output
from simmim_pl.methods.moco_v3 import MoCoV3
from simmim_pl.methods.rotation import Rotation

__all__ = ["BYOL", "Contrastive", "MaskedImage", "Method", "MoCoV3", "Output", "Rotation"]
