"""Metrics of a test set with their 95 % bootstrap interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from simmim_pl.evaluation.result import Estimate, Result

RESAMPLES = 1000
CELLS = 20_000_000  # numbers of a block of resamples: bounds the memory of any size of test set

Metric = Callable[[Float[Tensor, "R S"]], Float[Tensor, " R"]]


def bootstrap(statistics: Shaped[Tensor, "N S"], metric: Metric, seed: int = 0) -> Estimate:
    """A metric of N test items and its 95 % percentile interval (Efron 1979), items drawn with replacement.

    The metric is a function of the items' mean statistics: of correctness for accuracy, of confusion counts for IoU.
    The interval covers the choice of test items, not the training of the encoder or of a probe.

    Returns:
        Value and interval, rounded to six digits.

    >>> bootstrap(torch.tensor([[1.0]] * 90 + [[0.0]] * 10), lambda mean: mean[:, 0])
    Estimate(value=0.9, low=0.83975, high=0.96, std=None)
    """
    statistics = statistics.cpu().double()  # in this order: not every device has float64
    number = len(statistics)
    generator = torch.Generator().manual_seed(seed)
    means = []
    for rows in torch.arange(RESAMPLES).split(max(1, CELLS // number)):
        drawn = torch.randint(number, (len(rows), number), generator=generator)
        counts = torch.zeros(len(rows), number, dtype=torch.float64)
        counts.scatter_add_(1, drawn, torch.ones((), dtype=torch.float64).expand_as(drawn))
        means.append(counts @ statistics / number)
    # A resample may hold no valid item, for example only ignored masks; it then has no value.
    ends = metric(torch.cat(means)).nanquantile(torch.tensor([0.025, 0.975], dtype=torch.float64))
    value = metric(statistics.mean(0, keepdim=True))
    low, high = ends.tolist()
    return Estimate(round(value.item(), 6), round(low, 6), round(high, 6))


def classification(predicted: Int64[Tensor, "R N"], labels: Int64[Tensor, " N"], classes: list[str]) -> Result:
    """Top-1 accuracy over N test items and R repeats, with confusion matrix ``[true][predicted]`` and per class.

    An item's statistic is its mean correctness over the repeats; the standard deviation of the repeats' accuracies
    (with Bessel's correction) is given when there are several.
    """
    predicted, labels = predicted.cpu(), labels.cpu()
    correct = (predicted == labels).double()
    accuracy = bootstrap(correct.mean(0)[:, None], lambda mean: mean[:, 0])
    if len(predicted) > 1:
        accuracy = replace(accuracy, std=round(correct.mean(1).std().item(), 6))
    counts = multiclass_confusion_matrix(predicted.flatten(), labels.repeat(len(predicted)), len(classes)).double()
    recall = counts.diagonal() / counts.sum(1)
    return Result({"accuracy": accuracy}, named(recall, classes), (counts / len(predicted)).tolist())


def segmentation(confusions: Int64[Tensor, "N C C"], classes: list[str]) -> Result:
    """Mean IoU and pixel accuracy from each test image's confusion ``[true][predicted]``.

    The mean is over the classes that occur or are predicted. Mean IoU is that of the whole test set's confusion matrix
    (Long et al. 2015, section 5), not a mean over images.
    """
    confusions = confusions.cpu()
    flat, shape = confusions.flatten(1), confusions.shape[1:]

    def pixel_accuracy(mean: Float[Tensor, "R S"]) -> Float[Tensor, " R"]:
        right = mean.unflatten(1, shape).diagonal(dim1=1, dim2=2).sum(1)
        return torch.div(right, mean.sum(1))

    metrics = {
        "mean IoU": bootstrap(flat, lambda mean: iou(mean.unflatten(1, shape)).nanmean(1)),
        "pixel accuracy": bootstrap(flat, pixel_accuracy),
    }
    total = confusions.sum(0)
    return Result(metrics, named(iou(total[None].double())[0], classes), total.tolist())


def iou(confusion: Float[Tensor, "R C C"]) -> Float[Tensor, "R C"]:
    """Intersection over union of every class; NaN for a class that neither occurs nor is predicted."""
    hit = confusion.diagonal(dim1=1, dim2=2)
    union = confusion.sum(1) + confusion.sum(2) - hit
    return torch.div(hit, union)


def named(values: Float[Tensor, " C"], classes: list[str]) -> dict[str, float | None]:
    """A value a class; ``None`` for a class that does not occur."""
    return {
        name: None if value != value else round(value, 6) for name, value in zip(classes, values.tolist(), strict=True)
    }
