"""Views: what an image becomes before the encoder sees it, batched, on the device."""

from simmim_pl.views.contrastive import ContrastiveViews

__all__ = ["ContrastiveViews"]
