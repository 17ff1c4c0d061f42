"""A sweep started by W&B's agent, and the same grid run locally."""

import csv
import errno
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import wandb
import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

from simmim_pl.command import sweep, sweep_config, sweep_results, sweep_state
from tests.command.test_cli import logged_config, records
from tests.conftest import CONFIGS, TINY, isolate, newest_run

SHIPPED = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
# Writes the files of a training run: for 2 it fails unless a file "fixed" exists; for "slow" it waits.
STUB = """
import json, pathlib, signal, sys, time
given = dict(word[2:].split("=", 1) for word in sys.argv[1:])
if "model.checkpoint" in given:
    run = pathlib.Path(given["model.checkpoint"]).parents[1]
    if run.parent.name.startswith("x=3") and not pathlib.Path("fixed").exists():
        sys.exit(4)
    estimate = {"value": run.parent.name.startswith("x=3") / 2, "interval": [0.25, 0.75]}
    result = {"task": "KNN", "variant": "", "data": "Pets", "encoder": "pretrained", "metrics": {"accuracy": estimate}}
    (run / "checkpoints").mkdir(exist_ok=True)
    card = json.dumps({"command": "c", "data": [], "results": [result]})
    (run / "checkpoints/last.knn-1.result.json").write_text(card)
    sys.exit(0)
if given["a.x"] == "2" and not pathlib.Path("fixed").exists():
    sys.exit(3)
if given["a.x"] == "killed":
    signal.raise_signal(signal.SIGKILL)
run = pathlib.Path(given["runs"], given["name"], str(time.time_ns()))
run.mkdir(parents=True)
(run / "metrics.csv").write_text(f"val/knn,train/loss\\n0,9\\n0.{given['a.x']},\\n,1.5\\n")
if given["a.x"] == "slow":
    signal.signal(signal.SIGTERM, lambda *_: ((run / "saved").touch(), sys.exit(143)))
    (run / "started").touch()
    time.sleep(60)
"""


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    isolate(monkeypatch, tmp_path)
    (tmp_path / "stub.py").write_text(STUB)
    return tmp_path


def write(**changed: Any) -> str:
    """A sweep of the stub over three values, with changed keys; None removes a key."""
    spec = {
        "method": "grid",
        "metric": {"name": "val/knn", "goal": "maximize"},
        "parameters": {"a.x": {"values": [1, 2, 3]}, "y": {"value": "z"}},
        "command": ["${env}", "${interpreter}", "stub.py", "${args}"],
    }
    spec = {key: value for key, value in (spec | changed).items() if value is not None}
    Path("sweep.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    return "sweep.yaml"


def code(args: list[str]) -> int:
    try:
        sweep.main(args)
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def rows(printed: str) -> list[list[str]]:
    """The printed Markdown table, without its header."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


def test_the_default_sweep_trains_and_resumes_a_stopped_run(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    parameters = {key: {"values": entry["values"][:1]} for key, entry in SHIPPED["parameters"].items()}
    parameters["model.loss.temperature"] = SHIPPED["parameters"]["model.loss.temperature"]
    command = ["${env}", "${interpreter}", "-m", "${program}", *TINY, "${args}"]
    path = write(**SHIPPED | {"parameters": parameters, "command": command})
    known = sweep_config.load_sweep_config(path)
    names = [sweep_config.run_name(known, values) for values in known.combinations]

    def train(number: int, *more: str) -> Path:  # in this process, to save time
        words = sweep_config.build_command(known, known.combinations[number])[4:]
        return newest_run([*words, f"--name={names[number]}", "--ckpt_path=last", *more])

    runs = [train(0, "--trainer.callbacks+=tests.command.test_cli.StopAfterOne"), train(1)]
    assert torch.load(runs[0] / "checkpoints/last.ckpt", weights_only=True)["epoch"] == 0
    (runs[1].parent / sweep_state.DONE_MARKER).touch()

    assert code([path]) == 0
    printed = capfd.readouterr().out
    assert "[1/2] temperature=0.1,lr=0.002,size=12\n" in printed
    assert "[2/2] temperature=0.2,lr=0.002,size=12: done before\n" in printed
    assert {path for path in here.glob("runs/*/*") if path.is_dir()} == set(runs)
    scores = []
    for run, temperature in zip(runs, (0.1, 0.2), strict=True):
        assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2 * (180 // 32)
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["model"]["init_args"]["loss"]["init_args"]["temperature"] == temperature
        assert config["data"]["init_args"]["views"]["init_args"]["size"] == 12
        with (run / "metrics.csv").open() as file:
            history = list(csv.DictReader(file))
        last = [[row[key] for row in history if row[key]][-1] for key in sweep_results.COLUMNS]
        shown = [f"{float(value):.4g}" for value in last]
        scores.append(["", str(temperature), "0.002", "12", *shown, str(run.relative_to(here))])
    scores.sort(key=lambda row: -float(row[4]))
    for row in scores:
        row[0] = "best" if row[4] == scores[0][4] else ""
    assert rows(printed) == scores

    assert code([path]) == 0
    again = capfd.readouterr().out
    assert again.count("done before") == 2
    assert rows(again) == rows(printed)


def test_a_failure_is_reported_and_only_it_is_retried(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert code([write()]) == 1
    out, err = capfd.readouterr()
    folders = {path.parts[-3][2]: str(path.parent.relative_to(here)) for path in here.glob("runs/*/*/metrics.csv")}
    assert rows(out) == [
        ["best", "3", "z", "0.3", "–", "1.5", folders["3"]],
        ["", "1", "z", "0.1", "–", "1.5", folders["1"]],
    ]
    assert "[2/3] x=2,y=z: failed with exit code 3" in err
    assert "1 of 3 combinations failed" in err
    (here / "fixed").touch()
    minimum = write(metric={"name": "val/knn", "goal": "minimize"})
    assert code([minimum]) == 0
    out = capfd.readouterr().out
    assert out.count("done before") == 2
    assert [row[:2] for row in rows(out)] == [["best", "1"], ["", "2"], ["", "3"]]
    assert len(list(here.glob("runs/*/*/metrics.csv"))) == 3
    assert code([minimum, "--runs", "others"]) == 0
    assert len(list(here.glob("others/*/*/metrics.csv"))) == 3


@pytest.mark.drawn
def test_finished_runs_are_evaluated_and_shown_in_table_and_page(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = write(evaluate=["${interpreter}", "stub.py"], parameters={"a.x": {"values": [1, 3]}, "y": {"value": "z"}})
    assert code([path]) == 1
    out, err = capfd.readouterr()
    assert "[2/2] x=3,y=z: failed with exit code 4" in err
    assert [[row[1], row[6]] for row in rows(out)] == [["3", "–"], ["1", "0.0 [25.0–75.0]"]]
    (here / "fixed").touch()
    trained = set(here.glob("runs/*/*/metrics.csv"))
    assert code([path]) == 0
    assert set(here.glob("runs/*/*/metrics.csv")) == trained  # only the failed run is repeated
    out = capfd.readouterr().out
    header = next(line for line in out.splitlines() if line.startswith("|"))
    assert [cell.strip() for cell in header.strip("|").split("|")][6:8] == ["KNN on Pets", "directory"]
    assert [[row[1], row[6]] for row in rows(out)] == [["3", "50.0 [25.0–75.0]"], ["1", "0.0 [25.0–75.0]"]]
    assert "Side by side: runs/sweep.html" in out
    page = Path("runs/sweep.html").read_text()
    assert "Which is best?" in page
    assert "50.0 [25.0–75.0]" in page
    other = write(
        evaluate=["${interpreter}", "stub.py", "--more=1"], parameters={"a.x": {"value": 3}, "y": {"value": "z"}}
    )
    assert code([other]) == 0
    assert "done before" not in capfd.readouterr().out  # another evaluation of the same run
    assert set(here.glob("runs/*/*/metrics.csv")) == trained


def test_a_dry_run_prints_evaluation_commands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(evaluate=["${interpreter}", "-m", "${program}", "validate"], program="own")
    assert code([path, "--dry-run"]) == 0
    train, evaluate = capsys.readouterr().out.splitlines()[:2]
    name = shlex.split(train)[-2].removeprefix("--name=")
    assert shlex.split(evaluate) == [
        *(sys.executable, "-m", "own", "validate"),
        *(f"--model.checkpoint=runs/{name}/ID/checkpoints/last.ckpt", "--runs=runs"),
    ]


def test_a_run_that_dies_by_a_signal_has_failed_and_the_others_run(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert code([write(parameters={"a.x": {"values": ["killed", 1]}})]) == 1
    out, err = capfd.readouterr()
    assert "[1/2] x=killed: was killed by SIGKILL\n" in err
    assert [row[1] for row in rows(out)] == ["1"]


@pytest.mark.parametrize("told", [-15, 143, -2, 130, -1, 129, -10, 138, -9, 137, -11, 255, 3])
def test_the_sweep_stops_only_if_a_user_stopped_the_run(here: Path, monkeypatch: pytest.MonkeyPatch, told: int) -> None:
    monkeypatch.setattr(sweep, "run_command", lambda command: told)
    assert code([write()]) == (1 if told in (-9, 137, -11, 255, 3) else 130)


@pytest.mark.parametrize(
    ("stop", "calls"),
    [
        (KeyboardInterrupt, [None, sweep.PATIENCE, "terminate", None]),
        (SystemExit, [None, "terminate", None]),
    ],
)
def test_after_ctrl_c_the_run_may_end_by_itself(
    here: Path, monkeypatch: pytest.MonkeyPatch, stop: type[BaseException], calls: list[Any]
) -> None:
    seen: list[Any] = []

    def wait(timeout: float | None = None) -> int:
        seen.append(timeout)
        if len(seen) == 1:
            raise stop
        if timeout:
            raise subprocess.TimeoutExpired("stub", timeout)
        return 0

    child = SimpleNamespace(wait=wait, terminate=lambda: seen.append("terminate"))
    monkeypatch.setattr(subprocess, "Popen", lambda command: child)
    with pytest.raises(stop):
        sweep.run_command(["stub"])
    assert seen == calls


def test_all_equally_good_runs_are_marked_and_runs_without_a_score_are_not(here: Path) -> None:
    known = sweep_config.load_sweep_config(write())
    for values, scores in zip(known.combinations, ("0.5", "nan", "0.5"), strict=True):
        folder = here / "runs" / sweep_config.run_name(known, values)
        for run, score in (("old", "0.9"), ("new", scores)):
            (folder / run).mkdir(parents=True)
            (folder / run / "metrics.csv").write_text(f"val/knn\n{score}\n")
            os.utime(folder / run / "metrics.csv", (1e9, 1e9 + (run == "new")))
        (folder / sweep_state.DONE_MARKER).touch()

    def table() -> list[list[str]]:
        return rows(sweep_results.results_table(known, sweep_results.finished_runs(known, "runs")))

    found = table()
    assert [(row[0], row[1], row[-1].rsplit("/", 1)[-1]) for row in found] == [
        ("best", "1", "new"),
        ("best", "3", "new"),
        ("", "2", "new"),
    ]
    (here / "runs" / sweep_config.run_name(known, known.combinations[1]) / "new/metrics.csv").unlink()
    for path in here.glob("runs/*/*/metrics.csv"):
        path.write_text("val/knn\nnan\n")
    assert [row[0] for row in table()] == ["", "", ""]


def test_a_changed_command_or_value_is_a_new_run(here: Path) -> None:
    known = sweep_config.load_sweep_config(write())
    other = sweep_config.load_sweep_config(write(command=["python", "stub.py", "--trainer.max_epochs=2", "${args}"]))
    names = [sweep_config.run_name(sweep_, values) for sweep_ in (known, other) for values in sweep_.combinations]
    odd = sweep_config.load_sweep_config(
        write(parameters={"model.encoder": {"values": ["configs/encoder/a b.yaml", "x" * 300]}})
    )
    names += [sweep_config.run_name(odd, values) for values in odd.combinations]
    assert len(set(names)) == 8
    assert not [name for name in names if "/" in name or " " in name or len(name) > 100]


def test_stopping_the_sweep_stops_the_run_and_waits_for_it(here: Path) -> None:
    command = [sys.executable, "-m", "simmim_pl.sweep", write(parameters={"a.x": {"values": ["slow", 1]}})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while not list(here.glob("runs/*/*/started")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 143, err
    assert len(list(here.glob("runs/*/*/saved"))) == 1
    assert not list(here.glob("runs/*/done"))
    assert "[2/2]" not in out


def test_a_dry_run_prints_the_commands_of_wandbs_agent(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "a word")
    path = write(**SHIPPED | {"command": [*SHIPPED["command"], "${envvar:WORD}", "${args_no_equals}"]})
    assert code([path, "--dry-run"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(commands) == 8
    assert len({tuple(command) for command in commands}) == 8
    for command, values in zip(commands, sweep_config.load_sweep_config(path).combinations, strict=True):
        theirs = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
        start = ["/usr/bin/env", sys.executable, "-m", "simmim_pl", "fit", "--config", "configs/quickstart.yaml"]
        assert command[:-3] == [*start, *theirs["args"], "a word", *theirs["args_no_equals"]]
        assert command[-3:] == [
            "--runs=runs",
            f"--name={sweep_config.run_name(sweep_config.load_sweep_config(path), values)}",
            "--ckpt_path=last",
        ]
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"parameters": None}, "sweep.yaml has no parameters: add it."),
        ({"parameters": {}}, "sweep.yaml has no parameters: name at least one"),
        ({"parameters": ["lr"]}, "sweep.yaml has no parameters: name at least one"),
        ({"parameters": {"lr": {"min": 0, "max": 1}}}, "The parameter lr has the unknown key min: it may have values"),
        ({"parameters": {"lr": [1, 2]}}, "The parameter lr has to be a mapping with the keys values, value."),
        ({"parameters": {"lr": {"values": 1}}}, "values of the parameter lr has to be a list"),
        ({"parameters": {"lr": {"values": [1], "value": 1}}}, "The parameter lr needs either values"),
        ({"parameters": {1: {"value": 1}}}, "A parameter's key in sweep.yaml has to be a string, not 1."),
        ({"parameters": {True: {"value": 1}}}, "A parameter's key in sweep.yaml has to be a string, not True."),
        ({"method": "bayes"}, "only grids are run here"),
        ({"method": "random"}, "wandb sweep sweep.yaml and wandb agent ID"),
        ({"metric": None}, "sweep.yaml has no metric: add it."),
        ({"metric": {"name": "val/knn", "goal": "max"}}, "has the goal max: set it to maximize or minimize."),
        ({"command": ["python", "stub.py"]}, "has no ${args}"),
        ({"command": ["${arg}"]}, "has ${arg}, but only ${env}"),
        ({"command": "python stub.py ${args}"}, "The command of sweep.yaml has to be a list"),
        ({"command": ["no-such-program", "${args}"]}, "no-such-program cannot be started (No such file or directory)"),
        ({"evaluate": ["${args}"]}, "evaluate of sweep.yaml has ${args}, but only ${env}, ${interpreter}"),
        ({"evaluate": "python"}, "evaluate of sweep.yaml has to be a list"),
        ({"early_terminate": {"type": "hyperband"}}, "sweep.yaml has the unknown key early_terminate"),
    ],
)
def test_an_invalid_sweep_is_a_one_line_error(
    here: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, Any], says: str
) -> None:
    assert code([write(**changed)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_a_missing_or_invalid_yaml_is_a_one_line_error(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("bad.yaml").write_text("a: [1,")
    for path, says in (("none.yaml", "none.yaml cannot be read"), ("bad.yaml", "bad.yaml is not YAML")):
        assert code([path]) == 2
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1


def test_under_a_wandb_agent_a_run_has_the_agents_id(
    cli: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Like the agent: ids, project and values are in the environment. No user is logged in.
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    values = {"model.loss.temperature": 0.1, "model.optimizer.lr": 0.002, "data.views.size": 12}
    (tmp_path / "values.yaml").write_text(yaml.safe_dump({key: {"value": value} for key, value in values.items()}))
    agents = {"SWEEP_ID": "sweep1", "RUN_ID": "agent1", "PROJECT": "theirs", "SWEEP_PARAM_PATH": "values.yaml"}
    for key, value in agents.items():
        monkeypatch.setenv(f"WANDB_{key}", value)
    asked: dict[str, Any] = {}
    start = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **options: asked.update(options) or start(**options))
    flags = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})["args"]
    run = cli([*TINY, *flags])
    assert run.name == "agent1"
    (record,) = [record.run for record in records(run) if record.run.run_id]
    assert (record.run_id, record.sweep_id, record.project) == ("agent1", "sweep1", "theirs")
    config = logged_config(run)
    assert values.items() <= config.items()
    assert config["model"]["init_args"]["loss"]["init_args"]["temperature"] == 0.1
    assert config["data"]["init_args"]["views"]["init_args"]["size"] == 12
    assert asked["project"] is asked["id"] is None  # W&B warns of other words


def test_without_an_agent_a_run_id_in_the_environment_is_ignored(
    cli: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "agent1")
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert cli([*TINY, "--trainer.max_epochs=1"]).name != "agent1"


def test_a_full_disk_is_a_one_line_error(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(path: Path, *_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "touch", full)
        assert code([write()]) == 2
    printed = capsys.readouterr().err
    assert printed.endswith(
        "/done cannot be written (no space left on device): free disk space. To resume, run the same command again.\n"
    )
    (here / "fixed").touch()
    assert code(["sweep.yaml"]) == 0
