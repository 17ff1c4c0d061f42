"""Features of images outside the trainer's loops, at the size of the validation images."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from simmim_pl.callbacks.extracted import extract, resized
from simmim_pl.contracts import Features
from simmim_pl.data.files.decode import decode_batch

TRAINER: Any = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))


class Means(nn.Module):
    """An encoder of the mean of each colour."""

    device = torch.device("cpu")
    encoder = SimpleNamespace(embed_dim=3)

    def forward(self, image: Tensor) -> Features:
        self.size = image.shape[-2:]
        return Features(image.mean((2, 3)), image)


def batches(*sizes: int) -> list[dict[str, Tensor]]:
    number = torch.arange(sum(sizes))
    rows = {"image": number.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 8, 8), "label": 2 * number}
    rows["index"] = number.flip(0)
    parts = ({name: column.split(sizes)[place] for name, column in rows.items()} for place in range(len(sizes)))
    return list(parts)


def test_rows_are_in_the_order_of_the_index() -> None:
    features, labels = extract(TRAINER, Means(), cast(Any, batches(3, 2)))
    assert labels.tolist() == [8, 6, 4, 2, 0]
    torch.testing.assert_close(features[:, 0] * 255, labels / 2)


def test_batches_without_index_keep_their_order() -> None:
    given = [{name: rows for name, rows in batch.items() if name != "index"} for batch in batches(3, 2)]
    assert extract(TRAINER, Means(), cast(Any, given))[1].tolist() == [0, 2, 4, 6, 8]


def test_a_rank_may_have_no_image() -> None:
    features, labels = extract(TRAINER, Means(), [])
    assert (features.shape, labels.shape) == ((0, 3), (0,))


def test_the_encoder_sees_the_wanted_size() -> None:
    module = Means()
    extract(TRAINER, module, cast(Any, batches(2)), (6, 5))
    assert module.size == (6, 5)


@pytest.mark.parametrize(("width", "height"), [(40, 32), (32, 50), (9, 7), (16, 16)])
def test_images_are_resized_as_files_are(tmp_path: Path, width: int, height: int) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (height, width, 3), dtype=torch.uint8, generator=generator)
    Image.fromarray(image.numpy()).save(tmp_path / "a.png")
    expected = decode_batch([str(tmp_path / "a.png")], 16)
    found = resized(image.permute(2, 0, 1)[None], 16, 16)
    assert found.shape == (1, 3, 16, 16)
    inside = (slice(None), slice(None), slice(3, -3), slice(3, -3))  # at its border Pillow reads beyond the crop
    assert (found[inside].int() - expected[inside].int()).abs().max() <= 1


def test_images_cover_a_size_that_is_not_square() -> None:
    image = torch.randint(256, (1, 3, 20, 20), dtype=torch.uint8)
    assert torch.equal(resized(image, 10, 20), image[:, :, 5:15])
    assert resized(image, 30, 20).shape == (1, 3, 30, 20)
