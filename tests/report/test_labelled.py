"""Labelled sets have a row each, a level of chance, and a best value."""

from pathlib import Path

from simmim_pl.report.chance import chance_levels
from simmim_pl.report.curves import best_value
from simmim_pl.report.labelled import labelled
from simmim_pl.report.run import Run, load_run
from tests.report.test_tables import rows_of

NAMES = ("knn", "knn_untrained", "linear", "chance", "images")


def run_of(folder: Path) -> Run:
    """A run with two labelled sets; the linear probe of the untrained network was not measured."""
    head = ["step", *(f'"val/{metric}/{name}"' for name in ("b", "a, or c") for metric in NAMES)]
    rows = ["9,0.2,0.15,0.3,0.1,40,0.6,0.5,0.7,0.5,8", "19,0.25,0.15,0.28,0.1,40,0.5,0.5,0.8,0.5,8"]
    (folder / "metrics.csv").write_text("\n".join([",".join(head), *rows, ""]))
    return load_run(folder)


def test_the_table_has_a_row_for_every_set(tmp_path: Path) -> None:
    assert rows_of(labelled(run_of(tmp_path))) == [
        ["set", "kNN", "untrained", "linear probe", "untrained", "chance", "images"],
        ["a, or c", "50.0 %", "50.0 %", "80.0 %", "–", "50.0 %", "8"],
        ["b", "25.0 %", "15.0 %", "28.0 %", "–", "10.0 %", "40"],
    ]


def test_without_labelled_sets_there_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,val/knn\n9,0.5\n")
    assert labelled(load_run(tmp_path)) == ""


def test_curves_have_chance_and_a_best_value(tmp_path: Path) -> None:
    run = run_of(tmp_path)
    sets = {"a, or c": 0.5, "b": 0.1}
    kinds = ("knn", "linear")
    assert chance_levels(run) == {f"val/{kind}/{name}": chance for kind in kinds for name, chance in sets.items()}
    assert best_value(run, "val/knn/b") == ("0.25", "19")
    assert best_value(run, "val/linear/b") == ("0.3", "9")
    assert best_value(run, "val/chance/b") == ("", "")
