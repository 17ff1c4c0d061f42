"""What has to be fast on a GPU, in one table beside what limits it; at most 150 seconds on an H100.

    python benchmarks/gpu.py --out gpu.json                 # pip install -e '.[benchmarks]' for the peers
    python benchmarks/gpu.py --only cifar10,evaluation      # some sections
    python benchmarks/gpu.py --smoke                        # tiny, on a CPU: does every part run?

- ``fit`` of the command line in bf16-mixed, eager and compiled, beside the network alone in the same run: forward and
  backward of encoder and head on a batch that does not change. What the host does for a batch (launches, waits,
  copies), and the share of the time in which the GPU computes, by the profiler.
- The same beside plain loops of kornia's or torchvision's views, lightly's or solo-learn's loss, and SGD.
- The quickstart's ``fit``; and ``validate``, linear probe and kNN of 60,000 images with both baselines.

Images are drawn, none are downloaded. Views and loss by themselves: benchmarks/views.py, benchmarks/nt_xent.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from gpu_fit import ROOT, Timed, command, counted, fit
from gpu_limits import Network, loop, matmul_speed

SECTIONS = ("device", "cifar10", "cifar10_fast", "quickstart", "evaluation", "peers", "resnet50")
PEERS = (("kornia's views", "lightly's loss"), ("torchvision's views, one draw a batch", "solo-learn's loss"))
EVALUATION = 15.0  # seconds that linear probe and kNN of CIFAR-10 may take


@dataclass
class Row:
    """A line of the table: a figure, and the most that it could or should be where something says so."""

    name: str
    figure: float | None = None
    unit: str = ""
    limit: float | None = None
    limited_by: str = ""
    note: str = ""

    def __str__(self) -> str:
        figure = "" if self.figure is None else f"{digits(self.figure)} {self.unit}"
        limit = "" if self.limit is None else f"{digits(self.limit)}, {self.limited_by}"
        share = f"{100 * self.figure / self.limit:.0f} %" if self.limit and self.figure is not None else ""
        note = f"{'; ' if figure else ''}{self.note}" if self.note else ""
        return f"| {self.name} | {figure}{note} | {limit} | {share} |"


def digits(value: float) -> str:
    """All that are whole, of a small number three that matter."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.3g}"


@dataclass(frozen=True)
class Recipe:
    """A config, perhaps with another encoder and batch."""

    name: str
    config: str
    encoder: dict[str, Any] | None = None
    batch_size: int | None = None

    def nested(self) -> dict[str, Any]:
        """As values."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / self.config).read_text())
        if self.encoder:
            config["model"]["init_args"]["encoder"] = self.encoder
        if self.batch_size:
            config["data"]["init_args"]["batch_size"] = self.batch_size
        return config

    def arguments(self) -> list[str]:
        """What is not the config's, for the command line."""
        encoder = [f"--model.encoder={json.dumps(self.encoder)}"] if self.encoder else []
        return encoder + ([f"--data.batch_size={self.batch_size}"] if self.batch_size else [])


class Bench:
    """Makes the rows of every section; what one has found limits those after it."""

    def __init__(self, smoke: bool) -> None:
        self.smoke, self.gpu = smoke, torch.cuda.is_available() and not smoke
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.seconds = 0.1 if smoke else 3.0
        self.clock = {"warm": 2 if smoke else 30, "seconds": self.seconds}
        self.here = [f"--trainer.accelerator={'gpu' if self.gpu else 'cpu'}", "--trainer.devices=1"]
        self.data = ["--data.source=gpu_fit.Images"]
        self.peak = 0.0
        self.alone: dict[str, Network] = {}
        self.rates: dict[str, float] = {}  # of networks alone, by recipe and form
        small = {"class_path": "simmim_pl.encoders.FastCNN", "init_args": {"width": 2}}
        changed: tuple[Any, ...] = (small, 16) if smoke else ()
        resnet50 = yaml.safe_load((ROOT / "configs/encoder/resnet50.yaml").read_text())
        self.recipes = [
            Recipe("cifar10", "cifar10.yaml", *changed),
            Recipe("cifar10_fast", "cifar10_fast.yaml", *changed),
        ]
        self.recipes += [Recipe("resnet50", "cifar10.yaml", *(changed or (resnet50, 256)))]
        if smoke:
            self.data += ["--data.source.train=400", "--data.source.test=100", "--data.validation=100"]

    def jobs(self) -> Iterator[tuple[str, str, Callable[[], Iterator[Row]]]]:
        """Section, what is measured, and how; in the order of what matters."""
        yield "device", "the device", self.matmul
        cifar10, cifar10_fast, resnet50 = self.recipes
        yield from self.of_recipe(cifar10)
        yield "cifar10", "cifar10: fit, compiled, with its callbacks", lambda: self.with_callbacks(cifar10)
        yield from self.of_recipe(cifar10_fast)
        yield "quickstart", "quickstart.yaml", self.quickstart
        yield "evaluation", "evaluation", self.evaluation
        for peer in PEERS:
            yield "peers", f"a plain loop of {peer[0]} and {peer[1]}", lambda peer=peer: self.peer(*peer)
        yield from self.of_recipe(resnet50)

    def of_recipe(self, recipe: Recipe) -> Iterator[tuple[str, str, Callable[[], Iterator[Row]]]]:
        """The network alone, then fit; eager, then compiled."""
        for form in ("eager", "compiled"):
            yield recipe.name, f"{recipe.name}: the network alone, {form}", lambda form=form: self.network(recipe, form)
            yield recipe.name, f"{recipe.name}: fit, {form}", lambda form=form: self.fit(recipe, form)

    def matmul(self) -> Iterator[Row]:
        """What the device can do at all."""
        self.peak = matmul_speed(self.device, self.seconds / 6, 256 if self.smoke else 8192)
        yield Row("matrix products in bfloat16", self.peak / 1e12, "TFLOP/s")

    def network(self, recipe: Recipe, form: str) -> Iterator[Row]:
        """A network alone, launched one by one and as a CUDA graph."""
        network = Network(recipe.nested(), self.device, compiled=form == "compiled")
        limit = self.peak / network.flop if self.peak else None
        for graph in (False, True):
            name = f"{recipe.name}: the network alone, {form}{', CUDA graph' * graph}"
            if graph and not self.gpu:
                yield Row(name, note="no GPU")
                continue
            rate = network.rate(self.seconds / 2, graph)
            self.rates[f"{recipe.name} {form}"] = max(rate, self.rates.get(f"{recipe.name} {form}", 0))
            yield Row(name, rate, "images/s", limit, "matrix products")

    def fit(self, recipe: Recipe, form: str) -> Iterator[Row]:
        """Of a recipe without its callbacks, and what the profiler says of it."""
        timed = self.timed(recipe, form, alone=True, profiled=2 if self.smoke else 10)
        name = f"{recipe.name}: fit, {form}"
        yield self.row(name, timed, f"{recipe.name} {form}")
        if not self.gpu:
            yield Row(f"{name}, launches and waits", note="no GPU")
            return
        found = counted(timed.trace or [], 10)
        yield Row(
            f"{name}, kernel launches",
            found["kernel launches"],
            "a batch",
            note=f"{digits(found['graph launches'])} of graphs",
        )
        yield Row(f"{name}, the host waits", found["waits"], "times a batch", 0, "is the aim")
        copies = f"{digits(found['pageable copies'])} of or to pageable memory"
        yield Row(f"{name}, copies to the host", found["copies to the host"], "a batch", 0, "is the aim", copies)
        busy = 100 * found["busy seconds"] / timed.seconds
        yield Row(f"{name}, the GPU computes", busy, "% of the time", 100, "%")

    def with_callbacks(self, recipe: Recipe) -> Iterator[Row]:
        """As a user runs it, but for validation."""
        timed = self.timed(recipe, "compiled", alone=False)
        yield self.row(f"{recipe.name}: fit, compiled, with its callbacks", timed, f"{recipe.name} compiled")

    def timed(self, recipe: Recipe, form: str, **how: Any) -> Timed:
        """Fit of a recipe."""
        form_of = f"--model.compile={str(form == 'compiled').lower()}"
        return fit(recipe.config, *recipe.arguments(), *self.data, *self.here, form_of, **self.clock, **how)

    def row(self, name: str, timed: Timed, limit: str = "") -> Row:
        """Of a fit."""
        note = f"{1000 * timed.seconds:.3g} ms a batch" + (f", {timed.memory / 1e9:.2g} GB" if self.gpu else "")
        return Row(name, timed.rate, "images/s", self.rates.get(limit), "the network alone", note)

    def quickstart(self) -> Iterator[Row]:
        """With its callbacks, on its own images."""
        yield self.row(
            "quickstart.yaml: fit, as it stands", fit("quickstart.yaml", *self.here, alone=False, **self.clock)
        )

    def peer(self, views: str, loss: str) -> Iterator[Row]:
        """A plain loop around the network of cifar10.yaml, eager and compiled."""
        for form in ("eager", "compiled"):
            network = Network(self.recipes[0].nested(), self.device, compiled=form == "compiled")
            rate, limit = loop(network, views, loss, self.seconds / 2), self.rates.get(f"cifar10 {form}")
            yield Row(f"cifar10: a plain loop, {views}, {loss}, {form}", rate, "images/s", limit, "the network alone")

    def evaluation(self) -> Iterator[Row]:
        """Linear probe and kNN by ``validate``, of a network that has hardly been trained."""
        recipe, callback = self.recipes[0], "--trainer.callbacks=simmim_pl.callbacks.Checkpoint"
        with tempfile.TemporaryDirectory() as folder:
            common = [*self.data, *self.here, f"--runs={folder}", "--trainer.enable_progress_bar=false"]
            training = [f"--config={ROOT / 'configs' / recipe.config}", *recipe.arguments(), "--trainer.max_steps=3"]
            command(["fit", *training, *common, callback, "--trainer.limit_val_batches=0"])
            (checkpoint,) = Path(folder).glob("*/*/checkpoints/last.ckpt")
            asked = [
                f"--config={ROOT / 'configs/evaluate/linear.yaml'}",
                f"--data={ROOT / 'configs/data/cifar10.yaml'}",
            ]
            asked += ["--model.protocols+=simmim_pl.evaluation.KNN", f"--model.checkpoint={checkpoint}"]
            since = time.perf_counter()
            command(["validate", *asked, *common])
            taken = time.perf_counter() - since
            (card,) = Path(folder).glob("linear/*/result.json")
            results = json.loads(card.read_text())["results"]
        parts = ", ".join(f"{each['task']} of {each['encoder']} {each['wall_time_seconds']:.1f}" for each in results)
        yield Row("validate: linear probe and kNN of CIFAR-10's size", taken, "s", EVALUATION, "is the aim", parts)


def run(bench: Bench, only: list[str], seconds: float, out: Path | None) -> list[dict[str, Any]]:
    """Print the table's rows as they come; a part that fails, or for which no time is left, says so in its own."""
    began, found = time.perf_counter(), []
    for section, name, work in bench.jobs():
        if section not in only:
            continue
        since = time.perf_counter()
        try:
            if since - began > seconds:
                raise TimeoutError(f"left out, {seconds:.0f} seconds were spent")
            rows = work()
            for row in rows:
                print(row, flush=True)
                found.append({"section": section} | asdict(row))
        except Exception as error:
            said = str(error).strip().rpartition("\n")[2].replace("|", "/")
            row = Row(name, note=f"{type(error).__name__}: {said}")
            print(row, flush=True)
            found.append({"section": section} | asdict(row))
        found[-1]["seconds"] = time.perf_counter() - since
        if out:
            out.write_text(json.dumps(found, indent=1))
    return found


def about() -> str:
    """Device, processor, versions, commit."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}"
    return f"{device}; {os.cpu_count()} cores of {(names or [platform.machine()])[0]}; {versions}; commit {commit.strip() or 'unknown'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(SECTIONS), help=",".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=125, help="after which no part is begun")
    parser.add_argument("--out", type=Path, help="JSON of all figures")
    parser.add_argument("--smoke", action="store_true", help="tiny, on a CPU, and nothing is compiled")
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    if options.smoke:
        torch._dynamo.config.disable = True
        torch.set_num_threads(1)  # of so little work threads only wait for each other
    print(f"{about()}\n\n| | figure | limit | share |\n|---|---|---|---|", flush=True)
    run(Bench(options.smoke), options.only, options.seconds, options.out)


if __name__ == "__main__":
    main()
