"""Evaluations of a frozen encoder, each a ``fit`` of the same command line."""

from simmim_pl.evaluation.knn import KNN
from simmim_pl.evaluation.linear import LinearProbe

__all__ = ["KNN", "LinearProbe"]
