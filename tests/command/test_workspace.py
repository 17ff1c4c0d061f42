"""The dashboard's layout as sent to W&B; only W&B's response is mocked."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from simmim_pl.command import workspace
from simmim_pl.report import page as panels_of_the_report
from tests.conftest import CONFIGS

SHIPPED = yaml.safe_load((CONFIGS / "workspace.yaml").read_text())
Sent = list[dict[str, Any]]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty folder, no W&B account, and a server that does not respond."""
    monkeypatch.chdir(tmp_path)
    for name in ("WANDB_ENTITY", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """The layout that was sent to W&B."""
    asked: Sent = []

    def execute(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        assert "upsertView" in query
        asked.append(variables)
        return {"upsertView": {"view": {"name": "nw-abc-v", "id": "1"}}}

    api = SimpleNamespace(_service_api=SimpleNamespace(execute_graphql=execute, app_url="https://wandb.ai"))
    pytest.importorskip("wandb_workspaces")
    monkeypatch.setattr("wandb.Api", lambda: api)
    return asked


def refusal(spec: Any, capsys: pytest.CaptureFixture[str]) -> str:
    Path("spec.yaml").write_text(yaml.safe_dump(spec))
    with pytest.raises(SystemExit) as exit_:
        workspace.main(["spec.yaml", "--entity=me"])
    error = capsys.readouterr().err
    assert exit_.value.code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def described(panel: dict[str, Any]) -> dict[str, Any]:
    """A panel of a saved view in the spec's format."""
    config = panel["config"]
    match panel["viewType"]:
        case "Media Browser":
            (key,) = config["mediaKeys"]
            return {"title": config["chartTitle"], "media": key}
        case "Weave":
            return {"table": config["panel2Config"]["exp"]["fromOp"]["inputs"]["key"]["val"]}
        case "Run History Line Plot" if config["xAxis"] == "trainer/global_step":
            pattern = config.get("metricRegex")
            lines = [pattern.replace(".*", "*")] if pattern else config["metrics"]
            return {"title": config["chartTitle"], "lines": lines}
        case "Run History Line Plot":
            assert config["xAxis"] == "_step"
            (key,) = config["metrics"]
            return {"title": config["chartTitle"], "histogram": key}
    raise AssertionError(panel["viewType"])


def test_the_default_layout_is_saved(sent: Sent, capsys: pytest.CaptureFixture[str]) -> None:
    workspace.main([str(CONFIGS / "workspace.yaml"), "--entity=me", "--project=mine"])
    assert capsys.readouterr().out == "https://wandb.ai/me/mine?nw=abc\n"
    (view,) = sent
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "mine", "simmim_pl")
    section = json.loads(view["spec"])["section"]
    assert section["settings"]["shouldAutoGeneratePanels"]  # the names of confusion matrices are not known in advance
    saved = [
        {"name": section["name"], "panels": [described(panel) for panel in section["panels"]]}
        for section in section["panelBankConfig"]["sections"]
    ]
    assert saved == SHIPPED["sections"]
    assert [section["name"] for section in saved] == ["Evaluation", "Representation", "Optimisation", "Data"]


def test_every_curve_of_the_default_layout_is_logged(pretrained: Path) -> None:
    header = (pretrained.parents[1] / "metrics.csv").read_text().splitlines()[0].split(",")
    panels = [panel for section in SHIPPED["sections"] for panel in section["panels"]]
    curves = [key for panel in panels for key in panel.get("lines", [])]
    assert len(curves) == len(set(curves)) > 15
    assert set(curves) - set(header) == {"train/rotation_accuracy", "val/knn/*", "val/linear/*"}  # of others
    report = yaml.safe_load(Path(panels_of_the_report.__file__).with_name("panels.yaml").read_text())
    assert set(curves) == {key for section in report for panel in section["panels"] for key in panel.get("metrics", [])}


def test_entity_and_project_come_from_dotenv(sent: Sent) -> None:
    Path(".env").write_text("WANDB_ENTITY=us\nWANDB_PROJECT=ours\n")
    workspace.main([str(CONFIGS / "workspace.yaml")])
    assert (sent[0]["entityName"], sent[0]["projectName"]) == ("us", "ours")


def test_a_missing_account_is_a_one_line_error(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb_workspaces")
    error = refusal(SHIPPED, capsys)
    assert "W&B did not save the view (No API key configured" in error
    assert "me/simmim_pl" in error
    with pytest.raises(SystemExit) as exit_:
        workspace.main([str(CONFIGS / "workspace.yaml")])
    assert exit_.value.code == 2
    assert "add --entity" in capsys.readouterr().err


def test_a_binary_dotenv_is_a_one_line_error(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"WANDB_ENTITY=\xff\n")
    with pytest.raises(SystemExit) as exit_:
        workspace.main([str(CONFIGS / "workspace.yaml")])
    assert exit_.value.code == 2
    assert f"error: {tmp_path}/.env cannot be read ('utf-8' codec" in capsys.readouterr().err


def test_without_the_extra_the_error_says_how_to_install_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert "pip install -e '.[dashboard]'" in refusal(SHIPPED, capsys)


PANEL = {"title": "Loss", "lines": ["train/loss"]}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ([], "spec.yaml has to be a mapping with the keys name, sections."),
        ({"name": "a"}, "spec.yaml has no sections: add it."),
        ({"name": "a", "sections": []}, "sections of spec.yaml has to be a list of at least one item"),
        ({"name": 1, "sections": [{"name": "S", "panels": [PANEL]}]}, "name of spec.yaml has to be a string, not 1."),
        ({"name": "a", "sections": [{"name": "S"}]}, "Section 1 of spec.yaml has no panels: add it."),
        (
            {"name": "a", "sections": [{"name": "S", "panel": []}]},
            "has the unknown key panel: it may have name, panels",
        ),
    ],
)
def test_an_invalid_layout_is_a_one_line_error(capsys: pytest.CaptureFixture[str], spec: Any, says: str) -> None:
    assert says in refusal(spec, capsys)


@pytest.mark.parametrize(
    ("panel", "says"),
    [
        ({"title": "Loss"}, "Panel 1 of section S needs one of lines, histogram, media, table"),
        ("train/loss", "Panel 1 of section S needs one of lines, histogram, media, table"),
        (PANEL | {"media": "data/views"}, "needs one of lines, histogram, media, table"),
        (PANEL | {"colour": "red"}, "Panel 1 of section S has the unknown key colour: it may have title, lines."),
        ({"lines": ["train/loss"]}, "Panel 1 of section S has no title: add it."),
        (PANEL | {"lines": "train/loss"}, "lines of Panel 1 of section S has to be a list"),
        (PANEL | {"lines": [1]}, "A key of Panel 1 of section S has to be a string, not 1."),
        ({"title": "Views", "media": ["data/views"]}, "has to be a string, not ['data/views']."),
        ({"title": "Results", "table": "evaluation/results"}, "has the unknown key title: it may have table."),
    ],
)
def test_an_invalid_panel_is_a_one_line_error(capsys: pytest.CaptureFixture[str], panel: Any, says: str) -> None:
    spec = {"name": "a", "sections": [{"name": "S", "panels": [panel]}]}
    assert says in refusal(spec, capsys)
