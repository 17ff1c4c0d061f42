"""The program of torch.export: any number of images, without this package, and nothing of the machine in the file."""

import sys
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import pytest
import torch

import simmim_pl
from simmim_pl import load_encoder
from simmim_pl.encoders import FastCNN, ViT
from tests.export.conftest import Checkpoint, Run, executed, randomised


def test_a_program_runs_for_any_number_of_images_without_this_package(
    pretrained: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(pretrained, "torch_export", tmp_path / "out")
    encoder = load_encoder(pretrained)
    with monkeypatch.context() as patch:
        for name in [name for name in sys.modules if name.partition(".")[0] == "simmim_pl"]:
            patch.setitem(sys.modules, name, None)  # an import fails
        program = torch.export.load(tmp_path / "out/model.pt2").module()
    for number in (1, 2, 7):
        images = torch.rand(number, 3, 16, 16)
        with torch.no_grad():
            features, wanted = program(images), encoder(images)
        assert list(features) == ["pooled", "feature_map"]
        assert torch.allclose(features["pooled"], wanted.pooled, atol=1e-6)
        assert torch.allclose(features["feature_map"], wanted.feature_map, atol=1e-6)

    names = executed(tmp_path / "out", images, monkeypatch)
    assert torch.allclose(names["pooled"], wanted.pooled, atol=1e-6)
    assert torch.allclose(names["feature_map"], wanted.feature_map, atol=1e-6)
    with ZipFile(tmp_path / "out/model.pt2") as file:
        content = {name: file.read(name) for name in file.namelist()}
        (example,) = [name for name in content if "sample_inputs" in name]
        (tmp_path / "example.pt").write_bytes(content[example])
    assert not any(str(Path(simmim_pl.__file__).parent).encode() in each for each in content.values())
    ((given,), _) = torch.load(tmp_path / "example.pt", weights_only=False)
    assert not given.any()  # the file keeps what was traced, which must be nobody's image


def test_a_class_token_is_for_any_number_of_images(checkpoint: Checkpoint, run: Run, tmp_path: Path) -> None:
    arguments: Any = {"width": 12, "depth": 1, "pool": "class", "position": "relative"}
    encoder = randomised(ViT(**arguments))
    run(checkpoint(encoder, **arguments), "torch_export", tmp_path / "out", "--size=32")
    program = torch.export.load(tmp_path / "out/model.pt2").module()
    for number in (1, 5):
        images = torch.rand(number, 3, 32, 32)
        with torch.no_grad():
            assert torch.allclose(program(images)["pooled"], encoder(images).pooled, atol=1e-5)


def test_an_encoder_that_counts_images_in_python_is_refused(
    pretrained: Path, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = FastCNN.forward

    def counting(self: FastCNN, image: torch.Tensor) -> Any:
        return forward(self, image * torch.ones(len(list(image)), 1, 1, 1))

    monkeypatch.setattr(FastCNN, "forward", counting)
    error = refused(pretrained, "torch_export", tmp_path / "out")
    assert "torch.export cannot trace FastCNN for any number of images (" in error
    assert "export it --to safetensors." in error
