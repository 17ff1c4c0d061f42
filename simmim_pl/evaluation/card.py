"""The result card: what was measured, on what, with what; printed as a table and written as ``result.json``."""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from lightning.pytorch import Trainer

import simmim_pl


def publish(
    trainer: Trainer,
    task: str,
    checkpoint: str | None,
    encoder_hash: str,
    sizes: dict[str, int],
    results: dict[str, dict[str, Any]],
) -> None:
    """Write ``result.json`` to the run directory, print the table, and send it to the loggers that take tables."""
    folder = trainer.log_dir  # asks all ranks
    if not trainer.is_global_zero:
        return
    source = trainer.datamodule.source  # type: ignore[attr-defined]
    card = {
        "task": task,
        "data": type(source).__name__,
        "images": sizes,
        "checkpoint": checkpoint,
        "encoder_hash": encoder_hash,
        "results": results,
        "command": " ".join(["python -m simmim_pl", *sys.argv[1:]]),
        "versions": {
            "simmim_pl": simmim_pl.__version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        },
        "device": str(trainer.strategy.root_device),
    }
    print(f"\n{table(card)}")  # below the progress bar
    if folder is not None and trainer.loggers:
        path = Path(folder, "result.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(card, indent=2) + "\n")
        print(f"Written to {path}")
    for logger in trainer.loggers:
        if hasattr(logger, "log_table"):
            rows = [[name, result["accuracy"]] for name, result in results.items()]
            logger.log_table("evaluation/result", columns=["encoder", "test accuracy"], data=rows)


def table(card: dict[str, Any]) -> str:
    """The card as a Markdown table.

    >>> card = {"task": "KNN", "data": "Shapes", "images": {"train": 9, "validation": 1, "test": 5},
    ...         "results": {"untrained": {"accuracy": 0.4, "width": 8}}}
    >>> print(table(card))
    KNN on Shapes: 9 train, 1 validation, 5 test images
    | encoder     | features | test accuracy |
    |-------------|---------:|--------------:|
    | untrained   |        8 |        40.0 % |
    """
    images = ", ".join(f"{number} {split}" for split, number in card["images"].items())
    lines = [
        f"{card['task']} on {card['data']}: {images} images",
        "| encoder     | features | test accuracy |",
        "|-------------|---------:|--------------:|",
    ]
    for name, result in card["results"].items():
        lines.append(f"| {name:<11} | {result['width']:>8} | {100 * result['accuracy']:>11.1f} % |")
    return "\n".join(lines)
