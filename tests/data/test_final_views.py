"""Final views: invalid ones are refused before a run, not at its end."""

import pytest
import torch
from torch import Tensor

from simmim_pl.contracts import InputError, Views
from simmim_pl.data.final_views import check
from simmim_pl.views import ContrastiveViews, CropFlip


class UserViews(Views):
    """A user's views with unknown size."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        return image[None] / 255


@pytest.mark.parametrize(
    ("views", "final"),
    [
        (None, None),
        (ContrastiveViews(16), None),
        (ContrastiveViews(16), ContrastiveViews(16)),
        (ContrastiveViews(16, views=4), ContrastiveViews(20)),
        (CropFlip(), None),  # of the images' own size
        (CropFlip(), ContrastiveViews(16)),
        (CropFlip(16), CropFlip()),  # for a method that needs one
        (UserViews(), UserViews()),
    ],
)
def test_valid_final_views(views: Views | None, final: Views | None) -> None:
    check(views, final)


@pytest.mark.parametrize(
    ("final", "says"),
    [
        (ContrastiveViews(15), "Final views of 15 pixels are smaller than the views of 16 before"),
        (CropFlip(), "CropFlip makes one final view of an image"),
        (CropFlip(20), "set --data.final_views simmim_pl.views.ContrastiveViews, or null"),
    ],
)
def test_invalid_final_views_are_refused(final: Views, says: str) -> None:
    with pytest.raises(InputError, match=says):
        check(ContrastiveViews(16), final)
