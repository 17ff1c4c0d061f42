"""Of the result cards beside a checkpoint, those of its present weights are taken."""

import json
from pathlib import Path
from typing import Any

from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation.frozen import digest
from simmim_pl.export.results import names_of, result_cards


def card(own: str, value: float = 0.5, **encoder: Any) -> dict[str, Any]:
    """A result card, as evaluations write it, of the encoder of this hash and of an untrained one."""
    estimate = {"value": value, "interval": [value - 0.1, value + 0.1]}
    entry = {"task": "KNN", "data": "CIFAR10", "variant": "", "metrics": {"accuracy": estimate}}
    low = {"accuracy": {"value": 0.2, "interval": [0.1, 0.3]}}
    return {
        "encoders": {"pretrained": {"class": "FastCNN", "hash": own, **encoder}, "untrained": {"hash": "0"}},
        "data": [{"name": "CIFAR10", "items": {"train": 9, "validation": 1, "test": 5}}],
        "results": [{**entry, "encoder": "pretrained"}, {**entry, "encoder": "untrained", "metrics": low}],
    }


def test_cards_of_other_weights_and_what_is_no_card_are_left_out(tmp_path: Path) -> None:
    encoder = FastCNN(2)
    own = digest(encoder)
    cards = {
        "last.run-1.result.json": json.dumps(card(own, 0.5)),
        "last.run-2.result.json": json.dumps(card(own, 0.6)),
        "last.run-3.result.json": json.dumps(card("f" * 16)),  # of before it was trained further
        "last.run-4.result.json": json.dumps(card(own, layer="net.3")),
        "last.run-5.result.json": "[" * 100_000,
        "last.run-6.result.json": json.dumps({"encoders": {"a": own}, "data": [], "results": []}),
        "last.run-7.result.json": json.dumps([]),
        "best.run-1.result.json": json.dumps(card(own)),
        "last.run-1.result.md": "",
    }
    for name, text in cards.items():
        (tmp_path / name).write_text(text)
    found, left = result_cards(tmp_path / "last.ckpt", encoder)
    assert [each["results"][0]["metrics"]["accuracy"]["value"] for each in found] == [0.5, 0.6]
    assert left == [f"last.run-{number}.result.json" for number in (3, 4, 5, 6, 7)]
    assert names_of(found[0], own) == ["pretrained"]
    assert result_cards(tmp_path / "other.ckpt", encoder) == ([], [])
