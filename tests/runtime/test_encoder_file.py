"""An encoder as one safetensors file: every bit comes back, and other files are refused in a sentence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from simmim_pl import load_encoder
from simmim_pl.contracts import Encoder, InputError
from simmim_pl.encoders import FastCNN, ViT
from simmim_pl.runtime.encoder_file import FILE_NAME, KEY, save_encoder

FASTCNN = {
    "class_path": "simmim_pl.encoders.FastCNN",
    "init_args": {"width": 2, "features": 5, "mean": [0.1, 0.2, 0.3]},
}
VIT = {"class_path": "simmim_pl.encoders.ViT", "init_args": {"width": 12, "depth": 1, "position": "sincos"}}


@pytest.mark.parametrize(
    ("make", "spec"),
    [
        (lambda: FastCNN(2, mean=(0.1, 0.2, 0.3), features=5), FASTCNN),
        (lambda: ViT(width=12, depth=1, position="sincos"), VIT),
    ],
)
def test_every_bit_comes_back_from_the_folder_and_from_the_file(
    tmp_path: Path, make: Callable[[], Encoder], spec: dict[str, Any]
) -> None:
    encoder = make().eval()
    for tensor in encoder.state_dict().values():
        if tensor.is_floating_point():
            tensor.normal_().abs_()
    save_encoder(encoder.to(memory_format=torch.channels_last), spec, tmp_path / FILE_NAME)
    encoder.to(memory_format=torch.contiguous_format)  # the layout in which files hold tensors: kernels depend on it
    with safe_open(tmp_path / FILE_NAME, framework="pt") as file:
        assert json.loads(file.metadata()[KEY]) == spec
        assert set(file.keys()) == set(encoder.state_dict())
    image = torch.rand(2, 3, 32, 32)
    for path in (tmp_path, tmp_path / FILE_NAME, str(tmp_path)):
        again = load_encoder(path)
        assert type(again) is type(encoder)
        assert not again.training
        for name, tensor in encoder.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor)
        with torch.no_grad():
            assert all(map(torch.equal, again(image), encoder(image)))
    untrained = next(load_encoder(tmp_path, trained=False).parameters())
    assert not torch.equal(untrained, next(encoder.parameters()))


def test_what_is_no_exported_encoder_is_one_sentence(tmp_path: Path) -> None:
    state = FastCNN(2).state_dict()
    file = tmp_path / "x.safetensors"
    for metadata in ({}, {KEY: "{"}, {KEY: "[" * 100_000}):
        save_file(state, file, metadata)
        with pytest.raises(InputError, match=r"x.safetensors does not say how its encoder is built"):
            load_encoder(file)
    for spec in ([], "os.system", {"init_args": {}}):
        save_file(state, file, {KEY: json.dumps(spec)})
        with pytest.raises(InputError, match="contains no encoder"):
            load_encoder(file)
    save_file(state, file, {KEY: json.dumps({"class_path": "os.system", "init_args": {}})})
    with pytest.raises(InputError, match=r"asks to import os.system|cannot build"):
        load_encoder(file)
    save_file(state, file, {KEY: json.dumps(FASTCNN)})
    with pytest.raises(InputError, match=r"x.safetensors has another architecture: at net.10"):
        load_encoder(file)
    with pytest.raises(InputError, match=r"has no teacher, only the online network"):
        load_encoder(file, network="teacher")
    with pytest.raises(InputError, match=r"model.safetensors cannot be read as a safetensors file"):
        load_encoder(tmp_path)
