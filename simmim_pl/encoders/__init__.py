"""Encoders: RGB in [0, 1] → :class:`simmim_pl.records.Features`."""

from simmim_pl.encoders.fastcnn import FastCNN
from simmim_pl.encoders.resnet import ResNet

__all__ = ["FastCNN", "ResNet"]
