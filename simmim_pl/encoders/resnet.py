"""torchvision's ResNet with a stem for small images."""

from __future__ import annotations

from typing import Literal

import torchvision
from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, Features
from simmim_pl.encoders.channels import CIFAR_MEAN, CIFAR_STD, replace_first_convolution, statistics
from simmim_pl.encoders.grid_pooling import grid_means
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, ranged


class ResNet(Encoder):
    """ResNet-18, 34 or 50 (He et al. 2016, arXiv 1512.03385) without its classifier.

    With ``stem: cifar`` the first convolution is 3×3 with stride 1, and there is no max-pooling (Chen et al. 2020,
    appendix B.9). ImageNet's stem reduces a 32×32 image to 8×8 before the first block, which limits accuracy.

    Args:
        depth: 18, 34 (D = 512) or 50 (D = 2048).
        stem: ``cifar`` for images of about 32 to 96 pixels, ``imagenet`` for larger ones.
        mean: per-channel mean of the images, in [0, 1]; by default CIFAR-10's; 0.5 if they are not RGB.
        std: per-channel standard deviation of the images; by default CIFAR-10's, or 0.25.
        channels: of the images: 3 for RGB, 1 for grey, or more.
        pool: side of the grid of cells in which the feature map is averaged, as ``AdaptiveAvgPool2d(pool)`` does. The
            cells' features are concatenated, so D is pool² times as large.
    """

    # torchvision's names of the children of ``net``, whose own names are their positions.
    published = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")

    @ranged
    def __init__(
        self,
        depth: Literal[18, 34, 50] = 18,
        stem: Literal["cifar", "imagenet"] = "cifar",
        mean: tuple[Probability, ...] = CIFAR_MEAN,
        std: tuple[PositiveFloat, ...] = CIFAR_STD,
        channels: PositiveInt = 3,
        pool: PositiveInt = 1,
    ) -> None:
        net = getattr(torchvision.models, f"resnet{depth}")(weights=None)
        last, stride = net.fc.in_features, 8 if stem == "cifar" else 32
        super().__init__(last * pool**2, *statistics(channels, mean, std), stride=stride, feature_map_channels=last)
        self.pool = pool
        if stem == "cifar":
            net.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
            net.maxpool = nn.Identity()
        elif channels != 3:
            replace_first_convolution(net, channels)
        parts = (net.conv1, net.bn1, net.relu, net.maxpool, net.layer1, net.layer2, net.layer3, net.layer4)
        self.net = nn.Sequential(*parts)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        feature_map = self.net(self.normalize(image))
        return Features(pooled=grid_means(feature_map, self.pool), feature_map=feature_map)
