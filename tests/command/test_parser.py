"""Mistyped arguments print one line that names them and exit with code 2."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simmim_pl.command.parse_errors import to_sentence
from tests.conftest import CONFIGS, QUIET, SHAPES, TINY

Command = Callable[[list[str]], Path]
JUDGE = ["validate", f"--config={CONFIGS / 'evaluate/knn.yaml'}", *SHAPES, *QUIET]
# On Python 3.10 jsonargparse does not know the subclasses of a list's type.
KNN = "N?" if sys.version_info >= (3, 11) else ""


@pytest.fixture
def says(cli: Command, capfd: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """The single line on stderr of a refused command."""

    def says(args: list[str]) -> str:
        with pytest.raises(SystemExit) as end:
            cli(args)
        said = capfd.readouterr().err.splitlines()
        lines = [line for line in said if not line.startswith("INFO: ")]
        assert end.value.code == 2
        assert len(lines) == 1, said
        assert lines[0].startswith("error: ")
        assert not any(
            word in "\n".join(said) for word in ("Traceback", "usage:", "Subtypes:", "<class '", "Parser key")
        )
        assert not Path("runs").exists()  # refused before anything was made
        return lines[0]

    return says


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([*TINY, "--trainer.max_epoch=3"], ["--trainer.max_epoch ", "did you mean --trainer.max_epochs?"]),
        ([*TINY, "--trainer.max_epoch", "3"], ["did you mean --trainer.max_epochs?"]),
        ([*TINY, "--trainr.max_epochs=3"], ["did you mean --trainer.max_epochs?"]),
        ([*TINY, "--seed=3"], ["did you mean --seed_everything?"]),
        ([*TINY, "--conf=x"], ["--conf"]),
        ([*TINY, "--trainer.max_epochs=many"], ["--trainer.max_epochs has to be a whole number, and is many"]),
        ([*TINY, "--trainer.precision=bf16-mixd"], ["--trainer.precision has to be", "did you mean bf16-mixed?"]),
        ([*TINY, "--data.predict_split=tests"], ["--data.predict_split has to be", "did you mean test?"]),
        ([*TINY, "--model.depht=3"], ["--model.depht", "known are"]),
        ([*TINY, "--model.encoder.widht=3"], ["--model.encoder.widht", "did you mean --model.encoder.width?"]),
        ([*TINY, "--model.encoder.init_args.widht=3"], ["did you mean --model.encoder.width?"]),
        ([*TINY, "--model.encodr.width=3"], ["did you mean --model.encoder.width?"]),
        ([*TINY, "--model.head.hiddn=3"], ["--model.head.hiddn", "did you mean --model.head.hidden_dim?"]),
        ([*TINY, "--model.optimizer.lrr=3"], ["--model.optimizer.lrr", "did you mean --model.optimizer.lr?"]),
        (
            [*TINY, "--model.encoder.width=wide"],
            ["--model.encoder.width has to be a whole number, and is wide"],
        ),
        ([*TINY, "--model.optimizer.lr=nan"], ["--model.optimizer.lr has to be a number, and is nan"]),
        ([*TINY, "--model.encoder=NoSuchEncoder"], ["--model.encoder: there is no class NoSuchEncoder"]),
        ([*TINY, "--model.encoder=FastCN"], ["--model.encoder:", "did you mean simmim_pl.encoders.FastCNN?"]),
        ([*TINY, "--model.encoder=simmim_pl.encoders.FastCN"], ["did you mean simmim_pl.encoders.FastCNN?"]),
        ([*TINY, "--model.encoder=simmim_pl.encoder.FastCNN"], ["did you mean simmim_pl.encoders.FastCNN?"]),
        ([*TINY, "--model.optimizer=torch.optim.AdmW"], ["--model.optimizer:", "did you mean torch.optim.AdamW?"]),
        ([*TINY, "--trainer.callbacks+=Reprot"], ["--trainer.callbacks:", "did you mean simmim_pl.callbacks.Report?"]),
        ([*TINY, "--trainer.logger=WandbLoger"], ["--trainer.logger:", "loggers.WandbLogger?"]),
        ([*TINY, "--trainer.logger=TensorBoardLogger"], ["--trainer.logger.save_dir has to be given"]),
        (
            [*TINY, "--model.encoder=simmim_pl.encoders.heads.Classifier"],
            ["simmim_pl.encoders.heads.Classifier", "Encoder"],
        ),
        ([*TINY, "--data.source=simmim_pl.data.Nothing"], ["--data.source: there is no class simmim_pl.data.Nothing"]),
        ([*TINY, "--data.source=Folder"], ["--data.source.root has to be given"]),
        ([*TINY, "--model.optimizer=no_such_package.Muon"], ["Install no_such_package with pip"]),
        ([*TINY, "--data.batch_size=1.5"], ["--data.batch_size", "1.5"]),
        ([*TINY, "--model.optimizer.init_args.learning=1"], ["learning"]),
        ([*TINY, "--data.source.size=4"], ["8 pixels per copy"]),
        (["fit", "--config=nowhere.yaml"], ["nowhere.yaml"]),
        (["fti", f"--config={CONFIGS / 'quickstart.yaml'}"], ["fti", "did you mean fit?"]),
        (["fit"], ["--data and --model have to be given"]),
        ([], ["subcommand"]),
        ([*TINY, "--ckpt_path=nowhere.ckpt"], ["There is no checkpoint nowhere.ckpt"]),
        ([*JUDGE, "--model.checkpiont=x"], ["did you mean --model.checkpoint?"]),
        ([*JUDGE, "--model.protocols.kk=[3]"], ["did you mean --model.protocols.k?"]),
        ([*JUDGE, "--model.protocols=[{class_path: simmim_pl.evaluation.KN}]"], ["simmim_pl.evaluation.KN" + KNN]),
    ],
)
def test_an_error_is_one_line_that_names_the_key(
    says: Callable[[list[str]], str], args: list[str], named: list[str]
) -> None:
    line = says(args)
    for name in named:
        assert name in line


@pytest.mark.parametrize(
    ("key", "misspelt", "meant"),
    [
        ("temperature:", "temprature:", "--model.loss.temperature"),
        ("batch_size:", "batchsize:", "--data.batch_size"),
        ("max_epochs:", "max_epoch:", "--trainer.max_epochs"),
        ("trainer:", "trainr:", "--trainer.max_epochs"),
        ("seed_everything:", "seed:", "--seed_everything"),
        ("views.ContrastiveViews", "views.ContrastivView", "simmim_pl.views.ContrastiveViews"),
        ("init_args:\n    encoder:", "init_arg:\n    encoder:", "--model.init_args.encoder"),
    ],
)
def test_a_misspelt_key_in_a_file_is_named(
    says: Callable[[list[str]], str], tmp_path: Path, key: str, misspelt: str, meant: str
) -> None:
    text = (CONFIGS / "quickstart.yaml").read_text()
    assert text.count(key) == 1
    (tmp_path / "mine.yaml").write_text(text.replace(key, misspelt))
    assert f"did you mean {meant}" in says(["fit", "--config=mine.yaml"])


def test_a_file_that_is_not_yaml_is_refused(says: Callable[[list[str]], str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: [unclosed")
    assert "Problems parsing config" in says(["fit", "--config=mine.yaml"])


def test_abbreviated_keys_are_refused(cli: Command) -> None:
    whole = next(arg for arg in TINY if arg.startswith("--trainer.max_epochs"))
    rest = [arg for arg in TINY if arg != whole]
    for length in range(len("--trainer.m"), len("--trainer.max_epochs")):
        with pytest.raises(SystemExit) as end:
            cli([*rest, f"{'--trainer.max_epochs'[:length]}=1"])
        assert end.value.code == 2


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_every_subcommand_points_to_its_help(says: Callable[[list[str]], str], verb: str) -> None:
    line = says([verb, "--no_such_key=1"])
    assert line.endswith(f"{verb} --help.")


def test_help_is_not_an_error(cli: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_help_shows_the_range_of_a_number(cli: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for key, name, interval in (("data.views", "simmim_pl.views.ContrastiveViews", "[0, 0.5]"), ("", "", "[-1, inf)")):
        with pytest.raises(SystemExit):
            cli([*TINY, f"--{key}.help", name] if key else ["fit", "--help"])
        assert f"Range: {interval}." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one line", "one line"),
        ("one\ntwo", "one; two"),
        ("  one \n\n - two.", "one; two"),
        ('Parser key "model":\n  Subtypes: [x, y]\n  Errors:\n    - two.\nGiven value: 3', "--model: two"),
        (
            "Parser key \"a\":\n  - Expected a <class 'NoneType'>\n  - Expected a <class 'int'>",
            "--a has to be a whole number",
        ),
        ("something of another version:\n  unknown", "something of another version:; unknown"),
    ],
)
def test_a_long_error_becomes_one_line(message: str, line: str) -> None:
    assert to_sentence(message) == line


@given(st.text(max_size=200))
def test_any_jsonargparse_error_becomes_one_line(message: str) -> None:
    assert "\n" not in to_sentence(message)
