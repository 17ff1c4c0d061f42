"""On a GPU: training equals a CPU's, resuming is bit-identical, bfloat16, compilation and evaluation work."""

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from simmim_pl.views import ContrastiveViews
from tests.conftest import CONFIGS, EVALUATION, TINY
from tests.ranks import run
from tests.runtime.test_resume import assert_same, ending, lines, only_run
from tests.test_parity import BASE, BYOL, DOUBLE, MASKED, MOCO_V3, SGD, difference

pytestmark = pytest.mark.cuda
Cli = Callable[[list[Any]], Path]
ON_A_GPU = "--trainer.accelerator=gpu"


class OfTheHost(ContrastiveViews):
    """Makes views on the CPU, because devices draw different numbers from the same seed."""

    def forward(self, image: Tensor, generator: torch.Generator) -> Tensor:
        own = torch.Generator().manual_seed(generator.initial_seed())
        return super().forward(image.cpu(), own).to(image.device)


ROTATION = ["--model=simmim_pl.methods.Rotation"]
# BatchNorm over as few units multiplies rounding by a hundred in a large step.
SMALL_STEPS = [*SGD, "--model.optimizer.lr=0.001"]
HOST = ["--data.views=tests.test_cuda.OfTheHost", "--data.views.size=16"]
CASES = {
    "nt-xent": ["--model.encoder.width=2"],
    "decoupled, local views, sgd": [
        *("--model.loss.decoupled=true", *SGD, "--data.local_views=tests.test_cuda.OfTheHost"),
        *("--data.local_views.size=8", "--data.local_views.scale=[0.1,0.3]"),
    ],
    "resnet": ["--model.encoder=simmim_pl.encoders.ResNet", "--model.channels_last=true", *SGD, "--data.batch_size=8"],
    "muon": ["--model.optimizer=simmim_pl.optimizers.Muon"],
    "gradient cache": ["--model.gradient_cache=2"],
    "byol": [*BYOL, *SMALL_STEPS],
    "moco v3": [*MOCO_V3, *SMALL_STEPS],
    "rotation": [*ROTATION, *SGD],
}


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_trains_like_a_cpu_in_float64(cli: Cli, case: str) -> None:
    runs = [cli([*BASE, DOUBLE, *HOST, *CASES[case], *device]) for device in ([], [ON_A_GPU])]
    cpu, gpu = (torch.load(each / "journal.pt", map_location="cpu") for each in runs)
    assert len(cpu) == len(gpu) == 5
    for one, other in zip(cpu, gpu, strict=True):
        assert other["loss"] == pytest.approx(one["loss"], abs=1e-10)
        assert difference(one["gradients"], other["gradients"]) < 1e-10
        assert max(gradient.abs().max().item() for gradient in one["gradients"].values()) > 1e-3


@pytest.mark.parametrize("options", [{}, {"blur": 0.5, "solarize": 0.2, "hue": 0.5}], ids=["simclr", "all"])
def test_gpu_views_equal_cpu_views_for_the_same_parameters(options: dict[str, float]) -> None:
    image = torch.randint(0, 256, (64, 3, 40, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views = ContrastiveViews(32, **options)  # type: ignore[arg-type]
    here = views(image, torch.Generator().manual_seed(1))
    there = views(image.cuda(), torch.Generator().manual_seed(1))
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, atol=1e-4, rtol=0)


@pytest.fixture
def deterministic() -> Iterator[str]:
    """Use deterministic algorithms, with a warning for operations without one, such as exact counting."""
    yield "--trainer.deterministic=warn"
    torch.use_deterministic_algorithms(False)


RESUMED = {
    "float32": [],
    "bfloat16, muon": ["--trainer.precision=bf16-mixed", "--model.optimizer=simmim_pl.optimizers.Muon"],
    "gradient cache": ["--model.gradient_cache=3"],
    "byol": BYOL,
    "moco v3": MOCO_V3,
    "rotation": ROTATION,
    "masked images": MASKED,
}


@pytest.mark.parametrize("case", RESUMED)
def test_a_stopped_run_resumes_bit_identically(cli: Cli, tmp_path: Path, deterministic: str, case: str) -> None:
    args = lines(1, *RESUMED[case], ON_A_GPU, deterministic)
    copies = ["--trainer.callbacks.batches=[3,8]", f"--trainer.callbacks.folder={tmp_path}"]
    cli([*args, "--runs=whole", "--trainer.callbacks+=tests.ranks.Snapshots", *copies])
    whole = ending(only_run("whole"))
    for batch in (3, 8):
        cli([*args, f"--runs=stopped{batch}", "--ckpt_path=last"])
        assert_same(whole, ending(only_run(f"stopped{batch}")))


def test_a_gpu_run_resumes_on_a_cpu(cli: Cli) -> None:
    cli([*TINY, ON_A_GPU, "--trainer.max_epochs=1"])
    gone_on = cli([*TINY, "--ckpt_path=last"])
    assert torch.load(gone_on / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 10


def losses(run: Path) -> list[float]:
    """Losses of every logged step."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


SHORT = [*BASE, *HOST, ON_A_GPU]
METHODS = {
    "contrastive": [],
    "byol": [*BYOL, *SMALL_STEPS],
    "moco v3": [*MOCO_V3, *SMALL_STEPS],
    "rotation": ROTATION,
    "masked images": MASKED,
}
SLACK = {"byol": 4, "moco v3": 4}  # BatchNorm over as few units multiplies rounding


@pytest.mark.parametrize("method", METHODS)
def test_pretraining_is_in_bfloat16_and_has_the_losses_of_float32(cli: Cli, method: str) -> None:
    args = [*SHORT, *METHODS[method]]
    lower = cli([arg for arg in args if "precision" not in arg])
    assert yaml.safe_load((lower / "config.yaml").read_text())["trainer"]["precision"] == "bf16-mixed"
    found, exact = losses(lower), losses(cli(args))
    assert found != exact
    assert found == pytest.approx(exact, abs=0.05 * SLACK.get(method, 1))


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_run_has_the_losses_of_an_eager_run(cli: Cli, tmp_path: Path, method: str) -> None:
    args = [*SHORT, *METHODS[method]]
    # In a separate process: the shape checks of these tests would be compiled too.
    run(1, [[*args, "--model.compile=true", "--runs=compiled"]], tmp_path)
    (compiled,) = tmp_path.glob("compiled/*/*")
    assert losses(compiled) == pytest.approx(losses(cli(args)), abs=1e-3 * SLACK.get(method, 1))


def test_an_evaluation_equals_that_on_a_cpu(cli: Cli, pretrained: Path) -> None:
    args = ["validate", f"--config={CONFIGS / 'evaluate/linear.yaml'}", *EVALUATION]
    args += ["--model.protocols+=simmim_pl.evaluation.KNN", f"--model.checkpoint={pretrained}", "--model.cache=false"]
    found = []
    for device in ([], [ON_A_GPU]):
        card = json.loads((cli([*args, *device]) / "result.json").read_text())
        found.append([each["metrics"]["accuracy"]["value"] for each in card["results"]])
    assert len(found[0]) == 6
    assert found[1] == pytest.approx(found[0], abs=0.021)  # two of 100 images
