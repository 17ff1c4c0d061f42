"""The callbacks of a run: the default ones with their options, and the user's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint as LightningCheckpoint
from lightning.pytorch.callbacks import ModelCheckpoint

from simmim_pl import callbacks
from simmim_pl.callbacks import Checkpoint, Dashboard, OnlineProbe, Report
from simmim_pl.command import cli as command_line
from simmim_pl.command.default_callbacks import CALLBACKS
from tests.conftest import CONFIGS, EVALUATION, QUIET, TINY, isolate
from tests.test_bad_input import refusal  # noqa: F401, a fixture

OURS = {getattr(callbacks, name) for name in callbacks.__all__}
PLAIN = ["--model=tests.command.test_cli.Plain", "--data=tests.command.test_cli.Rows", *QUIET]
ONLINE = "--trainer.callbacks+=simmim_pl.callbacks.OnlineProbe"
Made = Callable[[list[Any]], tuple[list[Callback], dict[str, Any]]]


class Probe(OnlineProbe):
    """A user's callback."""


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Made:
    """The callbacks of simmim_pl and Lightning's checkpoints, and the config, of a run that is not started."""
    isolate(monkeypatch, tmp_path)
    clis: list[Any] = []
    monkeypatch.setattr(command_line.CLI, "_run_subcommand", lambda self, subcommand: clis.append(self))

    def make(args: list[Any]) -> tuple[list[Callback], dict[str, Any]]:
        command_line.main(list(map(str, args)))
        cli = clis.pop()
        config = yaml.safe_load(cli._parser(cli.subcommand).dump(cli.config[cli.subcommand], skip_none=False))
        return [each for each in cli.trainer.callbacks if isinstance(each, (*OURS, LightningCheckpoint))], config

    return make


def kinds(found: tuple[list[Callback], Any]) -> list[str]:
    return [type(each).__name__ for each in found[0]]


def test_every_callback_of_the_package_is_a_default_under_its_name() -> None:
    assert set(CALLBACKS.values()) == OURS
    assert {name.replace("_", "") for name in CALLBACKS} == {kind.__name__.lower() for kind in OURS}


@pytest.mark.parametrize("verb", ["fit", "validate", "predict"])
def test_a_method_run_has_each_default_callback_once(made: Made, verb: str) -> None:
    found = kinds(made([verb, *TINY[1:], *(["--untrained=true"] if verb != "fit" else [])]))
    assert sorted(found) == sorted(kind.__name__ for kind in OURS)
    assert found.index("Representation") < found.index("Dashboard") < found.index("Report")


def test_options_are_set_in_a_file_and_on_the_command_line(made: Made, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("callbacks:\n  online_probe: {k: 3, lr: 0.5}\n  embedding_map: null\n")
    found, config = made([*TINY, "--config=mine.yaml", "--callbacks.online_probe.k=5", "--callbacks.report.share=1"])
    (online,) = (each for each in found if isinstance(each, OnlineProbe))
    assert (online.k, online.lr) == (5, 0.5)
    (report,) = (each for each in found if isinstance(each, Report))
    assert report.budget.share == 1
    assert "EmbeddingMap" not in kinds((found, config))
    assert config["callbacks"]["online_probe"]["init_args"]["k"] == 5
    assert config["callbacks"]["embedding_map"] is None


@pytest.mark.parametrize("names", [list(CALLBACKS)[::2], list(CALLBACKS)[1::2]])
def test_null_turns_a_callback_off(made: Made, names: list[str]) -> None:
    found = kinds(made([*TINY, *(f"--callbacks.{name}=null" for name in names)]))
    assert sorted([*found, *(CALLBACKS[name].__name__ for name in names)]) == sorted(kind.__name__ for kind in OURS)


def test_all_callbacks_can_be_turned_off(made: Made, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("callbacks: null\n")
    assert kinds(made([*TINY, "--callbacks.enabled=false", "--callbacks.report.share=1"])) == []
    assert kinds(made([*TINY, "--config=mine.yaml"])) == []
    assert kinds(made([*TINY, "--callbacks.enabled=false", ONLINE])) == ["OnlineProbe"]


def test_lightning_adds_no_checkpoint_callback_unless_requested(made: Made) -> None:
    off = "--callbacks.checkpoint=null"
    assert not any("Checkpoint" in name for name in kinds(made([*TINY, off])))
    assert not any("Checkpoint" in name for name in kinds(made([*TINY, "--trainer.enable_checkpointing=false"])))
    theirs = f"--trainer.callbacks={ModelCheckpoint.__module__}.ModelCheckpoint"
    for asks in (theirs, "--trainer.enable_checkpointing=true"):
        assert [name for name in kinds(made([*TINY, off, asks])) if "Checkpoint" in name] == ["ModelCheckpoint"]
    assert [name for name in kinds(made([*TINY, theirs])) if "Checkpoint" in name] == ["Checkpoint", "ModelCheckpoint"]


@pytest.mark.parametrize(
    ("adds", "kind"),
    [("=", "simmim_pl.callbacks.OnlineProbe"), ("+=", "tests.command.test_default_callbacks.Probe")],
)
def test_a_users_callback_replaces_the_default_of_its_class(made: Made, adds: str, kind: str) -> None:
    found, config = made([*TINY, f"--trainer.callbacks{adds}{kind}", "--trainer.callbacks.k=50"])
    (online,) = (each for each in found if isinstance(each, OnlineProbe))
    assert (online.k, len(found)) == (50, len(OURS))
    assert config["callbacks"]["online_probe"] is None
    assert any(isinstance(each, Checkpoint) for each in found)


def test_other_modules_have_only_callbacks_that_need_no_method(made: Made, pretrained: Path) -> None:
    line = [f"--config={CONFIGS / 'evaluate/knn.yaml'}", f"--model.checkpoint={pretrained}", *EVALUATION]
    for verb in ("fit", "validate", "test"):
        found, config = made([verb, *line])
        assert {type(each) for each in found} == {Dashboard, Report}
        assert {name for name, spec in config["callbacks"].items() if spec} == {"enabled", "dashboard", "report"}
    assert {type(each) for each in made(["fit", *PLAIN])[0]} == {Checkpoint, Dashboard, Report}


def test_the_saved_config_makes_the_same_callbacks(made: Made, tmp_path: Path) -> None:
    found, config = made([*TINY, ONLINE, "--callbacks.dashboard=null", "--callbacks.embedding_map.images=7"])
    (tmp_path / "saved.yaml").write_text(yaml.safe_dump(config))
    again, same = made(["fit", "--config=saved.yaml"])
    assert kinds((again, same)) == kinds((found, config))
    assert same == config


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([ONLINE, "--callbacks.online_probe.k=3"], "since the OnlineProbe of --trainer.callbacks replaces it"),
        (
            ["--trainer.enable_checkpointing=false", "--callbacks.checkpoint.every_n_epochs=2"],
            "The options of --callbacks.checkpoint would do nothing, since --trainer.enable_checkpointing is false",
        ),
        (["--callbacks.online_probe=tests.command.test_default_callbacks.Probe", ONLINE], "replaces it"),
        (["--callbacks.online_probe.kk=3"], "did you mean --callbacks.online_probe.k?"),
        (["--callbacks.online_prob.k=3"], "did you mean --callbacks.online_probe?"),
        (["--callbacks.online_probe.k=few"], "--callbacks.online_probe.k has to be a whole number, and is few"),
        (["--callbacks.online_probe=simmim_pl.callbacks.Report"], "--callbacks.online_probe:"),
    ],
)
def test_options_without_effect_or_misspelt_are_refused(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    args: list[str],
    says: str,
) -> None:
    assert says in refusal([*TINY, *args])


def test_options_of_a_callback_that_watches_methods_are_refused_in_an_evaluation(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    pretrained: Path,
) -> None:
    line = ["validate", f"--config={CONFIGS / 'evaluate/knn.yaml'}", f"--model.checkpoint={pretrained}", *EVALUATION]
    assert "it watches methods, and Evaluation is not one" in refusal([*line, "--callbacks.representation.images=8"])


def test_help_names_every_callback_with_its_options(made: Made, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        made(["fit", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "--callbacks.enabled" in said
    assert "--callbacks.checkpoint.OPTION: every_n_epochs, every_n_steps, every_n_minutes." in said
    for name in CALLBACKS:
        assert f"--callbacks.{name} " in said
