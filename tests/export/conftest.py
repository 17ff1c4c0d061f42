"""Checkpoints of every architecture, made of one tiny run, and the real command line."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from simmim_pl.contracts import Encoder
from simmim_pl.export.__main__ import main


@pytest.fixture(scope="session")
def checkpoint(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``checkpoint(encoder, **arguments)``: the tiny run's checkpoint with another encoder."""

    def write(encoder: Encoder, **arguments: Any) -> Path:
        saved = copy.deepcopy(torch.load(pretrained, weights_only=True))
        generator = torch.Generator().manual_seed(0)
        for name, tensor in encoder.state_dict().items():
            if tensor.is_floating_point() and name not in ("mean", "std") and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5, generator=generator)  # so that no two layers can be taken for each other
        spec = {"class_path": f"simmim_pl.encoders.{type(encoder).__name__}", "init_args": arguments}
        saved["config"]["model"]["init_args"]["encoder"] = spec
        saved["state_dict"] = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
        path = tmp_path_factory.mktemp("checkpoint") / "last.ckpt"
        torch.save(saved, path)
        return path

    return write


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``run(checkpoint, format, folder, *options)`` exports, and returns what was printed."""

    def export(checkpoint: Path, to: str, folder: Path, *options: str) -> str:
        main([str(checkpoint), "--to", to, str(folder), *options])
        return capsys.readouterr().out

    return export


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``refused(checkpoint, format, folder, *options)``: the one sentence with which that ends; nothing is left."""

    def export(checkpoint: Path, to: str, folder: Path, *options: str) -> str:
        before = sorted(folder.parent.iterdir())
        with pytest.raises(SystemExit) as exit_:
            main([str(checkpoint), "--to", to, str(folder), *options])
        error = capsys.readouterr().err
        assert exit_.value.code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert sorted(folder.parent.iterdir()) == before
        return error

    return export
