"""Dense probe: segmentation by a 1×1 convolution on the frozen grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float, Int64, Shaped
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn
from torch.nn import functional as F

from simmim_pl.contracts import Batch, InputError
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.estimate import iou, segmentation
from simmim_pl.evaluation.protocol import Protocol, Result, by_name
from simmim_pl.evaluation.training import Sweep, choose
from simmim_pl.runtime import distributed

IGNORED = 255  # the id of pixels that belong to no class
ROUNDING = 1e-12  # of a mean square: a variance below this part of it is a rounding error, and the channel constant


class DenseProbe(Protocol):
    """Mean IoU and pixel accuracy on test of a linear classifier of every place of the frozen grid.

    The logits are upsampled to the mask (bilinear). Features are standardised channel by channel, by the training
    images. A step encodes its images once, for the classifiers of all learning rates; validation chooses among them by
    mean IoU after the last epoch. The grid of raw pixels is the image.

    Args:
        sweep: how the classifiers are trained, see :class:`simmim_pl.evaluation.training.Sweep`.
        data: a data set with masks to judge on; by default the run's ``--data``.
    """

    def __init__(
        self,
        sweep: Sweep = Sweep(lr=(1e-3, 3e-3, 1e-2, 3e-2), solver="adam"),
        data: LightningDataModule | None = None,
    ) -> None:
        super().__init__(data)
        self.sweep = sweep

    def judge(self, bench: EvaluationContext) -> list[Result]:
        names = bench.data.source.mask_classes
        if not names:
            raise InputError(
                f"{bench.data.source.name} has no masks, and a dense probe needs them: see configs/data/masks.yaml."
            )
        bench.require_validation()
        mean, scale = grid_moments(bench)
        steps = bench.steps("train")

        def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
            what = f"dense probe, epoch {epoch + 1} of {self.sweep.epochs}"
            for batch in bench.watched(bench.batches("train", epoch), what, steps):
                yield (bench.encode(batch["image"]).grid - mean) / scale, batch["mask"]

        def head() -> nn.Module:
            return Pixels(mean.shape[0], len(names), bench.data.splits["train"].dataset.masks.shape[-2:])

        heads = self.sweep.train(head, batches, steps, bench.batch("train"), bench, IGNORED)

        def confused(split: str, asked: Sequence[nn.Module]) -> Iterator[tuple[Int64[Tensor, "B H C C"], Tensor]]:
            with torch.no_grad():
                for batch in bench.watched(bench.batches(split), f"masks of {split}", bench.passes(split)):
                    grid = (bench.encode(batch["image"]).grid - mean) / scale
                    counts = [confusions(each(grid).argmax(1), batch, len(names)) for each in asked]
                    yield torch.stack(counts, 1), batch["index"]

        total = torch.stack([counts.sum(0) for counts, _ in confused("validation", list(heads.values()))]).sum(0)
        total = distributed.mean(exact(total))  # whose IoU is that of the sum over ranks
        require_counted(total, "validation")
        accuracy = dict(zip(heads, iou(total).nanmean(1).tolist(), strict=True))
        chosen = choose(accuracy, heads)
        columns = zip(*confused("test", [heads[chosen]]), strict=True)
        whole, index = (distributed.gather_uneven(torch.cat(column)) for column in columns)
        require_counted(whole, "test")
        found = segmentation(whole[index.argsort(), 0], names)
        return [Result(found, {"lr": chosen, "validation mean IoU by lr": by_name(accuracy)})]


class Pixels(nn.Module):
    """A 1×1 convolution that starts undecided, its logits upsampled to the mask.

    Args:
        width: D, channels of the grid.
        classes: C.
        size: height and width of the mask.
    """

    def __init__(self, width: int, classes: int, size: Sequence[int]) -> None:
        super().__init__()
        self.size = tuple(size)
        self.classifier = nn.Conv2d(width, classes, kernel_size=1)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)  # type: ignore[arg-type]

    def forward(self, grid: Float[Tensor, "B D h w"]) -> Float[Tensor, "B C H W"]:
        logits = F.interpolate(self.classifier(grid), self.size, mode="bilinear", align_corners=False)
        return logits


def grid_moments(bench: EvaluationContext) -> tuple[Float[Tensor, "D 1 1"], Float[Tensor, "D 1 1"]]:
    """Mean and standard deviation of the grid's channels over all places of all training images, of all ranks."""
    sums: list[Tensor] = []
    number = 0
    for batch in bench.watched(bench.batches("train"), "mean of the grid", bench.passes("train")):
        grid = exact(bench.encode(batch["image"]).grid)
        if not grid.isfinite().all():
            raise InputError("The encoder gave NaN or infinite features: its training diverged.")
        part = torch.stack([grid.sum((0, 2, 3)), grid.square().sum((0, 2, 3))])
        sums, number = [part if not sums else sums[0] + part], number + grid[:, 0].numel()
    count = torch.tensor(float(number), dtype=torch.float64, device=sums[0].device)
    mean, square = distributed.mean(sums[0]) / distributed.mean(count)
    variance = square - mean.square()
    std = torch.where(variance > ROUNDING * square, variance, 0.0).sqrt()
    if not std.any():
        raise InputError("The encoder's grid is the same at every place of all images: there is nothing to judge.")
    scale = torch.where(std > 0, std, 1.0)
    mean, scale = (each.float().to(bench.device)[:, None, None] for each in (mean, scale))
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
    """Raises :class:`InputError` when there is no pixel to judge."""
    if not counts.any():
        raise InputError(
            f"In the masks of {split} every pixel is ignored, so there is nothing to judge: give some images of "
            f"{split} masks with other ids than {IGNORED}."
        )
