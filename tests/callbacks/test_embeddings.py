"""``predict`` writes every image once, in the data set's order, on any number of ranks."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from simmim_pl.callbacks.embeddings import write
from simmim_pl.data import Shapes
from simmim_pl.runtime.atomic import WriteError
from simmim_pl.runtime.checkpoint import load_encoder
from tests.conftest import TINY
from tests.forked import Program, environment

Command = Callable[[list[str]], Path]
ODD = "--data.source.test=101"


def predict(checkpoint: Path, *more: str) -> list[str]:
    return ["predict", *TINY[1:], f"--ckpt_path={checkpoint}", *more]


def load(folder: Path) -> dict[str, Tensor]:
    table = parquet.read_table(folder / "embeddings.parquet")
    rows = {name: table[name].to_pylist() for name in table.column_names}
    return {name: torch.tensor(row) for name, row in rows.items() if name not in ("path", "split")}


def encode(checkpoint: Path, split: str) -> Tensor:
    """Features of a whole split in one batch."""
    images = Shapes(train=200, test=101, size=16, copies=1).load(split).images
    with torch.no_grad():
        return load_encoder(str(checkpoint), trained=True).eval()(images / 255).pooled


def splits(folder: Path) -> list[str]:
    """The split of every row."""
    found: list[str] = parquet.read_table(folder / "embeddings.parquet")["split"].to_pylist()
    return found


def test_every_image_is_embedded_by_default(cli: Command, pretrained: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = cli(predict(pretrained, ODD))
    rows, split = load(run), splits(run)
    assert rows["index"].tolist() == [*range(200), *range(101)]
    assert split[200:] == ["test"] * 101
    assert (split.count("train"), split.count("validation")) == (180, 20)
    held_out = cli(predict(pretrained, ODD, "--data.predict_split=validation"))
    assert [i for i, name in enumerate(split) if name == "validation"] == load(held_out)["index"].tolist()
    expected = torch.cat([encode(pretrained, "train"), encode(pretrained, "test")])
    torch.testing.assert_close(rows["features"], expected, atol=1e-5, rtol=1e-5)
    labels = [Shapes(train=200, test=101, size=16, copies=1).load(name).labels.tolist() for name in ("train", "test")]
    assert rows["label"].tolist() == labels[0] + labels[1]
    assert "Wrote 301 embeddings" in caplog.text


def test_rows_are_written_in_the_order_of_the_data_set(cli: Command, pretrained: Path) -> None:
    run = cli(predict(pretrained, ODD, "--data.predict_split=test"))
    rows = load(run)
    assert splits(run) == ["test"] * 101
    assert rows.keys() == {"index", "label", "features"}
    assert rows["label"].tolist() == Shapes(train=200, test=101, size=16, copies=1).load("test").labels.tolist()
    assert rows["index"].tolist() == list(range(101))
    expected = encode(pretrained, "test")
    torch.testing.assert_close(rows["features"], expected, atol=1e-5, rtol=1e-5)
    assert (expected[0] - expected[1]).abs().max() > 1e-3  # so that another order differs


@pytest.mark.parametrize(("split", "size"), [("train", 180), ("validation", 20)])
def test_the_index_is_the_position_in_the_training_set(
    cli: Command, pretrained: Path, split: str, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    run = cli(predict(pretrained, ODD, f"--data.predict_split={split}"))
    rows = load(run)
    assert splits(run) == [split] * size
    other = "validation" if split == "train" else "train"
    assert f"Embedding {size} images of {split}; left out are {200 - size} of {other} and all of test" in caplog.text
    assert len(rows["index"]) == size
    assert rows["index"].tolist() == sorted(set(rows["index"].tolist()))
    expected = encode(pretrained, "train")[rows["index"]]
    torch.testing.assert_close(rows["features"], expected, atol=1e-5, rtol=1e-5)


def test_two_ranks_write_the_same_file_as_one(cli: Command, pretrained: Path) -> None:
    one = load(cli(predict(pretrained, ODD)))
    before = set(Path("runs/quickstart").iterdir())
    command = predict(pretrained, ODD, "--trainer.strategy=ddp", "--trainer.devices=2")
    ended = Program("simmim_pl", command, Path.cwd(), environment())
    _, error = ended.communicate(100)
    assert ended.returncode == 0, error
    (folder,) = set(Path("runs/quickstart").iterdir()) - before
    two = load(folder)
    assert torch.equal(two["index"], one["index"])
    assert torch.equal(two["label"], one["label"])
    assert splits(folder).count("validation") == 20
    torch.testing.assert_close(two["features"], one["features"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("memory_gb", [4, 0], ids=["kept", "streamed"])
def test_the_path_of_every_image_is_written(
    cli: Command, pretrained: Path, tmp_path: Path, labelled: bool, memory_gb: int
) -> None:
    for number in range(40):
        for split in ("train", "test") if labelled else ("train",):
            file = tmp_path / "images" / split / ("ab"[number % 2] if labelled else ".") / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (6 * number, 0, 0)).save(file)
    args = [arg for arg in predict(pretrained) if "shapes.yaml" not in arg and "data.source" not in arg]
    source = ["--data.source=simmim_pl.data.Folder", "--data.source.root=images", "--data.source.size=16"]
    run = cli([*args, *source, f"--data.source.memory_gb={memory_gb}"])
    table = parquet.read_table(run / "embeddings.parquet")
    assert table.column_names == ["split", "index", *(["label"] if labelled else []), "path", "features"]
    for row in table.to_pylist():
        image = torch.tensor(list(Image.open(row["path"]).getdata()), dtype=torch.uint8)[0]
        assert Path(row["path"]).name == f"{image[0].item() // 6}.png"
        assert Path(row["path"]).parent.name == ("ab"[row["label"]] if labelled else "train")
        assert Path(row["path"]).is_relative_to(Path("images", "test" if row["split"] == "test" else "train"))
    assert sorted(row["index"] for row in table.to_pylist()) == sorted([*range(40)] * (2 if labelled else 1))
    assert table["split"].to_pylist().count("validation") == 4


def test_all_images_of_an_unlabelled_flat_folder_are_embedded(
    cli: Command, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "photos").mkdir()
    for number in range(30):
        Image.new("RGB", (16, 16), (6 * number, 0, 0)).save(tmp_path / f"photos/{number:02}.png")
    args = [arg for arg in predict(pretrained) if "shapes.yaml" not in arg and "data.source" not in arg]
    source = ["--data.source=simmim_pl.data.Folder", "--data.source.root=photos", "--data.source.size=16"]
    rows = parquet.read_table(cli([*args, *source]) / "embeddings.parquet").to_pylist()
    assert [Path(row["path"]).name for row in rows] == [f"{number:02}.png" for number in range(30)]
    assert "Wrote 30 embeddings" in caplog.text
    assert "27 of train" in caplog.text
    assert "3 of validation" in caplog.text


def test_unlabelled_images_have_no_label_next_to_labelled_ones(tmp_path: Path) -> None:
    path = tmp_path / "embeddings.parquet"
    write(path, ["train", "test"], torch.arange(2), torch.rand(2, 4), torch.tensor([-1, 7]), None)
    assert parquet.read_table(path)["label"].to_pylist() == [None, 7]


def test_a_full_disk_keeps_the_previous_table_and_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, index = tmp_path / "embeddings.parquet", torch.arange(3)
    rows = (path, ["test"] * 3, index, torch.rand(3, 4), torch.full((3,), -1), None)
    write(*rows)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parquet, "write_table", full)
    with pytest.raises(WriteError, match=r"No space left on device.*embeddings\.parquet"):
        write(*rows)
    assert path.read_bytes() == before
