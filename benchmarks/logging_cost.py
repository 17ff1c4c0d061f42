"""The cost of logging: the same training with all logging, and without a logger.

    python benchmarks/logging_cost.py [CONFIG]            # quickstart.yaml: about five minutes on two cores

Trains a config's first epochs, alternating between all callbacks with W&B offline, and only the online probe
without a logger, on procedural images. Seconds per step are medians over all steps within epochs,
of the fastest of seven runs, because other jobs only slow it down; seconds between epochs are means. Fails
if steps take more than 3 % longer; the cost of validations is printed separately.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

ROOT = Path(__file__).parents[1]
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
WATCH = "__main__.Stopwatch"
PROBE = ["--callbacks.enabled=false", "--trainer.callbacks=simmim_pl.callbacks.OnlineProbe"]
ROUNDS, EPOCHS = 7, 4


class Stopwatch(Callback):
    """Prints the median seconds per step, and the mean seconds from an epoch's last step to the next epoch's first."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.gaps: list[float] = []
        self.since = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        now = time.perf_counter()
        if trainer.global_step:
            (self.steps if batch_idx else self.gaps).append(now - self.since)
        self.since = now

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        step = statistics.median(self.steps)
        print(step, statistics.mean(self.gaps) - step, trainer.num_training_batches)


def run(config: str, *more: str) -> list[float]:
    """Seconds per step, seconds between epochs, steps per epoch."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "fit", f"--config={config}", *QUIET, *more, f"--runs={folder}/runs"]
        command += [f"--trainer.max_epochs={EPOCHS}", "--data.source=simmim_pl.data.Shapes"]
        environment = {**os.environ, "WANDB_MODE": "offline", "WANDB_SILENT": "true", "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return [float(value) for value in done.stdout.strip().splitlines()[-1].split()]


def main() -> int:
    if "fit" in sys.argv:
        from simmim_pl.command.cli import main as train

        train()
        return 0
    config = str(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "configs/quickstart.yaml").resolve())
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}, {Path(config).name}")
    bare, full = [], []
    for _ in range(ROUNDS):  # alternating, because the machine's speed changes
        bare.append(run(config, "--trainer.logger=false", *PROBE, f"--trainer.callbacks+={WATCH}"))
        full.append(run(config, f"--trainer.callbacks+={WATCH}"))
    step = [min(seconds[0] for seconds in runs) for runs in (bare, full)]
    added = step[1] / step[0] - 1
    between = [statistics.median(seconds[1] for seconds in runs) for runs in (bare, full)]
    epoch = step[0] * bare[0][2]
    print(f"a step: {1000 * step[0]:.1f} ms bare, {100 * added:+.1f} % with everything that is logged")
    print(f"between epochs, validation included: {between[0]:.2f} s bare, {between[1]:.2f} s; an epoch: {epoch:.1f} s")
    return 0 if added <= 0.03 else 1


if __name__ == "__main__":
    sys.exit(main())
