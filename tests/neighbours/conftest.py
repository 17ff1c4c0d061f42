"""A table of a folder with planted duplicates and an outlier, embedded by the real command line."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simmim_pl.neighbours.__main__ import main
from tests.conftest import TINY, isolate, newest_run

Show = Callable[..., str]


def smooth(seed: int) -> Image.Image:
    """A picture of a few soft colours."""
    pixels = np.random.default_rng(seed).integers(60, 200, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((48, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def embedded(pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``embeddings.parquet`` of 32 images; two are copied, one from train to test, and one is unlike all others."""
    folder = tmp_path_factory.mktemp("embedded")
    for split, first in (("train", 0), ("test", 20)):
        for number in range(first, first + (20 if split == "train" else 9)):
            file = folder / f"images/{split}/{'ab'[number % 2]}/{number:02}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            smooth(number).save(file)
    smooth(3).save(folder / "images/test/b/leak.jpg", quality=90)  # re-encoded
    smooth(6).save(folder / "images/train/a/06again.jpg", quality=90)
    squares = (np.indices((48, 48)) // 12).sum(0) % 2 * 255
    Image.fromarray(squares.astype(np.uint8)).save(folder / "images/train/a/odd.png")
    smooth(5).save(folder / "new.jpg", quality=90)
    args = [arg for arg in TINY[1:] if "shapes.yaml" not in arg and "data.source" not in arg]
    source = ["--data.source=simmim_pl.data.Folder", "--data.source.root=images", "--data.source.size=16"]
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, folder)
        run = newest_run(["predict", *args, *source, f"--ckpt_path={pretrained}"])
    return folder / run / "embeddings.parquet"


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str]) -> Show:
    """``show(embeddings, *options)`` runs the command, and returns what it printed."""

    def shown(embeddings: Path, *options: object) -> str:
        main([str(embeddings), *map(str, options)])
        return capsys.readouterr().out

    return shown


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Show:
    """``refused(embeddings, *options)``: the one sentence with which the command ends."""

    def shown(embeddings: Path, *options: object) -> str:
        with pytest.raises(SystemExit) as exit_:
            main([str(embeddings), *map(str, options)])
        error = capsys.readouterr().err
        assert exit_.value.code == 2
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        return error.removeprefix("error: ").strip()

    return shown
