"""The result cards next to a checkpoint that belong to the exported weights."""

from __future__ import annotations

import json
from glob import escape
from pathlib import Path
from typing import Any

from simmim_pl.contracts import Encoder
from simmim_pl.evaluation.frozen import digest
from simmim_pl.evaluation.table import table

Card = dict[str, Any]


def result_cards(checkpoint: Path, encoder: Encoder) -> tuple[list[Card], list[str]]:
    """The cards beside a checkpoint whose numbers are of this encoder, by the hash of its weights.

    A checkpoint such as ``last.ckpt`` is overwritten while it trains, and the cards of before stay.

    Returns:
        The cards, and the names of the files that are left out, being of other weights, of an inner layer, or no
        cards.
    """
    own, found, left = digest(encoder), [], []
    for path in sorted(checkpoint.parent.glob(f"{escape(checkpoint.stem)}.*.result.json")):
        card = read_card(path)
        if card is not None and names_of(card, own):
            found.append(card)
        else:
            left.append(path.name)
    return found, left


def read_card(path: Path) -> Card | None:
    """A result card; ``None`` if the file is none."""
    try:
        card: Card = json.loads(path.read_text(encoding="utf-8"))
        table(card)  # so it has what the model card needs
        return card if all(isinstance(each, dict) for each in card["encoders"].values()) else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def names_of(card: Card, own: str) -> list[str]:
    """What a card calls the encoder of this hash, if its output was read and no layer before it."""
    return [name for name, each in card["encoders"].items() if each.get("hash") == own and "layer" not in each]
