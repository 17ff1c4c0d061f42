"""Self-supervised methods, one a page. Start with :mod:`simmim_pl.methods.contrastive`."""

from simmim_pl.methods.contrastive import Contrastive
from simmim_pl.methods.method import Method, Output
from simmim_pl.methods.rotation import Rotation

__all__ = ["Contrastive", "Method", "Output", "Rotation"]
