"""Pretraining end to end beside lightly's SimCLR: images per second, and the share of the machine's own speed.

    python benchmarks/fit.py                # pip install -e '.[benchmarks]'; about ten minutes on two cores

ResNet-18 with the CIFAR stem, batches of 128, two views of 32×32 of the same procedural images, SGD, all cores. Ours
is the command line with cifar10.yaml as it stands, and with --model.compile true. Lightly's is its SimCLR as its
documentation trains it with Lightning, transforms in worker processes, at its default precision and at ours, and
compiled and with channels last by hand, which it has no option for. Then how fast the data path is by itself:
everything but the network. Each is a process of its own, by turns; rates are medians over batches, the first ones
left out. Fails below 1.15 times lightly at the same precision, 2.5 times its default, or when the data path is not 20
times as fast as fit.
"""

from __future__ import annotations

import argparse
import csv
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

ROOT = Path(__file__).parents[1]
BATCH, STEPS, WARM = 128, 12, 3
FLOP_AN_IMAGE = 6.67e9  # of cifar10.yaml, by benchmarks/flops.py


def ours(precision: str, compiled: bool) -> list[float]:
    """Images per second of each batch, through the command line."""
    with tempfile.TemporaryDirectory() as runs:
        command = [
            *(sys.executable, "-m", "simmim_pl", "fit", f"--config={ROOT / 'configs/cifar10.yaml'}", f"--runs={runs}"),
            *("--data.source=simmim_pl.data.Shapes", f"--data.batch_size={BATCH}", "--data.validation=100"),
            *(f"--trainer.max_steps={STEPS}", f"--trainer.precision={precision}", "--trainer.limit_val_batches=0"),
            *("--trainer.callbacks=simmim_pl.callbacks.Vitals", "--trainer.callbacks.every=1"),
            *("--trainer.log_every_n_steps=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
            f"--model.compile={compiled}",
        ]
        run(command)
        (log,) = Path(runs).glob("*/*/metrics.csv")
        with log.open(newline="") as file:
            column = [row["train/images_per_second"] for row in csv.DictReader(file)]
    return [float(rate) for rate in column if rate]


def lightlys(precision: str, compiled: bool) -> list[float]:
    """The same of lightly's."""
    found = run([sys.executable, __file__, "--peer", precision, *(["--compiled"] if compiled else [])])
    return [float(rate) for rate in found.split("rates", 1)[1].split()]


def run(command: list[str]) -> str:
    """What a command prints."""
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def peer(precision: str, compiled: bool) -> None:
    """Train lightly's SimCLR, and print its rates; compiled, also with channels last, as ours always is."""
    import torchvision
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.transforms import SimCLRTransform
    from lightning.pytorch import LightningModule, Trainer
    from torch import nn
    from torchvision.transforms.functional import to_pil_image

    from simmim_pl.data import Shapes

    class SimCLR(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            net = torchvision.models.resnet18()
            net.conv1, net.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
            self.backbone = nn.Sequential(*list(net.children())[:-1])
            self.head, self.loss, self.stamps = SimCLRProjectionHead(512, 1024, 128), NTXentLoss(0.5), []

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            first, second = (self.head(self.backbone(view).flatten(1)) for view in batch)
            return self.loss(first, second)

        def on_train_batch_end(self, *_: Any) -> None:
            self.stamps.append(time.perf_counter())

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.03, momentum=0.9, weight_decay=5e-4)

    images = Shapes(train=BATCH * (STEPS + 8), size=32).load("train").images
    pictures = [to_pil_image(image) for image in images]
    transform = SimCLRTransform(32, cj_strength=0.5, gaussian_blur=0.0, min_scale=0.2, random_gray_scale=0.1)

    class Pictures(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(pictures)

        def __getitem__(self, index: int) -> list[torch.Tensor]:
            views: list[torch.Tensor] = transform(pictures[index])
            return views

    loader = torch.utils.data.DataLoader(Pictures(), BATCH, shuffle=True, drop_last=True, num_workers=2)
    model = SimCLR()
    if compiled:
        model.backbone.to(memory_format=torch.channels_last).compile()
    options = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    Trainer(max_steps=STEPS, precision=precision, **options).fit(model, loader)  # type: ignore[arg-type]
    print("rates", *(BATCH / (b - a) for a, b in zip(model.stamps, model.stamps[1:], strict=False)))


def data_path() -> float:
    """Images per second of loading and making views alone."""
    from simmim_pl.data import Images, Shapes
    from simmim_pl.seeding import seeded
    from simmim_pl.views import ContrastiveViews

    data = Images(Shapes(train=20_000, size=32), BATCH, ContrastiveViews(32, scale=(0.2, 1.0), greyscale=0.1))
    data.prepare_data()
    data.setup("fit")
    since = seen = 0.0
    for step, batch in enumerate(data.train_dataloader()):
        if step == WARM:
            since = time.perf_counter()
        assert data.views is not None
        data.views(batch["image"], seeded(0, step, batch["image"].device))
        seen += len(batch["image"]) * (step >= WARM)
    return seen / (time.perf_counter() - since)


def matmul_speed() -> float:
    """FLOP/s of bfloat16 matrix products of 2048³, the best of ten."""
    a, b = (torch.randn(2048, 2048).bfloat16() for _ in range(2))
    taken = []
    for _ in range(10):
        since = time.perf_counter()
        a @ b
        taken.append(time.perf_counter() - since)
    return 2 * 2048**3 / min(taken)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2, help="times that every side is run, by turns")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    parser.add_argument("--compiled", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        peer(options.peer, options.compiled)
        return 0
    print(f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}")
    sides = {
        "ours, bf16": (ours, "bf16-mixed", False),
        "ours, bf16, compiled": (ours, "bf16-mixed", True),
        "lightly, bf16, compiled by hand": (lightlys, "bf16-mixed", True),
        "lightly, bf16": (lightlys, "bf16-mixed", False),
        "lightly, its default": (lightlys, "32-true", False),
    }
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (measure, precision, compiled) in sides.items():
            rates[name].append(statistics.median(measure(precision, compiled)[WARM:]))
    fit = {name: statistics.median(found) for name, found in rates.items()}
    own, path, speed = fit["ours, bf16"], data_path(), matmul_speed()
    by = {name: own / rate for name, rate in fit.items()}
    for name, rate in fit.items():
        print(f"{name}: {rate:.1f} images/s" + (f", ours is {by[name]:.2f} times as fast" if by[name] != 1 else ""))
    share = own * FLOP_AN_IMAGE / speed
    print(f"bfloat16 matrix products: {speed / 1e9:,.0f} GFLOP/s, of which fit reaches {100 * share:.0f} %")
    print(f"the data path alone: {path:,.0f} images/s, {path / own:,.0f} times what fit takes")
    good = by["lightly, bf16"] >= 1.15 and by["lightly, its default"] >= 2.5 and path >= 20 * own
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
