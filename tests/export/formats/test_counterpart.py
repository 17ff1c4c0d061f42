"""Which encoders have a counterpart in another library."""

import pytest

from simmim_pl.contracts import InputError
from simmim_pl.encoders import ResNet
from simmim_pl.export.formats.counterpart import require_rgb, resnet_tensors


def test_networks_of_other_images_than_rgb_have_none() -> None:
    require_rgb(ResNet(18), "timm")
    with pytest.raises(
        InputError, match=r"timm has no network like ResNet: its images are not RGB\. Instead export it"
    ):
        require_rgb(ResNet(18, channels=1), "timm")


def test_a_network_pooled_to_a_grid_has_none() -> None:
    assert "fc.weight" not in resnet_tensors(ResNet(18), "timm")
    with pytest.raises(InputError, match=r"torchvision has no network like this ResNet: torchvision's averages"):
        resnet_tensors(ResNet(18, pool=2), "torchvision")
