"""Self-supervised methods, one a page. Start with :mod:`simmim_pl.methods.contrastive`."""

from simmim_pl.methods.contrastive import Contrastive

__all__ = ["Contrastive"]
