"""What Lightning says that no user of this package can act on, and is not shown."""

from __future__ import annotations

import logging
import warnings

UNHELPFUL = (
    ".*LeafSpec.* is deprecated",
    "Precision .* is not supported by the model summary",
    ".*does not have many workers",
    "Found .* in eval mode at the start of training",  # an evaluation's encoder: meant, and asserted
    ".*configure_optimizers. returned .None.",
    "You're resuming from a checkpoint that ended before the epoch ended",  # data/order.py goes on where it was
    "Experiment logs directory .* exists and is not empty",  # the history is in the checkpoint
    # The whole split is gathered before it is judged.
    "It is recommended to use .self.log..(val|representation|information)/.* sync_dist=True",
)
SAVES = "lightning.pytorch.trainer.connectors.checkpoint_connector"  # says at every checkpoint what it does not do


def hush() -> None:
    """Keep quiet about it from now on."""
    for words in UNHELPFUL:
        warnings.filterwarnings("ignore", message=words)
    logging.getLogger(SAVES).addFilter(lambda record: "weights_only" not in record.getMessage())
