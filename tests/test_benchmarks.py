"""Benchmarks in small: the GPU's table is printed even if parts fail; recipes are screened and raced."""

import importlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.conftest import CONFIGS, NO_PICTURES, QUIET

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_sections_can_be_selected_and_the_first_is_measured(
    load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gpu, out = load("gpu"), tmp_path / "out.json"
    bench = gpu.Bench(smoke=True)
    assert {job.section for job in bench.jobs()} == set(gpu.SECTIONS)
    gpu.table(bench.jobs(), ["device"], 60, out)
    (row,) = json.loads(out.read_text())["rows"]
    assert row["figure"] > 0
    heading, _, line = capsys.readouterr().out.splitlines()
    assert heading == "| | figure | limit | share |"
    assert line.startswith("| matrix products in bfloat16 | ")


def test_a_failing_or_late_section_has_a_row_and_the_others_continue(
    load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    table = load("gpu_table")

    def works() -> Iterator[object]:
        yield table.Row("half", 1.5, "s", 3, "is the aim", "a note")

    def fails() -> Iterator[object]:
        yield table.Row("before", note="no GPU")
        raise ValueError("first line\nthis | that")

    jobs = [table.Job("one", "fails", fails), table.Job("one", "works", works), table.Job("other", "works", works)]
    table.table(jobs, ["one"], 60, tmp_path / "out.json")
    table.table(jobs, ["other"], 0, None)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:3] not in ("| |", "|--")]
    assert lines == [
        "| before | no GPU |  |  |",
        "| fails | ValueError: this / that |  |  |",
        "| half | 1.5 s; a note | 3, is the aim | 50 % |",
        "| works | skipped, the time limit was reached |  |  |",
    ]
    assert [row["name"] for row in json.loads((tmp_path / "out.json").read_text())["rows"]] == [
        "before",
        "fails",
        "half",
    ]


def test_a_trace_is_counted_per_batch_with_overlapping_kernels_once(load: Callable[[str], ModuleType]) -> None:
    counted = load("gpu_fit").counted

    def span(cat: str, name: str, ts: float, dur: float) -> dict:
        return {"ph": "X", "cat": cat, "name": name, "ts": ts, "dur": dur}

    trace = [
        *(span("cuda_runtime", "cudaLaunchKernel", start, 1) for start in range(4)),
        span("cuda_driver", "cuLaunchKernelEx", 9, 1),
        span("cuda_runtime", "cudaGraphLaunch", 10, 1),
        span("cuda_runtime", "cudaStreamSynchronize", 11, 1),
        span("cuda_runtime", "cudaDeviceSynchronize", 12, 1),  # the profiler's own
        span("kernel", "gemm", 100, 50),
        span("kernel", "beside it", 120, 60),  # 30 µs alone
        span("gpu_memcpy", "Memcpy DtoH (Device -> Pageable)", 300, 20),
        span("gpu_user_annotation", "Optimizer.step", 0, 1000),  # spans kernels but is not one
        {"ph": "i", "cat": "kernel", "name": "no span", "ts": 5},
    ]
    assert counted(trace, 2) == {
        "kernel launches": 2.5,
        "graph launches": 0.5,
        "waits": 0.5,
        "copies to the host": 0.5,
        "pageable copies": 0.5,
        "busy seconds": 50e-6,
    }


SMALL = [
    *(
        "--model.encoder.width=2",
        "--model.encoder.features=8",
        "--model.head.hidden_dim=8",
        "--model.head.output_dim=4",
    ),
    *("--data.batch_size=16", "--data.validation=10", "--data.views.size=8", "--data.final_views.size=8"),
    *("--trainer.precision=32-true", *QUIET[:2], *NO_PICTURES),
]


class InThisThread(ThreadPoolExecutor):
    """Runs a job when it is submitted: Lightning sets signal handlers, which only a main thread can."""

    def submit(self, work: Callable[..., Any], *args: Any) -> Future:  # type: ignore[override]
        done: Future = Future()
        try:
            done.set_result(work(*args))
        except RuntimeError as error:
            done.set_exception(error)
        return done


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch, cli: Callable[[list[str]], Path]) -> list[str]:
    """The subcommands of a benchmark, which run in this process."""
    words: list[str] = []

    def call(*args: str) -> None:
        words.append(args[0])
        try:
            cli([each for each in args if args[0] == "fit" or each not in NO_PICTURES])
        except SystemExit as stopped:
            raise RuntimeError("the last line of its errors") from stopped

    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(importlib.import_module("subcommand"), "call", call)
    monkeypatch.setattr(importlib.import_module("screen"), "ThreadPoolExecutor", InThisThread)
    for name in ("screen", "race"):
        monkeypatch.setattr(importlib.import_module(name), "call", call)
    return words


def pictures(folder: Path) -> Path:
    """Images of two classes that differ in colour."""
    for split, number in (("train", 50), ("test", 10)):
        for label, colour in (("a", "red"), ("b", "blue")):
            (folder / split / label).mkdir(parents=True)
            for at in range(number):
                image = Image.effect_noise((8, 8), at).convert("RGB")
                Image.blend(image, Image.new("RGB", (8, 8), colour), 0.5).save(folder / f"{split}/{label}/{at:02}.png")
    return folder


def test_recipes_are_screened_on_training_images_and_not_trained_again(
    called: list[str], load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    plan: dict[str, Any] = {"base": str(CONFIGS / "cifar10_fast.yaml"), "options": ["--trainer.precision=bf16-mixed"]}
    plan["recipes"] = {
        "the recipe": [],
        "broken": ["--model.loss.temperature=-1"],
        "hot": ["--model.loss.temperature=9"],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    images = pictures(tmp_path / "images")
    shutil.rmtree(images / "test")  # it is not needed
    small = [each for each in SMALL if "precision" not in each]
    command = [str(tmp_path / "plan.yaml"), "--flop=1e8", f"--images={images}", "--", *small]
    with pytest.raises(SystemExit, match="1"):
        load("screen").main(command)
    printed = capsys.readouterr()
    assert "broken: the last line of its errors\n" in printed.err
    assert called == ["fit", "validate", "fit", "fit", "validate"]
    *_, heading, _, first, second = printed.out.splitlines()
    assert heading == "| recipe | kNN, % | gain | linear probe, % | gain |"
    assert {line.split(" | ")[0] for line in (first, second)} == {"| the recipe", "| hot"}
    assert " ± " in f"{first}{second}"
    configs = [yaml.safe_load(path.read_text()) for path in tmp_path.glob("screens/plan/*/*/*/config.yaml")]
    assert [config["trainer"]["precision"] for config in configs] == ["bf16-mixed"] * 4  # trained and evaluated
    with pytest.raises(SystemExit, match="1"):
        load("screen").main(command)
    assert called[5:] == ["fit"]  # of the broken one
    assert capsys.readouterr().out.splitlines()[-4:] == [heading, printed.out.splitlines()[-3], first, second]


def test_gains_have_the_error_of_images_or_of_seeds(load: Callable[[str], ModuleType]) -> None:
    screen = load("screen")
    assert screen.with_error({"value": 0.8, "interval": [0.8 - 0.0392, 0.8 + 0.0392]}) == pytest.approx((0.8, 0.02))
    base, better = ([{"linear probe": (value, 0.01)} for value in values] for values in ([0.7, 0.72], [0.75, 0.75]))
    assert screen.gain(better[:1], base[:1], "linear probe") == pytest.approx((0.05, 0.01 * 2**0.5))
    assert screen.gain(better, base, "linear probe") == pytest.approx((0.04, 0.01))
    scores = {"base": base, "better": better, "worse": [{"linear probe": (0.6, 0.01)}] * 2}
    for found in scores.values():
        for each in found:
            each["kNN"] = (0.5, 0.01)
    lines = screen.table(scores).splitlines()[2:]
    assert lines[0] == "| better | 50.0 | +0.0 ± 1.0 | 75.0 | +4.0 ± 1.0 |"
    assert [line.split()[1] for line in lines] == ["better", "base", "worse"]
    far = [{"linear probe": (value, 0.0)} for value in (0.7, 0.92)]
    assert screen.gain(far, base, "linear probe") == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("final_views", "seconds"), [("null", 1 / 500), ("{class_path: Views}", 0.5 / 20 + 0.5 / 550)], ids=["one", "two"]
)
def test_steps_in_a_budget_of_time_follow_from_the_measured_speed(
    monkeypatch: pytest.MonkeyPatch, load: Callable[[str], ModuleType], tmp_path: Path, final_views: str, seconds: float
) -> None:
    screen = load("screen")
    data = f"{{batch_size: 50, final_share: 0.5, final_views: {final_views}}}"

    def call(*args: str) -> None:
        assert "--trainer.max_steps=40" in args
        run = tmp_path / "speed/1"
        run.mkdir(parents=True)
        (run / "config.yaml").write_text(f"data: {{init_args: {data}}}")
        rates = ["", 10, 20, "", 400, 500, 600]
        (run / "metrics.csv").write_text("\n".join(["step,train/images_per_second", *(f"0,{rate}" for rate in rates)]))

    monkeypatch.setattr(screen, "call", call)
    shared = screen.Screen(Path("base"), None, None, 2.0, 40, (), tmp_path)
    assert shared.steps(["fit"], tmp_path) == round(2 * 60 / seconds / 50)
    monkeypatch.setattr(screen, "call", None)
    assert shared.steps(["fit"], tmp_path) == round(2 * 60 / seconds / 50)


def test_the_speed_of_a_run_is_the_mean_over_both_kinds_of_its_views(load: Callable[[str], ModuleType]) -> None:
    rates = [1.0, 2.0, 200.0, 200.0, 200.0, 200.0, 3.0, 50.0]
    of = load("screen").seconds_per_image
    assert of(rates, 0.25) == pytest.approx(0.75 / 200 + 0.25 / 50)
    assert of(rates[2:6], 0.0) == pytest.approx(1 / 200)
    for few, share in (([], 0.0), ([200.0, 200.0], 0.15)):
        with pytest.raises(RuntimeError, match="raise --timed_steps"):
            of(few, share)


def test_a_race_reports_time_and_accuracy_on_test(
    called: list[str], load: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    images = ["--config", str(CONFIGS / "cifar10_fast.yaml"), f"--images={pictures(tmp_path / 'images')}"]
    load("race").main([*images, "--seeds", "3", "--", *SMALL, "--trainer.max_epochs=1"])
    *_, line = capsys.readouterr().out.splitlines()
    _, seed, minutes, knn, probe, reached, card, _ = line.split("|")
    assert (int(seed), called) == (3, ["fit", "validate"])
    (kept,) = tmp_path.glob("race/*/race.json")
    assert f"{json.loads(kept.read_text())['minutes']:.1f}" == minutes.strip()
    assert 0 < json.loads(kept.read_text())["minutes"] < 5
    assert reached.strip() == ("yes" if float(knn.split()[0]) >= 90 else "no")
    results = json.loads(Path(card.strip()).read_text())["results"]
    assert [each["data"] for each in results] == ["images"] * 2
    assert results[0]["chosen"] == {"k": 10, "temperature": None}  # the race's rule; test_knn has scikit-learn's votes
    assert 100 * results[1]["metrics"]["accuracy"]["value"] == pytest.approx(float(probe.split()[0]), abs=0.006)
    load("race").main([*images, "--seeds", "3", "--", *SMALL, "--trainer.max_epochs=1"])
    assert called == ["fit", "validate"]


rarely = pytest.mark.skipif(os.environ.get("LONG") != "1", reason="six seconds, as the other plan: make test-long")


@pytest.mark.parametrize("path", ["gpu", pytest.param("cifar10_fast", marks=rarely)])
def test_the_command_line_accepts_every_recipe_of_a_plan(
    cli: Callable[[list[str]], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: str
) -> None:
    plan = yaml.safe_load((BENCHMARKS / f"screens/{path}.yaml").read_text())
    assert next(iter(plan["recipes"].values())) == []
    monkeypatch.chdir(BENCHMARKS.parent)
    configs = set()
    for name, recipe in plan["recipes"].items():
        with pytest.raises(SystemExit) as stopped:
            cli(["fit", f"--config={plan['base']}", *plan.get("options", []), *recipe, "--print_config"])
        config, errors = capsys.readouterr()
        assert stopped.value.code == 0, f"{name}: {errors}"
        configs.add(config)
    assert len(configs) == len(plan["recipes"])  # every recipe changes something
