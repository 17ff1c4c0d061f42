"""Speed on a GPU, in one table with its limits; at most 150 seconds on an H100.

    python benchmarks/gpu.py --out gpu.json                 # pip install -e '.[benchmarks]' for the peers
    python benchmarks/gpu.py --only cifar10,evaluation      # some sections
    python benchmarks/gpu.py --smoke                        # tiny, on a CPU: a test of every part

- ``fit`` of the command line in bf16-mixed, eager and compiled, and the network alone in the same run: forward and
  backward of encoder and head on a constant batch. Host operations per batch (launches, synchronisations,
  copies), and the share of time in which the GPU computes, from the profiler.
- The same compared with plain loops with kornia's or torchvision's views, lightly's or solo-learn's loss, and SGD.
- The quickstart's ``fit``; and ``validate``, linear probe and kNN of 60,000 images with both baselines.

Images are generated, none are downloaded. Views and loss alone: benchmarks/views.py, benchmarks/nt_xent.py.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from gpu_fit import Timed, command, counted, fit
from gpu_limits import Network, loop, matmul_speed
from gpu_table import ROOT, Job, Row, about, digits, table, tried

SECTIONS = ("device", "cifar10", "evaluation", "quickstart", "peers", "cifar10_fast", "resnet50")
FORMS = ("eager", "compiled")
PEERS = (("kornia's views", "lightly's loss"), ("torchvision's views, one draw per batch", "solo-learn's loss"))
EVALUATION = 15.0  # limit in seconds of linear probe and kNN on CIFAR-10


@dataclass(frozen=True)
class Recipe:
    """A config, optionally with another encoder and batch size."""

    name: str
    config: str
    encoder: dict[str, Any] | None = None
    batch_size: int | None = None

    def nested(self) -> dict[str, Any]:
        """The config as nested values."""
        config: dict[str, Any] = yaml.safe_load((ROOT / "configs" / self.config).read_text())
        if self.encoder:
            config["model"]["init_args"]["encoder"] = self.encoder
        if self.batch_size:
            config["data"]["init_args"]["batch_size"] = self.batch_size
        return config

    def arguments(self) -> list[str]:
        """Command-line arguments besides the config."""
        encoder = [f"--model.encoder={json.dumps(self.encoder)}"] if self.encoder else []
        return encoder + ([f"--data.batch_size={self.batch_size}"] if self.batch_size else [])


class Bench:
    """Computes the rows of every section; earlier results are the limits of later ones."""

    def __init__(self, smoke: bool, further: Sequence[str] = ()) -> None:
        self.smoke, self.gpu = smoke, torch.cuda.is_available() and not smoke
        self.device = torch.device("cuda" if self.gpu else "cpu")
        self.seconds, self.warm, self.profiled = (0.1, 2, 2) if smoke else (3.0, 30, 10)
        self.further = further  # arguments of fit
        self.here = [f"--trainer.accelerator={self.device.type}", "--trainer.devices=1"]
        self.data = ["--data.source=gpu_fit.Images"]
        self.speed = float("nan")  # of matrix products, FLOP/s
        self.alone: dict[str, float] = {}  # images per second of networks alone, by recipe and form
        self.fits: dict[str, float] = {}  # the same of fit
        small = {"class_path": "simmim_pl.encoders.FastCNN", "init_args": {"width": 2}}
        resnet50 = yaml.safe_load((ROOT / "configs/encoder/resnet50.yaml").read_text())
        tiny = (small, 16) if smoke else ()
        self.cifar10 = Recipe("cifar10", "cifar10.yaml", *tiny)
        self.cifar10_fast = Recipe("cifar10_fast", "cifar10_fast.yaml", *tiny)
        self.resnet50 = Recipe("resnet50", "cifar10.yaml", *(tiny or (resnet50, 256)))
        if smoke:
            self.data += ["--data.source.train=400", "--data.source.test=100", "--data.validation=100"]

    def jobs(self) -> Iterator[Job]:
        """Jobs in order of importance: the last are skipped if time runs out."""
        yield Job("device", "matrix products", self.matrix_products)
        yield from self.of(self.cifar10)
        yield Job("cifar10", "cifar10: fit, compiled, with its callbacks", self.with_callbacks)
        yield Job("evaluation", "validate", self.evaluation)
        yield Job("quickstart", "quickstart: fit", self.quickstart)
        for form in FORMS:
            yield Job("peers", f"plain loops, {form}", partial(self.peers, form))
        yield from self.of(self.cifar10_fast)
        yield from self.of(self.resnet50)

    def of(self, recipe: Recipe) -> Iterator[Job]:
        """The network alone, then fit; eager, then compiled."""
        for form in FORMS:
            name = f"{recipe.name}: the network alone, {form}"
            yield Job(recipe.name, name, partial(self.network, recipe, form))
            yield Job(recipe.name, f"{recipe.name}: fit, {form}", partial(self.fit, recipe, form))

    def matrix_products(self) -> Iterator[Row]:
        """The device's speed of matrix products."""
        self.speed = matmul_speed(self.device, self.seconds / 6, 256 if self.smoke else 8192)
        yield Row("matrix products in bfloat16", self.speed / 1e12, "TFLOP/s")

    def network(self, recipe: Recipe, form: str) -> Iterator[Row]:
        """The network alone, launched kernel by kernel, then as a CUDA graph."""
        network, key = Network(recipe.nested(), self.device, form == "compiled"), f"{recipe.name} {form}"
        for graph in (False, True):
            name = f"{recipe.name}: the network alone, {form}{', CUDA graph' * graph}"
            if graph and not self.gpu:
                yield Row(name, note="no GPU")
                return
            rate = network.rate(self.seconds / 3, graph)
            self.alone[key] = max(rate, self.alone.get(key, 0))
            yield Row(name, rate, "images/s", self.speed / network.flop, "matrix products")

    def fit(self, recipe: Recipe, form: str) -> Iterator[Row]:
        """Fit of a recipe without its callbacks, with the profiler's counts."""
        name, timed = f"{recipe.name}: fit, {form}", self.timed(recipe, form, alone=True, profiled=self.profiled)
        self.fits[f"{recipe.name} {form}"] = timed.rate
        yield self.row(name, timed, self.alone.get(f"{recipe.name} {form}"))
        if not self.gpu:
            yield Row(f"{name}, launches and waits", note="no GPU")
            return
        found = counted(timed.trace, self.profiled)
        graphs, pageable = digits(found["graph launches"]), digits(found["pageable copies"])
        yield Row(f"{name}, kernels launched", found["kernel launches"], "a batch", note=f"graphs {graphs}")
        yield Row(f"{name}, the host waits", found["waits"], "times a batch", 0, "is the aim")
        note = f"copies of or to pageable memory {pageable}"
        yield Row(f"{name}, copies to the host", found["copies to the host"], "a batch", 0, "is the aim", note)
        yield Row(f"{name}, the GPU is busy", 100 * found["busy seconds"] / timed.seconds, "%", 100, "% is the most")

    def with_callbacks(self) -> Iterator[Row]:
        """The unchanged reference recipe, without validation."""
        timed = self.timed(self.cifar10, "compiled", alone=False)
        yield self.row("cifar10: fit, compiled, with its callbacks", timed, self.alone.get("cifar10 compiled"))

    def quickstart(self) -> Iterator[Row]:
        """The quickstart, on its own images."""
        timed = fit("quickstart.yaml", *self.here, *self.further, alone=False, warm=self.warm, seconds=self.seconds)
        yield self.row("quickstart: fit, eager, with its callbacks", timed, None)

    def timed(self, recipe: Recipe, form: str, **how: Any) -> Timed:
        """Fit of a recipe."""
        arguments = [*recipe.arguments(), *self.data, *self.here, f"--model.compile={str(form == 'compiled').lower()}"]
        return fit(recipe.config, *arguments, *self.further, warm=self.warm, seconds=self.seconds, **how)

    def row(self, name: str, timed: Timed, limit: float | None) -> Row:
        """The row of a fit."""
        note = f"{1000 * timed.seconds:.3g} ms a batch" + (f", {timed.memory / 1e9:.2g} GB" if self.gpu else "")
        return Row(name, timed.rate, "images/s", limit, "the network alone", note)

    def peers(self, form: str) -> Iterator[Row]:
        """Plain loops around the network of cifar10.yaml."""
        network = Network(self.cifar10.nested(), self.device, form == "compiled")
        for views, loss in PEERS:
            name = f"cifar10: a plain loop, {views}, {loss}, {form}"
            yield from tried(Job("peers", name, partial(self.peer, name, network, views, loss, form)))

    def peer(self, name: str, network: Network, views: str, loss: str, form: str) -> Iterator[Row]:
        """One plain loop, compared with fit."""
        rate = loop(network, views, loss, self.seconds / 2)
        yield Row(name, rate, "images/s", self.fits.get(f"cifar10 {form}"), "our fit")

    def evaluation(self) -> Iterator[Row]:
        """Linear probe and kNN by ``validate``, of a barely trained network."""
        configs = ROOT / "configs"
        with tempfile.TemporaryDirectory() as folder:
            common = [*self.data, *self.here, f"--runs={folder}", "--trainer.enable_progress_bar=false"]
            training = [f"--config={configs / self.cifar10.config}", *self.cifar10.arguments()]
            training += ["--trainer.max_steps=3", "--trainer.limit_val_batches=0"]
            only = ["--callbacks.enabled=false", "--trainer.callbacks=simmim_pl.callbacks.Checkpoint"]
            command(["fit", *training, *common, *only])
            (checkpoint,) = Path(folder).glob("cifar10/*/checkpoints/last.ckpt")
            asked = [f"--config={configs / 'evaluate/linear.yaml'}", f"--data={configs / 'data/cifar10.yaml'}"]
            asked += ["--model.protocols+=simmim_pl.evaluation.KNN", f"--model.checkpoint={checkpoint}"]
            since = time.perf_counter()
            command(["validate", *asked, *common])
            taken = time.perf_counter() - since
            (card,) = Path(folder).glob("linear/*/result.json")
            results = json.loads(card.read_text())["results"]
        parts = ", ".join(f"{each['task']} of {each['encoder']} {each['wall_time_seconds']:.1f}" for each in results)
        yield Row("validate: linear probe and kNN of 60,000 images", taken, "s", EVALUATION, "is the aim", parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=SECTIONS, help=",".join(SECTIONS))
    parser.add_argument("--seconds", type=float, default=125, help="no part is started after this time")
    parser.add_argument("--out", type=Path, help="JSON of all figures")
    parser.add_argument(
        "--fit", action="append", default=[], help="an additional argument of fit: --fit=--trainer.benchmark=true"
    )
    parser.add_argument("--smoke", action="store_true", help="tiny, on a CPU, without compilation")
    options = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if options.smoke:
        torch._dynamo.config.disable = True
        torch.set_num_threads(1)  # with so little work threads only wait for each other
    print(f"{about()}\n", flush=True)
    table(Bench(options.smoke, options.fit).jobs(), options.only, options.seconds, options.out)


if __name__ == "__main__":
    main()
