"""The result card: results, data, encoder and versions; printed as a table and written next to the checkpoint."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from operator import methodcaller
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import nn

import simmim_pl
from simmim_pl.contracts import Encoder
from simmim_pl.encoders.layer import Layer
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import digest
from simmim_pl.evaluation.protocol import Protocol
from simmim_pl.evaluation.result import Result
from simmim_pl.evaluation.table import table
from simmim_pl.runtime import atomic
from simmim_pl.runtime.checkpoint import open_saved

TIMES = "wall_time_seconds"  # the one key in which two cards of the same command differ


def entry(context: EvaluationContext, protocol: Protocol, result: Result, seconds: float) -> dict[str, Any]:
    """One result of a card."""
    return {
        "task": type(protocol).__name__,
        "data": context.data.source.name,
        "encoder": context.name,
        **result.entry(),
        "protocol": protocol.settings(),
        TIMES: round(seconds, 2),
    }


def publish(
    trainer: Trainer,
    checkpoint: str | None,
    encoders: Mapping[str, Encoder],
    data: Sequence[Any],
    entries: list[dict[str, Any]],
    seed: int,
    started: float,
) -> dict[str, Any]:
    """Print the table; write ``result.json`` and ``result.md`` to the run directory, and copies next to the checkpoint.

    Returns:
        The card.
    """
    folder = trainer.log_dir  # asks all ranks
    number_alike(entries)
    found = {
        "checkpoint": checkpoint,
        "encoders": {name: described_encoder(encoder) for name, encoder in encoders.items()},
        "data": [described(each) for each in data],
        "results": entries,
        "seed": seed,
        "command": shlex.join(["python", "-m", "simmim_pl", *sys.argv[1:]]),
        "code": code_version(),
        "versions": versions(),
        "device": f"{trainer.strategy.root_device.type} × {trainer.world_size}",
        "precision": str(trainer.precision),
        TIMES: round(time.perf_counter() - started, 2),
    }
    if checkpoint is not None and (changes := open_saved(checkpoint)[1].get("changes")):
        found["pretraining changed"] = changes  # settings, when the run resumed from a checkpoint, with the step
    for logger in trainer.loggers:
        logger.log_metrics(dict(scalars(entries)), step=0)
    if trainer.is_global_zero:
        print(f"\n{table(found)}")  # below the progress bar
        if folder is not None and trainer.loggers:
            write(found, Path(folder, "result"))
            print(f"Written to {folder}/result.json and .md")
            if checkpoint is not None:
                copy_beside(found, Path(checkpoint), Path(folder))
    return found


def number_alike(entries: Sequence[dict[str, Any]]) -> None:
    """Number results that would share a cell of the table: a protocol used twice, or two data folders of one name."""
    seen: Counter[tuple[str, ...]] = Counter()
    for result in entries:
        place = tuple(result[key] for key in ("data", "task", "variant", "encoder"))
        seen[place] += 1
        if seen[place] > 1:
            result["variant"] = f"{result['variant']} ({seen[place]})".strip()


def scalars(entries: Sequence[dict[str, Any]]) -> Iterator[tuple[str, float]]:
    """Every value of a card with its name for loggers, such as ``test/Shapes/KNN/untrained/accuracy``."""
    for result in entries:
        task = " ".join(part for part in (result["task"], result["variant"]) if part)
        for metric, estimate in result["metrics"].items():
            yield f"test/{result['data']}/{task}/{result['encoder']}/{metric}".replace(" ", "_"), estimate["value"]


def copy_beside(card: dict[str, Any], checkpoint: Path, run: Path) -> None:
    """Copy the card next to the checkpoint, under the run's name, so that cards do not overwrite each other."""
    beside = checkpoint.with_name(f"{checkpoint.stem}.{run.parent.name}-{run.name}.result")
    try:
        write(card, beside)
        print(f"and next to the checkpoint, to {beside}.json and .md")
    except OSError as error:
        if atomic.is_disk_full(error):
            raise
        rank_zero_warn(f"The result could not be copied next to {checkpoint} ({error.strerror}).")


def write(card: dict[str, Any], path: Path) -> None:
    """Write the card as JSON and as a table, each file whole or not at all. Raises :class:`OSError` when it cannot."""
    for ending, text in (("json", json.dumps(card, indent=2, allow_nan=False)), ("md", table(card))):
        atomic.write(path.with_name(f"{path.name}.{ending}"), methodcaller("write", f"{text}\n".encode()))


def described_encoder(encoder: Encoder) -> dict[str, Any]:
    """An encoder: its class, a hash of its weights, its arguments, and which layer of it was read."""
    if isinstance(encoder, Layer):
        return described_encoder(encoder.encoder) | simple(encoder)
    return {"class": type(encoder).__name__, "hash": digest(encoder), **simple(encoder)}


def described(data: Any) -> dict[str, Any]:
    """A data set: its name, kind and splits, and a digest of the files or pixels that they come from."""
    return {
        "name": data.source.name,
        "source": described_source(data.source),
        "validation": data.validation,
        "items": {split: len(data.splits[split]) for split in ("train", "validation", "test")},
        "digest": {split: data.splits[split].dataset.digest() for split in ("train", "test")},
        "split_seed": data.split_seed,
        "batch_size": data.batch_size,
    }


def described_source(source: Any) -> dict[str, Any]:
    """A source: its class and arguments, and those of a source that it wraps."""
    inner = getattr(source, "source", None)
    wrapped = {"source": described_source(inner)} if hasattr(inner, "load") else {}
    return {"class": type(source).__name__, **simple(source), **wrapped}


def simple(thing: Any) -> dict[str, Any]:
    """Constructor arguments that an encoder or a source stores as attributes: plain values, lists of them, paths."""

    def shown(value: Any) -> Any:
        if isinstance(value, (tuple, list)):
            return [shown(part) for part in value]
        return value if isinstance(value, (bool, int, float, str)) else str(value)

    kinds = (bool, int, float, str, Path, tuple, list)
    common = vars(nn.Module()).keys() | {"classes", "mask_classes"}
    kept = {name: value for name, value in vars(thing).items() if name not in common and isinstance(value, kinds)}
    return {name: shown(value) for name, value in sorted(kept.items())}


def versions() -> dict[str, str]:
    """Of Python and of the packages that a number may depend on, those that are installed."""
    found = {"python": platform.python_version(), "simmim_pl": simmim_pl.__version__}
    for name in ("torch", "torchvision", "lightning", "torchmetrics", "numpy", "pillow", "timm", "torchcodec"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def code_version() -> str | None:
    """The commit of the code that ran, and whether files differ from it; ``None`` outside a git checkout."""

    def git(*command: str) -> str:
        place = Path(simmim_pl.__file__).parents[1]
        done = subprocess.run(["git", "-C", str(place), *command], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        if not git("ls-files", simmim_pl.__file__):  # installed into an environment inside another project
            return None
        return git("rev-parse", "HEAD") + (" with changes" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
