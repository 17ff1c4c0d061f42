"""Ablation of cifar10_fast.yaml: the recipe with one change at a time, at equal compute.

    python benchmarks/ablation.py --images FOLDER        # FOLDER/train/<class>/*; an hour on two cores

Every variant trains for the same number of FLOP (:class:`simmim_pl.callbacks.MaxFlop`), with its schedule
ending there. All are evaluated by the linear probe on a tenth of every class's training images, used for nothing else
(:class:`simmim_pl.data.HeldOut`); the test split is not read. Prints a Markdown table and writes
``ablation.json``. It resumes: results in the file are not computed again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

from simmim_pl.runtime.fingerprint import fingerprint

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs/cifar10_fast.yaml"
COLOUR = ("brightness", "contrast", "saturation", "hue", "grayscale")
VARIANTS = {
    "the recipe": [],
    "views of 32 pixels of 20 to 100 % of the area": [
        "data.views.size=32",
        "data.views.scale=[0.2, 1.0]",
        "data.final_views=null",
    ],
    "views of 16 pixels of 10 to 60 %": ["data.views.size=16", "data.views.scale=[0.1, 0.6]"],
    "head without BatchNorm": ["model.head.norm=false"],
    "temperature 0.2": ["model.loss.temperature=0.2"],
    "temperature 0.5": ["model.loss.temperature=0.5"],
    "four views": ["data.views.views=4", "data.final_views.views=4"],
    "no late views": ["data.final_views=null"],
    "the last stage's features": ["model.encoder.features=null"],
    "positives in the loss's sum": ["model.loss.decoupled=false"],
    "width 32": ["model.encoder.width=32"],
    "width 48": ["model.encoder.width=48"],
    "width 80": ["model.encoder.width=80"],
    "batches of 512": ["data.batch_size=512"],
    "no colour jitter, no grayscale": [
        *(f"data.{views}.{name}=0.0" for views in ("views", "final_views") for name in COLOUR)
    ],
    "AdamW": ["model.optimizer={class_path: torch.optim.AdamW, init_args: {lr: 2.0e-3, weight_decay: 1.0e-2}}"],
    "twice the learning rate": ["model.optimizer.lr=8.0e-3"],
}


def changed(changes: list[str]) -> dict[str, Any]:
    """The config with some values changed, by their path in the file."""
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text())
    for change in changes:
        place, _, value = change.partition("=")
        part, *keys = place.split(".")
        inner = config[part]["init_args"]
        for key in keys[:-1]:
            inner = inner[key]["init_args"]
        inner[keys[-1]] = yaml.safe_load(value)
    return config


def train(config: dict[str, Any], flop: float, images: Path, seed: int, runs: Path) -> Path:
    """Train for this many FLOP; return the checkpoint."""
    config["trainer"] |= {"max_epochs": -1, "limit_val_batches": 0, "enable_progress_bar": False}
    config["callbacks"] = {"max_flop": {"flop": flop}}
    (runs / "variant.yaml").write_text(yaml.safe_dump(config))
    call("fit", f"--config={runs / 'variant.yaml'}", f"--runs={runs}", f"--seed_everything={seed}", *data(images))
    (checkpoint,) = runs.glob("cifar10_fast/*/checkpoints/last.ckpt")
    return checkpoint


def evaluate(checkpoint: Path, images: Path, runs: Path) -> dict[str, float]:
    """Accuracy of the linear probe and its interval."""
    config = [f"--config={ROOT / 'configs/evaluate/linear.yaml'}", f"--data={ROOT / 'configs/data/folder.yaml'}"]
    model = [f"--model.checkpoint={checkpoint}", "--model.baselines=false"]
    call("validate", *config, *model, *data(images), f"--runs={runs}")
    (card,) = runs.glob("linear/*/result.json")
    (result,) = json.loads(card.read_text())["results"]
    found: dict[str, float] = result["metrics"]["accuracy"]
    return found


def data(images: Path) -> list[str]:
    """Options that use only training images, a tenth of which replace the test split."""
    source = ["--data.source=simmim_pl.data.HeldOut", "--data.source.source=simmim_pl.data.Folder"]
    return [*source, f"--data.source.source.root={images}", "--data.validation=2000"]


def call(*args: str) -> None:
    """Run the command line."""
    environment = {**os.environ, "WANDB_MODE": "disabled"}
    subprocess.run([sys.executable, "-m", "simmim_pl", *args], check=True, stdout=subprocess.DEVNULL, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/<class>/* image files")
    parser.add_argument(
        "--flop",
        type=float,
        default=1.5e14,
        help="FLOP budget of each variant; docs/results.md has that of the full run",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("ablation.json"))
    options = parser.parse_args()
    known: dict[str, Any] = json.loads(options.out.read_text()) if options.out.exists() else {}
    print("| variant | linear probe, % |\n|---|---:|")
    for name, changes in VARIANTS.items():
        config = changed(changes)
        what = hashlib.sha256(f"{fingerprint()} {json.dumps(config)}".encode()).hexdigest()[:8]
        key = f"{name}, seed {options.seed}, {options.flop:.1e} FLOP, code and config {what}"
        if key not in known:
            with tempfile.TemporaryDirectory() as runs:
                checkpoint = train(config, options.flop, options.images, options.seed, Path(runs))
                known[key] = evaluate(checkpoint, options.images, Path(runs))
            options.out.write_text(json.dumps(known, indent=1))
        low, high = (100 * end for end in known[key]["interval"])
        print(f"| {name} | {100 * known[key]['value']:.1f} [{low:.1f}–{high:.1f}] |", flush=True)


if __name__ == "__main__":
    main()
