"""Data sets, and the one LightningDataModule that serves them all."""

from simmim_pl.data.datamodule import ImageDataModule
from simmim_pl.data.source import ImageDataset, InMemory, Source, Split
from simmim_pl.data.sources.cifar import CIFAR10, CIFAR100
from simmim_pl.data.sources.clips import ShapesClips
from simmim_pl.data.sources.file_list import FileList
from simmim_pl.data.sources.folder import Folder
from simmim_pl.data.sources.frames import FrameFolder
from simmim_pl.data.sources.held_out import HeldOut
from simmim_pl.data.sources.hugging_face import HuggingFace
from simmim_pl.data.sources.masks import MaskFolder
from simmim_pl.data.sources.pets import OxfordPets
from simmim_pl.data.sources.shapes import Shapes
from simmim_pl.data.sources.stl10 import STL10
from simmim_pl.data.sources.video import VideoFolder

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "STL10",
    "FileList",
    "Folder",
    "FrameFolder",
    "HeldOut",
    "HuggingFace",
    "ImageDataModule",
    "ImageDataset",
    "InMemory",
    "MaskFolder",
    "OxfordPets",
    "Shapes",
    "ShapesClips",
    "Source",
    "Split",
    "VideoFolder",
]
