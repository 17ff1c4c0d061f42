"""Evaluations of a frozen encoder: protocols, and the LightningModule that runs them."""

from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.evaluation import Evaluation
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.protocols.augmented import AugmentedProbe
from simmim_pl.evaluation.protocols.bag_of_views import BagOfViews
from simmim_pl.evaluation.protocols.dense import DenseProbe
from simmim_pl.evaluation.protocols.depth import Depth
from simmim_pl.evaluation.protocols.few_labels import FewLabels
from simmim_pl.evaluation.protocols.finetune import FineTune
from simmim_pl.evaluation.protocols.knn import KNN
from simmim_pl.evaluation.protocols.linear import LinearProbe
from simmim_pl.evaluation.protocols.video import VideoProbe
from simmim_pl.evaluation.result import Estimate, Result

__all__ = [
    "KNN",
    "AugmentedProbe",
    "BagOfViews",
    "DenseProbe",
    "Depth",
    "Estimate",
    "Evaluation",
    "EvaluationContext",
    "FewLabels",
    "FineTune",
    "LinearProbe",
    "Protocol",
    "Result",
    "VideoProbe",
]
