"""Nothing is uploaded unless --push asks for it; of the hub only the answers are made up."""

import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from tests.export.conftest import Run

Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What the hub was asked to do."""
    asked: Calls = []

    class Api:
        def create_repo(self, repo_id: str, **options: Any) -> str:
            asked.append((repo_id, options))
            return f"https://huggingface.co/{repo_id}"

        def upload_folder(self, *, repo_id: str, folder_path: Path, **options: Any) -> None:
            asked.append((repo_id, {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}))

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    return asked


def test_a_push_uploads_the_folder_whose_card_loads_from_the_hub(
    pretrained: Path, run: Run, tmp_path: Path, hub: Calls
) -> None:
    printed = run(pretrained, "hub", tmp_path / "out", "--push=me/tiny", "--license=mit")
    assert printed.endswith("Pushed to https://huggingface.co/me/tiny\n")
    made, uploaded = hub
    assert made == ("me/tiny", {"repo_type": "model", "exist_ok": True})
    assert uploaded[0] == "me/tiny"
    assert uploaded[1] == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert uploaded[1].keys() == {"README.md", "config.json", "model.safetensors"}
    card = uploaded[1]["README.md"].decode()
    assert 'simmim_pl.load_encoder(huggingface_hub.hf_hub_download("me/tiny", "model.safetensors"))' in card
    assert "import huggingface_hub, simmim_pl\n" in card


def test_without_push_the_hub_is_not_asked(pretrained: Path, run: Run, tmp_path: Path, hub: Calls) -> None:
    assert "Pushed" not in run(pretrained, "hub", tmp_path / "out")
    assert hub == []


def test_where_the_hub_refuses_the_folder_stays_and_the_sentence_says_how_to_go_on(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from simmim_pl.export.__main__ import main

    monkeypatch.setenv("HF_TOKEN", "")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *given, **more: refuse())
    with pytest.raises(SystemExit) as exit_:
        main([str(pretrained), "--to", "hub", str(tmp_path / "out"), "--push=me/tiny"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error == (
        f"error: {tmp_path}/out is written, but its upload to me/tiny failed (401 Client Error): log in with `hf "
        f"auth login`, and try again with `hf upload me/tiny {tmp_path}/out`.\n"
    )
    assert (tmp_path / "out/README.md").exists()


def refuse() -> None:
    """As the hub's client reports that nobody is logged in."""
    raise OSError("401 Client Error.\n\nInvalid username or password.")


def test_a_push_that_cannot_be_is_refused_before_anything_is_read(
    refused: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.ckpt"
    for name in ("tiny", "me/tiny/x", "me/ti ny", "../x/y", ""):
        if name:
            assert f"--push {name} is not a repository name of the hub: give OWNER/NAME." in refused(
                missing, "hub", tmp_path / "out", f"--push={name}"
            )
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    error = refused(missing, "hub", tmp_path / "out", "--push=me/tiny")
    assert "--push needs huggingface_hub (" in error
    assert "pip install 'simmim_pl[export]'" in error
