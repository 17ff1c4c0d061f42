"""Shape annotations of the package are checked in all tests; outside tests they cost nothing.

Tests use only the CPU, unless ``GPU=1`` is set (`make test-gpu`).
"""

import os

if os.environ.get("GPU") == "1":
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise products may differ in the last bit
else:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch reads it; child processes inherit it

from collections.abc import Callable
from pathlib import Path

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# Python's numeric tower: an int is accepted as a float.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
ROOT = Path(__file__).parents[1]


def annotates_shapes(file: Path) -> bool:
    """Whether signatures in the file have shapes. mypy checks the rest; Triton cannot compile a decorated kernel."""
    text = file.read_text(encoding="utf-8")
    return "from jaxtyping import" in text and "import triton" not in text


def module_name(file: Path) -> str:
    """The import path of a Python file."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


shaped = [module_name(file) for file in sorted((ROOT / "simmim_pl").rglob("*.py")) if annotates_shapes(file)]
install_import_hook(shaped, "tests.conftest.checked")

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

# A slow or busy processor is not a failure.
settings.register_profile("any processor", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any processor")

torch.set_num_threads(1)  # the tests' tensors are small: more threads would only wait for each other

CONFIGS = ROOT / "configs"
# Options for a small fit: 200 images of one copy each.
SHAPES = [
    f"--data={CONFIGS / 'data/shapes.yaml'}",
    *(f"--data.source.{key}={value}" for key, value in {"train": 200, "test": 100, "size": 16, "copies": 1}.items()),
]
QUIET = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]
EVALUATION = [*SHAPES, *QUIET, "--trainer.enable_model_summary=false"]
# Two epochs of five steps; a network with 16 features.
TINY = [
    *("fit", f"--config={CONFIGS / 'quickstart.yaml'}", *SHAPES, *QUIET),
    *("--data.batch_size=32", "--model.encoder.width=2", "--model.head.hidden_dim=8", "--model.head.output_dim=4"),
    *("--trainer.max_epochs=2", "--trainer.precision=32-true", "--trainer.enable_model_summary=false"),
]
NO_PICTURES = [f"--callbacks.{name}=null" for name in ("embedding_map", "pictures", "dashboard", "report")]


# The slowest files start first, so that no process is idle at the end.
LONGEST = [
    *("runtime/test_resume", "test_parity", "test_notebooks", "test_bad_input", "command/test_cli", "test_failures"),
    *("runtime/test_lost_ranks", "gpu/test_support", "callbacks/test_collapse_monitor", "test_extending", "test_nodes"),
    *("runtime/test_atomic", "runtime/test_precision", "runtime/test_distributed", "runtime/test_sync_batchnorm"),
    *("report/test_page", "evaluation/test_evaluation", "test_resume_changed", "callbacks/test_checkpoint"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort tests by file, the slowest files first."""
    place = {f"tests/{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.nodeid.split("::")[0], len(place)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked ``cuda`` without a GPU."""
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a GPU, and GPU=1 to see it")


def isolate(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run in an empty folder, without the test runner's arguments, and send nothing to W&B."""
    patch.chdir(folder)
    patch.setenv("WANDB_MODE", "disabled")
    patch.setenv("SIMMIM_DATA_DIR", str(folder / "data"))
    patch.setattr("sys.argv", ["simmim_pl"])


def newest_run(args: list[str]) -> Path:
    """Run the command line here; return its new or resumed run directory, or this folder if there is none."""
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
    """Draw reports, half a second each, only in tests marked ``drawn`` and in separate processes."""
    if "drawn" not in request.keywords:
        monkeypatch.setattr("simmim_pl.report.page.write_report", lambda folders, path: None)


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last.ckpt of a tiny quickstart run; its run directory has config.yaml and metrics.csv."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("pretrained"))
        path = newest_run(TINY) / "checkpoints/last.ckpt"
    return path
