"""Hide warnings and log messages of other packages that users of this one cannot act on."""

from __future__ import annotations

import logging
import warnings

HIDDEN_WARNINGS = (  # of Lightning and Pillow, as regular expressions
    "Image size .* could be decompression bomb",  # data/files/huge.py has a bound of its own
    ".*LeafSpec.* is deprecated",
    "Precision .* is not supported by the model summary",
    ".*does not have many workers",
    "Found .* in eval mode at the start of training",  # the frozen encoder of an evaluation, on purpose
    ".*configure_optimizers. returned .None.",
    "You're resuming from a checkpoint that ended before the epoch ended",  # data/sampler.py continues within an epoch
    "Experiment logs directory .* exists and is not empty",  # the history is in the checkpoint
    # These are computed on the whole split, gathered from all ranks.
    "It is recommended to use .self.log..(val|representation|information)/.* sync_dist=True",
)
# Logs a line about weights_only at every checkpoint.
CHECKPOINT_LOGGER = "lightning.pytorch.trainer.connectors.checkpoint_connector"

LIGHTNING_LOGGER = "lightning.pytorch.utilities.rank_zero"  # advises TF32, which precision.py forbids


def hide_messages() -> None:
    """Install the filters."""
    for message in HIDDEN_WARNINGS:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger(CHECKPOINT_LOGGER).addFilter(lambda record: "weights_only" not in record.getMessage())
    logging.getLogger(LIGHTNING_LOGGER).addFilter(lambda record: "has Tensor Cores" not in record.getMessage())
    logging.raiseExceptions = False  # no traceback when a log file, such as W&B's own, is on a full disk
