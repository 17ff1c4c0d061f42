"""Self-supervised methods, one a page. Start with :mod:`simmim_pl.methods.contrastive`."""

from simmim_pl.methods.contrastive import Contrastive
from simmim_pl.methods.masked_image import MaskedImage
from simmim_pl.methods.method import Method, Output

__all__ = ["Contrastive", "MaskedImage", "Method", "Output"]
