"""The model card: training, results, and how to load the file; as Hugging Face's hub reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from simmim_pl.data.described import format_of, nested, source_of
from simmim_pl.evaluation.card import code_version, versions
from simmim_pl.evaluation.table import named, shown, table
from simmim_pl.export.formats.format import Format
from simmim_pl.export.pretrained import Pretrained
from simmim_pl.export.results import Card, names_of
from simmim_pl.export.verify import Difference

# arXiv numbers, which the hub links.
ARTICLES = {
    "Contrastive": "2002.05709",
    "MaskedImage": "2111.09886",
    "Rotation": "1803.07728",
    "BYOL": "2006.07733",
    "MoCoV3": "2104.02057",
}
DATASETS = {"CIFAR10": "uoft-cs/cifar10", "CIFAR100": "uoft-cs/cifar100"}  # what the hub calls them
TASKS = {"DenseProbe": "image-segmentation", "VideoProbe": "video-classification"}  # others classify images


def model_card(
    form: Format,
    cards: Sequence[Card],
    own: str,
    difference: Difference,
    compared: str,
    license_: str,
    repository: str | None,
) -> str:
    """Write the card.

    Args:
        form: the format, with what it exports.
        cards: result cards of these weights.
        own: hash of the weights, by which cards name them.
        difference: from the encoder, as it was measured.
        compared: what it was measured on.
        license_: an identifier of the hub, such as ``mit``.
        repository: of the hub, where it will be, or ``None``.

    Returns:
        Markdown with YAML in front.
    """
    pretrained = form.pretrained
    front = yaml.safe_dump(front_matter(form, cards, own, license_), sort_keys=False, allow_unicode=True)
    head = f"# {title(pretrained)}"
    sections = [
        ("Load", loading(form, repository)),
        ("Training", bullets(training(pretrained))),
        ("Results", results(cards)),
        ("Check", f"Compared with the encoder on {compared}: the largest difference is {difference.largest:.2g}, "
         f"where features are up to {difference.magnitude:.2g}."),
        ("Licence", licence(license_)),
    ]  # fmt: skip
    text = "\n\n".join([head, *(f"## {name}\n\n{content}" for name, content in sections)])
    return f"---\n{front}---\n\n{text}\n"


def title(pretrained: Pretrained) -> str:
    """Encoder, method and data in a line."""
    teacher = ", the teacher" if pretrained.network == "teacher" else ""
    return f"{pretrained.kind}{teacher}, pretrained by {method_of(pretrained)} on {data_of(pretrained)}"


def front_matter(form: Format, cards: Sequence[Card], own: str, license_: str) -> dict[str, Any]:
    """What the hub reads: https://huggingface.co/docs/hub/model-cards#model-card-metadata."""
    method, data = method_of(form.pretrained), data_of(form.pretrained)
    article = [f"arxiv:{ARTICLES[method]}"] if method in ARTICLES else []
    found: dict[str, Any] = {
        "license": license_,
        "library_name": form.library,
        "pipeline_tag": "image-feature-extraction",
        "tags": ["simmim_pl", "self-supervised-learning", method, form.pretrained.kind, *article],
    }
    if data in DATASETS:
        found["datasets"] = [DATASETS[data]]
    if entries := [entry for card in cards for entry in model_index(card, own)]:
        found["metrics"] = list(dict.fromkeys(metric["type"] for entry in entries for metric in entry["metrics"]))
        found["model-index"] = [{"name": title(form.pretrained), "results": entries}]
    return found


def model_index(card: Card, own: str) -> list[dict[str, Any]]:
    """The card's results of these weights, one for each protocol and data set."""
    names = names_of(card, own)
    return [
        {
            "task": {"type": TASKS.get(result["task"], "image-classification"), "name": named(result)},
            "dataset": {"type": DATASETS.get(result["data"], result["data"]), "name": result["data"], "split": "test"},
            "metrics": [
                {"type": metric, "value": estimate["value"], "name": f"{metric}, %: {shown(estimate)}"}
                for metric, estimate in result["metrics"].items()
            ],
        }
        for result in card["results"]
        if result["encoder"] in names
    ]


def loading(form: Format, repository: str | None) -> str:
    """The lines that load the file and run it, and what they need."""
    channels, side = form.images.shape[1], form.images.shape[-1]
    numbers = format_of(form.pretrained.config).range
    kind = "RGB" if channels == 3 else f"{channels} channel{'s' * (channels != 1)}"
    kind += " in [0, 1]" + (f", which are {numbers[0]:g} and {numbers[1]:g} in the images' files" if numbers else "")
    where = "" if repository else f" Run them in this folder, or write the path of `{form.file}`."
    code = "\n".join([*form.loading(repository=repository), *form.run])
    return (
        f"`images` is float `[B, {channels}, {side}, {side}]`, {kind}.{where}\n\n```python\n{code}\n```\n\n"
        f"`pooled` is `[B, {form.pretrained.encoder.embed_dim}]`. {' '.join(form.said)}"
    )


def training(pretrained: Pretrained) -> dict[str, str]:
    """What the run's config and the checkpoint say. Paths are left out: they are of the machine that trained."""
    config, progress = pretrained.config, pretrained.progress
    method = nested(config, "model", "init_args") or {}
    data = nested(config, "data", "init_args") or {}
    parts = {part: kind(method.get(part)) for part in ("loss", "optimizer", "head") if kind(method.get(part))}
    seed = config.get("seed_everything")
    found = {
        "Method": f"{method_of(pretrained)}({plain(method)})",
        **{part.capitalize(): described(method[part]) for part in parts},
        "Data": described(source_of(config)),
        "Views": described(data.get("views")),
        "Batch size": str(data.get("batch_size", "")),
        "Optimizer steps": str(progress.get("global_step", "")),
        "Seed": "" if seed is None else str(seed),
        "Encoder": f"{pretrained.kind}({plain(pretrained.arguments)}), of class {pretrained.spec['class_path']}",
        "Trained with": f"simmim_pl {progress['version']}" if "version" in progress else "",
        "Exported with": ", ".join(f"{name} {version}" for name, version in versions().items()),
        "Commit of the export": code_version() or "",
    }
    return {name: text for name, text in found.items() if text}


def bullets(found: Mapping[str, str]) -> str:
    """A Markdown list."""
    return "\n".join(f"- {name}: {text}" for name, text in found.items())


def results(cards: Sequence[Card]) -> str:
    """The tables of the cards, with baselines and 95 % intervals."""
    if not cards:
        return "These weights were not evaluated, or the result cards were not beside the checkpoint."
    tables = "\n\n".join(table(card).replace("\n|", "\n\n|", 1) for card in cards)
    return f"In percent, with 95 % bootstrap intervals over the test items, by protocols of simmim_pl.\n\n{tables}"


def licence(name: str) -> str:
    """The licence in words."""
    if name in ("unknown", "other"):
        return f"`{name}`: no licence is stated for these weights. Ask the people who trained them."
    return f"`{name}`"


def method_of(pretrained: Pretrained) -> str:
    """Name of the method's class."""
    return kind(pretrained.config.get("model")) or "an unknown method"


def data_of(pretrained: Pretrained) -> str:
    """Name of the data set: of its class, or of a folder, as result tables have it."""
    source = source_of(pretrained.config)
    root = nested(source, "init_args", "root") if kind(source).endswith("Folder") else None
    return (Path(root).name if isinstance(root, str) else kind(source)) or "unknown data"


def kind(spec: Any) -> str:
    """Name of the class that a config describes; empty if there is none."""
    return str(nested(spec, "class_path") or "").rpartition(".")[2]


def described(spec: Any) -> str:
    """A class of a config with its numbers."""
    return f"{kind(spec)}({plain(nested(spec, 'init_args') or {})})" if kind(spec) else ""


def plain(arguments: Mapping[str, Any]) -> str:
    """Arguments that are numbers, lists of them, or short names; not paths."""

    def is_plain(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(map(is_plain, value))
        return isinstance(value, (bool, int, float)) or (isinstance(value, str) and value.isidentifier())

    return ", ".join(f"{name}={value!r}" for name, value in arguments.items() if is_plain(value))
