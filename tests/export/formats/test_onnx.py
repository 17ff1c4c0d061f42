"""The ONNX file: valid, run by onnxruntime for any number of images, with normalisation inside."""

import sys
from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch

import simmim_pl
from simmim_pl import load_encoder
from tests.export.conftest import Run, executed


def test_onnxruntime_computes_what_the_encoder_does(
    pretrained: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = run(pretrained, "onnx", tmp_path / "out")
    assert printed.startswith(
        "Compared on 8 images of Shapes, 16×16 pixels: the largest difference from the encoder is"
    )
    path = tmp_path / "out/model.onnx"
    assert {each.name for each in path.parent.iterdir()} == {"README.md", "model.onnx"}
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    assert (image.name, image.shape[1:], image.type) == ("images", [3, 16, 16], "tensor(float)")
    assert isinstance(image.shape[0], str)  # any number
    assert [each.name for each in session.get_outputs()] == ["pooled", "feature_map"]
    encoder = load_encoder(pretrained)
    for number in (1, 4):
        images = torch.rand(number, 3, 16, 16)
        with torch.no_grad():
            wanted = encoder(images)
        for name, each in wanted._asdict().items():
            (found,) = session.run([name], {"images": images.numpy()})
            assert torch.allclose(torch.from_numpy(found), each, atol=1e-6)
    names = executed(path.parent, images, monkeypatch)
    assert torch.allclose(torch.as_tensor(names["pooled"]), wanted.pooled, atol=1e-6)
    assert torch.allclose(torch.as_tensor(names["feature_map"]), wanted.feature_map, atol=1e-6)
    assert str(Path(simmim_pl.__file__).parent).encode() not in path.read_bytes()


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_without_the_extra_the_sentence_says_how_to_install_it(
    pretrained: Path, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    error = refused(pretrained, "onnx", tmp_path / "out")
    assert f"This format needs {package} (" in error
    assert "pip install 'simmim_pl[export]'" in error


def test_what_torch_cannot_convert_is_one_sentence(
    pretrained: Path, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object, **more: object) -> None:
        raise RuntimeError("no such operator.\nand a page of text")

    monkeypatch.setattr("torch.onnx.export", fail)
    error = refused(pretrained, "onnx", tmp_path / "out")
    assert "torch.onnx cannot convert FastCNN (no such operator): export it --to torch_export." in error
