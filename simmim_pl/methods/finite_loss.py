"""Check that losses are finite, at intervals: reading a number waits for the device."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.runtime import distributed


class FiniteLoss:
    """Keeps the losses of steps, and reads them together: one device wait and one reduction over ranks for all."""

    def __init__(self) -> None:
        self.last = torch.tensor(math.nan)
        self.unread: list[tuple[int, Tensor]] = []

    def add(self, step: int, loss: Float[Tensor, ""]) -> None:
        """Keep this rank's loss at a step, without computation."""
        self.unread.append((step, loss.detach()))

    def read(self) -> Float[Tensor, ""]:
        """The mean loss over ranks at the last step, on the CPU. All ranks must call it.

        Raises:
            InputError: on every rank, if a loss since the last reading is not finite; it names the first such step.
        """
        if self.unread:
            steps, losses = zip(*self.unread, strict=True)
            self.unread.clear()
            means = distributed.all_reduce_mean(torch.stack(losses)).cpu()
            for step, mean in zip(steps, means.tolist(), strict=True):
                if not math.isfinite(mean):
                    raise InputError(
                        f"The loss became {mean} at step {step}; the last good checkpoint is kept. Resume from it with "
                        "--ckpt_path and a lower learning rate, a longer warm-up, or --trainer.precision 32-true."
                    )
            self.last = means[-1]
        return self.last
