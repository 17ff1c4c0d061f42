"""A run directory is made when a run starts, for every logger, and is used by one process at a time."""

import errno
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from simmim_pl.command import run_directory
from simmim_pl.command.run_directory import RunDirectory, require_valid_name
from simmim_pl.contracts import InputError
from tests.conftest import CONFIGS, TINY
from tests.forked import Program, environment

Cli = Callable[[list[Any]], Path]
ONE = [*TINY, "--trainer.max_steps=1", "--trainer.limit_val_batches=0"]


def refused(cli: Cli, args: list[Any], capfd: pytest.CaptureFixture) -> str:
    with pytest.raises(SystemExit) as exit_:
        cli(args)
    assert exit_.value.code == 2
    (sentence,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    return sentence


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


LOGGERS: dict[str, list[str]] = {
    "ours": [],
    "none": ["--trainer.logger=false"],
    "csv": ["--trainer.logger=lightning.pytorch.loggers.CSVLogger", "--trainer.logger.save_dir=mine"],
    "wandb": [
        "--trainer.logger=lightning.pytorch.loggers.WandbLogger",
        "--trainer.logger.save_dir=mine",
        "--trainer.logger.offline=true",
    ],
}


def alone(args: list[str], folder: Path) -> Path:
    """The run directory of a command in its own process: W&B's logger can start once per process."""
    process = Program("simmim_pl", args, folder, environment(WANDB_MODE="offline"))
    _, said = process.communicate(120)
    assert process.returncode == 0, said
    (run,) = folder.glob("runs/*/*")
    return run


@pytest.mark.parametrize("kind", LOGGERS)
def test_a_run_writes_only_to_its_directory_with_every_logger(cli: Cli, tmp_path: Path, kind: str) -> None:
    args = [*ONE, *LOGGERS[kind], "--trainer.log_every_n_steps=1"]
    (tmp_path / "mine").mkdir()
    made = {alone(args, tmp_path)} if kind == "wandb" else {cli(args), cli(args)}
    assert len(made) == (1 if kind == "wandb" else 2)
    for run in made:
        assert run.parent == tmp_path / "runs/quickstart"
        assert {"checkpoints/last.ckpt", "config.yaml"} <= files(run)
        assert ("metrics.csv" in files(run)) == (kind != "none")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "mine"}
    assert bool(files(tmp_path / "mine")) == (kind in ("csv", "wandb"))


def test_a_run_without_loggers_resumes(cli: Cli) -> None:
    first = cli([*ONE, "--trainer.logger=false"])
    again = cli([*TINY, "--trainer.logger=false", "--trainer.max_steps=2", "--ckpt_path=last"])
    assert again == first
    assert torch.load(first / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_a_directory_in_use_is_refused(cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(run_directory, "PATIENCE", 0.2)
    run = cli(ONE)
    other = RunDirectory(run)
    other.claim()
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    sentence = refused(cli, [*TINY, "--ckpt_path=last"], capfd)
    assert f"Another process is using {run.relative_to(Path.cwd())}" in sentence
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    other.release()
    assert cli([*TINY, "--ckpt_path=last"]) == run


def test_a_dead_process_releases_its_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(run_directory, "PATIENCE", 5.0)
    code = f"""
import time
from pathlib import Path
from simmim_pl.command.run_directory import RunDirectory
directory = RunDirectory(Path({str(tmp_path)!r}))
directory.claim()
print("claimed", flush=True)
time.sleep(60)
"""
    (tmp_path / "claims.py").write_text(code)
    other = Program("claims", [], tmp_path, environment())
    while "claimed\n" not in other.said()[0] and other.poll() is None:
        time.sleep(0.01)
    assert other.poll() is None
    mine = RunDirectory(tmp_path)
    monkeypatch.setattr(run_directory, "PATIENCE", 0.1)
    with pytest.raises(InputError, match="Another process is using"):
        mine.claim()
    other.send_signal(signal.SIGKILL)
    other.wait()
    mine.claim()
    mine.release()


@pytest.mark.parametrize(("asked", "more"), [("is_dir", []), ("glob", ["--ckpt_path=last"])])
def test_an_unreadable_folder_is_a_one_line_error(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, asked: str, more: list[str]
) -> None:
    usual = getattr(Path, asked)

    def too_long(path: Path, *args: Any) -> Any:
        if "endless" in str(path):
            raise OSError(errno.ENAMETOOLONG, "File name too long", str(path))
        return usual(path, *args)

    monkeypatch.setattr(Path, asked, too_long)
    sentence = refused(cli, [*ONE, "--name=endless", *more], capfd)
    assert sentence.startswith("error: runs/endless")
    assert "cannot be read (File name too long): choose another folder with --runs" in sentence


@pytest.mark.parametrize("name", ["../elsewhere", "/tmp/elsewhere", "a/../../b", "", ".", "..", ".features", "a/.b"])
def test_a_name_cannot_leave_the_runs_folder(name: str) -> None:
    with pytest.raises(InputError, match="is not a valid folder name within --runs"):
        require_valid_name(name)


@pytest.mark.parametrize("name", ["run", "weak views", "lr=0.1,width=2", "group/run"])
def test_valid_names_are_accepted(name: str) -> None:
    require_valid_name(name)


def test_the_command_line_checks_the_name(cli: Cli, capfd: pytest.CaptureFixture, tmp_path: Path) -> None:
    assert "is not a valid folder name" in refused(cli, [*TINY, "--name=../out", f"--runs={tmp_path / 'here'}"], capfd)
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    "mistake",
    [
        ["--data.batch_size=500"],  # found when the first batch is requested
        ["--data.views=null"],  # … when training is set up
        ["--trainer.max_epochs=-1"],  # … when the optimizer is made
        ["--data.source=simmim_pl.data.Folder", "--data.source.root=nowhere"],  # … when the data are loaded
        ["--trainer.val_check_interval=1"],  # … when training starts
    ],
    ids=lambda mistake: mistake[0].removeprefix("--"),
)
def test_an_error_before_training_leaves_no_files(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, tmp_path: Path, mistake: list[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    refused(cli, [*TINY, *mistake], capfd)
    assert list(tmp_path.iterdir()) == []


def test_an_environment_that_wandb_refuses_leaves_no_files(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setenv("WANDB_MODE", "nonsense")
    assert "WANDB_MODE is nonsense" in refused(cli, ONE, capfd)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_random_weights_are_evaluated_only_with_untrained(
    cli: Cli, capfd: pytest.CaptureFixture, tmp_path: Path, verb: str
) -> None:
    sentence = refused(cli, [verb, *TINY[1:]], capfd)
    assert f"{verb} without weights would use random ones: name a checkpoint with --ckpt_path" in sentence
    assert list(tmp_path.iterdir()) == []


def test_random_weights_are_embedded_with_untrained(cli: Cli, capfd: pytest.CaptureFixture) -> None:
    assert "embeddings.parquet" in files(cli(["predict", *TINY[1:], "--untrained=true"]))
    assert "--untrained is for" in refused(cli, [*TINY, "--untrained=true"], capfd)


def test_the_saved_config_of_a_resumed_run_reproduces_the_whole_run(cli: Cli) -> None:
    first = cli(ONE)
    assert cli([*TINY, "--trainer.max_steps=2", "--ckpt_path=last"]) == first
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["ckpt_path"] is None
    again = cli(["fit", f"--config={first / 'config.yaml'}"])
    assert again != first
    assert torch.load(again / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_every_config_has_a_valid_run_name() -> None:
    for path in [*CONFIGS.glob("*.yaml"), *CONFIGS.glob("evaluate/*.yaml")]:
        require_valid_name(str((yaml.safe_load(path.read_text()) or {}).get("name", "run")))
