"""Checkpoints of every architecture, made of one tiny run, and the real command line."""

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simmim_pl.contracts import Encoder
from simmim_pl.export.__main__ import main

Checkpoint = Callable[..., Path]
Run = Callable[..., str]


def randomised(encoder: Encoder) -> Encoder:
    """With vectors that tell layers apart: fresh biases are all 0, fresh statistics of BatchNorm 0 and 1."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in encoder.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith("bias_table"):
            tensor.normal_(generator=generator)
    return encoder.eval()


@pytest.fixture(scope="session")
def checkpoint(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """``checkpoint(encoder, **arguments)``: the tiny run's checkpoint with another encoder."""
    saved = torch.load(pretrained, weights_only=True)

    def write(encoder: Encoder, **arguments: Any) -> Path:
        given = {
            "class_path": f"simmim_pl.encoders.{type(encoder).__name__}",
            "init_args": json.loads(json.dumps(arguments)),
        }
        state = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        config = copy.deepcopy(saved["config"])
        config["model"]["init_args"]["encoder"] = given
        path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
        torch.save({"state_dict": state, "config": config, "global_step": 10, "version": "0.1.0"}, path)
        return path

    return write


def executed(folder: Path, images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the lines of a card leave when they are run in its folder; at most five of them load the file."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    loading = [line for line in code.splitlines() if "images" not in line and "features[" not in line]
    assert 0 < len(loading) <= 5
    names: dict[str, Any] = {"images": images}
    monkeypatch.chdir(folder)
    with torch.no_grad():
        exec(code, names)
    return names


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """``run(checkpoint, format, folder, *options)`` exports, and returns what was printed."""

    def export(checkpoint: Path, to: str, folder: Path, *options: str) -> str:
        main([str(checkpoint), "--to", to, str(folder), *options])
        return capsys.readouterr().out

    return export


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Run:
    """``refused(checkpoint, format, folder, *options)``: the one sentence with which that ends; nothing is left."""

    def export(checkpoint: Path, to: str, folder: Path, *options: str) -> str:
        place = next(parent for parent in folder.parents if parent.is_dir())
        before = sorted(place.iterdir())
        with pytest.raises(SystemExit) as exit_:
            main([str(checkpoint), "--to", to, str(folder), *options])
        error = capsys.readouterr().err
        assert exit_.value.code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert sorted(place.iterdir()) == before
        return error

    return export
