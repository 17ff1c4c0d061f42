"""Only the called subcommand's arguments are prepared; help and preceding configs still know all four."""

import pytest
from lightning.pytorch.cli import LightningCLI

from simmim_pl.command.cli import main


@pytest.mark.parametrize(
    ("words", "prepared"),
    [
        (["fit", "--help"], ["fit"]),
        (["predict", "--help"], ["predict"]),
        (["--help"], ["fit", "validate", "test", "predict"]),
        (["--config", "none.yaml", "fit"], ["fit", "validate", "test", "predict"]),
    ],
)
def test_only_the_called_subcommand_is_prepared(
    monkeypatch: pytest.MonkeyPatch, words: list[str], prepared: list[str]
) -> None:
    found: list[str] = []
    prepare = LightningCLI._prepare_subcommand_parser

    def noted(self: LightningCLI, klass: type, subcommand: str, **options: object) -> object:
        found.append(subcommand)
        return prepare(self, klass, subcommand, **options)

    monkeypatch.setattr(LightningCLI, "_prepare_subcommand_parser", noted)
    with pytest.raises(SystemExit):
        main(words)
    assert found == prepared
