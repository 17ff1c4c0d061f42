"""The exported folder is the encoder to the bit, in Python and in an evaluation."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from simmim_pl import load_encoder
from simmim_pl.evaluation.frozen import digest
from tests.conftest import CONFIGS, EVALUATION
from tests.export.conftest import Run


def test_a_folder_is_the_encoder_to_the_bit(pretrained: Path, run: Run, tmp_path: Path) -> None:
    run(pretrained, "safetensors", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "model.safetensors"}
    wanted, image = load_encoder(pretrained), torch.rand(2, 3, 16, 16)
    for path in (tmp_path / "out", tmp_path / "out/model.safetensors"):
        encoder = load_encoder(path)
        assert digest(encoder) == digest(wanted)
        with torch.no_grad():
            assert all(map(torch.equal, encoder(image), wanted(image)))


def test_an_evaluation_of_the_folder_is_that_of_the_checkpoint(
    pretrained: Path, run: Run, cli: Callable[[list[Any]], Path], tmp_path: Path
) -> None:
    run(pretrained, "safetensors", tmp_path / "out")
    cards = []
    for place in (pretrained, tmp_path / "out"):
        config = f"--config={CONFIGS / 'evaluate/knn.yaml'}"
        folder = cli(["validate", config, *EVALUATION, f"--model.checkpoint={place}", "--callbacks.report=null"])
        cards.append(json.loads((folder / "result.json").read_text()))
    results = [[(each["encoder"], each["metrics"]) for each in card["results"]] for card in cards]
    assert results[0] == results[1]
    assert {name for name, _ in results[0]} >= {"pretrained", "untrained"}
