"""Data sets, and the one LightningDataModule that serves them all."""

from simmim_pl.data.cifar import CIFAR10, CIFAR100
from simmim_pl.data.clips import ShapesClips
from simmim_pl.data.folder import Folder
from simmim_pl.data.frames import FrameFolder
from simmim_pl.data.images import Images
from simmim_pl.data.masks import MaskFolder
from simmim_pl.data.pets import OxfordPets
from simmim_pl.data.shapes import Shapes
from simmim_pl.data.stl10 import STL10
from simmim_pl.data.video import VideoFolder

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "STL10",
    "Folder",
    "FrameFolder",
    "Images",
    "MaskFolder",
    "OxfordPets",
    "Shapes",
    "ShapesClips",
    "VideoFolder",
]
