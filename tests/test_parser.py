"""What a user mistypes is answered in one line that names it, and with exit code 2."""

from collections.abc import Callable
from pathlib import Path

import pytest

from simmim_pl.parser import condense
from tests.conftest import CONFIGS, TINY

Command = Callable[[list[str]], Path]


@pytest.fixture
def says(cli: Command, capfd: pytest.CaptureFixture[str]) -> Callable[[list[str]], str]:
    """The one line that a refused command leaves on stderr."""

    def says(args: list[str]) -> str:
        with pytest.raises(SystemExit) as end:
            cli(args)
        said = capfd.readouterr().err.splitlines()
        lines = [line for line in said if not line.startswith("INFO: ")]
        assert end.value.code == 2
        assert len(lines) == 1, said
        assert lines[0].startswith("error: ")
        assert not any(word in "\n".join(said) for word in ("Traceback", "usage:", "Subtypes:", "<class 'NoneType'>"))
        assert not Path("runs").exists()  # refused before anything was made
        return lines[0]

    return says


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([*TINY, "--trainer.max_epoch=3"], ["--trainer.max_epoch"]),
        ([*TINY, "--conf=x"], ["--conf"]),
        ([*TINY, "--trainer.max_epochs=many"], ["trainer.max_epochs", "int"]),
        ([*TINY, "--model.widht=3"], ["widht"]),
        ([*TINY, "--model.encoder.widht=3"], ["widht"]),
        ([*TINY, "--model.encoder.width=wide"], ["width", "wide"]),
        ([*TINY, "--model.encoder=NoSuchEncoder"], ["NoSuchEncoder"]),
        ([*TINY, "--model.encoder=simmim_pl.heads.Classifier"], ["simmim_pl.heads.Classifier", "Encoder"]),
        ([*TINY, "--data.source=simmim_pl.data.Nothing"], ["simmim_pl.data.Nothing"]),
        ([*TINY, "--model.optimizer=no_such_package.Muon"], ["Install no_such_package with pip"]),
        ([*TINY, "--data.batch_size=1.5"], ["batch_size", "1.5"]),
        ([*TINY, "--model.optimizer.init_args.learning=1"], ["learning"]),
        ([*TINY, "--data.source.size=4"], ["8 pixels a copy"]),
        (["fit", "--config=nowhere.yaml"], ["nowhere.yaml"]),
        (["fti", f"--config={CONFIGS / 'quickstart.yaml'}"], ["fti"]),
        (["fit"], ["model"]),
        ([], ["subcommand"]),
        ([*TINY, "--ckpt_path=nowhere.ckpt"], ["There is no checkpoint nowhere.ckpt"]),
    ],
)
def test_a_mistake_is_one_line_that_names_it(
    says: Callable[[list[str]], str], args: list[str], named: list[str]
) -> None:
    line = says(args)
    for name in named:
        assert name in line


def test_a_misspelt_key_in_a_file_is_named(says: Callable[[list[str]], str], tmp_path: Path) -> None:
    text = (CONFIGS / "quickstart.yaml").read_text()
    for before, after in (("temperature:", "temprature:"), ("batch_size:", "batchsize:"), ("max_epochs:", "epochs:")):
        assert text.count(before) == 1
        (tmp_path / "mine.yaml").write_text(text.replace(before, after))
        assert after.removesuffix(":") in says(["fit", "--config=mine.yaml"])


def test_a_file_that_is_no_yaml_is_refused(says: Callable[[list[str]], str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("model: [unclosed")
    assert "Problems parsing config" in says(["fit", "--config=mine.yaml"])


def test_an_abbreviation_is_never_another_key(cli: Command) -> None:
    whole = next(arg for arg in TINY if arg.startswith("--trainer.max_epochs"))
    rest = [arg for arg in TINY if arg != whole]
    for length in range(len("--trainer.m"), len("--trainer.max_epochs")):
        with pytest.raises(SystemExit) as end:
            cli([*rest, f"{'--trainer.max_epochs'[:length]}=1"])
        assert end.value.code == 2


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_every_verb_says_where_its_help_is(says: Callable[[list[str]], str], verb: str) -> None:
    line = says([verb, "--no_such_key=1"])
    assert line.endswith(f"{verb} --help.")


def test_help_is_not_an_error(cli: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli(["--help"])
    assert end.value.code == 0
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("one line", "one line"),
        ("one\ntwo", "one; two"),
        ("  one \n\n - two.", "one; two"),
        ("one:\n  Subtypes: [x, y]\n  Errors:\n    - two.", "one: two"),
        ("one:\n  - two\n  - Expected a <class 'NoneType'>\nGiven value type: <class 'str'>", "one: two"),
    ],
)
def test_condensing_leaves_one_line_without_the_scaffolding(message: str, line: str) -> None:
    assert condense(message) == line


def test_condensing_twice_changes_nothing() -> None:
    message = 'Parser key "model":\n  Does not validate against any of the Union subtypes\n  Errors:\n    - Bad width.'
    assert condense(message) == condense(condense(message)) == 'Parser key "model": Bad width'
