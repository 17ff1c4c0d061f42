"""Callbacks that monitor a run. They never change the encoder."""

from simmim_pl.callbacks.checkpoint import Checkpoint
from simmim_pl.callbacks.collapse_monitor import CollapseMonitor
from simmim_pl.callbacks.dashboard import Dashboard
from simmim_pl.callbacks.embedding_map import EmbeddingMap
from simmim_pl.callbacks.embeddings import Embeddings
from simmim_pl.callbacks.labelled_probe import LabelledProbe
from simmim_pl.callbacks.max_flop import MaxFlop
from simmim_pl.callbacks.online_probe import OnlineProbe
from simmim_pl.callbacks.pictures import Pictures
from simmim_pl.callbacks.report import Report
from simmim_pl.callbacks.representation import Representation
from simmim_pl.callbacks.training_monitor import TrainingMonitor

__all__ = [
    "Checkpoint",
    "CollapseMonitor",
    "Dashboard",
    "EmbeddingMap",
    "Embeddings",
    "LabelledProbe",
    "MaxFlop",
    "OnlineProbe",
    "Pictures",
    "Report",
    "Representation",
    "TrainingMonitor",
]
