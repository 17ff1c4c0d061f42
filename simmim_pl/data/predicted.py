"""The images that ``predict`` embeds, of all splits or of one, and the split and file of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from jaxtyping import Int64
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor
from torch.utils.data import Subset

from simmim_pl.contracts import InputError
from simmim_pl.data.source import whole

PredictSplit = Literal["all", "train", "validation", "test"]


class Predicted:
    """The subsets to embed, one for each DataLoader.

    Args:
        splits: subset of each split.
        wanted: the split to embed. ``all`` means the source's whole training set in its own order (train and validation
            mixed), then test.
        ranks: number of devices, each of which needs an image of each subset.

    Raises:
        InputError: a split has fewer images than there are devices.
    """

    def __init__(self, splits: Mapping[str, Subset], wanted: PredictSplit, ranks: int = 1) -> None:
        self.splits, self.wanted = splits, wanted
        self.subsets, self.held_out = [splits[wanted]] if wanted != "all" else [], frozenset[int]()
        if wanted == "all":
            train = whole(splits["train"])
            self.subsets = [Subset(train, range(len(train))), *([splits["test"]] if "test" in splits else [])]
            self.held_out = frozenset(splits["validation"].indices)
        for name, images in zip(("train", "test") if wanted == "all" else (wanted,), self.subsets, strict=False):
            if len(images) < ranks:
                raise InputError(
                    f"predict needs an image for each device, and {name} has {len(images)} for {ranks}: set "
                    "--trainer.devices, or --data.predict_split to another split."
                )

    def announce(self) -> None:
        """Say how many images are left out when only one split is embedded."""
        splits, wanted = self.splits, self.wanted
        if wanted == "all":
            return
        others = [name for name in ("train", "validation") if name in splits and name != wanted]
        known = [f"{len(splits[name])} of {name}" for name in others]
        lacking = "all of train and validation" if wanted == "test" else " and ".join([*known, "all of test"])
        told = f"Embedding {len(splits[wanted])} images of {wanted}; left out are {lacking}"
        rank_zero_info(f"{told}, which --data.predict_split all embeds too.")

    def origin(self, part: Int64[Tensor, " N"], index: Int64[Tensor, " N"]) -> tuple[list[str], list[str] | None]:
        """Split and file of embedded images.

        Args:
            part: int64 ``[N]``, position of each image's subset in ``subsets``.
            index: int64 ``[N]``, position of each image in the whole data set of its subset.

        Returns:
            N names of splits, and N paths; ``None`` for the paths if the data set is not made of image files.
        """
        places = list(zip(part.tolist(), index.tolist(), strict=True))
        files = [whole(each).files for each in self.subsets]
        paths = None if None in files else [files[part][index] for part, index in places]
        return [self.split(*place) for place in places], paths

    def split(self, part: int, index: int) -> str:
        """The split of one image."""
        if self.wanted != "all":
            return self.wanted
        return "test" if part else "validation" if index in self.held_out else "train"
