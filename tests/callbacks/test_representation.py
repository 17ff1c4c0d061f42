"""Representation metrics equal NumPy's, and the callback does not change the run."""

import csv
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist
from scipy.stats import entropy

from simmim_pl.callbacks import Representation
from simmim_pl.callbacks.projections import projections
from simmim_pl.methods import Contrastive
from simmim_pl.metrics import MutualInformation
from simmim_pl.runtime.seeding import make_generator
from simmim_pl.views import ContrastiveViews
from tests.callbacks.test_online_probe import Dropping, FastCNN, Gradients, Unlabelled, fit, method
from tests.conftest import TINY
from tests.ranks import run

LOGGED = {
    *(
        f"representation/{name}"
        for name in ("rankme", "std", "directions", "alignment", "uniformity", "contrastive_accuracy")
    ),
    *(f"information/{name}" for name in ("infonce", "ceiling", "nwj", "smile", "infonce_untrained")),
    "representation/contrastive_accuracy_untrained",
}


@pytest.mark.parametrize("kind", [FastCNN, Dropping])
def test_the_run_is_the_same_to_the_bit_with_and_without_it(tmp_path: Path, kind: type[FastCNN]) -> None:
    (bare, plain), (beside, watched) = ((Gradients(), method(kind)) for _ in range(2))
    fit(tmp_path, bare, module=plain)
    drawn = torch.rand(4)
    fit(tmp_path, beside, Representation(images=20), module=watched)
    assert torch.equal(torch.rand(4), drawn)
    assert all(torch.equal(*pair) for pair in zip(bare.seen, beside.seen, strict=True))
    after = watched.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in plain.state_dict().items())


def test_logged_metrics_equal_the_references(tmp_path: Path) -> None:
    module, watch = method(), Representation(images=30)
    trainer = fit(tmp_path, watch, module=module)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items()}
    assert set(logged) >= LOGGED
    module.eval()
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    with torch.no_grad():  # three batches of 16, 16 and 8 images, of which ten, ten and eight are used
        batches = [batch["image"] for batch in data.val_dataloader()]
        features = module(torch.cat(batches).float() / 255).pooled.double().numpy()
        views = [data.views(image[:10], make_generator(0, -1 - i, image.device)) for i, image in enumerate(batches)]
        z = torch.cat([module.project(pair)[1] for pair in views], dim=1)
    singular = np.linalg.svd(features, compute_uv=False)
    assert logged["representation/rankme"] == pytest.approx(np.exp(entropy(singular)), rel=1e-3)
    unit = z.double().numpy() / np.linalg.norm(z.double().numpy(), axis=-1, keepdims=True)
    centred = np.linalg.svd(unit[0] - unit[0].mean(0), compute_uv=False)
    assert logged["representation/directions"] == pytest.approx(np.exp(entropy(centred**2)), rel=1e-3)
    assert logged["representation/std"] == pytest.approx(unit[0].std(0).mean() * math.sqrt(z.shape[-1]), rel=1e-3)
    assert logged["representation/alignment"] == pytest.approx(((unit[0] - unit[1]) ** 2).sum(1).mean(), rel=1e-3)
    potential = np.exp(-2 * pdist(unit[0], "sqeuclidean")).mean()
    assert logged["representation/uniformity"] == pytest.approx(np.log(potential), rel=1e-3)
    assert logged["information/ceiling"] == pytest.approx(math.log(14))
    expected = MutualInformation()
    expected.update(z)
    for name, value in expected.compute().items():
        assert logged[f"information/{name}"] == pytest.approx(value.item(), abs=1e-4)
    assert watch.found["positive"].sum() == 28  # one pair of views of each image
    assert len(watch.found["singular"]) == features.shape[1]


def test_the_untrained_network_is_measured_in_the_same_way(tmp_path: Path) -> None:
    """Nothing is trained here, so both are equal once BatchNorm has the statistics of the same views."""
    module = method()
    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)

    class Settled(Representation):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            if len(self.metrics) == 0 and trainer.global_step:
                for part in pl_module.modules():
                    if isinstance(part, torch.nn.BatchNorm2d):
                        part.train()
                        part.momentum = 1.0
                projections(trainer, pl_module, rest[1]["image"], 0)
                pl_module.eval()
            super().on_validation_batch_end(trainer, pl_module, *rest)

    logged = fit(tmp_path, Settled(images=40), module=module, max_epochs=1).callback_metrics
    for name in ("information/infonce", "representation/contrastive_accuracy"):
        assert logged[f"{name}_untrained"].item() == pytest.approx(logged[name].item(), abs=1e-5)


def test_views_are_made_in_full_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[torch.dtype] = []
    module, project = method(), Contrastive.project
    monkeypatch.setattr(Contrastive, "project", lambda self, v: (kinds.append(v.dtype), project(self, v))[1])
    views = ContrastiveViews(size=20, blur=0.5)
    fit(tmp_path, Representation(images=20), module=module, views=views, precision="bf16-mixed")
    assert set(kinds) == {torch.float32}


def test_the_views_are_the_same_at_every_validation(tmp_path: Path) -> None:
    module = method()
    for parameter in module.parameters():
        parameter.requires_grad_(False)  # nothing is trained, so only the views could differ
    module.head.mlp[0].weight.requires_grad_()
    seen: list[dict[str, float]] = []

    class Keep(Representation):
        def on_validation_epoch_end(self, *args: Any) -> None:
            super().on_validation_epoch_end(*args)
            seen.append({name: value.sum().item() for name, value in self.found.items()})

    module.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=0.0)
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = 0.0
    fit(tmp_path, Keep(images=20), module=module)
    assert len(seen) == 2
    assert seen[0] == seen[1]


def test_labels_are_not_required(tmp_path: Path) -> None:
    assert set(fit(tmp_path, Representation(images=20), source=Unlabelled()).callback_metrics) >= LOGGED


def test_too_few_images_give_no_metrics(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Representation(images=3))
    assert not LOGGED & set(trainer.callback_metrics)


def test_two_ranks_give_the_results_of_one_process(tmp_path: Path) -> None:
    args = [*TINY, "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.validation=40"]
    found = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        run(ranks, [args], folder)
        (log,) = folder.glob("runs/*/*/metrics.csv")
        with log.open(newline="") as file:
            (row,) = (row for row in csv.DictReader(file) if row["representation/rankme"])
        found.append({name: float(row[name]) for name in LOGGED | {"val/knn_untrained", "val/images"}})
    for name, value in found[0].items():  # an untrained network's similarities are so close that views matter
        assert value == pytest.approx(found[1][name], rel=2e-2, abs=0.1 if "untrained" in name else 2e-2), name
