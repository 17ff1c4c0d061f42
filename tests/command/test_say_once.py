"""A sentence is said once, whatever the number of processes of a job."""

import os

import pytest

from simmim_pl.command import say_once


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    """As a process that nothing has started beside others."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("LOCAL_RANK", "TORCHELASTIC_ERROR_FILE", "SLURM_NTASKS", say_once.JOB):
        monkeypatch.delenv(name, raising=False)


def test_a_process_alone_says_everything_and_leaves_nothing(tmp_path: object) -> None:
    with say_once.job():
        assert say_once.first("one")
        assert say_once.first("one")
    assert os.listdir(str(tmp_path)) == []


def test_of_two_processes_that_lightning_started_one_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    with say_once.job():
        monkeypatch.setenv("LOCAL_RANK", "0")  # Lightning sets it in the process from which it starts the others
        assert say_once.first("one")
        with say_once.job():  # of another process, with this one's environment
            assert not say_once.first("one")
            assert say_once.first("what only another rank knows")
    assert say_once.JOB not in os.environ
    with say_once.job():  # the next run
        assert say_once.first("one")


@pytest.mark.parametrize(
    "names",
    [
        {"TORCHELASTIC_ERROR_FILE": "/tmp/torchelastic_x/none_y/attempt_0/{rank}/error.json"},
        {"SLURM_NTASKS": "2", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_PROCID": "{rank}"},
    ],
)
def test_of_the_processes_of_a_launcher_one_speaks(monkeypatch: pytest.MonkeyPatch, names: dict[str, str]) -> None:
    heard = []
    for rank in range(3):
        for name, value in names.items():
            monkeypatch.setenv(name, value.format(rank=rank))
        with say_once.job():
            heard.append(say_once.first("one"))
    assert heard == [True, False, False]


def test_two_commands_of_an_interactive_slurm_step_both_speak(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "1", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        with say_once.job():
            assert say_once.first("one")


def test_where_nothing_can_be_written_it_is_rather_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    monkeypatch.setenv("LOCAL_RANK", "1")
    with say_once.job():
        assert say_once.first("one")
        assert say_once.first("one")
