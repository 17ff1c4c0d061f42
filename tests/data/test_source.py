"""The contract of a data set: batches, and a digest of all contents."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.data.source import ImageDataset, InMemory, Source


def images(number: int = 6, *frames: int) -> torch.Tensor:
    return torch.arange(number * 12).view(number, 1, 3, 2, 2).expand(number, *(frames or (1,)), 3, 2, 2).byte()


@given(
    frames=st.sampled_from([0, 1, 5]),
    labelled=st.booleans(),
    masked=st.booleans(),
    index=st.lists(st.integers(0, 5), min_size=1, max_size=8),
)
def test_a_batch_equals_the_data_set(frames: int, labelled: bool, masked: bool, index: list[int]) -> None:
    pixels = images(6, frames) if frames else images(6)[:, 0]
    labels, masks = torch.arange(6) % 2, torch.arange(24).view(6, 2, 2).byte()
    held = InMemory(pixels, labels if labelled else None, masks if masked else None)
    batch = held.__getitems__(index)
    key = "clip" if frames else "image"
    assert set(batch) == {key, "index"} | ({"label"} if labelled else set()) | ({"mask"} if masked else set())
    assert batch["index"].tolist() == index
    assert torch.equal(batch[key], pixels[index])
    assert not labelled or torch.equal(batch["label"], labels[index])
    assert not masked or torch.equal(batch["mask"], masks[index])
    assert held.clips == bool(frames)
    assert not held.workers


def test_the_digest_includes_images_labels_and_masks() -> None:
    pixels, labels, masks = images()[:, 0], torch.arange(6) % 2, torch.arange(24).view(6, 2, 2).byte()
    other = pixels.clone()
    other[5, 2, 1, 1] += 1
    sets = [
        (pixels, labels, masks),
        (other, labels, masks),
        (pixels, 1 - labels, masks),
        (pixels, labels, masks.flip(0)),
        (pixels, None, masks),
        (pixels, labels),
        (pixels, None),
        (pixels[:5], labels[:5]),
        (pixels[:, None], labels),
    ]
    digests = [InMemory(*parts).digest() for parts in sets]
    assert len(set(digests)) == len(sets)
    assert InMemory(pixels.clone(), labels.clone(), masks.clone()).digest() == digests[0]


def test_missing_methods_of_a_data_set_or_source_are_named() -> None:
    class Unfinished(ImageDataset):
        pass

    with pytest.raises(TypeError, match=r"abstract methods '?__len__'?, '?digest'?, '?read'?"):
        Unfinished(None, workers=False)
    with pytest.raises(TypeError, match=r"abstract method '?load'?"):
        Source()
    assert Source.mask_classes == []
