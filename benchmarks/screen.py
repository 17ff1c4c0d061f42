"""Screen recipes at equal arithmetic, or equal time on one device, on training images only.

    python benchmarks/screen.py benchmarks/screens/cifar10_fast.yaml --flop 1e14
    python benchmarks/screen.py benchmarks/screens/gpu.yaml --minutes 2 --seeds 0 1

A plan names a base config, options of ``python -m simmim_pl fit --config BASE`` for all recipes, and those that each
recipe adds, the most promising first. Each recipe trains until its budget is spent, its schedule ending there, and is
evaluated by kNN and linear probe on a tenth of every class's training images, used for nothing else
(:class:`simmim_pl.data.HeldOut`); the test split is not read. For equal time, the speed of each recipe is measured
first, by a short run; compilation is not counted. Of the options for all recipes those of the trainer, such as its
precision, are the evaluation's too.

Prints a table sorted by gain over the plan's first recipe, with its standard error. It can be stopped at any moment:
the same command continues, also in the middle of a training. Recipes of changed code or options are trained again.
Options of ``fit`` for every recipe follow after ``--``.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median, stdev
from typing import Any

import yaml
from subcommand import call, identity, newest, parse

from simmim_pl.runtime.atomic import write

ROOT = Path(__file__).parents[1]
PROTOCOLS = {"kNN": "simmim_pl.evaluation.KNN", "linear probe": "simmim_pl.evaluation.LinearProbe"}
Accuracy = dict[str, tuple[float, float]]  # value and standard error by protocol


@dataclass(frozen=True)
class Screen:
    """What all recipes share.

    Attributes:
        base: the config.
        images: folder with train/<class>/* image files; ``None`` for CIFAR-10.
        flop: budget of each recipe, or ``None``.
        minutes: the same in time.
        timed_steps: optimizer steps by which speed is measured.
        more: options of every run, which a recipe cannot change.
        runs: folder of the runs.
        options: options of every run, which a recipe can change.
    """

    base: Path
    images: Path | None
    flop: float | None
    minutes: float | None
    timed_steps: int
    more: tuple[str, ...]
    runs: Path
    options: tuple[str, ...] = ()

    def data(self) -> list[str]:
        """Options that use only training images, a tenth of which replace the test split."""
        inner = "CIFAR10" if self.images is None else "Folder"
        source = ["--data.source=simmim_pl.data.HeldOut", f"--data.source.source=simmim_pl.data.{inner}"]
        return [*source, *([f"--data.source.source.root={self.images}"] if self.images else [])]

    def score(self, recipe: list[str], seed: int) -> Accuracy:
        """Train and evaluate a recipe, or what is left of it."""
        asked = self.base.read_text(), self.options, recipe, seed, str(self.images), self.flop, self.minutes, self.more
        folder = self.runs / identity(*asked)
        known = folder / "score.json"
        if not known.exists():
            checkpoint = self.train(recipe, seed, folder)
            found = json.dumps(self.evaluate(checkpoint, folder)).encode()
            write(known, lambda file: file.write(found))
        return {name: (value, error) for name, (value, error) in json.loads(known.read_text()).items()}

    def train(self, recipe: list[str], seed: int, folder: Path) -> Path:
        """Train until the budget is spent; return the checkpoint."""
        asked = *self.options, *recipe, *self.more, f"--seed_everything={seed}"
        fit = ["fit", f"--config={self.base}", *self.data(), *asked]
        fit += ["--trainer.max_epochs=-1", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
        budget = [f"--callbacks.max_flop.flop={self.flop}"]
        if self.minutes is not None:
            budget = [f"--trainer.max_steps={self.steps(fit, folder)}"]
        call(*fit, *budget, f"--runs={folder}", "--name=recipe", "--ckpt_path=last")
        return newest(folder, "recipe/*/checkpoints/last.ckpt")

    def steps(self, fit: list[str], folder: Path) -> int:
        """Optimizer steps in the budget of time, by the speed of a short run, which is measured once."""
        known = folder / "steps.txt"
        if not known.exists():
            short = [f"--trainer.max_steps={self.timed_steps}", "--trainer.log_every_n_steps=5"]
            call(*fit, *short, f"--runs={folder}", "--name=speed")
            config = newest(folder, "speed/*/config.yaml")
            with newest(folder, "speed/*/metrics.csv").open(newline="") as file:
                rates = [float(rate) for row in csv.DictReader(file) if (rate := row["train/images_per_second"])]
            data = yaml.safe_load(config.read_text())["data"]["init_args"]
            share = data["final_share"] if data["final_views"] else 0.0
            seconds = data["batch_size"] * seconds_per_image(rates, share)
            found = str(max(1, round((self.minutes or 0) * 60 / seconds))).encode()
            write(known, lambda file: file.write(found))
        return int(known.read_text())

    def evaluate(self, checkpoint: Path, folder: Path) -> Accuracy:
        """Accuracy on the held-out tenth."""
        protocols = [{"class_path": path} for path in PROTOCOLS.values()]
        module = {"class_path": "simmim_pl.evaluation.Evaluation", "init_args": {"protocols": protocols}}
        (folder / "evaluate.yaml").write_text(yaml.safe_dump({"name": "evaluate", "model": module}))
        config = [f"--config={folder / 'evaluate.yaml'}", f"--data={ROOT / 'configs/data/folder.yaml'}", *self.data()]
        data = [
            "--data.validation=0.1",
            *(each for each in (*self.options, *self.more) if each.startswith("--trainer")),
        ]
        call(
            *("validate", *config, *data, f"--model.checkpoint={checkpoint}"),
            *("--model.baselines=false", f"--runs={folder}"),
        )
        card = newest(folder, "evaluate/*/result.json")
        found = {result["task"]: result["metrics"]["accuracy"] for result in json.loads(card.read_text())["results"]}
        return {name: with_error(found[path.rpartition(".")[2]]) for name, path in PROTOCOLS.items()}


def seconds_per_image(rates: list[float], final_share: float) -> float:
    """Mean over a run whose last part has other views, from images per second in equal intervals.

    The first half of each part warms up: caches, compilation. Raises RuntimeError if there are too few intervals.
    """
    first = round(len(rates) * (1 - final_share))
    parts = [(1 - final_share, rates[:first]), (final_share, rates[first:])]
    needed = [(share, part) for share, part in parts if share]
    if not all(part for _, part in needed):
        raise RuntimeError(f"{len(rates)} measured intervals are too few: raise --timed_steps")
    return sum(share / median(part[len(part) // 2 :]) for share, part in needed)


def with_error(metric: dict[str, Any]) -> tuple[float, float]:
    """A metric of a result card, and its standard error, from its 95 % interval."""
    low, high = metric["interval"]
    return metric["value"], (high - low) / 2 / 1.96


def gain(recipe: list[Accuracy], base: list[Accuracy], protocol: str) -> tuple[float, float]:
    """Mean gain over the base, seed by seed, and its standard error: of the test images, or of the seeds if larger."""
    pairs = [(one[protocol], other[protocol]) for one, other in zip(recipe, base, strict=True)]
    gains = [value - before for (value, _), (before, _) in pairs]
    of_images = sum(error**2 + other**2 for (_, error), (_, other) in pairs) ** 0.5 / len(pairs)
    of_seeds = stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    return fmean(gains), max(of_images, of_seeds)


def table(scores: dict[str, list[Accuracy]]) -> str:
    """All recipes, the largest gain of the linear probe first; the plan's first recipe is the base."""
    base = next(iter(scores.values()))
    rows = []
    for name, found in scores.items():
        cells = []
        for protocol in PROTOCOLS:
            mean = 100 * fmean(each[protocol][0] for each in found)
            more, error = (100 * each for each in gain(found, base, protocol))
            cells += [f"{mean:.1f}", "" if found is base else f"{more:+.1f} ± {error:.1f}"]
        rows.append((gain(found, base, "linear probe")[0], f"| {name} | {' | '.join(cells)} |"))
    heading = (
        f"| recipe | {' | '.join(f'{name}, % | gain' for name in PROTOCOLS)} |\n|---|{'---:|' * 2 * len(PROTOCOLS)}"
    )
    return "\n".join([heading, *(row for _, row in sorted(rows, key=lambda each: -each[0]))])


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=Path, help="YAML with base, options of all recipes, and recipes by name")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--flop", type=float, help="FLOP of each recipe's training")
    budget.add_argument("--minutes", type=float, help="minutes of each recipe's training, without compilation")
    parser.add_argument("--images", type=Path, help="folder with train/<class>/* image files [CIFAR-10]")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--together", type=int, default=1, help="recipes at a time, where one does not fill the device")
    parser.add_argument("--first", type=int, help="number of recipes, the first of the plan [all]")
    parser.add_argument("--timed_steps", type=int, default=100, help="steps by which speed is measured")
    parser.add_argument("--out", type=Path, default=Path("screens"), help="folder of the runs and the table")
    options, more = parse(parser, args)
    plan = yaml.safe_load(options.plan.read_text())
    recipes = dict(list(plan["recipes"].items())[: options.first])
    out = options.out / options.plan.stem
    budget_and_speed = options.flop, options.minutes, options.timed_steps
    screen = Screen(
        ROOT / plan["base"], options.images, *budget_and_speed, tuple(more), out, tuple(plan.get("options", []))
    )
    scores: dict[str, list[Accuracy]] = {}
    with ThreadPoolExecutor(options.together) as pool:
        jobs = {
            name: [pool.submit(screen.score, recipe, seed) for seed in options.seeds]
            for name, recipe in recipes.items()
        }
        for name, each in jobs.items():
            try:
                scores[name] = [job.result() for job in each]
            except RuntimeError as error:
                print(f"{name}: {error}", file=sys.stderr)
                continue
            print(
                f"{name}: linear probe {100 * fmean(found['linear probe'][0] for found in scores[name]):.1f} %",
                flush=True,
            )
    if next(iter(recipes)) in scores:  # gains are over the first
        text = table(scores)
        write(out / "table.md", lambda file: file.write(text.encode()))
        print(f"\n{text}")
    sys.exit(int(len(scores) < len(recipes)))


if __name__ == "__main__":
    main()
