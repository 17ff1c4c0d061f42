"""Evaluations of a frozen encoder: protocols, and the LightningModule that runs them."""

from simmim_pl.evaluation.augmented import AugmentedProbe
from simmim_pl.evaluation.dense import DenseProbe
from simmim_pl.evaluation.evaluation import Evaluation
from simmim_pl.evaluation.few_labels import FewLabels
from simmim_pl.evaluation.finetune import FineTune
from simmim_pl.evaluation.knn import KNN
from simmim_pl.evaluation.linear import LinearProbe
from simmim_pl.evaluation.video import VideoProbe

__all__ = ["KNN", "AugmentedProbe", "DenseProbe", "Evaluation", "FewLabels", "FineTune", "LinearProbe", "VideoProbe"]
