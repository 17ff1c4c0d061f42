"""FLOP of a config's training, compared with public recipes.

    python benchmarks/flops.py configs/cifar10_fast.yaml configs/cifar10.yaml

The count of :func:`simmim_pl.runtime.flops.step_flop`, a multiplication and an addition as two, times the steps of the
run, for the given images.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.flop_counter import FlopCounterMode

from simmim_pl.callbacks.max_flop import kinds_of_batches
from simmim_pl.runtime.flops import step_flop
from simmim_pl.runtime.schedule import parameter_groups

SIZE = 32  # pixels of an image
IMAGES = 45_000  # of CIFAR-10, without held-out images
SIMCLR_EPOCH = 3.3e14  # of ResNet-18, 50,000 images, two views: the unit of the recipes below
RECIPES = {  # sources: docs/results.md
    "lightly's SimCLR, 2.16 epochs": (2.16 * SIMCLR_EPOCH, "51.3 % linear probe"),
    "SimCLR, 10 epochs (EMP-SSL's baseline)": (10 * SIMCLR_EPOCH, "56.5 %"),
    "EMP-SSL, 1 epoch of 20 patches": (10 * SIMCLR_EPOCH, "80.6 % on a bag of patches"),
    "SimCLR, 100 epochs (dkobak)": (100 * SIMCLR_EPOCH, "85.6 % linear probe"),
    "SimCLR, 1000 epochs (dkobak)": (1000 * SIMCLR_EPOCH, "91.7 % linear probe"),
}


def parts(config: dict[str, Any]) -> tuple[Any, Any]:
    """The method and the datamodule of a config; no file is opened."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    built = build(parser.parse_object({key: config[key] for key in ("model", "data")}))
    return built.model, built.data


def step(config: dict[str, Any]) -> float:
    """FLOP of a training step, on average over the run."""
    model, data = parts(config)
    return step_flop(model, kinds_of_batches(data, torch.zeros(1, 3, SIZE, SIZE, dtype=torch.uint8)))


def update(model: Any) -> tuple[float, int]:
    """FLOP of the optimizer's step (zero for AdamW, matrix products for Muon), and bytes of its state."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = model.optimizer(parameter_groups(model, model.decay_norm_and_bias))
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    kept = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor))
    return float(counter.get_total_flops()), sum(value.nbytes for value in kept)


def training(config: dict[str, Any], images: int) -> tuple[float, float]:
    """FLOP per image, and of the whole run."""
    of_step, batch_size = step(config), config["data"]["init_args"]["batch_size"]
    return of_step / batch_size, config["trainer"]["max_epochs"] * (images // batch_size) * of_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", type=Path, nargs="+")
    parser.add_argument("--images", type=int, default=IMAGES, help="training images of an epoch")
    options = parser.parse_args()
    rows = []
    for path in options.configs:
        of_image, whole = training(yaml.safe_load(path.read_text()), options.images)
        rows.append((whole, path.name, f"{of_image / 1e9:.2f} GFLOP an image"))
    rows += [(flop, name, figure) for name, (flop, figure) in RECIPES.items()]
    print("| FLOP | of ResNet-18 epochs | recipe | |\n|---:|---:|---|---|")
    for flop, name, figure in sorted(rows):
        print(f"| {flop:.1e} | {flop / SIMCLR_EPOCH:.1f} | {name} | {figure} |")


if __name__ == "__main__":
    main()
