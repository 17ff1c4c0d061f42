"""The FLOP ledger: what a config's training costs, beside the public recipes.

    python benchmarks/flops.py configs/cifar10_fast.yaml configs/cifar10.yaml

Counts one training step with torch's FlopCounterMode, a multiplication and an addition as two. Matrix products and
convolutions count, of the encoder, the head, the loss, forward and backward, and the optimizer; what is done element by
element does not. The passes are counted on fake tensors: they have shapes only, nothing is computed. Times the steps of
the run, for the images given.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from simmim_pl.runtime.schedule import parameter_groups

IMAGES = 45_000  # of CIFAR-10, without the held-out ones
SIMCLR_EPOCH = 3.3e14  # of ResNet-18, 50,000 images, two views: what the recipes below are counted by
RECIPES = {  # sources: docs/results.md, the ledger
    "lightly's SimCLR, 2.16 epochs": (2.16 * SIMCLR_EPOCH, "51.3 % linear probe"),
    "SimCLR, 10 epochs (EMP-SSL's baseline)": (10 * SIMCLR_EPOCH, "56.5 %"),
    "EMP-SSL, 1 epoch of 20 patches": (10 * SIMCLR_EPOCH, "80.6 % on a bag of patches"),
    "SimCLR, 100 epochs (dkobak)": (100 * SIMCLR_EPOCH, "85.6 % linear probe"),
    "SimCLR, 1000 epochs (dkobak)": (1000 * SIMCLR_EPOCH, "91.7 % linear probe"),
}


def parts(config: dict[str, Any]) -> tuple[Any, Any]:
    """The method and the data of a config; no file is opened."""
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningModule, "model")
    parser.add_subclass_arguments(LightningDataModule, "data")
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before jsonargparse 4.49
    built = build(parser.parse_object({key: config[key] for key in ("model", "data")}))
    return built.model, built.data


def step(config: dict[str, Any]) -> float:
    """FLOP of a training step, on average over the run."""
    config = copy.deepcopy(config)
    config["model"]["init_args"] |= {"channels_last": False, "compile": False}  # of a fake model neither can be made
    with FakeTensorMode():
        model, data = parts(config)
        passes = batch(model, data, data.views)
        if data.final_views is not None:
            passes = (1 - data.final_share) * passes + data.final_share * batch(model, data, data.final_views)
    return passes + update(parts(config)[0])[0]


def batch(model: Any, data: Any, views: Any) -> float:
    """FLOP of a batch of such views and the local ones, which have no contents."""
    makers = [maker for maker in (views, data.local_views) if maker is not None]
    made = [torch.empty(each.views, data.batch_size, 3, each.size, each.size) for each in makers]
    with FlopCounterMode(display=False) as counter:
        model.loss(torch.cat([model.embed(each)[1] for each in made])).backward()
    return float(counter.get_total_flops())


def update(model: Any) -> tuple[float, int]:
    """FLOP of the optimizer's step, none of AdamW's but matrix products of Muon's, and bytes that it keeps."""
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer = model.optimizer(parameter_groups(model, model.decay_norm_and_bias))
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    kept = (value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor))
    return float(counter.get_total_flops()), sum(value.nbytes for value in kept)


def training(config: dict[str, Any], images: int) -> tuple[float, float]:
    """FLOP of an image, and of the whole run."""
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
