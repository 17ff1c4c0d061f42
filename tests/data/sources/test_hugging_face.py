"""Hugging Face data sets on disk, as ``datasets`` writes them."""

import io
import multiprocessing
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from pyarrow import parquet
from torch.utils.data import DataLoader

datasets = pytest.importorskip("datasets")

from simmim_pl.contracts import InputError  # noqa: E402
from simmim_pl.data import Folder, HuggingFace  # noqa: E402
from simmim_pl.data.source import ImageDataset  # noqa: E402
from simmim_pl.data.workers import identity_collate  # noqa: E402

CLASSES = ["wasp", "ant"]  # not in alphabetical order


def jpeg(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def table(numbers: range, label: Any = None, **features: Any) -> Any:
    """Images as bytes, with a label for each."""
    images = [{"bytes": jpeg(number), "path": f"{number}.jpg"} for number in numbers]
    kinds = datasets.Features({"photo": datasets.Image(), "kind": datasets.ClassLabel(names=CLASSES), **features})
    columns = {"photo": images, "kind": label or [number % 2 for number in numbers]}
    return datasets.Dataset.from_dict(columns, features=kinds)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The cache of datasets, in a folder of the tests."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", folder)
        patch.setattr("datasets.config.HF_HUB_OFFLINE", True)
        datasets.disable_progress_bars()
        yield folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data set as a folder of save_to_disk, as a folder of Parquet files, and as a folder of images."""
    folder = tmp_path_factory.mktemp("saved")
    splits = {"train": table(range(10)), "validation": table(range(10, 14))}
    datasets.DatasetDict(splits).save_to_disk(folder / "disk")
    (folder / "empty").mkdir()
    (folder / "parquet").mkdir()
    for name, rows in splits.items():
        rows.to_parquet(folder / f"parquet/{name}-00000-of-00001.parquet")
    for number in range(14):
        path = folder / f"images/{'train' if number < 10 else 'val'}/{CLASSES[number % 2]}/{number:02}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    return folder


def pixels(images: ImageDataset) -> torch.Tensor:
    return images.read(torch.arange(len(images)))


@pytest.mark.parametrize("way", ["disk", "parquet"])
@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_images_and_classes_equal_those_of_a_folder(
    saved: Path, way: str, memory_gb: float, caplog: pytest.LogCaptureFixture
) -> None:
    source = HuggingFace(str(saved / way), size=16, memory_gb=memory_gb)
    with caplog.at_level("INFO"):
        source.prepare()
    assert f"{way}: 10 images of train, 4 images of test, of 2 classes (wasp, ant).\n" in caplog.text
    folder = Folder(str(saved / "images"), size=16)
    for split in ("train", "test"):
        ours, theirs = source.load(split), folder.load(split)
        order = torch.tensor(sorted(range(len(theirs)), key=lambda at: Path(theirs.files[at]).name))
        assert torch.equal(pixels(ours), pixels(theirs)[order])
        names = [source.classes[label] for label in ours.labels.tolist()]
        assert names == [folder.classes[label] for label in theirs.labels[order].tolist()]
        assert ours.workers == (memory_gb == 0)
    assert source.classes == CLASSES
    assert source.has_test()


def test_decoded_images_are_cached(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = pixels(HuggingFace(str(saved / "disk"), size=16).load("train"))
    monkeypatch.setattr("simmim_pl.data.files.cache.decode_all", lambda *given: pytest.fail("decoded again"))
    assert torch.equal(pixels(HuggingFace(str(saved / "disk"), size=16).load("train")), first)


def test_workers_read_the_same_as_the_main_process(saved: Path) -> None:
    images = HuggingFace(str(saved / "disk"), size=16, memory_gb=0).load("train")
    expected = pixels(images)  # the files are open before the workers start
    loader = DataLoader(images, batch_size=3, num_workers=2, collate_fn=identity_collate)
    assert torch.equal(torch.cat([batch["image"] for batch in loader]), expected)
    assert torch.equal(pixels(pickle.loads(pickle.dumps(images))), expected)  # how a spawned worker gets them


def test_the_digest_is_the_same_in_another_process_and_follows_the_data(saved: Path, tmp_path: Path) -> None:
    def digest(path: Path, **options: Any) -> str:
        return HuggingFace(str(path), size=16, memory_gb=0, **options).load("train").digest()

    def report(answers: Any) -> None:
        answers.put([digest(saved / "disk"), digest(saved / "parquet")])

    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    process = context.Process(target=report, args=(answers,))
    process.start()
    ours = [digest(saved / "disk"), digest(saved / "parquet")]
    assert answers.get(timeout=60) == ours
    process.join()
    table(range(1, 11)).save_to_disk(tmp_path / "other")
    assert digest(tmp_path / "other") not in ours
    assert digest(saved / "disk", train_split="validation") not in ours


def test_damaged_images_are_named_or_left_out(tmp_path: Path) -> None:
    good, bad = ({"bytes": jpeg(0), "path": None}, {"bytes": b"no image", "path": "b.jpg"})
    images = [good, bad, good, None]
    rows = datasets.Dataset.from_dict({"photo": images}, features=datasets.Features({"photo": datasets.Image()}))
    rows.save_to_disk(tmp_path / "rows")
    with pytest.raises(InputError, match=r"row 1 of .*rows, train: b\.jpg cannot be read as an image"):
        HuggingFace(str(tmp_path / "rows")).load("train")
    for memory_gb in (4.0, 0.0):
        source = HuggingFace(str(tmp_path / "rows"), size=16, skip_corrupt=True, memory_gb=memory_gb)
        with pytest.warns(
            UserWarning, match=r"2 of 4 images cannot be read and are left out: row 1 of .*b\.jpg, row 3"
        ):
            train = source.load("train")
        good = HuggingFace(str(tmp_path / "rows"), size=16, memory_gb=0).load("train").read(torch.tensor([0, 2]))
        assert torch.equal(pixels(train), good)
    assert source.classes == []


def test_columns_without_a_feature_type_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Parquet file that another tool wrote."""
    content = [jpeg(number) for number in range(4)]
    plain = pa.table({"content": content, "animal": ["dog", "cat", "dog", "cat"], "number": [1, 2, 3, 4]})
    parquet.write_table(plain, tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    source = HuggingFace(path, image_column="content", label_column="animal")
    source.prepare()
    train = source.load("train")
    assert (len(train), train.labels.tolist(), source.classes) == (4, [1, 0, 1, 0], ["cat", "dog"])
    with pytest.raises(InputError, match=r"has no test split: set test_split, or .*HeldOut"):
        source.load("test")
    with caplog.at_level("INFO"):
        HuggingFace(path, image_column="content").prepare()
    assert "rows.parquet: 4 images of train, without labels (label_column can be set to animal, number)." in caplog.text
    with pytest.raises(
        InputError, match=r"set image_column to one .*content \(Value\).*there is no column of type Image"
    ):
        HuggingFace(path).prepare()
    with pytest.raises(InputError, match=r"row 0 of .* holds no image in the column number"):
        HuggingFace(path, image_column="number").load("train")


@pytest.mark.parametrize("text", [pa.string(), pa.large_string()])
def test_paths_of_images_are_followed_and_watched(tmp_path: Path, text: pa.DataType) -> None:
    files = [str(tmp_path / f"{number}.jpg") for number in range(2)]
    for number, file in enumerate(files):
        Path(file).write_bytes(jpeg(number))
    parquet.write_table(pa.table({"photo": pa.array(files, text)}), tmp_path / "rows.parquet")
    source = HuggingFace(str(tmp_path / "rows.parquet"), image_column="photo", size=16)
    before = pixels(source.load("train"))
    Path(files[1]).write_bytes(jpeg(7))
    after = pixels(source.load("train"))
    assert torch.equal(before[0], after[0])
    assert not torch.equal(before[1], after[1])


REFUSED: dict[str, dict[str, Any]] = {
    "has no split later: its splits are train, validation": {"train_split": "later"},
    "has no split exam: its splits are train, validation": {"test_split": "exam"},
    r"set image_column to one of the columns, photo \(Image\), kind \(ClassLabel\); there is no column face": {
        "image_column": "face"
    },
    "set labels to false, or label_column to one of the columns, .* no column face": {"label_column": "face"},
    "is on disk, so subset or revision has no meaning": {"revision": "main"},
    "train is both train_split and test_split": {"test_split": "train"},
    "cannot be opened by datasets": {"path": "empty"},
    "There is no .*: set the source's path": {"path": "nowhere"},
}


@pytest.mark.parametrize("says", REFUSED)
def test_bad_arguments_are_refused(saved: Path, says: str) -> None:
    options = {"path": "disk", **REFUSED[says]}
    with pytest.raises(InputError, match=says):
        HuggingFace(str(saved / options.pop("path")), **options).prepare()


def test_a_name_that_the_hub_does_not_have_is_refused() -> None:
    with pytest.raises(InputError, match="nobody/nothing cannot be opened by datasets"):
        HuggingFace("nobody/nothing").prepare()


def test_labels_that_are_missing_are_refused_where_they_are_read(tmp_path: Path) -> None:
    splits = {"train": table(range(4)), "test": table(range(4), label=[0, -1, 1, -1])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "rows")
    source = HuggingFace(str(tmp_path / "rows"))
    source.prepare()  # so it can be pretrained on
    assert len(source.load("train")) == 4
    with pytest.raises(InputError, match=r"row 1 has no label in the column kind: .*choose another split"):
        source.load("test")
    assert HuggingFace(str(tmp_path / "rows"), labels=False).load("test").labels is None


def test_several_columns_of_classes_have_to_be_told_apart(tmp_path: Path) -> None:
    rows = table(range(4)).add_column("coarse", [0, 0, 0, 1])
    rows.cast_column("coarse", datasets.ClassLabel(names=["x", "y"])).save_to_disk(tmp_path / "rows")
    path = str(tmp_path / "rows")
    with pytest.raises(InputError, match=r"there are 2 columns of type ClassLabel"):
        HuggingFace(path).prepare()
    assert HuggingFace(path, label_column="coarse").load("train").labels.tolist() == [0, 0, 0, 1]


def test_a_missing_package_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"install datasets: pip install 'simmim_pl\[huggingface\]'"):
        HuggingFace(str(saved / "disk")).prepare()
