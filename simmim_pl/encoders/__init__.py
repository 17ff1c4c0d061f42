"""Encoders: images in [0, 1] → :class:`simmim_pl.contracts.Features`."""

from simmim_pl.encoders.fastcnn import FastCNN
from simmim_pl.encoders.nin import NIN
from simmim_pl.encoders.resnet import ResNet
from simmim_pl.encoders.swin import Swin
from simmim_pl.encoders.timm import Timm
from simmim_pl.encoders.torchvision import Torchvision
from simmim_pl.encoders.vit import ViT

__all__ = ["NIN", "FastCNN", "ResNet", "Swin", "Timm", "Torchvision", "ViT"]
