"""Network in network, as rotation prediction was published with."""

from __future__ import annotations

from typing import Annotated

from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, Features
from simmim_pl.encoders.channels import CIFAR_MEAN, CIFAR_STD, statistics
from simmim_pl.encoders.fastcnn import conv_bn_relu
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, Range, ranged


class NIN(Encoder):
    """Network in network (Lin et al. 2014, arXiv 1312.4400) with which Gidaris et al. 2018 learn from CIFAR-10.

    A block is a 5×5 convolution, from the third block on a 3×3 one, and two 1×1 convolutions, each with BatchNorm and
    ReLU. The first block ends in a max pool, the second in an average pool, both 3×3 with stride 2: the network of the
    authors with their settings for CIFAR-10, without its classifier (github.com/gidariss/FeatureLearningRotNet).
    ``net.block2``, 192×8×8 of a 32×32 image, is the block that transfers best (arXiv 1803.07728, table 1).

    Args:
        blocks: number of blocks, at least 3.
        width: channels of a block's convolutions, and D; the first block has w, 5/6 w and 1/2 w (192, 160, 96).
        mean: per-channel mean of the images, in [0, 1]; by default CIFAR-10's; 0.5 if they are not RGB.
        std: per-channel standard deviation of the images; by default CIFAR-10's, or 0.25.
        channels: of the images: 3 for RGB, 1 for grey, or more.
    """

    @ranged
    def __init__(
        self,
        blocks: Annotated[int, Range("[3, inf)")] = 4,
        width: PositiveInt = 192,
        mean: tuple[Probability, ...] = CIFAR_MEAN,
        std: tuple[PositiveFloat, ...] = CIFAR_STD,
        channels: PositiveInt = 3,
    ) -> None:
        super().__init__(width, *statistics(channels, mean, std), stride=4)
        narrow = (width + 1) // 2
        first = block(channels, [width, (5 * width + 5) // 6, narrow], size=5).append(nn.MaxPool2d(3, 2, padding=1))
        second = block(narrow, [width] * 3, size=5).append(nn.AvgPool2d(3, 2, padding=1))
        others = [block(width, [width] * 3, size=3) for _ in range(blocks - 2)]
        self.net = nn.Sequential()
        for number, part in enumerate((first, second, *others), start=1):
            self.net.add_module(f"block{number}", part)

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        feature_map = self.net(self.normalize(image))
        return Features(pooled=feature_map.mean((2, 3)), feature_map=feature_map)


def block(before: int, outputs: list[int], size: int) -> nn.Sequential:
    """A convolution of a size and 1×1 convolutions after it, to so many channels each."""
    sizes = [size] + [1] * (len(outputs) - 1)
    return nn.Sequential(*map(conv_bn_relu, [before, *outputs], outputs, sizes))
