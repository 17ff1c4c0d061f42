"""Neighbours and map equal scikit-learn's, and the callback does not change the run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch.nn import functional as F

from simmim_pl.callbacks import EmbeddingMap
from simmim_pl.callbacks.embedding_map import neighbours, once, principal, thumbnails
from simmim_pl.report.observed import observed
from tests.callbacks.test_online_probe import Dropping, FastCNN, Gradients, Unlabelled, fit, method
from tests.conftest import TINY
from tests.ranks import run


def test_neighbours_equal_scikit_learn() -> None:
    torch.manual_seed(0)
    unit = F.normalize(torch.randn(60, 7, dtype=torch.float64), dim=-1)
    query = torch.tensor([3, 17, 59])
    similarity, near = neighbours(unit, query, 5)
    reference = NearestNeighbors(n_neighbors=6, metric="cosine").fit(unit.numpy())
    distance, place = reference.kneighbors(unit[query].numpy())
    assert near.tolist() == place[:, 1:].tolist()  # the first is the query itself
    np.testing.assert_allclose(similarity.numpy(), 1 - distance[:, 1:], atol=1e-12)


def test_the_map_equals_scikit_learns_principal_components() -> None:
    torch.manual_seed(0)
    rows = torch.randn(50, 6, dtype=torch.float64) * torch.arange(6, 0, -1) + 3
    place, explained = principal(rows)
    reference = PCA(2).fit(rows.numpy())
    expected = reference.transform(rows.numpy())
    np.testing.assert_allclose(np.abs(place.numpy()), np.abs(expected), atol=1e-9)
    np.testing.assert_allclose(explained.numpy(), reference.explained_variance_ratio_, atol=1e-12)
    assert (place.numpy().max(0) == np.abs(place.numpy()).max(0)).all()  # the sign is fixed
    torch.testing.assert_close(principal(-rows)[0].abs(), place.abs())


def test_identical_images_give_a_map_of_one_point() -> None:
    place, explained = principal(torch.ones(5, 3))
    assert place.abs().max() == 0
    assert explained.tolist() == [0, 0]
    nearly = F.normalize(1 + 1e-6 * torch.randn(50, 8), dim=-1)
    assert principal(nearly)[0].abs().max() == 0  # not the directions of rounding errors
    assert principal(torch.arange(5.0)[:, None])[0].shape == (5, 2)


def test_selected_images_do_not_keep_their_batch_in_memory(tmp_path: Path) -> None:
    kept: list[int] = []

    class Weighed(EmbeddingMap):
        def on_validation_batch_end(self, *args: Any) -> None:
            super().on_validation_batch_end(*args)
            kept.extend(rows.untyped_storage().nbytes() - rows.nbytes for rows in self.parts[-1].values())

    atlas = Weighed(images=6)
    fit(tmp_path, atlas)
    assert set(kept) == {0}
    assert atlas.parts == []
    assert len(atlas.found["label"]) == 6


@pytest.mark.parametrize("kind", [FastCNN, Dropping])
def test_the_run_is_the_same_to_the_bit_with_and_without_it(tmp_path: Path, kind: type[FastCNN]) -> None:
    (bare, plain), (beside, watched) = ((Gradients(), method(kind)) for _ in range(2))
    fit(tmp_path, bare, module=plain)
    drawn = torch.rand(4)
    fit(tmp_path, beside, EmbeddingMap(), module=watched)
    assert torch.equal(torch.rand(4), drawn)
    assert all(torch.equal(*pair) for pair in zip(bare.seen, beside.seen, strict=True))
    assert all(torch.equal(tensor, watched.state_dict()[name]) for name, tensor in plain.state_dict().items())


def test_results_are_for_validation_images(tmp_path: Path) -> None:
    module, atlas = method(), EmbeddingMap(images=30, queries=4, neighbours=3)
    trainer = fit(tmp_path, atlas, module=module)
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    batches = [{name: rows[:10] for name, rows in batch.items()} for batch in data.val_dataloader()]
    batch = {name: torch.cat([part[name] for part in batches]) for name in batches[0]}
    order = batch["index"].argsort()
    image, label = batch["image"][order], batch["label"][order]
    module.eval()
    with torch.no_grad():
        unit = F.normalize(module(image.float() / 255).pooled, dim=-1)
    assert torch.equal(atlas.found["label"], label)
    torch.testing.assert_close(atlas.found["place"], principal(unit)[0], atol=1e-5, rtol=0)
    query = torch.tensor([0, 9, 18, 27])  # evenly over 28 images
    similarity, near = neighbours(unit, query, 3)
    torch.testing.assert_close(atlas.found["similarity"], similarity, atol=1e-5, rtol=0)
    assert torch.equal(atlas.found["shown"], image[torch.cat([query[:, None], near], 1)])
    assert torch.equal(atlas.found["shown_label"][:, 1:], label[near])
    assert atlas.found["step"] == 10
    assert atlas.found["classes"] == data.source.classes


def test_labels_are_not_required(tmp_path: Path) -> None:
    atlas = EmbeddingMap()
    fit(tmp_path, atlas, source=Unlabelled())
    assert atlas.found["place"].shape == (40, 2)
    assert (atlas.found["label"] == -1).all()


def test_non_finite_features_are_left_out() -> None:
    image, label = torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.zeros(8, dtype=torch.long)
    assert EmbeddingMap().draw(torch.full((8, 5), torch.nan), image, label) == {}
    assert EmbeddingMap().draw(torch.randn(3, 5), image[:3], label[:3]) == {}


def test_images_repeated_by_ranks_are_counted_once() -> None:
    index = torch.tensor([4, 2, 2, 9])
    rows = {"index": index, "features": index[:, None].float(), "image": index, "label": 10 * index}
    features, image, label = once(rows)
    assert features.flatten().tolist() == image.tolist() == [2, 4, 9]
    assert label.tolist() == [20, 40, 90]
    del rows["label"]
    assert once(rows)[2].tolist() == [-1, -1, -1]


def test_thumbnails_are_means_of_pixels() -> None:
    image = torch.randint(0, 256, (2, 3, 128, 64), dtype=torch.uint8)
    small = thumbnails(image)
    assert small.shape == (2, 3, 64, 32)
    blocks = image.float().unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    torch.testing.assert_close(small.float(), blocks, atol=0.501, rtol=0)
    assert torch.equal(thumbnails(image[:, :, :64]), image[:, :, :64])


def test_two_ranks_give_the_results_of_one_process(tmp_path: Path) -> None:
    args = [*TINY, "--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--data.validation=37"]
    found = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        run(ranks, [args], folder)
        (kept,) = folder.glob("runs/*/*/observed.npz")
        found.append(observed(kept.parent))
    one, two = found
    assert len(one["label"]) == 37
    assert (one["label"] == two["label"]).all()
    assert (one["shown"][:, 0] == two["shown"][:, 0]).all()
    np.testing.assert_allclose(one["place"], two["place"], atol=2e-2)
