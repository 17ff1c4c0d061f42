"""Views: random augmentations of images, computed batchwise on the device."""

from simmim_pl.views.color_jitter import ColorJitter
from simmim_pl.views.contrastive import ContrastiveViews
from simmim_pl.views.crop_flip import CropFlip
from simmim_pl.views.gaussian_blur import GaussianBlur
from simmim_pl.views.grayscale import Grayscale
from simmim_pl.views.operation import Operation
from simmim_pl.views.solarize import Solarize

__all__ = ["ColorJitter", "ContrastiveViews", "CropFlip", "GaussianBlur", "Grayscale", "Operation", "Solarize"]
