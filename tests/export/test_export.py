"""The command: its help, its refusals, and that it leaves a whole export or nothing."""

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from simmim_pl import load_encoder
from simmim_pl.evaluation.frozen import digest
from simmim_pl.export.__main__ import main
from simmim_pl.export.formats import FORMATS
from simmim_pl.runtime.atomic import WriteError
from tests.export.conftest import Run


def test_help_names_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["--help"])
    assert exit_.value.code == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in FORMATS)


def test_the_command_runs_as_a_module_and_makes_folders(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["export", str(pretrained), "made/out", "--to=safetensors"])
    runpy.run_module("simmim_pl.export", run_name="__main__")
    assert capsys.readouterr().out.splitlines()[-1] == "Written to made/out: README.md, model.safetensors"
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["out"]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


def test_an_empty_folder_is_filled_and_one_that_is_not_is_refused(
    pretrained: Path, run: Run, refused: Run, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    run(pretrained, "safetensors", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert f"{tmp_path}/out is not empty, and an export replaces nothing: give a new folder." in refused(
        pretrained, "hub", tmp_path / "out"
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    (tmp_path / "file").write_text("")
    assert "file is not empty" in refused(pretrained, "hub", tmp_path / "file")


def test_what_cannot_be_is_one_sentence(pretrained: Path, refused: Run, tmp_path: Path) -> None:
    (tmp_path / "x.ckpt").write_bytes(b"no")
    Image.new("RGB", (9, 9)).save(tmp_path / "one.png")
    for path, says, options in (
        (tmp_path / "missing.ckpt", "There is no checkpoint", []),
        (tmp_path / "x.ckpt", "x.ckpt", []),
        (pretrained, "has no teacher, only the online network", ["--network=teacher"]),
        (pretrained, "--size 0 is not a valid image size", ["--size=0"]),
        (pretrained, "has 1 images, and verifying an export needs at least two", [f"--images={tmp_path}"]),
    ):
        assert says in refused(path, "safetensors", tmp_path / "out", *options)


def test_a_full_disk_leaves_nothing(
    pretrained: Path, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Any, folder: Path) -> None:
        (folder / "half").write_text("half a file")
        raise WriteError(28, "No space left on device", str(folder / "model.safetensors"))

    monkeypatch.setattr(FORMATS["safetensors"], "write", full)
    assert "cannot be written (no space left on device): free disk space." in refused(
        pretrained, "safetensors", tmp_path / "new/out"
    )


def test_a_teacher_is_exported_in_place_of_the_online_encoder(pretrained: Path, run: Run, tmp_path: Path) -> None:
    saved = torch.load(pretrained, weights_only=True)
    teacher = {f"teacher.{name}": 2 * each for name, each in saved["state_dict"].items() if name.startswith("encoder.")}
    saved["state_dict"] |= {name: each.to(saved["state_dict"][name[8:]].dtype) for name, each in teacher.items()}
    torch.save(saved, tmp_path / "x.ckpt")
    run(tmp_path / "x.ckpt", "safetensors", tmp_path / "out", "--network=teacher")
    exported = digest(load_encoder(tmp_path / "out"))
    assert exported == digest(load_encoder(tmp_path / "x.ckpt", network="teacher"))
    assert exported != digest(load_encoder(tmp_path / "x.ckpt"))
    assert "# FastCNN, the teacher, pretrained by" in (tmp_path / "out/README.md").read_text()


def test_an_encoder_of_elsewhere_is_imported_only_if_it_is_allowed(
    pretrained: Path, run: Run, refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_elsewhere.py").write_text("from simmim_pl.encoders import FastCNN\nclass Mine(FastCNN): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    saved = torch.load(pretrained, weights_only=True)
    saved["config"]["model"]["init_args"]["encoder"]["class_path"] = "of_elsewhere.Mine"
    torch.save(saved, tmp_path / "x.ckpt")
    assert "asks to import of_elsewhere.Mine" in refused(tmp_path / "x.ckpt", "safetensors", tmp_path / "out")
    run(tmp_path / "x.ckpt", "safetensors", tmp_path / "out", "--allow=of_elsewhere.Mine")
    line = 'simmim_pl.load_encoder("model.safetensors", allow=["of_elsewhere.Mine"])'
    assert line in (tmp_path / "out/README.md").read_text()
    assert digest(load_encoder(tmp_path / "out", allow=["of_elsewhere.Mine"])) == digest(load_encoder(pretrained))
