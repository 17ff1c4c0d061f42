"""A config gives the same training on one to four devices: loss, gradients, weights after five steps.

All tests use the command line and Lightning's Trainer, with random views, BatchNorm and an optimizer
with state. ``python -m tests.ranks`` runs several command lines per start, to import Lightning once.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from simmim_pl.contracts import Features
from simmim_pl.encoders import FastCNN
from simmim_pl.report.run import load_run
from tests.conftest import NO_PICTURES, TINY
from tests.ranks import run

LONG = os.environ.get("LONG") == "1"  # `make test-long`
RANKS = [1, 2, 3, 4] if LONG else [1, 3]

# Batches of 24 of 200 images; five optimizer steps.
BASE = [
    *TINY,
    *NO_PICTURES,
    *("--data.batch_size=24", "--trainer.max_steps=5", "--trainer.limit_val_batches=0"),
    *("--trainer.log_every_n_steps=1", "--trainer.callbacks+=tests.ranks.Journal"),
    *("--model.channels_last=false", "--data.views.size=16"),
]
DOUBLE = "--trainer.precision=64-true"
SGD = ["--model.optimizer=torch.optim.SGD", "--model.optimizer.lr=0.1"]
LOCAL = [
    *("--data.local_views=simmim_pl.views.ContrastiveViews", "--data.local_views.size=8"),
    *("--data.local_views.views=3", "--data.local_views.scale=[0.1,0.3]"),
]
LATE = [
    *("--data.final_views=simmim_pl.views.ContrastiveViews", "--data.final_views.size=24", "--data.final_share=0.4"),
]
PREDICTOR = [
    *("--model.predictor=simmim_pl.encoders.heads.ProjectionHead", "--model.predictor.hidden_dim=8"),
    *("--model.predictor.output_dim=4", "--model.predictor.norm=true", "--model.head.norm=true"),
    "--model.momentum=0.5",
]
BYOL = ["--model=simmim_pl.methods.BYOL", *PREDICTOR]
MOCO_V3 = ["--model=simmim_pl.methods.MoCoV3", *PREDICTOR, "--model.head.output_norm=true"]
# A small ViT, instead of BASE's encoder and views.
SIZES = {"image_size": 16, "width": 8, "depth": 2, "num_heads": 2}
MASKED_IMAGE = [
    *("--model=simmim_pl.methods.MaskedImage", "--data.views=simmim_pl.views.CropFlip", "--data.views.size=16"),
]
VIT = ["--model.encoder=simmim_pl.encoders.ViT", *(f"--model.encoder.{name}={value}" for name, value in SIZES.items())]
MASKED = [*MASKED_IMAGE, *VIT]


class Headed(FastCNN):
    """An encoder with a layer after its feature map, as MobileNets have."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(width)
        self.last = nn.Linear(self.embed_dim, self.embed_dim)

    def forward(self, image: Tensor) -> Features:
        features = super().forward(image)
        return Features(self.last(features.pooled), features.feature_map)


SWIN = [
    *("--model.encoder=simmim_pl.encoders.Swin", "--model.encoder.width=8", "--model.encoder.depths=[2,1]"),
    *("--model.encoder.num_heads=[2,4]", "--model.encoder.window_size=4"),
]
LABELLED = [
    *("--data.labelled.figures=simmim_pl.data.Shapes", "--data.labelled.figures.train=200"),
    *("--data.labelled.figures.size=24", "--data.labelled.figures.test=10", "--data.labelled_images=120"),
    *("--data.labelled.few=tests.callbacks.test_labelled_probe.Few", "--trainer.limit_val_batches=1.0"),
    *("--trainer.check_val_every_n_epoch=1", "--trainer.val_check_interval=5"),
    "--data.validation=24",  # no image is repeated, which BatchNorm's statistics of the untrained network would show
]
CASES: dict[str, list[str]] = {
    "double": [DOUBLE],
    "late views": [DOUBLE, *LATE],
    # SGD: Adam divides by a gradient's magnitude, so it turns the rounding of a zero gradient into a full step.
    "single": [
        *("--trainer.precision=32-true", "--model.loss.temperature=0.5", *SGD),
    ],
    "labelled sets": [DOUBLE, *LABELLED],
    "three views": [DOUBLE, "--data.views.views=3"],
    "local views": [DOUBLE, *LOCAL, *SGD],
    "gradient cache": [DOUBLE, "--model.gradient_cache=2"],
    "muon": [DOUBLE, "--model.optimizer=simmim_pl.optimizers.Muon"],
    "masked images": [DOUBLE, *MASKED],
    "masked images of a swin": [DOUBLE, *MASKED_IMAGE, *SWIN],
    "masked images, whose loss does not reach the last layer": [
        *(DOUBLE, *MASKED_IMAGE, *SGD, "--model.encoder=tests.test_parity.Headed", "--model.encoder.width=2"),
    ],
    "so many FLOP": [DOUBLE, "--callbacks.max_flop.flop=1.6e8", "--trainer.max_steps=-1"],
    "whitening stem, pooled to a grid": [DOUBLE, "--model.encoder.whiten=true", "--model.encoder.pool=2"],
    "clipped": [DOUBLE, "--trainer.gradient_clip_val=0.05"],
    "vicreg": [DOUBLE, "--model.loss=simmim_pl.losses.VICReg", *SGD],
    "barlow twins": [DOUBLE, "--model.loss=simmim_pl.losses.BarlowTwins", *SGD],
    "sigreg": [DOUBLE, "--model.loss=simmim_pl.losses.SIGReg", *SGD],
    # Small steps: with large ones, BatchNorm over so few units multiplies rounding errors by a hundred.
    "byol": [DOUBLE, *BYOL, *LOCAL, *SGD, "--model.optimizer.lr=0.001"],
    "mocov3": [DOUBLE, *MOCO_V3, *SGD, "--model.optimizer.lr=0.001"],
    "rotation, accumulated": [
        *(DOUBLE, *SGD, "--model=simmim_pl.methods.Rotation", "--trainer.accumulate_grad_batches=2"),
    ],
    "without synchronised statistics": [DOUBLE, "--model.sync_batchnorm=false"],
}
if LONG:
    CASES |= {
        "resnet": [DOUBLE, "--model.encoder=simmim_pl.encoders.ResNet", "--model.encoder.depth=18"],
        "local views in pieces": [DOUBLE, *LOCAL, *SGD, "--model.gradient_cache=2"],
        "head with norm": [DOUBLE, "--model.head.norm=true"],
        "sgd": [DOUBLE, *SGD],
        "channels last": [DOUBLE, "--model.channels_last=true"],
    }


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], dict[str, Any]]:
    """The journal of the steps and the final weights, by case and number of ranks."""
    found = {}
    for ranks in RANKS:
        folder = tmp_path_factory.mktemp(f"ranks{ranks}")
        run(ranks, [[*BASE, *more, f"--name={number}"] for number, more in enumerate(CASES.values())], folder)
        for number, case in enumerate(CASES):
            (path,) = (folder / f"runs/{number}").iterdir()
            saved = torch.load(path / "checkpoints/last.ckpt", weights_only=True)
            found[case, ranks] = {"steps": torch.load(path / "journal.pt"), "saved": saved, "run": load_run(path)}
    return found


def difference(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest distance of two tensors of a name, relative to their norm or 1."""
    assert one.keys() == other.keys()
    return max(
        ((one[name] - other[name]).double().norm() / max(one[name].double().norm().item(), 1.0)).item()
        for name, value in one.items()
        if isinstance(value, torch.Tensor) and value.is_floating_point()
    )


@pytest.mark.parametrize("ranks", RANKS[1:])
def test_any_number_of_ranks_measures_the_same_on_labelled_sets(
    outcome: dict[tuple[str, int], dict[str, Any]], ranks: int
) -> None:
    one, many = (
        {name: values.tolist() for name, (_, values) in outcome["labelled sets", number]["run"].history.items()}
        for number in (1, ranks)
    )
    names = {name for name in one if name.endswith(("/figures", "/few"))}
    assert len(names) == 12
    assert {name: many[name] for name in names} == {name: one[name] for name in names}


@pytest.mark.parametrize("ranks", RANKS[1:])
@pytest.mark.parametrize("case", [case for case in CASES if not case.startswith("without")])
def test_any_number_of_ranks_trains_like_one(
    outcome: dict[tuple[str, int], dict[str, Any]], case: str, ranks: int
) -> None:
    tolerance = 1e-5 if case == "single" else 1e-10
    one, many = outcome[case, 1], outcome[case, ranks]
    assert len(one["steps"]) == len(many["steps"]) == 5
    for step, theirs in zip(one["steps"], many["steps"], strict=True):
        assert theirs["loss"] == pytest.approx(step["loss"], abs=tolerance)
        assert difference(step["gradients"], theirs["gradients"]) < tolerance
        assert max(gradient.abs().max().item() for gradient in step["gradients"].values()) > 1e-3
    assert difference(one["saved"]["state_dict"], many["saved"]["state_dict"]) < tolerance
    (mine,), (yours,) = (each["saved"]["optimizer_states"] for each in (one, many))
    for number, state in mine["state"].items():
        assert difference(state, yours["state"][number]) < tolerance
    assert one["saved"]["lr_schedulers"] == many["saved"]["lr_schedulers"]


def test_without_synchronised_batchnorm_training_differs(
    outcome: dict[tuple[str, int], dict[str, Any]],
) -> None:
    case = "without synchronised statistics"
    one, many = outcome[case, 1], outcome[case, 3]
    assert difference(one["saved"]["state_dict"], many["saved"]["state_dict"]) > 1e-3
