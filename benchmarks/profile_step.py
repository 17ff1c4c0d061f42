"""The time of one training step by part: a plot, from torch's profiler.

    python benchmarks/profile_step.py configs/cifar10_fast.yaml docs/step.png      # pip install -e '.[benchmarks]'

Runs the parts of a config like its training step, on random images and the CPU; plots milliseconds by part of the
step and by kind of operation. Prints the same as a table.
"""

from __future__ import annotations

import argparse
import platform
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib
import torch
import yaml
from flops import parts
from torch.profiler import ProfilerActivity, profile, record_function

matplotlib.use("Agg")
from matplotlib import pyplot as plt

STEPS = 3
PHASES = ["views", "encoder", "head and loss", "backward", "optimizer"]
KINDS = {  # by the name of the operation; the first match
    "convolution": ("conv",),
    "matrix product": ("mm", "bmm", "addmm", "linear"),
    "normalisation": ("batch_norm",),
    "pooling": ("pool",),
    "copies, to bfloat16 and back": ("_to_copy", "copy_"),
}


def kind(operation: str) -> str:
    """The kind of an operation."""
    name = operation.removeprefix("aten::").removeprefix("mkldnn::")
    return next((k for k, words in KINDS.items() if any(word in name for word in words)), "element by element, other")


def step(model: Any, data: Any, optimizer: Any, image: torch.Tensor, seed: int) -> None:
    """One training step, each part under its name."""
    with record_function("views"):
        made = [maker(image, torch.Generator().manual_seed(seed)) for maker in (data.views, data.local_views) if maker]
    with torch.autocast("cpu", torch.bfloat16):
        with record_function("encoder"):
            pooled = [model.encoder(views.flatten(0, 1)).pooled for views in made]
        with record_function("head and loss"):
            z = [model.head(p).unflatten(0, views.shape[:2]) for p, views in zip(pooled, made, strict=True)]
            loss = model.loss(torch.cat(z))
    with record_function("backward"):
        loss.backward()
    with record_function("optimizer"):
        optimizer.step()
        optimizer.zero_grad()


def phase(event: Any) -> str | None:
    """The part of the step that contains an event."""
    while event is not None and event.name not in PHASES:
        event = event.cpu_parent
    return event and event.name


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Milliseconds per step by part and kind."""
    config = yaml.safe_load(path.read_text())
    model, data = parts(config)
    optimizer = model.optimizer(model.parameters())
    side = data.source.size if isinstance(getattr(data.source, "size", None), int) else 32
    image = torch.randint(0, 256, (data.batch_size, 3, side, side), dtype=torch.uint8)
    for warm in range(2):
        step(model, data, optimizer, image, warm)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for number in range(STEPS):
            step(model, data, optimizer, image, number)
    found: dict[str, dict[str, float]] = {name: defaultdict(float) for name in PHASES}
    for event in profiler.events():
        if (where := phase(event)) and event.name not in PHASES:
            found[where][kind(event.name)] += event.self_cpu_time_total / 1000 / STEPS
    return found


def draw(found: dict[str, dict[str, float]], title: str, path: Path) -> None:
    """Plot a bar for each part of the step, divided by kind."""
    figure, axes = plt.subplots(figsize=(9, 3.2), layout="constrained")
    left = dict.fromkeys(PHASES, 0.0)
    for name in [*KINDS, kind("")]:
        widths = [found[part].get(name, 0.0) for part in PHASES]
        axes.barh(PHASES, widths, left=list(left.values()), label=name)
        left = {part: left[part] + width for part, width in zip(PHASES, widths, strict=True)}
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds a step")
    axes.set_title(title, fontsize=10)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    found = measure(options.config)
    whole = sum(sum(part.values()) for part in found.values())
    for name, part in found.items():
        inside = ", ".join(f"{k} {ms:.0f}" for k, ms in sorted(part.items(), key=lambda item: -item[1]) if ms >= 0.5)
        print(f"{name}: {sum(part.values()):.0f} ms ({100 * sum(part.values()) / whole:.0f} %): {inside}")
    machine = f"{torch.get_num_threads()} threads, {platform.machine()}, torch {torch.__version__}"
    draw(found, f"{options.config.name}, bf16: {whole:.0f} ms a step, {machine}", options.picture)


if __name__ == "__main__":
    main()
