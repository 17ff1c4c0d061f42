"""A message is printed once, whatever the number of processes of a job."""

import os
import time
from pathlib import Path

import pytest

from simmim_pl.command import say_once


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """Set up a process that was not started by a launcher."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    slurm = [f"SLURM_{name}" for name in ("NTASKS", "JOB_ID", "STEP_ID", "RESTART_COUNT")]
    for name in ("LOCAL_RANK", "TORCHELASTIC_ERROR_FILE", *slurm, say_once.JOB_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def test_a_single_process_prints_everything_and_leaves_no_files(tmp_path: object) -> None:
    with say_once.mark_job():
        assert say_once.is_first("one")
        assert say_once.is_first("one")
    assert os.listdir(str(tmp_path)) == []


def test_one_of_two_lightning_processes_prints(monkeypatch: pytest.MonkeyPatch) -> None:
    with say_once.mark_job():
        monkeypatch.setenv("LOCAL_RANK", "0")  # Lightning sets it in the process that starts the others
        assert say_once.is_first("one")
        with say_once.mark_job():  # a file of another process with this environment
            assert not say_once.is_first("one")
            assert say_once.is_first("what only another rank knows")
    assert say_once.JOB_VARIABLE not in os.environ
    with say_once.mark_job():  # the next run
        assert say_once.is_first("one")


@pytest.mark.parametrize(
    "names",
    [
        {"TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_x/none_y/attempt_0/{rank}/error.json"},
        {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "{rank}"},
    ],
)
def test_one_of_a_launchers_processes_prints(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    heard = []
    for rank in range(3):
        for name, value in names.items():
            monkeypatch.setenv(name, value.format(rank=rank))
        with say_once.mark_job():
            heard.append(say_once.is_first("one"))
    assert heard == [True, False, False]


@pytest.mark.parametrize(("tasks", "step"), [("1", "0"), ("4", ""), ("4", "4294967290"), ("4", "4294967291")])
def test_two_commands_of_a_slurm_job_without_srun_both_print(
    monkeypatch: pytest.MonkeyPatch, tasks: str, step: str
) -> None:
    for name, value in {"SLURM_NTASKS": tasks, "SLURM_JOB_ID": "7", "SLURM_STEP_ID": step}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        with say_once.mark_job():
            assert say_once.is_first("one")


def test_a_requeued_slurm_job_and_a_later_command_print_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def heard(restarts: str) -> bool:
        monkeypatch.setenv("SLURM_RESTART_COUNT", restarts)
        with say_once.mark_job():
            return say_once.is_first("one")

    for name, value in {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    assert [heard("0"), heard("0"), heard("1"), heard("1")] == [True, False, True, False]
    (tmp_path / "simmim_pl-notes").touch()
    for path in tmp_path.iterdir():
        os.utime(path, (time.time(), time.time() - say_once.MARKER_LIFETIME - 1))
    assert [heard("1"), heard("1")] == [True, False]
    assert len(list(tmp_path.iterdir())) == 2  # the marker files, and one file of this test


def test_on_an_unwritable_disk_messages_are_repeated_rather_than_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with say_once.mark_job():
        assert say_once.is_first("one")
        assert say_once.is_first("one")
