"""A method's pictures of validation images are stored as one picture, always of the same images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simmim_pl.callbacks import Pictures
from simmim_pl.callbacks.dashboard import pictures
from simmim_pl.callbacks.observed import observed
from simmim_pl.contracts import Batch
from simmim_pl.methods import Contrastive
from simmim_pl.report.observed import keep
from simmim_pl.report.observed import observed as kept
from simmim_pl.report.pictures import pictures as shown_in_the_report
from simmim_pl.report.run import Run
from tests.callbacks.test_online_probe import fit, method

NAME = "picture: image, negative"


def show(self: Contrastive, batch: Batch) -> dict[str, torch.Tensor]:
    assert not self.training
    torch.rand(3)  # the run's random state is not used
    image = batch["image"] / 255
    return {"image, negative": torch.stack([image, 1 - image], 1)}


def test_pictures_are_stored_and_the_run_is_unchanged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, watched, callback = method(), method(), Pictures(images=3)
    fit(tmp_path, module=plain)
    monkeypatch.setattr(Contrastive, "pictures", show)
    trainer = fit(tmp_path, callback, module=watched)
    after = watched.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in plain.state_dict().items())
    found = observed(trainer)
    assert found["step"] == trainer.global_step
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    images = next(iter(data.val_dataloader()))["image"][:3]
    size = images.shape[-1]
    assert found[NAME].shape == (3 * (size + 2) + 2, 2 * (size + 2) + 2, 3)
    corner = found[NAME][2 : 2 + size, 2 : 2 + size].permute(2, 0, 1)
    assert torch.equal(corner, images[0])
    assert torch.equal(found[NAME][2 : 2 + size, size + 4 : -2].permute(2, 0, 1), 255 - images[0])
    assert "pictures/image, negative" in pictures({NAME: found[NAME]})
    keep(tmp_path, found)
    run = Run("a/b", tmp_path, {}, {}, kept(tmp_path), [], None, [])
    assert np.array_equal(run.observed[NAME], found[NAME])
    page = shown_in_the_report(run)
    assert "<figcaption>image, negative</figcaption>" in page
    assert page.count('src="data:image/png;base64,') == 1


def test_a_method_without_pictures_stores_none(tmp_path: Path) -> None:
    callback = Pictures()
    fit(tmp_path, callback, max_epochs=1)
    assert callback.found == {}


def test_pictures_of_a_wrong_shape_are_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Contrastive, "pictures", lambda self, batch: {"mine": batch["image"] / 255})
    callback = Pictures()
    with pytest.warns(UserWarning, match=r"pictures has to return \[N, K, C, H, W\], and mine is not"):
        fit(tmp_path, callback, max_epochs=1)
    assert callback.found == {}
