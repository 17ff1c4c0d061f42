"""A protocol's result: card, table, report and dashboard work without its optional fields."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from simmim_pl.callbacks.dashboard import panels
from simmim_pl.contracts import InputError
from simmim_pl.evaluation import Estimate, EvaluationContext, Protocol, Result
from simmim_pl.evaluation.result import require_results
from tests.conftest import EVALUATION

HALF = Estimate(0.5, 0.4, 0.6)


class MetricsOnly(Protocol):
    """Returns metrics of 0.5."""

    def evaluate(self, context: EvaluationContext) -> list[Result]:
        return [Result({"half": HALF})]


@pytest.mark.parametrize("estimate", [HALF, Estimate(0.5, 0.4, 0.6, std=0.1)])
def test_an_entry_is_json_with_the_given_fields(estimate: Estimate) -> None:
    found = Result({"accuracy": estimate}).entry()
    assert found.keys() == {"variant", "metrics", "chosen"}
    shown = {"value": 0.5, "interval": [0.4, 0.6]} | ({} if estimate.std is None else {"std": 0.1})
    assert json.loads(json.dumps(found))["metrics"] == {"accuracy": shown}
    whole = Result({"accuracy": estimate}, {"a": 1.0, "b": None}, [[1, 0], [0, 0]], {"k": 1}, "twice").entry()
    assert whole == found | {"per_class": {"a": 1.0, "b": None}, "confusion": [[1, 0], [0, 0]]} | {
        "chosen": {"k": 1},
        "variant": "twice",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"metrics": {}}, "at least one metric"),
        ({"metrics": {"loss": Estimate(float("nan"), 0.0, 1.0)}}, "loss = .*not a finite number"),
        ({"metrics": {"loss": Estimate(0.5, 0.0, float("inf"))}}, "not a finite number with an interval"),
        ({"metrics": {"accuracy": HALF}, "confusion": [[1.0]]}, "names of its classes"),
        ({"metrics": {"accuracy": HALF}, "confusion": [[1.0]], "per_class": {"a": 1.0, "b": 1.0}}, "names of its"),
    ],
)
def test_an_empty_result_is_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Result(**arguments)


@pytest.mark.parametrize("found", [None, [], {"accuracy": 0.5}, [0.5], Result({"accuracy": HALF})])
def test_anything_but_a_list_of_results_is_refused(found: Any) -> None:
    with pytest.raises(InputError, match=r"Mine.evaluate has to return a list of at least one"):
        require_results(found, "Mine")


@pytest.mark.drawn
@pytest.mark.filterwarnings("ignore")
def test_metrics_alone_suffice_for_card_table_report_and_dashboard(
    cli: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = cli(
        [
            *("validate", *EVALUATION, "--model=simmim_pl.evaluation.Evaluation"),
            "--model.protocols=[{class_path: tests.evaluation.test_result.MetricsOnly}, simmim_pl.evaluation.KNN]",
            *("--model.encoder=simmim_pl.encoders.FastCNN", "--model.encoder.width=2"),
            "--trainer.callbacks=[simmim_pl.callbacks.Report]",
        ]
    )
    said = capsys.readouterr()
    assert "| MetricsOnly | half      | 50.0 [40.0–60.0] | 50.0 [40.0–60.0] |" in said.out  # given, raw pixels
    card = json.loads((run / "result.json").read_text())
    assert {"per_class", "confusion"} & card["results"][0].keys() == set()
    assert {"per_class", "confusion"} <= card["results"][1].keys()
    page = (run / "report.html").read_text()
    assert page.count('<figure class="confusion">') == 1  # of KNN
    assert "MetricsOnly" in page
    shown = panels(card)
    assert [row[:6] for row in shown["evaluation/results"].data[:1]] == [
        ["Shapes", "MetricsOnly", "", "given", "half", 0.5]
    ]
    assert {row[1] for row in shown["evaluation/classes"].data} == {"KNN"}
    assert [name for name in shown if "confusion" in name] == ["evaluation/confusion of Shapes KNN given"]
    assert panels(card | {"results": card["results"][:1]}).keys() == {"evaluation/results"}
