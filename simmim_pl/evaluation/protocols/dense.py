"""Dense probe: segmentation by a 1×1 convolution on the frozen feature map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int64, Shaped
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import Batch, InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import iou, segmentation
from simmim_pl.evaluation.protocol import Protocol, by_name
from simmim_pl.evaluation.result import Result
from simmim_pl.evaluation.training import LRSearch, choose
from simmim_pl.runtime import distributed

IGNORED = 255  # the id of pixels that belong to no class
ROUNDING = 1e-12  # a channel whose variance is below this fraction of its mean square counts as constant


class DenseProbe(Protocol):
    """Mean IoU and pixel accuracy on test of a linear classifier at every position of the frozen feature map.

    The logits are upsampled to the mask (bilinear). Features are standardised channel by channel, by the training
    images. A step encodes its images once, for the classifiers of all learning rates; validation chooses among them by
    mean IoU after the last epoch. The feature_map of raw pixels is the image.

    Args:
        lr_search: how the classifiers are trained, see :class:`simmim_pl.evaluation.training.LRSearch`.
        data: a data set with masks to evaluate on; by default the run's ``--data``.
    """

    def __init__(
        self,
        lr_search: LRSearch = LRSearch(lr=(1e-3, 3e-3, 1e-2, 3e-2), optimizer="adam"),
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.lr_search = lr_search

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        names = context.data.source.mask_classes
        if not names:
            raise InputError(
                f"{context.data.source.name} has no masks, and a dense probe needs them: see configs/data/masks.yaml."
            )
        context.require_validation()
        mean, scale = feature_map_moments(context)
        steps = context.steps("train")

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            what = f"dense probe, epoch {epoch + 1} of {self.lr_search.epochs}"
            for batch in context.watched(context.batches("train", epoch), what, steps):
                yield (context.encode(batch["image"]).feature_map - mean) / scale, batch["mask"]

        def head() -> nn.Module:
            return Pixels(mean.shape[0], len(names), context.data.splits["train"].dataset.masks.shape[-2:])

        heads = self.lr_search.train(head, batches, steps, context.batch("train"), context, IGNORED)

        def confused(split: str, asked: Sequence[nn.Module]) -> Iterator[tuple[Int64[Tensor, "B H C C"], Tensor]]:
            with torch.no_grad():
                for batch in context.watched(context.batches(split), f"masks of {split}", context.passes(split)):
                    feature_map = (context.encode(batch["image"]).feature_map - mean) / scale
                    counts = [confusions(each(feature_map).argmax(1), batch, len(names)) for each in asked]
                    yield torch.stack(counts, 1), batch["index"]

        total = torch.stack([counts.sum(0) for counts, _ in confused("validation", list(heads.values()))]).sum(0)
        total = distributed.all_reduce_mean(exact(total))  # whose IoU is that of the sum over ranks
        require_counted(total, "validation")
        accuracy = dict(zip(heads, iou(total).nanmean(1).tolist(), strict=True))
        chosen = choose(accuracy, heads)
        columns = zip(*confused("test", [heads[chosen]]), strict=True)
        whole, index = (distributed.all_gather_uneven(torch.cat(column)) for column in columns)
        require_counted(whole, "test")
        explained = {"lr": chosen, "validation mean IoU by lr": by_name(accuracy)}
        return [replace(segmentation(whole[index.argsort(), 0], names), chosen=explained)]


class Pixels(nn.Module):
    """A 1×1 convolution, initialised to zero, whose logits are upsampled to the mask.

    Args:
        width: D, channels of the feature map.
        classes: C.
        size: height and width of the mask.
    """

    def __init__(self, width: int, classes: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, feature_map: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        logits = F.interpolate(self.classifier(feature_map), self.size, mode="bilinear", align_corners=False)
        return logits


def feature_map_moments(context: EvaluationContext) -> tuple[Float[Tensor, "D 1 1"], Float[Tensor, "D 1 1"]]:
    """Mean and standard deviation of the feature map's channels, over all training images of all ranks."""
    sums: list[Tensor] = []
    number = 0
    for batch in context.watched(context.batches("train"), "mean of the feature map", context.passes("train")):
        feature_map = exact(context.encode(batch["image"]).feature_map)
        if not feature_map.isfinite().all():
            raise InputError("The encoder gave NaN or infinite features: its training diverged.")
        part = torch.stack([feature_map.sum((0, 2, 3)), feature_map.square().sum((0, 2, 3))])
        sums, number = [part if not sums else sums[0] + part], number + feature_map[:, 0].numel()
    count = torch.tensor(float(number), dtype=torch.float64, device=sums[0].device)
    mean, square = distributed.all_reduce_mean(sums[0]) / distributed.all_reduce_mean(count)
    variance = square - mean.square()
    std = torch.where(variance > ROUNDING * square, variance, 0.0).sqrt()
    if not std.any():
        raise InputError("The encoder's feature map is the same at every place of all images: nothing to evaluate.")
    scale = torch.where(std > 0, std, 1.0)
    mean, scale = (each.float().to(context.device)[:, None, None] for each in (mean, scale))
    return mean, scale


def exact(values: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """In float64, on the CPU where the device has none."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def confusions(predicted: Int64[Tensor, "B H W"], batch: Batch, classes: int) -> Int64[Tensor, "B C C"]:
    """Pixels of each image by true and predicted class, ``[true][predicted]``; ignored pixels are left out."""
    mask = batch["mask"].long()
    image = torch.arange(len(mask), device=mask.device)[:, None, None]
    cell = ((image * classes + mask) * classes + predicted)[mask != IGNORED]
    return cell.bincount(minlength=len(mask) * classes**2).view(len(mask), classes, classes)


def require_counted(counts: Shaped[Tensor, "*shape"], split: str) -> None:
    """Raises :class:`InputError` when there is no pixel to evaluate."""
    if not counts.any():
        raise InputError(
            f"In the masks of {split} every pixel is ignored, so there is nothing to evaluate: give some images of "
            f"{split} masks with other ids than {IGNORED}."
        )
