"""Views: what an image becomes before the encoder sees it, batched, on the device."""

from simmim_pl.views.contrastive import ContrastiveViews
from simmim_pl.views.crop_flip import CropFlip

__all__ = ["ContrastiveViews", "CropFlip"]
