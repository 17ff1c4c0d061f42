"""Time from the command to the first step: ours compared with a bare Lightning script with the same imports.

    python benchmarks/startup.py            # a minute

Both train one step of the same small network on procedural images, in a new process each time, by turns; the result is
the time until that step is done. The script has no command line, no config, no run directory, and makes its views once.
Fails if ours takes more than 1.5 times as long.
"""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

ROOT, ROUNDS = Path(__file__).parents[1], 5
BARE = """
import torch, torchvision, lightning, torchmetrics, wandb, jsonargparse
from lightning.pytorch import LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset
from simmim_pl.data.sources.shapes import Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import nt_xent
from simmim_pl.views import ContrastiveViews
from startup import Stamp

class Bare(LightningModule):
    def __init__(self):
        super().__init__()
        self.encoder, self.head = FastCNN(16), ProjectionHead(128)

    def training_step(self, batch, index):
        views = ContrastiveViews(16)(batch[0], torch.Generator())
        return nt_xent(self.head(self.encoder(views.flatten(0, 1)).pooled).unflatten(0, (2, -1)))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

images = Shapes().load("train").images
loader = DataLoader(TensorDataset(images), 256, shuffle=True, drop_last=True)
trainer = Trainer(max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=[Stamp()])
trainer.fit(Bare(), loader)
"""


class Stamp(Callback):
    """Prints when the first step is done."""

    def on_train_batch_end(self, *args: Any) -> None:
        print(f"first step at {time.time()}", flush=True)


def seconds(command: list[str]) -> float:
    """Seconds from starting a command to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        paths = os.pathsep.join([str(ROOT), str(ROOT / "benchmarks")])
        environment = {**os.environ, "WANDB_MODE": "offline", "PYTHONPATH": paths}
        since = time.time()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    (stamp,) = re.findall(r"first step at ([0-9.]+)", done.stdout)
    return float(stamp) - since


def main() -> int:
    ours = [
        *(sys.executable, "-m", "simmim_pl", "fit", f"--config={ROOT / 'configs/quickstart.yaml'}"),
        *("--trainer.max_steps=1", "--trainer.accelerator=cpu", "--trainer.precision=32-true"),
        "--trainer.callbacks+=startup.Stamp",
    ]
    bare = [sys.executable, "-c", BARE]
    times = [(seconds(ours), seconds(bare)) for _ in range(ROUNDS + 1)][
        1:
    ]  # the first run reads the files from the disk
    us, them = (statistics.median(side) for side in zip(*times, strict=True))
    ratio = statistics.median(a / b for a, b in times)
    print(f"{os.cpu_count()} cores, {platform.machine()}: ours {us:.1f} s, bare {them:.1f} s, ratio {ratio:.2f}")
    return 0 if ratio <= 1.5 else 1


if __name__ == "__main__":
    sys.exit(main())
