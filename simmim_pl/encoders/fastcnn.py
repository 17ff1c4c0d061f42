"""A small residual network for CPUs and quick experiments."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, Features
from simmim_pl.encoders.channels import CIFAR_MEAN, CIFAR_STD, statistics
from simmim_pl.encoders.grid_pooling import grid_means
from simmim_pl.encoders.patch_whitening import PatchWhitening
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, ranged


class FastCNN(Encoder):
    """Stem at full resolution, then three stages of one convolution that doubles the channels and one residual block.

    Almost all arithmetic is in 3×3 convolutions on 16×16 to 4×4 grids (for 32×32 images), which are fastest on a CPU.
    At width 32 an image costs 0.2 GFLOP forward, against 1.1 GFLOP of ResNet-18 with the CIFAR stem.

    Args:
        width: channels of the stem; the stages have 2, 4 and 8 times as many.
        mean: per-channel mean of the images, in [0, 1]; by default CIFAR-10's; 0.5 if they are not RGB.
        std: per-channel standard deviation of the images; by default CIFAR-10's, or 0.25.
        features: channels of a last 1×1 convolution with BatchNorm and ReLU, which costs little; by default there is
            none. D is that many, otherwise 8 · width. A linear probe is more accurate on more features.
        channels: of the images: 3 for RGB, 1 for grey, or more.
        pool: side of the grid of cells in which the feature map is averaged, as ``AdaptiveAvgPool2d(pool)`` does. The
            cells' features are concatenated, so D is pool² times as large.
        whiten: the stem is :class:`simmim_pl.encoders.patch_whitening.PatchWhitening` and ReLU. A method fits it to the
            training images when it starts; it is not trained. An encoder that no method has fitted, such as the
            untrained one of evaluations, has the pixels of a patch as filters.

    Raises:
        InputError: an argument is out of its range.
    """

    @ranged
    def __init__(
        self,
        width: PositiveInt = 32,
        mean: tuple[Probability, ...] = CIFAR_MEAN,
        std: tuple[PositiveFloat, ...] = CIFAR_STD,
        features: PositiveInt | None = None,
        channels: PositiveInt = 3,
        pool: PositiveInt = 1,
        whiten: bool = False,
    ) -> None:
        last = features or 8 * width
        super().__init__(last * pool**2, *statistics(channels, mean, std), stride=8, feature_map_channels=last)
        self.pool = pool
        if whiten:
            whitening = PatchWhitening(channels)
            stem, out = nn.Sequential(whitening, nn.ReLU(inplace=True)), len(whitening.weight)
        else:
            stem, out = conv_bn_relu(channels, width), width
        self.net = nn.Sequential(
            stem,
            nn.MaxPool2d(2),
            conv_bn_relu(out, 2 * width),
            ResidualBlock(2 * width),
            conv_bn_relu(2 * width, 4 * width),
            nn.MaxPool2d(2),
            ResidualBlock(4 * width),
            conv_bn_relu(4 * width, 8 * width),
            nn.MaxPool2d(2),
            ResidualBlock(8 * width),
        )
        if features:
            self.net.append(conv_bn_relu(8 * width, features, size=1))

    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        feature_map = self.net(self.normalize(image))
        return Features(pooled=grid_means(feature_map, self.pool), feature_map=feature_map)


def conv_bn_relu(before: int, after: int, size: int = 3) -> nn.Sequential:
    """Convolution with same padding, BatchNorm, ReLU."""
    conv = nn.Conv2d(before, after, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


class ResidualBlock(nn.Module):
    """``relu(x + branch(x))`` with two 3×3 convolutions and a constant number of channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.branch = nn.Sequential(conv_bn_relu(width, width), last, nn.BatchNorm2d(width))

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        out: Tensor = (x + self.branch(x)).relu_()
        return out
