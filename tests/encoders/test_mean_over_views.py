"""Averaged features are those of the views, one by one."""

import pytest
import torch
from torchvision.transforms import functional as tv

from simmim_pl.contracts import Encoder, Features
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.mean_over_views import MeanOverViews


class Mean(Encoder):
    """The mean colour, and the whole image as a map."""

    def __init__(self) -> None:
        super().__init__(3, (0.0,) * 3, (1.0,) * 3, stride=1)

    def forward(self, image: torch.Tensor) -> Features:
        return Features(image.mean((2, 3)), image)


def test_crops_are_torchvisions_five_crops_and_their_mirror_images() -> None:
    image = torch.rand(2, 3, 12, 16)
    *corners, centre = tv.five_crop(image, [9, 12])
    views = MeanOverViews(Mean(), crops=2, share=0.75).views(image)
    expected = [tv.resize(crop, [12, 16], antialias=False) for crop in corners]
    assert len(views) == MeanOverViews(Mean(), crops=2).number == 10
    for found, crop in zip(views[1:5], expected, strict=True):
        torch.testing.assert_close(found, crop)
    assert torch.equal(views[0], image)
    for view, mirrored in zip(views[:5], views[5:], strict=True):
        assert torch.equal(tv.hflip(view), mirrored)
    (_, middle) = MeanOverViews(Mean(), crops=1, share=0.75, flip=False).views(image)
    torch.testing.assert_close(middle, tv.resize(centre, [12, 16], antialias=False))


@pytest.mark.parametrize(("crops", "share", "flip"), [(3, 0.5, True), (0, 0.75, True), (2, 1.0, False)])
def test_features_are_the_mean_over_views(crops: int, share: float, flip: bool) -> None:
    encoder, image = FastCNN(2).double().eval(), torch.rand(3, 3, 16, 16, dtype=torch.float64)
    bag = MeanOverViews(encoder, crops, share, flip)
    found, views = bag(image), bag.views(image)
    torch.testing.assert_close(found.pooled, torch.stack([encoder(view).pooled for view in views]).mean(0))
    assert torch.equal(found.feature_map, encoder(image).feature_map)
    assert found.pooled.shape[1] == bag.embed_dim


def test_flips_make_features_symmetric() -> None:
    bag, image = MeanOverViews(FastCNN(2).double().eval()), torch.rand(2, 3, 16, 24, dtype=torch.float64)
    torch.testing.assert_close(bag(image).pooled, bag(tv.hflip(image)).pooled)
