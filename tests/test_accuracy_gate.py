"""The gate fails if accuracy is outside its band, or too near a baseline."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.conftest import NO_PICTURES, QUIET

PATH = Path(__file__).parents[1] / "benchmarks/accuracy_gate.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("accuracy_gate", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GATE = load()


def seeds(*pretrained: float, untrained: float = 0.43) -> dict[int, dict[str, float]]:
    return {
        seed: {"pretrained": value, "untrained": untrained, "raw pixels": 0.14} for seed, value in enumerate(pretrained)
    }


def test_measured_values_pass() -> None:
    assert GATE.complaints(seeds(0.805, 0.809, 0.779)) == []
    assert GATE.complaints(seeds(0.779)) == []


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (seeds(0.75, 0.76, 0.77), "outside"),
        (seeds(0.83, 0.84, 0.85), "outside"),
        (seeds(0.74), "outside"),
        (seeds(0.8, 0.8, 0.8, untrained=0.6), "seed 0 exceeds its baselines by 0.200 only"),
    ],
)
def test_values_out_of_band_or_near_a_baseline_fail(found: dict[int, dict[str, float]], says: str) -> None:
    assert says in GATE.complaints(found)[0]


def test_the_mean_of_three_seeds_has_a_narrower_band() -> None:
    assert GATE.complaints(seeds(0.757)) == []
    assert GATE.complaints(seeds(0.757, 0.757, 0.757)) != []


def test_masked_images_have_to_exceed_training_from_scratch() -> None:
    assert GATE.complaints({0: {"pretrained": 0.43, "untrained": 0.27}}, masked=True) == []
    assert "by 0.070 only" in GATE.complaints({0: {"pretrained": 0.34, "untrained": 0.27}}, masked=True)[0]


@pytest.mark.parametrize(("value", "code"), [(0.8, 0), (0.6, 1)])
def test_the_command_reads_the_cards_of_the_runs_it_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, value: float, code: int
) -> None:
    asked: list[tuple[str, ...]] = []

    def run(*arguments: str) -> None:
        asked.append(arguments)
        name = "quickstart" if arguments[0] == "fit" else "linear"
        folder = tmp_path / name / str(len(asked))
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/last.ckpt").touch()
        results: list[dict[str, Any]] = [
            {"encoder": encoder, "metrics": {"accuracy": {"value": each}}}
            for encoder, each in (("pretrained", value), ("untrained", 0.4), ("raw pixels", 0.1))
        ]
        (folder / "result.json").write_text(json.dumps({"results": results}))

    monkeypatch.setattr(GATE, "run", run)
    monkeypatch.setattr("sys.argv", ["accuracy_gate.py", "--seeds", "4", "7", f"--runs={tmp_path}"])
    with pytest.raises(SystemExit) as end:
        GATE.main()
    assert end.value.code == code
    assert [command[0] for command in asked] == ["fit", "validate", "fit", "validate"]
    assert "--seed_everything=7" in asked[2]
    assert f"--model.checkpoint={tmp_path}/quickstart/3/checkpoints/last.ckpt" in asked[3]


def test_the_masked_commands_run(cli: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "fit": ["--data.source.train=80", "--data.validation=16", "--trainer.max_epochs=1", *NO_PICTURES],
        "validate": ["--data.source.train=48", "--data.validation=16", "--model.protocols.epochs=3"],
    }
    monkeypatch.setattr(GATE, "run", lambda *args: cli([*args, "--data.source.test=16", *small[args[0]], *QUIET]))
    found = GATE.accuracies(3, Path("runs"), masked=True)
    assert found.keys() == {"pretrained", "untrained"}
    assert all(0 <= accuracy <= 1 for accuracy in found.values())
    images = torch.full((8, 3, 32, 32), 200, dtype=torch.uint8)
    last = GATE.newest(Path("runs"), "quickstart_simmim/*/checkpoints/last.ckpt")
    network, blur = GATE.reconstruction_errors(last, images)
    assert blur < 1e-3 < network  # one colour is what blurring gives back
    assert GATE.unrecognisable((network, blur))
    assert not GATE.unrecognisable((0.8, 0.9))
