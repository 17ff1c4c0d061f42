"""End-to-end pretraining compared with lightly's SimCLR: images per second, and the share of the machine's speed.

    python benchmarks/fit.py                # pip install -e '.[benchmarks]'; about ten minutes on two cores

ResNet-18 with the CIFAR stem, batches of 128, two views of 32×32 of the same procedural images, SGD, all cores. Ours is
the command line with the unchanged cifar10.yaml, and with --model.compile true. Lightly's is its SimCLR as in its
documentation with Lightning, transforms in worker processes, at its default precision and at ours, and
with compilation and channels last, for which it has no option. Then the speed of the data path alone:
everything except the network. Each runs in its own process, alternating, without logging; rates are medians
over batches, without the first ones. Fails below 1.15 times lightly at the same precision, 2.5 times its default, or
if the data path is not 20 times as fast as fit.
"""

from __future__ import annotations

import argparse
import itertools
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
from lightning.pytorch import Callback

ROOT = Path(__file__).parents[1]
BATCH, STEPS, WARM = 128, 12, 3
FLOP_AN_IMAGE = 6.67e9  # for cifar10.yaml, from benchmarks/flops.py


class Stamps(Callback):
    """Prints the images per second of each batch, from the time between the ends of batches."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def on_train_batch_end(self, *_: Any) -> None:
        self.stamps.append(time.perf_counter())

    def on_train_end(self, *_: Any) -> None:
        print("rates", *(BATCH / (b - a) for a, b in itertools.pairwise(self.stamps)))


def ours(precision: str, compiled: bool) -> list[float]:
    """Images per second of each batch, through the command line."""
    with tempfile.TemporaryDirectory() as runs:
        command = [
            *(sys.executable, "-m", "simmim_pl", "fit", f"--config={ROOT / 'configs/cifar10.yaml'}", f"--runs={runs}"),
            *("--data.source=simmim_pl.data.Shapes", f"--data.batch_size={BATCH}", "--data.validation=100"),
            *(f"--trainer.max_steps={STEPS}", f"--trainer.precision={precision}", "--trainer.limit_val_batches=0"),
            *("--callbacks.enabled=false", "--trainer.callbacks=fit.Stamps"),
            *("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"),
            f"--model.compile={compiled}",
        ]
        return rates(command)


def lightlys(precision: str, compiled: bool) -> list[float]:
    """The same for lightly."""
    return rates([sys.executable, __file__, "--peer", precision, *(["--compiled"] if compiled else [])])


def rates(command: list[str]) -> list[float]:
    """The rates that a command prints."""
    environment = {**os.environ, "WANDB_MODE": "disabled", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'benchmarks'}"}
    found = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(rate) for rate in found.split("rates", 1)[1].split("\n", 1)[0].split()]


def peer(precision: str, compiled: bool) -> None:
    """Train lightly's SimCLR and print its rates; if compiled, also with channels last, which ours always uses."""
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
            self.head, self.loss = SimCLRProjectionHead(512, 1024, 128), NTXentLoss(0.5)

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            first, second = (self.head(self.backbone(view).flatten(1)) for view in batch)
            return self.loss(first, second)

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
    trainer = Trainer(max_steps=STEPS, precision=precision, callbacks=[Stamps()], **options)  # type: ignore[arg-type]
    trainer.fit(model, loader)


def data_path() -> float:
    """Images per second of loading and making views alone."""
    from simmim_pl.data import ImageDataModule, Shapes
    from simmim_pl.runtime.seeding import make_generator
    from simmim_pl.views import ContrastiveViews

    data = ImageDataModule(Shapes(train=20_000, size=32), BATCH, ContrastiveViews(32, scale=(0.2, 1.0), grayscale=0.1))
    data.prepare_data()
    data.setup("fit")
    since = seen = 0.0
    for step, batch in enumerate(data.train_dataloader()):
        if step == WARM:
            since = time.perf_counter()
        assert data.views is not None
        data.views(batch["image"], make_generator(0, step, batch["image"].device))
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
    parser.add_argument("--rounds", type=int, default=2, help="alternating runs of every side")
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
    seen: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, (measure, precision, compiled) in sides.items():
            seen[name].append(statistics.median(measure(precision, compiled)[WARM:]))
    fit = {name: statistics.median(found) for name, found in seen.items()}
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
