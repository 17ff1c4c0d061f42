"""``predict`` writes every image once, in the data set's order, on any number of ranks."""

import errno
import os
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from PIL import Image
from pyarrow import parquet
from torch import Tensor

from simmim_pl.callbacks import Embeddings, embeddings_file
from simmim_pl.callbacks.embedding_map import principal
from simmim_pl.callbacks.embeddings_file import EmbeddingsFile
from simmim_pl.contracts import InputError
from simmim_pl.data import Shapes
from simmim_pl.runtime.atomic import WriteError
from simmim_pl.runtime.checkpoint import load_encoder
from tests.conftest import TINY
from tests.forked import Program, environment

Command = Callable[[list[str]], Path]
ODD = "--data.source.test=97"  # of two ranks, the first has a batch more than the second


def predict(checkpoint: Path, *more: str) -> list[str]:
    return ["predict", *TINY[1:], f"--ckpt_path={checkpoint}", *more]


def load(folder: Path) -> dict[str, Tensor]:
    table = parquet.read_table(folder / "embeddings.parquet")
    rows = {name: table[name].to_pylist() for name in table.column_names}
    return {name: torch.tensor(row) for name, row in rows.items() if name not in ("path", "split")}


def encode(checkpoint: Path, split: str) -> Tensor:
    """Features of a whole split in one batch."""
    images = Shapes(train=200, test=97, size=16, copies=1).load(split).images
    with torch.no_grad():
        return load_encoder(str(checkpoint), trained=True).eval()(images / 255).pooled


def splits(folder: Path) -> list[str]:
    """The split of every row."""
    found: list[str] = parquet.read_table(folder / "embeddings.parquet")["split"].to_pylist()
    return found


def test_every_image_is_embedded_by_default(
    cli: Command, pretrained: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    ended = Embeddings.on_predict_end

    def end(callback: Embeddings, trainer: Trainer, module: Any) -> None:
        kept.append(trainer.predict_loop.predictions)
        ended(callback, trainer, module)

    monkeypatch.setattr(Embeddings, "on_predict_end", end)
    run = cli(predict(pretrained, ODD, "--callbacks.embeddings.map=true"))
    assert kept == [[]]  # nothing is held for the caller
    rows, split = load(run), splits(run)
    assert rows["index"].tolist() == [*range(200), *range(97)]
    assert split[200:] == ["test"] * 97
    assert (split.count("train"), split.count("validation")) == (180, 20)
    held_out = cli(predict(pretrained, ODD, "--data.predict_split=validation"))
    assert [i for i, name in enumerate(split) if name == "validation"] == load(held_out)["index"].tolist()
    expected = torch.cat([encode(pretrained, "train"), encode(pretrained, "test")])
    torch.testing.assert_close(rows["features"], expected, atol=1e-5, rtol=1e-5)
    labels = [Shapes(train=200, test=97, size=16, copies=1).load(name).labels.tolist() for name in ("train", "test")]
    assert rows["label"].tolist() == labels[0] + labels[1]
    assert "Wrote 297 embeddings" in caplog.text
    place, explained = principal(expected / expected.norm(dim=1, keepdim=True))
    x_and_y = torch.stack([rows["x"], rows["y"]], dim=1)
    torch.testing.assert_close(x_and_y.abs(), place.abs(), atol=1e-4, rtol=1e-3)  # the sign of an axis is free
    said = "principal axes, with {:.0f} % and {:.0f} % of the variance".format(*(100 * explained).tolist())
    assert said in caplog.text


def test_rows_are_written_in_the_order_of_the_data_set(cli: Command, pretrained: Path) -> None:
    run = cli(predict(pretrained, ODD, "--data.predict_split=test"))
    rows = load(run)
    assert splits(run) == ["test"] * 97
    assert rows.keys() == {"index", "label", "features"}
    assert rows["label"].tolist() == Shapes(train=200, test=97, size=16, copies=1).load("test").labels.tolist()
    assert rows["index"].tolist() == list(range(97))
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


def batches(loaders: Sequence[Sequence[list[int]]], width: int = 4) -> list[list[dict[str, Any]]]:
    """Batches of each DataLoader, by the indices of their images; a feature says which image it is of."""

    def made(index: list[int]) -> dict[str, Any]:
        features = torch.tensor(index, dtype=torch.float32)[:, None].expand(-1, width).clone()
        return {"index": torch.tensor(index), "features": features}

    return [[made(index) for index in loader] for loader in loaders]


TRAINER, MODULE = Mock(spec=Trainer), Mock(spec=LightningModule, device="cpu")


def stream(
    folder: Path, loaders: list[list[dict[str, Any]]], seen: Callable[[Embeddings], Any] = id, **data: Any
) -> Embeddings:
    """Give batches to the callback, as a trainer does until the last hook."""
    trainer = Mock(spec=Trainer, is_global_zero=True, log_dir=str(folder), world_size=1)
    trainer.num_predict_batches, trainer.datamodule = list(map(len, loaders)), SimpleNamespace(**data)
    callback, module = Embeddings(), MODULE
    callback.on_predict_start(trainer, module)
    for number, loader in enumerate(loaders):
        for place, batch in enumerate(loader):
            callback.on_predict_batch_end(trainer, module, batch, batch, place, number)
            seen(callback)
    return callback


def read(folder: Path) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = parquet.read_table(folder / "embeddings.parquet").to_pydict()
    return found


@pytest.mark.parametrize("images", [200, 2000])
def test_memory_does_not_depend_on_the_number_of_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int
) -> None:
    monkeypatch.setattr(embeddings_file, "ROWS", 64)
    waiting, alive, held = list[int](), list[weakref.ref](), list[int]()

    class Loader(list):
        def __iter__(self) -> Iterator[dict[str, Any]]:
            for start in range(0, images, 20):
                ((batch,),) = batches([[[*range(start, start + 20)]]])
                alive.append(weakref.ref(batch["features"]))
                yield batch

    def look(callback: Embeddings) -> None:
        assert callback.file is not None
        waiting.append(sum(map(len, callback.file.waiting)))
        held.append(sum(batch() is not None for batch in alive))

    callback = stream(tmp_path, [Loader(range(images // 20))], look)
    assert max(held) <= 2  # this batch, and the one before, as the loop's variable
    assert max(waiting) == 60  # at 80 a row group is written
    assert not list(tmp_path.glob("embeddings.parquet"))
    callback.on_predict_end(TRAINER, MODULE)
    assert read(tmp_path)["index"] == [*range(images)]
    assert [row[0] for row in read(tmp_path)["features"]] == [*range(images)]
    groups = parquet.ParquetFile(tmp_path / "embeddings.parquet").metadata
    assert [groups.row_group(i).num_rows for i in range(groups.num_row_groups)][:2] == [80, 80]


def test_images_that_a_sampler_repeats_are_written_once(tmp_path: Path) -> None:
    stream(tmp_path, batches([[[1, 0, 1], [3, 2], [4, 0, 1]], [[1, 0], [2, 0]]])).on_predict_end(TRAINER, MODULE)
    assert read(tmp_path)["index"] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert [row[0] for row in read(tmp_path)["features"]] == [0, 1, 2, 3, 4, 0, 1, 2]
    assert read(tmp_path)["split"] == ["all"] * 8


def test_unlabelled_images_have_no_label_next_to_labelled_ones(tmp_path: Path) -> None:
    loaders = batches([[[0, 1]], [[0]]])
    loaders[1][0]["label"] = torch.tensor([7])
    for classes, label in (["cat"], [None, None, 7]), ([], None):
        callback = stream(tmp_path, loaders, classes=classes)
        callback.on_predict_end(TRAINER, MODULE)
        assert read(tmp_path).get("label") == label


def test_an_interrupted_run_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings_file, "ROWS", 1)
    callback = stream(tmp_path, batches([[[0, 1], [2, 3]]]))
    assert [path.suffix for path in tmp_path.iterdir()] == [".part"]
    callback.on_exception(TRAINER, MODULE, KeyboardInterrupt())
    assert list(tmp_path.iterdir()) == []


def test_several_devices_need_a_known_number_of_batches(tmp_path: Path) -> None:
    trainer = Mock(spec=Trainer, world_size=2, num_predict_batches=[float("inf")])
    with pytest.raises(InputError, match="predict needs a data set with a length"):
        Embeddings().on_predict_start(trainer, MODULE)


@pytest.mark.parametrize("part", ["write_table", "close"])
def test_a_full_disk_keeps_the_previous_table_and_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    stream(tmp_path, batches([[[0, 1]]])).on_predict_end(TRAINER, MODULE)
    path = tmp_path / "embeddings.parquet"
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    callback = stream(tmp_path, batches([[[0, 1, 2]]]))
    monkeypatch.setattr(parquet.ParquetWriter, part, full)
    with pytest.raises(WriteError, match=r"No space left on device.*embeddings\.parquet") as caught:
        callback.on_predict_end(TRAINER, MODULE)
    callback.on_exception(TRAINER, MODULE, caught.value)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_name_that_is_not_utf_8_is_written_with_its_bytes(tmp_path: Path) -> None:
    path = os.fsdecode(b"caf\xe9.png")
    callback, data = Embeddings(), SimpleNamespace(origin=lambda part, index: (["train"], [path]))
    callback.file, callback.counts = EmbeddingsFile(tmp_path / "embeddings.parquet"), Counter()
    callback.write({"index": torch.zeros(1), "label": -torch.ones(1), "features": torch.ones(1, 3)}, 0, data)
    callback.file.close()
    (name,) = parquet.read_table(callback.file.path)["path"].to_pylist()
    assert name.encode() == rb"caf\udce9.png"
