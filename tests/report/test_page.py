"""The page shows the run's files accessibly, and needs nothing else."""

import base64
import errno
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from playwright.sync_api import Page, sync_playwright

from simmim_pl.evaluation.card import code_version
from simmim_pl.report import page as pages
from simmim_pl.report.__main__ import main
from simmim_pl.report.observed import keep
from simmim_pl.report.pictures import PICTURES
from simmim_pl.report.run import load_run
from tests.conftest import CONFIGS, EVALUATION, TINY
from tests.forked import Program, environment
from tests.report.test_run import directory
from tests.report.test_tables import rows_of

Cli = Callable[[list[Any]], Path]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
VOID = {"meta", "link", "img", "br", "wbr", "input"}
pytestmark = pytest.mark.drawn


class Nesting(HTMLParser):
    """Refuses unclosed tags, and records loaded resources and anchors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.ids: list[str] = []
        self.goals: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href") and tag not in ("a", "use")]
        self.ids += [found["id"] or ""] if "id" in found else []
        self.goals += [found["href"] or ""] if tag == "a" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass


def observations(queries: int = 2) -> dict[str, Any]:
    """Observations of callbacks."""
    rng = np.random.default_rng(0)
    return {
        "positive": np.array([0, 1, 9]),
        "negative": np.array([2, 7, 1]),
        "singular": np.array([3.0, 2.0, 1.0]),
        "place": rng.normal(size=(20, 2)),
        "explained": np.array([0.5, 0.2]),
        "label": np.arange(20) % 2,
        "shown": rng.integers(0, 256, (queries, 3, 3, 8, 8), dtype=np.uint8),
        "shown_label": np.array([[0, 0, 1]] * queries),
        "similarity": np.array([[0.9, 0.8]] * queries),
        "classes": ["cat & co", "<dog>"],
        "step": 19,
    }


def whole(folder: Path, std: float = 0.9) -> Path:
    """A run directory with every picture except those of evaluations."""
    directory(folder, std)
    keep(folder, observations())
    return folder


def text_of(html: str) -> str:
    body = re.sub(r"<script>.*</script>", "", html[html.index("<body>") :], flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def assert_only_ours_runs(html: str) -> None:
    """The page has one script, the package's; its policy forbids others, and loading or sending anything."""
    script = Path(pages.__file__).with_name("page.js").read_text()
    assert re.findall(r"<script.*?>(.*?)</script>", html, re.DOTALL) == [script]
    assert re.findall(r"https?://[^\"]*", script) == ["http://www.w3.org/2000/svg"] * script.count("http")
    assert not re.search(r"fetch|XMLHttp|import\b|WebSocket|sendBeacon|innerHTML|eval", script)
    assert not re.search(r"\son\w+=", html[: html.index("<script>")])
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" + digest + "'; "
    assert f"content=\"{policy}form-action 'none'; base-uri 'none'\"" in html


def test_the_page_is_complete_and_loads_nothing(tmp_path: Path) -> None:
    html = pages.render_page([load_run(whole(tmp_path / "some/1"))])
    found = Nesting(html)
    assert all(address.startswith("data:") for address in found.loaded)
    assert_only_ours_runs(html)
    assert len(set(found.ids)) == len(found.ids)
    assert {goal.removeprefix("#") for goal in found.goals} <= set(found.ids)
    assert html.count("cat &amp; co") > 2
    assert "<dog>" not in html


def test_the_page_shows_the_numbers_of_the_run(tmp_path: Path) -> None:
    text = text_of(pages.render_page([load_run(whole(tmp_path / "some/1"))]))
    assert "Learning : 3 pieces of evidence are for it" in text
    assert (
        "For learning: loss 2.50, by chance 6.20; two views share 1.20 ± 0.21 nats, untrained 0.10; projections spread"
        in text
    )
    assert "Not known: contrastive accuracy (add the callback Representation)" in text
    assert "40.0 %, at first 20.0 %" in text
    assert "2.500, at first 3.500" in text
    assert "seed_everything: 3" in text
    for row in ("14 2.5", "views of one image 0.6", "cat &amp; co 10"):
        assert row in text


def test_a_collapsed_run_is_distinguished_from_a_healthy_one(tmp_path: Path) -> None:
    folder = whole(tmp_path / "some/1", std=0.0)
    table = folder / "metrics.csv"
    table.write_text(table.read_text().replace("0.2,0.5,", "0.2,0.001,"))
    text = text_of(pages.render_page([load_run(folder)]))
    assert "Complete collapse : All images are at nearly the same point" in text
    assert "Learning :" not in text


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (("", ""), "healthy"),
        (("6.2,0.", "2.5,0."), "open"),  # the loss is at chance
        (("1.0,6.2\n", "0.0,6.2\n"), "open"),
        (("0.2,0.5,", "0.2,0.001,"), "open"),
        ((",6.2\n", ",0.7\n"), "open"),
    ],
)
def test_only_proven_learning_is_green(tmp_path: Path, change: tuple[str, str], shown: str) -> None:
    folder = whole(tmp_path / "some/1")
    table = folder / "metrics.csv"
    assert change == ("", "") or change[0] in table.read_text()
    table.write_text(table.read_text().replace(*change) if change[0] else table.read_text())
    html = pages.render_page([load_run(folder)])
    assert f'<div class="verdict {shown}">' in html
    assert html.count('<div class="verdict ') == 1


def test_a_run_that_learned_nothing_is_shown_as_such(tmp_path: Path) -> None:
    folder = whole(tmp_path / "some/1")
    table = folder / "metrics.csv"
    table.write_text(re.sub(r"1\.[02],6\.2\n", "0.01,6.2\n", table.read_text()))
    html = pages.render_page([load_run(folder)])
    assert '<div class="verdict ill">' in html
    assert "<strong>Not learning</strong>: Metrics of held-out images are no better than before training." in html


def test_a_run_that_has_just_begun_has_an_early_verdict(tmp_path: Path) -> None:
    folder = tmp_path / "some/1"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("name: some\n")
    text = text_of(pages.render_page([load_run(folder)]))
    assert "Is it learning?" not in text
    (folder / "metrics.csv").write_text("step,train/loss\n4,3.5\n")
    text = text_of(pages.render_page([load_run(folder)]))
    assert "Too early to tell : Nothing is measured yet, and a verdict needs two" in text


@pytest.mark.parametrize(("std", "said"), [(0.9, False), (0.001, True)])
def test_one_validation_is_not_enough_for_a_verdict(tmp_path: Path, std: float, said: bool) -> None:
    folder = whole(tmp_path / "some/1", std)
    table = folder / "metrics.csv"
    table.write_text("".join(line for line in table.open() if not line.startswith("0,9,")))
    text = text_of(pages.render_page([load_run(folder)]))
    assert "Too early to tell : It was measured at one validation, and a verdict needs two" in text
    assert ("Against it: complete collapse: all images" in text) == said


def test_several_runs_share_one_page(tmp_path: Path) -> None:
    runs = [whole(tmp_path / "some" / name, std) for name, std in (("1", 0.9), ("2", 0.8))]
    html = pages.render_page([load_run(run) for run in runs])
    Nesting(html)
    text = text_of(html)
    assert "step some/1 some/2 4 3.5 3.5" in text
    labels = re.findall(r'aria-label="([^"]+)"', html)
    assert {"Accuracy on validation images: val/knn", "Directions in use: representation/directions"} <= set(labels)
    assert html.count("nearest neighbours, most similar first") == 2
    for picture in ("Similarity of views", "Map of validation images", "Singular values", "Nearest neighbours"):
        panel = html[html.index(f"<h3>{picture}") :].split("<h3>")[1]
        assert re.findall("<h4>(.*?)</h4>", panel) == ["some/1", "some/2"]  # each picture names its run visibly
    assert html.count("map of validation images") == html.count("singular values of the features")


def test_differences_between_runs_come_first(tmp_path: Path) -> None:
    runs = [whole(tmp_path / "some" / name) for name in "12"]
    (runs[1] / "config.yaml").write_text("name: some\nseed_everything: 4\nmore: <b>\n")
    html = pages.render_page([load_run(run) for run in runs])
    first = html[html.index("<h2") : html.index("</section>")]
    assert 'id="apart">Differences' in first
    assert rows_of(first) == [["", "some/1", "some/2"], ["seed_everything", "3", "4"], ["more", "–", "<b>"]]
    same = text_of(pages.render_page([load_run(runs[0])] * 2))
    assert "Differences Their configs, code, versions and devices are the same." in same
    assert ">Differences<" not in pages.render_page([load_run(runs[0])])


def test_runs_of_one_name_are_named_by_folder(tmp_path: Path) -> None:
    runs = [whole(tmp_path / place / "some/1") for place in ("here", "there")]
    heads = re.findall("<h4>(.*?)</h4>", pages.render_page([load_run(run) for run in runs]))
    assert set(heads) == set(map(str, runs))


def test_the_page_shows_time_device_and_versions(cli: Cli) -> None:
    folder = cli([*TINY, "--trainer.log_every_n_steps=1"])
    told = dict(row for row in rows_of((folder / "report.html").read_text()) if len(row) == 2)
    assert told["Progress"] == "step 10 of 10, epoch 2"
    assert re.fullmatch(r"\d+ s taken", told["Time"])
    assert told["Device"] == "cpu × 1"
    assert told["Precision"] == "32-true"
    assert f"torch {torch.__version__.split('+')[0]}" in told["Versions"]
    assert told["Code"].split()[0] == str(code_version()).split()[0]
    assert {"val/knn", "chance"} <= {row[0] for row in rows_of((folder / "report.html").read_text()) if row}


def test_a_resumed_run_adds_up_its_time_and_shows_both_starts(cli: Cli) -> None:
    often = [*TINY, "--trainer.log_every_n_steps=1"]
    folder = cli([*often, "--trainer.callbacks+=tests.command.test_cli.StopAfterOne"])
    before = load_run(folder)
    assert cli([*often, "--ckpt_path=last"]) == folder
    run = load_run(folder)
    assert [start.get("ended") for start in run.starts] == [5, 10]
    steps, seconds = run.history["train/seconds"]
    assert steps.tolist() == list(range(10))
    np.testing.assert_array_equal(seconds[:5], before.history["train/seconds"][1])
    assert (np.diff(seconds) > 0).all()
    assert run.epoch == 5


def test_every_panel_has_a_picture_or_logged_metrics(cli: Cli) -> None:
    run = load_run(cli([*TINY, "--trainer.log_every_n_steps=1"]))
    spec = yaml.safe_load(Path(pages.__file__).with_name("panels.yaml").read_text())
    panels = [panel for section in spec for panel in section["panels"]]
    assert {panel["picture"] for panel in panels if "picture" in panel} == PICTURES.keys()
    shown = {metric for panel in panels for metric in panel.get("metrics", [])}
    assert shown - run.history.keys() == {"train/rotation_accuracy", "val/knn/*", "val/linear/*"}  # of others
    unseen = {"epoch", "train/probe_loss", "train/progress", "train/seconds", "val/images"}
    assert run.history.keys() - shown - unseen == set()
    assert len(panels) == len({panel["title"] for panel in panels})


@pytest.fixture
def evaluated(cli: Cli) -> Path:
    """The run directory of a pretraining, after an evaluation of its checkpoint."""
    run = cli(TINY)
    task = f"--config={CONFIGS / 'evaluate/knn.yaml'}"
    cli(["validate", task, f"--model.checkpoint={run}/checkpoints/last.ckpt", *EVALUATION])
    return run


def test_runs_and_evaluations_write_a_report(evaluated: Path) -> None:
    (evaluation,) = Path("runs/knn").iterdir()
    said = text_of((evaluation / "report.html").read_text())
    assert "Confusion" in said
    assert "Is it learning?" not in said
    before = text_of((evaluated / "report.html").read_text())
    assert "Nearest neighbours" in before
    assert "Result cards" not in before
    main([str(evaluated)])
    assert "pretrained" in text_of((evaluated / "report.html").read_text())


def test_the_command_line_compares_runs(tmp_path: Path) -> None:
    runs = [str(whole(tmp_path / "some" / name)) for name in "12"]
    out, _ = Program("simmim_pl.report", runs, tmp_path, environment()).communicate(120)
    assert out == "Written to report.html\n"
    assert "some/1 and some/2" in (tmp_path / "report.html").read_text()
    failed = Program("simmim_pl.report", ["nowhere"], tmp_path, environment())
    _, error = failed.communicate(120)
    assert failed.returncode == 2
    assert error.startswith("error: nowhere is not a run directory")
    assert error.count("\n") == 1


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Callable[..., Page]]:
    """``browser(path, **options)`` opens a page; any console message fails the test."""
    said: list[str] = []
    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

        def show(path: Path, **options: Any) -> Page:
            page = chromium.new_page(**options)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.on("requestfailed", lambda request: said.append(request.url))
            page.goto(path.resolve().as_uri())
            return page

        yield show
        chromium.close()
    assert said == []


def contrast(page: Page, selector: str) -> float:
    """WCAG contrast of a text colour and the page's background."""
    colours = page.eval_on_selector(
        selector, "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]"
    )

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted(map(luminance, colours))
    return (light + 0.05) / (dark + 0.05)


def test_a_full_disk_is_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = whole(tmp_path / "some/1")
    monkeypatch.setattr(os, "fsync", full)
    for more, file in (
        ([], folder / "report.html"),
        (["--output", str(tmp_path / "page.html")], tmp_path / "page.html"),
    ):
        with pytest.raises(SystemExit) as exit_:
            main([str(folder), *more])
        assert exit_.value.code == 2
        said = f"error: {file} cannot be written (no space left on device): free disk space.\n"
        assert capsys.readouterr().err == said


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works_in_light_and_dark_mode(evaluated: Path, browser: Callable[..., Page], scheme: str) -> None:
    main([str(evaluated)])
    page = browser(evaluated / "report.html", color_scheme=scheme, viewport={"width": 1200, "height": 800})
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
    for selector in ("h1", ".read", "caption", "strong", "nav a", "svg text"):
        assert contrast(page, selector) >= 4.5, selector
    assert page.locator("svg[role=img]").count() >= 15
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_the_page_is_accessible_by_keyboard_and_screen_reader(tmp_path: Path, browser: Callable[..., Page]) -> None:
    folder = whole(tmp_path / "some/1")
    main([str(folder)])
    page = browser(folder / "report.html", viewport={"width": 400, "height": 800})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the report"
    assert page.locator(".skip").bounding_box()["x"] >= 0  # type: ignore[index]
    closed = page.locator("details").first
    closed.locator("summary").focus()
    page.keyboard.press("Enter")
    assert closed.get_attribute("open") is not None
    tree = page.locator("body").aria_snapshot()
    assert 'img "Accuracy on validation images"' in tree
    assert 'heading "Is it learning?" [level=2]' in tree
    assert 'table "some/1: nearest neighbours' in tree
    assert page.locator("img:not([alt])").count() == 0
    widths = page.evaluate("[document.documentElement.scrollWidth, window.innerWidth]")
    assert widths[0] <= widths[1]  # no horizontal scrolling on a phone


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """The page of two runs with different scales and names."""
    folders = [tmp_path / name / "1" for name in ("short", "名前 " + "a-name-that-does-not-end-" * 4)]
    for folder, scale in zip(folders, (1.0, -1e6), strict=True):
        whole(folder)
        keep(folder, observations() | {"classes": ["猫", "a_class_that_does_not_end_" * 8]})
        rows = [f"{step // 20},{step},{(100 - step) * abs(scale) + 1},{scale * step},{6 * step}" for step in range(100)]
        head = "epoch,step,train/loss,representation/uniformity,train/seconds"
        (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n")
    main([*map(str, folders), "--output", str(tmp_path / "two.html")])
    return tmp_path / "two.html"


CUT = """() => [...document.querySelectorAll("svg[role=img] text, .legend li, h4, figcaption")].filter((text) => {
  const around = (text.closest("svg[role=img]") || text.closest("figure, .pictures > div")).parentElement;
  const [own, box] = [text, around].map((node) => node.getBoundingClientRect());
  return own.left < box.left - 1 || own.right > box.right + 1 || own.top < box.top - 1 || own.bottom > box.bottom + 1;
}).map((text) => text.textContent)"""


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.parametrize("script", [True, False], ids=["with the script", "without it"])
@pytest.mark.parametrize("width", [320, 1400])
def test_nothing_is_cut_off_at_any_width(two: Path, browser: Callable[..., Page], width: int, script: bool) -> None:
    page = browser(two, viewport={"width": width, "height": 800}, java_script_enabled=script)
    assert page.locator("svg[role=img] text").count() > 50
    assert page.evaluate(CUT) == []
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(".controls").is_visible() == script
    assert page.locator("svg[tabindex]").count() == (2 if script else 0)
    heading = page.locator(".panel h3").first  # of a panel of a user's metric, its name
    assert (
        heading.evaluate(
            "h => (h.textContent = 'test/Shapes/LinearProbe/accuracy/'.repeat(9), h.scrollWidth - h.clientWidth)"
        )
        == 0
    )


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
def test_curves_support_axes_logarithmic_scale_and_zoom(two: Path, browser: Callable[..., Page]) -> None:
    page = browser(two, viewport={"width": 1400, "height": 800})
    figure = page.locator("figure", has=page.get_by_role("img", name="Loss: train/loss"))
    chart = figure.get_by_role("img")

    def labels() -> list[str]:
        return chart.locator("text").all_text_contents()

    def read_at(share: float) -> dict[str, float]:
        """Under the pointer, at a share of the chart's width."""
        box = chart.bounding_box()
        assert box
        chart.hover(position={"x": share * box["width"], "y": box["height"] / 2})
        parts = figure.locator(".readout").inner_text().split(" · ")
        place, *values = [part.rsplit(" ", 1) for part in parts]
        return {"at": float(place[1]), **{name[:4]: float(value.rstrip("M")) for name, value in values}}

    assert labels()[-1] == "optimizer step"
    ends = [read_at(0.01), read_at(0.99)]
    assert ends[0] == {"at": 0, "shor": 101, "名前 a": 100}
    assert ends[1]["at"] == 99
    assert ends[1]["shor"] == 2
    page.get_by_label("epochs").check()
    assert labels()[-1] == "epoch"
    assert read_at(0.99)["at"] == 5
    page.get_by_label("wall clock").check()
    assert labels()[-1] == "wall clock, min"
    assert read_at(0.99)["at"] == pytest.approx(9.9)
    assert "1000" not in labels()
    page.get_by_label("logarithmic").check()
    assert {"10", "1000", "100k"} <= set(labels())
    page.get_by_label("steps").check()
    page.get_by_label("smoothing").fill("0.9")
    weights = 0.9 ** np.arange(99, -1, -1)
    expected = float((weights * np.arange(101, 1, -1)).sum() / weights.sum())
    assert read_at(0.99)["shor"] == pytest.approx(expected, rel=1e-3)
    box = chart.bounding_box()
    assert box
    read_at(0.5)
    page.mouse.down()
    read_at(0.7)
    page.mouse.up()
    assert read_at(0.01)["at"] > 35
    assert read_at(0.99)["at"] < 75
    page.get_by_role("button", name="Show all").click()
    assert read_at(0.01)["at"] == 0
    chart.focus()
    page.keyboard.press("ArrowRight")
    assert figure.locator(".readout").inner_text().startswith("optimizer step 1 ·")


def test_names_and_settings_are_escaped(tmp_path: Path) -> None:
    folder = whole(tmp_path / "<b>some" / "1")
    (folder / "config.yaml").write_text("name: <script>alert(1)</script>\n")
    html = pages.render_page([load_run(folder)])
    Nesting(html)
    assert_only_ours_runs(html)
    assert "<b>" not in html
    assert "&lt;b&gt;some/1" in html
