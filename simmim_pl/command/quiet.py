"""Messages of other packages that no user of this one can act on."""

from __future__ import annotations

import logging
import warnings

UNHELPFUL = (  # warnings of Lightning's
    ".*LeafSpec.* is deprecated",
    "Precision .* is not supported by the model summary",
    ".*does not have many workers",
    "Found .* in eval mode at the start of training",  # an evaluation's encoder: meant, and asserted
    ".*configure_optimizers. returned .None.",
    "You're resuming from a checkpoint that ended before the epoch ended",  # data/order.py goes on where it was
    "Experiment logs directory .* exists and is not empty",  # the history is in the checkpoint
    # The whole split is gathered before it is evaluated.
    "It is recommended to use .self.log..(val|representation|information)/.* sync_dist=True",
)
SAVES = "lightning.pytorch.trainer.connectors.checkpoint_connector"  # says at every checkpoint what it does not do


def silence() -> None:
    """Hide them."""
    for message in UNHELPFUL:
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger(SAVES).addFilter(lambda record: "weights_only" not in record.getMessage())
    logging.raiseExceptions = False  # a log that a full disk does not take, such as W&B's own, is no traceback
