"""Probes on labelled sets: the same as scikit-learn's, without any effect on the run. On ranks: test_parity."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from simmim_pl import load_encoder
from simmim_pl.callbacks import Checkpoint, LabelledProbe
from simmim_pl.callbacks.extracted import resized
from simmim_pl.contracts import Batch, Features, InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.data.source import InMemory, Source, Split
from simmim_pl.report.page import render_page
from simmim_pl.report.run import load_run
from tests.callbacks.test_online_probe import Gradients, Unlabelled, fit, method
from tests.conftest import CONFIGS, EVALUATION, NO_PICTURES, SHAPES, TINY, isolate, newest_run
from tests.report.test_tables import rows_of

SIZES = {"train": 200, "test": 10, "size": 24, "copies": 1}  # larger than the training images, of 16 pixels


class Few(Source):
    """Three images of two classes, fewer than one for each of three ranks in either part."""

    classes = ["dark", "light"]  # noqa: RUF012

    def load(self, split: Split) -> InMemory:
        assert split == "train"
        label = torch.tensor([0, 1, 1])
        return InMemory((60 + 120 * label).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 16, 16), label)


class Gone(Source):
    """A set that is not here."""

    def prepare(self) -> None:
        raise InputError("It is not here.")

    def load(self, split: Split) -> InMemory:
        raise InputError("It is not here.")


FIT = [
    *(arg for arg in TINY if arg not in SHAPES),
    *("--data.source=tests.callbacks.test_online_probe.Unlabelled", "--data.batch_size=16", "--data.validation=40"),
    *("--data.labelled.figures=simmim_pl.data.Shapes", *(f"--data.labelled.figures.{k}={v}" for k, v in SIZES.items())),
    *("--data.labelled.few=tests.callbacks.test_labelled_probe.Few", "--data.labelled_images=120"),
    *("--trainer.precision=64-true", "--trainer.check_val_every_n_epoch=1", *NO_PICTURES),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run without labels and with two labelled sets."""
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("labelled"))
        return newest_run(FIT)


def measured(run: Path) -> dict[str, list[float]]:
    return {name: values.tolist() for name, (_, values) in load_run(run).history.items() if name.startswith("val/")}


def test_every_set_has_its_own_metrics(trained: Path) -> None:
    found = measured(trained)
    kinds = ["chance", "images", "knn", "knn_untrained", "linear", "linear_untrained"]
    assert sorted(found) == sorted(f"val/{kind}/{name}" for kind in kinds for name in ("figures", "few"))
    assert all(len(values) == 2 for values in found.values())
    assert found["val/images/figures"] == [40, 40]
    assert found["val/images/few"] == found["val/chance/few"] == [1, 1]
    assert len(set(found["val/knn_untrained/figures"])) == 1
    assert found["val/linear_untrained/figures"] != found["val/linear/figures"]


def test_they_equal_scikit_learns(trained: Path) -> None:
    data = ImageDataModule(Unlabelled(), labelled={"figures": Shapes(**SIZES)}, labelled_images=120)
    data.setup("fit")
    encoder = load_encoder(trained / "checkpoints/last.ckpt")
    rows = []
    for part in ("train", "validation"):
        (batch,) = data.labelled_sets["figures"].dataloader(part)  # type: ignore[arg-type]
        with torch.no_grad():
            rows.append((encoder(resized(batch["image"], 16, 16) / 255).pooled.double().numpy(), batch["label"]))
    bank, (queries, truth) = rows
    knn = KNeighborsClassifier(20, metric="cosine", weights=lambda d: np.exp((1 - d) / 0.1), algorithm="brute")
    linear = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000))
    found = measured(trained)
    for name, model in (("knn", knn), ("linear", linear)):
        expected = accuracy_score(truth, model.fit(*bank).predict(queries))
        assert found[f"val/{name}/figures"][-1] == pytest.approx(expected, abs=1e-6)


def test_an_evaluation_says_that_they_are_for_fit_and_does_not_load_them(
    trained: Path, cli: Callable[[list[Any]], Path], caplog: pytest.LogCaptureFixture
) -> None:
    gone, knn = "--data.labelled=tests.callbacks.test_labelled_probe.Gone", f"--config={CONFIGS / 'evaluate/knn.yaml'}"
    checkpoint = f"--model.checkpoint={trained / 'checkpoints/last.ckpt'}"
    cli(["validate", knn, *EVALUATION, gone, checkpoint, "--model.baselines=false"])
    assert "--data.labelled is for fit: to evaluate on a set, give it as --data or --model.transfer." in caplog.text


def test_the_report_has_a_line_for_every_set_and_the_verdict_names_them(trained: Path) -> None:
    run = load_run(trained)
    page = render_page([run])
    rows = {row[0]: row for row in rows_of(page) if row}
    for name in ("figures", "few"):
        assert len(rows[name]) == 7
        assert rows[name][1] == f"{100 * run.last(f'val/knn/{name}'):.1f} %"
        assert {f"val/knn/{name}", f"val/linear/{name}"} <= rows.keys()
    assert rows["figures"][-1] == "40"
    assert "<h3>val/" not in page  # nothing is left for the panels of other metrics
    verdict = str(run.verdict())
    assert "kNN accuracy on few" in verdict
    assert "kNN accuracy on figures" in verdict


def test_the_run_is_the_same_to_the_bit_with_and_without_it(tmp_path: Path) -> None:
    (bare, plain), (beside, watched) = ((Gradients(), method()) for _ in range(2))
    fit(tmp_path, bare, module=plain, source=Unlabelled())
    drawn = torch.rand(4)
    trainer = fit(tmp_path, beside, LabelledProbe(), module=watched, source=Unlabelled(), labelled=Few())
    assert torch.equal(torch.rand(4), drawn)
    assert "val/knn/Few" in trainer.callback_metrics
    assert all(torch.equal(*pair) for pair in zip(bare.seen, beside.seen, strict=True))
    after = watched.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in plain.state_dict().items())


def test_a_resumed_run_measures_the_same_and_a_new_set_too(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                raise RuntimeError("stopped")

    def labelled(*names: str) -> dict[str, Any]:
        return {"labelled": {name: Shapes(train=60, test=10, size=16, copies=1) for name in names}}

    whole = fit(tmp_path / "whole", LabelledProbe(), source=Unlabelled(), **labelled("one"))
    half = [LabelledProbe(), Checkpoint(), Stop()]
    with pytest.raises(RuntimeError, match="stopped"):
        fit(tmp_path, *half, source=Unlabelled(), enable_checkpointing=True, **labelled("one"))
    last = tmp_path / "checkpoints/last.ckpt"
    rest = fit(tmp_path, LabelledProbe(), source=Unlabelled(), ckpt_path=last, **labelled("two", "one"))
    found = {name: value.item() for name, value in rest.callback_metrics.items() if name.startswith("val/")}
    expected = {name: value.item() for name, value in whole.callback_metrics.items() if name.startswith("val/")}
    assert {name: value for name, value in found.items() if name.endswith("one")} == expected
    new = {name: value for name, value in found.items() if name.endswith("two")}
    assert set(new) == {f"val/{kind}/two" for kind in ("knn", "linear", "chance", "images")}  # no untrained network
    assert new["val/knn/two"] == found["val/knn/one"]


def test_without_validation_a_message_says_that_nothing_is_measured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tmp_path, LabelledProbe(), source=Unlabelled(), labelled=Few(), limit_val_batches=0, max_epochs=1)
    assert "Labelled sets are evaluated at validations, and this run has none" in caplog.text


class Given(nn.Module):
    """Features of images by their first pixel."""

    device = torch.device("cpu")

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        self.features, self.encoder = features, SimpleNamespace(embed_dim=features.shape[1])

    def forward(self, image: Tensor) -> Features:
        return Features(self.features[(255 * image[:, 0, 0, 0]).round().long()], image)


class Own:
    """A labelled set of a datamodule from elsewhere."""

    classes = ("a", "b")

    def dataloader(self, part: str) -> list[Batch]:
        number = torch.arange(12)
        image = number.to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 3, 4, 4)
        return [{"image": image, "label": number % 2}]


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        (torch.eye(2)[torch.arange(12) % 2], 1.0),
        (torch.ones(12, 5), 0.5),  # of a collapsed network
        (torch.full((12, 5), torch.nan), None),
    ],
)
def test_accuracy_follows_the_features(features: Tensor, expected: float | None) -> None:
    trainer: Any = SimpleNamespace(precision_plugin=SimpleNamespace(forward_context=nullcontext))
    found = LabelledProbe(k=3).measured(trainer, Given(features), Own())
    assert {name: value.item() for name, value in found.items()} == (
        {} if expected is None else {"knn": expected, "linear": expected, "chance": 0.5, "images": 12.0}
    )


def test_another_set_of_the_same_name_does_not_get_its_baseline(
    trained: Path, cli: Callable[[list[Any]], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli(
            [
                *FIT,
                "--data.labelled_images=90",
                "--trainer.max_epochs=3",
                f"--ckpt_path={trained}/checkpoints/last.ckpt",
            ]
        )
    assert (
        "error: The labelled set figures has other images, classes or --data.labelled_images" in capfd.readouterr().err
    )
