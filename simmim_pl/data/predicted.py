"""The images that ``predict`` embeds, of all splits or of one, and the split and file of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import Subset

from simmim_pl.data.source import whole

PredictSplit = Literal["all", "train", "validation", "test"]


def predicted_subsets(splits: Mapping[str, Subset], wanted: PredictSplit) -> list[Subset]:
    """The subsets to embed, one for each DataLoader.

    ``all`` means the source's whole training set in its own order (train and validation mixed), then test.
    """
    if wanted != "all":
        return [splits[wanted]]
    train = whole(splits["train"])
    return [Subset(train, range(len(train))), *([splits["test"]] if "test" in splits else [])]


def describe_left_out(splits: Mapping[str, Subset], wanted: PredictSplit) -> str:
    """A sentence that counts the images that are left out when only one split is embedded."""
    known = [f"{len(splits[name])} of {name}" for name in ("train", "validation") if name in splits and name != wanted]
    lacking = "all of train and validation" if wanted == "test" else " and ".join([*known, "all of test"])
    number = len(splits[wanted])
    return f"Embedding {number} images of {wanted}; left out are {lacking}, which --data.predict_split all embeds too."


def splits_and_paths(
    splits: Mapping[str, Subset], wanted: PredictSplit, part: Int64[Tensor, " N"], index: Int64[Tensor, " N"]
) -> tuple[list[str], list[str] | None]:
    """Split and file of each embedded image.

    Args:
        splits: subset of each split.
        wanted: the split that is embedded, or ``all``.
        part: int64 ``[N]``, position of each image's subset in :func:`predicted_subsets`.
        index: int64 ``[N]``, position of each image in the whole data set of its subset.

    Returns:
        N names of splits, and N paths; ``None`` for the paths if the data set is not made of image files.
    """
    images = [whole(each) for each in predicted_subsets(splits, wanted)]
    held_out = set(splits["validation"].indices) if wanted == "all" else set()

    def split(part: int, index: int) -> str:
        if wanted != "all":
            return wanted
        return "test" if part else "validation" if index in held_out else "train"

    places = list(zip(part.tolist(), index.tolist(), strict=True))
    files = [each.files for each in images]
    paths = None if None in files else [files[part][index] for part, index in places]
    return [split(*place) for place in places], paths
