"""What ``predict`` embeds: every image there is, or those of one split; and where each came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Subset

from simmim_pl.data.source import whole

Wanted = Literal["all", "train", "validation", "test"]


def parts(splits: Mapping[str, Subset], wanted: Wanted) -> list[Subset]:
    """What is embedded, a loader each. All images are those of the source's train, in its order, then those of test."""
    if wanted != "all":
        return [splits[wanted]]
    train = whole(splits["train"])
    return [Subset(train, range(len(train))), *([splits["test"]] if "test" in splits else [])]


def left_out(splits: Mapping[str, Subset], wanted: Wanted) -> str:
    """A sentence that counts the images that are not embedded when only a split is."""
    known = [f"{len(splits[name])} of {name}" for name in ("train", "validation") if name in splits and name != wanted]
    lacking = "all of train and validation" if wanted == "test" else " and ".join([*known, "all of test"])
    number = len(splits[wanted])
    return f"Embedding {number} images of {wanted}; left out are {lacking}, which --data.predict_split all embeds too."


def origin(
    splits: Mapping[str, Subset], wanted: Wanted, part: Int64[Tensor, " N"], index: Int64[Tensor, " N"]
) -> tuple[list[str], list[str] | None]:
    """Split and file of each image, given its part and place; no files of sets that are none of image files."""
    images = [whole(each) for each in parts(splits, wanted)]
    held_out = set(splits["validation"].indices) if wanted == "all" else set()

    def split(part: int, index: int) -> str:
        if wanted != "all":
            return wanted
        return "test" if part else "validation" if index in held_out else "train"

    places = list(zip(part.tolist(), index.tolist(), strict=True))
    files = [each.files for each in images]
    paths = None if None in files else [files[part][index] for part, index in places]
    return [split(*place) for place in places], paths
