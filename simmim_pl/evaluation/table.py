"""A result card as a Markdown table: one row per result, one column per encoder."""

from __future__ import annotations

from typing import Any


def table(card: dict[str, Any]) -> str:
    """The card as a Markdown table: one row per result, one column per encoder, values with 95 % intervals.

    >>> value = {"value": 0.4, "interval": [0.3, 0.52]}
    >>> print(table({"data": [{"name": "Shapes", "items": {"train": 9, "validation": 1, "test": 5}}], "results": [
    ...     {"task": "KNN", "variant": "", "data": "Shapes", "encoder": "untrained", "metrics": {"accuracy": value}}]}))
    Shapes: 9 train, 1 validation, 5 test
    | data   | task | metric, % | untrained        |
    |--------|------|-----------|------------------|
    | Shapes | KNN  | accuracy  | 40.0 [30.0–52.0] |
    """
    layers = {encoder["layer"] for encoder in card.get("encoders", {}).values() if "layer" in encoder}
    read = [f"Features of layer {layer}" for layer in sorted(layers)]
    return "\n".join([*dict.fromkeys(map(sizes, card["data"])), *read, *aligned(cells(card))])


def cells(card: dict[str, Any]) -> list[list[str]]:
    """The table's rows, its head first."""
    encoders = list(dict.fromkeys(result["encoder"] for result in card["results"]))
    lines: dict[tuple[str, str, str], dict[str, str]] = {}
    for result in card["results"]:
        for metric, estimate in result["metrics"].items():
            lines.setdefault((result["data"], named(result), metric), {})[result["encoder"]] = shown(estimate)
    rows = [[*line, *(found.get(name, "–") for name in encoders)] for line, found in lines.items()]
    return [["data", "task", "metric, %", *encoders], *rows]


def named(result: dict[str, Any]) -> str:
    """A result's protocol and variant."""
    return ", ".join(filter(None, (result["task"], result["variant"])))


def shown(estimate: dict[str, Any]) -> str:
    """A value in percent with its interval, and the standard deviation over repeats where there is one."""
    low, high = (f"{100 * end:.1f}" for end in estimate["interval"])
    spread = f" ± {100 * estimate['std']:.1f}" if "std" in estimate else ""
    return f"{100 * estimate['value']:.1f}{spread} [{low}–{high}]"


def sizes(data: dict[str, Any]) -> str:
    """How many images or clips each split of a set has."""
    return f"{data['name']}: " + ", ".join(f"{number} {split}" for split, number in data["items"].items())


def aligned(rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table, the first of them its head, all columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in rows]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]
