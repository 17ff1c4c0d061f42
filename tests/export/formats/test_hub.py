"""The folder as Hugging Face's hub lays models out."""

import json
from pathlib import Path

import torch

from simmim_pl import load_encoder
from simmim_pl.evaluation.frozen import digest
from tests.export.conftest import Run


def test_the_folder_holds_card_weights_and_config(pretrained: Path, run: Run, tmp_path: Path) -> None:
    run(pretrained, "hub", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "config.json", "model.safetensors"}
    encoder = load_encoder(pretrained)
    assert digest(load_encoder(tmp_path / "out")) == digest(encoder)
    config = json.loads((tmp_path / "out/config.json").read_text())
    saved = torch.load(pretrained, weights_only=True)["config"]["model"]["init_args"]["encoder"]
    assert config["encoder"] == saved
    assert (config["embed_dim"], config["image_size"]) == (16, 16)
    assert torch.equal(torch.tensor(config["image_mean"]), encoder.mean.flatten())
    assert torch.equal(torch.tensor(config["image_std"]), encoder.std.flatten())
