"""Data sets, and the one LightningDataModule that serves them all."""

from simmim_pl.data.cifar import CIFAR10, CIFAR100
from simmim_pl.data.folder import Folder
from simmim_pl.data.images import Images
from simmim_pl.data.shapes import Shapes

__all__ = ["CIFAR10", "CIFAR100", "Folder", "Images", "Shapes"]
