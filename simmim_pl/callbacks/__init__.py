"""Callbacks: what watches a run. They never touch the encoder."""

from simmim_pl.callbacks.alarm import Alarm
from simmim_pl.callbacks.atlas import Atlas
from simmim_pl.callbacks.checkpoint import Checkpoint
from simmim_pl.callbacks.dashboard import Dashboard
from simmim_pl.callbacks.embeddings import Embeddings
from simmim_pl.callbacks.online import Online
from simmim_pl.callbacks.report import Report
from simmim_pl.callbacks.representation import Representation
from simmim_pl.callbacks.vitals import Vitals

__all__ = ["Alarm", "Atlas", "Checkpoint", "Dashboard", "Embeddings", "Online", "Report", "Representation", "Vitals"]
