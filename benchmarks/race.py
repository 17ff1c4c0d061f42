"""The public race on CIFAR-10: minutes of pretraining on one device, and accuracy on test, once, at the end.

    python benchmarks/race.py                               # configs/cifar10_gpu.yaml, three seeds
    python benchmarks/race.py --config configs/cifar10_fast.yaml --seeds 0

The rule (github.com/dkobak/simclr-cifar10): 90.0 % by ``KNeighborsClassifier(n_neighbors=10, metric="cosine")`` on
features before the head; any network; training on training images only; the test split is read once, at the end of a
fixed schedule. The linear probe beside it chooses its penalty on held-out training images. ``minutes`` are those of
``fit`` from start to end: imports, reading the data, compilation, validation. It prints a table; the result cards lie
in the runs' directories. Stopped, the same command continues with the seeds that are missing. Options of ``fit`` follow
after ``--``.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import yaml
from subcommand import call, identity, newest, parse

from simmim_pl.runtime.atomic import write

ROOT = Path(__file__).parents[1]
GOAL = 0.90  # kNN accuracy
PROTOCOLS = [
    {"class_path": "simmim_pl.evaluation.KNN", "init_args": {"k": [10], "temperature": [None]}},
    {"class_path": "simmim_pl.evaluation.LinearProbe"},
]


def race(config: Path, data: list[str], seed: int, more: list[str], out: Path) -> dict[str, Any]:
    """Pretrain and evaluate one seed: minutes, and the metrics of the result card."""
    folder = out / f"{config.stem}-{seed}-{identity(config.read_text(), data, more)}"
    known = folder / "race.json"
    if not known.exists():
        begin = time.monotonic()
        call("fit", f"--config={config}", *data, *more, f"--seed_everything={seed}", f"--runs={folder}", "--name=race")
        minutes = (time.monotonic() - begin) / 60
        checkpoint = newest(folder, "race/*/checkpoints/last.ckpt")
        module = {"class_path": "simmim_pl.evaluation.Evaluation", "init_args": {"protocols": PROTOCOLS}}
        (folder / "evaluate.yaml").write_text(yaml.safe_dump({"name": "evaluate", "model": module}))
        options = [f"--config={folder / 'evaluate.yaml'}", f"--data={ROOT / 'configs/data/cifar10.yaml'}", *data]
        options.append("--data.validation=0.1")
        trainer = [each for each in more if each.startswith(("--trainer.accelerator", "--trainer.devices"))]
        call(
            *("validate", *options, *trainer, f"--model.checkpoint={checkpoint}"),
            *("--model.baselines=false", f"--runs={folder}"),
        )
        card = newest(folder, "evaluate/*/result.json")
        results = json.loads(card.read_text())["results"]
        found = {each["task"]: each["metrics"]["accuracy"] for each in results}
        text = json.dumps(found | {"minutes": minutes, "card": str(card)}).encode()
        write(known, lambda file: file.write(text))
    result: dict[str, Any] = json.loads(known.read_text())
    return result


def row(seed: int, found: dict[str, Any]) -> str:
    """A line of the table."""
    cells = []
    for task in ("KNN", "LinearProbe"):
        low, high = found[task]["interval"]
        cells.append(f"{100 * found[task]['value']:.2f} [{100 * low:.1f}–{100 * high:.1f}]")
    reached = "yes" if found["KNN"]["value"] >= GOAL else "no"
    return f"| {seed} | {found['minutes']:.1f} | {' | '.join(cells)} | {reached} | {found['card']} |"


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=ROOT / "configs/cifar10_gpu.yaml")
    parser.add_argument("--images", type=Path, help="folder with train/<class>/* and test/<class>/* [CIFAR-10]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("race"), help="folder of the runs")
    options, more = parse(parser, args)
    folder = ["--data.source=simmim_pl.data.Folder", f"--data.source.root={options.images}"]
    data = folder if options.images else ["--data.source=simmim_pl.data.CIFAR10"]
    heading = "| seed | minutes | kNN (k=10), % | linear probe, % | 90.0 % kNN | card |"
    print(f"{heading}\n|---|---:|---:|---:|---|---|", flush=True)
    for seed in options.seeds:
        print(row(seed, race(options.config, data, seed, more, options.out)), flush=True)


if __name__ == "__main__":
    main()
