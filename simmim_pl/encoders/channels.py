"""Encoders of any number of channels: their statistics, and the first convolution of another library's network."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from simmim_pl.contracts import InputError

# Channel statistics of CIFAR-10's training set, in [0, 1].
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)

Numbers = Sequence[float]


def statistics(
    channels: int, mean: Numbers | None, std: Numbers | None, of_rgb: tuple[Numbers, Numbers] = (CIFAR_MEAN, CIFAR_STD)
) -> tuple[Numbers, Numbers]:
    """Mean and standard deviation of each channel.

    Args:
        channels: their number.
        mean: of each channel; ``None``, or the default of RGB, is 0.5 for images that are not RGB.
        std: of each channel; the same with 0.25.
        of_rgb: the defaults of RGB.

    Raises:
        InputError: there are more or fewer numbers than channels.
    """
    found = []
    for name, numbers, usual, other in zip(("mean", "std"), (mean, std), of_rgb, (0.5, 0.25), strict=True):
        if numbers is None or tuple(numbers) == tuple(usual):
            numbers = usual if channels == 3 else [other] * channels
        if len(numbers) != channels:
            raise InputError(
                f"The encoder's {name} has {len(numbers)} numbers for {channels} channels: give one for each channel."
            )
        found.append(numbers)
    return found[0], found[1]


def replace_first_convolution(net: nn.Module, channels: int) -> None:
    """Give a network of RGB images a first convolution of another number of channels, with new weights."""
    path, conv = next((path, part) for path, part in net.named_modules() if isinstance(part, nn.Conv2d))
    of = {name: getattr(conv, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    net.set_submodule(path, nn.Conv2d(channels, conv.out_channels, bias=conv.bias is not None, **of))
