"""``predict`` writes every image once, in the data set's order, on any number of ranks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import simmim_pl
from simmim_pl.checkpoint import load_encoder
from simmim_pl.data import Shapes
from tests.conftest import TINY

Command = Callable[[list[str]], Path]
PACKAGE = Path(simmim_pl.__file__).parents[1]
ODD = "--data.source.test=101"


def predict(checkpoint: Path, *more: str) -> list[str]:
    return ["predict", *TINY[1:], f"--ckpt_path={checkpoint}", *more]


def load(folder: Path) -> dict[str, Tensor]:
    return torch.load(folder / "embeddings.pt", weights_only=True)


def encode(checkpoint: Path, split: str) -> Tensor:
    """The features of a whole split in one batch."""
    images = Shapes(train=200, test=101, size=16, copies=1).load(split).images
    with torch.no_grad():
        return load_encoder(str(checkpoint), trained=True).eval()(images / 255).pooled


def test_all_rows_are_written_in_the_order_of_the_data_set(cli: Command, pretrained: Path) -> None:
    rows = load(cli(predict(pretrained, ODD)))
    assert rows.keys() == {"index", "features"}
    assert rows["index"].tolist() == list(range(101))
    expected = encode(pretrained, "test")
    torch.testing.assert_close(rows["features"], expected, atol=1e-5, rtol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # so another order would differ


@pytest.mark.parametrize(("split", "size"), [("train", 180), ("validation", 20)])
def test_the_index_is_the_place_in_the_training_set(cli: Command, pretrained: Path, split: str, size: int) -> None:
    rows = load(cli(predict(pretrained, ODD, f"--data.predict_split={split}")))
    assert len(rows["index"]) == size
    assert rows["index"].tolist() == sorted(set(rows["index"].tolist()))
    expected = encode(pretrained, "train")[rows["index"]]
    torch.testing.assert_close(rows["features"], expected, atol=1e-5, rtol=1e-5)


def test_two_ranks_write_the_file_of_one(cli: Command, pretrained: Path) -> None:
    one = load(cli(predict(pretrained, ODD)))
    before = set(Path("runs/quickstart").iterdir())
    command = predict(pretrained, ODD, "--trainer.strategy=ddp", "--trainer.devices=2")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)}
    ended = subprocess.run(
        [sys.executable, "-m", "simmim_pl", *command],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    (folder,) = set(Path("runs/quickstart").iterdir()) - before
    two = load(folder)
    assert torch.equal(two["index"], one["index"])
    torch.testing.assert_close(two["features"], one["features"], atol=1e-5, rtol=1e-5)
