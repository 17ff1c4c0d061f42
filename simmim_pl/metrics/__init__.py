"""Metrics of representations, each as a pure function and as a torchmetrics.Metric for any number of ranks."""

from simmim_pl.metrics.alignment import Alignment, alignment
from simmim_pl.metrics.contrastive_accuracy import ContrastiveAccuracy, contrastive_accuracy
from simmim_pl.metrics.diagnosis import Verdict, diagnose, is_measurement, verdict
from simmim_pl.metrics.effective_rank import EffectiveRank, rankme
from simmim_pl.metrics.embedding_std import EmbeddingStd, embedding_std
from simmim_pl.metrics.mutual_information import MutualInformation, infonce, nwj, smile
from simmim_pl.metrics.similarity import Similarities, histogram
from simmim_pl.metrics.uniformity import Uniformity, uniformity

__all__ = [
    "Alignment",
    "ContrastiveAccuracy",
    "EffectiveRank",
    "EmbeddingStd",
    "MutualInformation",
    "Similarities",
    "Uniformity",
    "Verdict",
    "alignment",
    "contrastive_accuracy",
    "diagnose",
    "embedding_std",
    "histogram",
    "infonce",
    "is_measurement",
    "nwj",
    "rankme",
    "smile",
    "uniformity",
    "verdict",
]
