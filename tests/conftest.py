"""Shape and type annotations of the package are checked throughout the tests; they cost nothing outside them.

Tests are a CPU's, whatever the machine has: only with ``GPU=1`` do they see a GPU (`make test-gpu`).
"""

import os

if os.environ.get("GPU") == "1":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # or its products may differ in a bit
else:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch asks; processes that tests start inherit it

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Python's numeric tower: an int is welcome where a float is asked for.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("simmim_pl", "tests.conftest.checked")

from collections.abc import Callable  # noqa: E402, after the hook
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# A slow or busy processor is no failure.
settings.register_profile("any processor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any processor")

torch.set_num_threads(
    1
)  # the tests' tensors are small: threads would only wait for each other, and other jobs for them

CONFIGS = Path(__file__).parents[1] / "configs"
# Any fit, made small: 200 images of one copy each.
SHAPES = [
    f"--data={CONFIGS / 'data/shapes.yaml'}",
    *(f"--data.source.{key}={value}" for key, value in {"train": 200, "test": 100, "size": 16, "copies": 1}.items()),
]
QUIET = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
EVALUATION = [*SHAPES, *QUIET, "--trainer.enable_model_summary=false"]
# Two epochs of five steps of a network of 16 features.
TINY = [
    *("fit", f"--config={CONFIGS / 'quickstart.yaml'}", *SHAPES, *QUIET),
    *("--data.batch_size=32", "--model.encoder.width=2", "--model.head.hidden_dim=8", "--model.head.output_dim=4"),
    *("--trainer.max_epochs=2", "--trainer.precision=32-true", "--trainer.enable_model_summary=false"),
]
NO_PICTURES = [f"--callbacks.{name}=null" for name in ("embedding_map", "pictures", "dashboard", "report")]


# The files that take longest begin first, or one of two processes would have nothing to do while the other ends them.
LONGEST = [
    *("runtime/test_resume", "test_parity", "test_notebooks", "test_bad_input", "command/test_cli", "test_failures"),
    *("runtime/test_lost_ranks", "gpu/test_support", "callbacks/test_collapse_monitor", "test_extending", "test_nodes"),
    *("runtime/test_atomic", "runtime/test_precision", "runtime/test_distributed", "runtime/test_sync_batchnorm"),
    *("report/test_page", "evaluation/test_evaluation", "test_resume_changed", "callbacks/test_checkpoint"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests by file, those of the longest files first."""
    place = {f"tests/{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that are marked ``cuda`` need a GPU."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and GPU=1 to see it")


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """As a shell in an empty folder: nothing of the test runner's command line, nothing sent to W&B."""
    patch.chdir(folder)
    patch.setenv("WANDB_MODE", "disabled")
    patch.setenv("SIMMIM_DATA_DIR", str(folder / "data"))
    patch.setattr("sys.argv", ["simmim_pl"])


def newest_run(args: list[str]) -> Path:
    """Run the command line here; the run directory that it made or went on in, or this folder when there is none."""
    from simmim_pl.command.cli import main

    before = set(Path.cwd().glob("runs/[!.]*/*"))
    main([str(arg) for arg in args])
    made = set(Path.cwd().glob("runs/[!.]*/*")) - before
    resumed = [path.parents[1] for path in Path.cwd().glob("runs/*/*/checkpoints/last.ckpt")]
    return max(made, default=max(resumed, key=lambda run: run.stat().st_mtime, default=Path.cwd()))


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[list[str]], Path]:
    """``cli([verb, ...])`` runs the command line in ``tmp_path`` and returns its run directory; SystemExit passes."""
    isolate(monkeypatch, tmp_path)
    return newest_run


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports, half a second each, are drawn only by tests that are marked ``drawn``, and in processes of their own."""
    if "drawn" not in request.keywords:
        monkeypatch.setattr("simmim_pl.report.page.write_report", lambda folders, path: None)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last.ckpt of a tiny quickstart run; config.yaml and metrics.csv lie beside its folder."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("pretrained"))
        path = newest_run(TINY) / "checkpoints/last.ckpt"
    return path
