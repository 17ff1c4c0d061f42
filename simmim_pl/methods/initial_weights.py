"""Start a run from an encoder's weights in a file, or from a stem fitted to the images."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.methods.fitted_stem import FittedStem, unfitted
from simmim_pl.runtime.weights import load_weights


def starting_weights(method: Any) -> list[Callback]:
    """What sets weights of a method when ``fit`` starts: those of a file first."""
    from_file = [InitialWeights(method.initial_weights)] if method.initial_weights else []
    return [*from_file, *([FittedStem()] if unfitted(method) else [])]


class InitialWeights(Callback):
    """Loads a file's weights into a method's encoder when ``fit`` starts a new run.

    A run resumed with ``--ckpt_path`` has the checkpoint's weights and does not read the file; neither do evaluations
    of its checkpoints. Other copies of the encoder, such as a teacher's, start from the same weights. Metrics of the
    untrained network, as by :class:`simmim_pl.callbacks.OnlineProbe`, are then metrics of these weights.

    Args:
        path: of a checkpoint or state dict, see :func:`simmim_pl.runtime.weights.load_weights`.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if trainer.ckpt_path is not None:
            return
        pl_module.initial_weights = None  # a second fit of the same method continues with what it has learned
        encoder = pl_module.encoder
        left = load_weights(encoder, self.path)
        for part in pl_module.modules():
            if part is not encoder and isinstance(part, type(encoder)):
                part.load_state_dict(encoder.state_dict())
        unused = f"; {len(left)} tensors of it are not the encoder's ({left[0]}, …)" if left else ""
        rank_zero_info(f"The encoder starts from the weights of {self.path}{unused}.")
