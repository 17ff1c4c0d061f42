"""Folders of frames: frame selection, order, and errors for unusable clips."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simmim_pl.contracts import InputError
from simmim_pl.data import FrameFolder, ImageDataModule
from simmim_pl.data.sources.frames import evenly_spaced, natural_sort_key


def write(clip: Path, reds: list[int], size: tuple[int, int] = (16, 16)) -> None:
    """Write frames 1.png, 2.png, … with the given red channels."""
    clip.mkdir(parents=True, exist_ok=True)
    for number, red in enumerate(reds, start=1):
        Image.new("RGB", size, (red, 0, 0)).save(clip / f"{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of clips of 12 and of 4 frames; red counts frames from a different start in every clip."""
    for split, start in (("train", 0), ("test", 100)):
        for label in ("jump", "walk"):
            for clip, length in (("one", 12), ("two", 4)):
                start += 1
                write(tmp_path / split / label / clip, [start + frame for frame in range(length)], (40, 20))
    write(tmp_path / "train/walk/.hidden", [0] * 9)
    (tmp_path / "train/walk/one/notes.txt").touch()
    return tmp_path


@given(total=st.integers(1, 300), data=st.data())
def test_frames_are_evenly_spaced(total: int, data: st.DataObject) -> None:
    frames = data.draw(st.integers(1, total))
    taken = evenly_spaced(total, frames)
    gaps = [after - before for before, after in itertools.pairwise(taken)]
    assert len(taken) == frames
    assert taken[0] >= 0
    assert taken[-1] < total
    assert all(gap >= 1 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1
    assert abs(taken[0] - (total - 1 - taken[-1])) <= 1
    assert taken == list(range(total)) or frames < total


@given(st.lists(st.integers(0, 2000), unique=True))
def test_frames_are_in_numerical_order(numbers: list[int]) -> None:
    names = [f"frame{number}.png" for number in numbers]
    assert sorted(names, key=natural_sort_key) == [f"frame{number}.png" for number in sorted(numbers)]
    padded = [f"a_{number:06}_b2.png" for number in numbers]
    assert sorted(padded, key=natural_sort_key) == sorted(padded)


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_clips_of_both_splits(root: Path, memory_gb: float) -> None:
    folder = FrameFolder(str(root), size=8, frames=4, memory_gb=memory_gb)
    folder.prepare()
    train, test = folder.load("train"), folder.load("test")
    assert folder.classes == ["jump", "walk"]
    for clips, start in ((train, 1), (test, 101)):
        assert (len(clips), clips.labels.tolist(), clips.clips) == (4, [0, 0, 1, 1], True)
        batch = clips.__getitems__([0, 1, 3])
        assert set(batch) == {"clip", "label", "index"}
        assert batch["clip"].shape == (3, 4, 3, 8, 8)
        long, short = [1, 4, 7, 10], [0, 1, 2, 3]
        reds = [[start + i for i in long], [start + 1 + i for i in short], [start + 3 + i for i in short]]
        assert batch["clip"][:, :, 0, 4, 4].tolist() == reds
    assert train.workers is test.workers is (memory_gb == 0)


def test_memory_and_disk_give_identical_batches(root: Path) -> None:
    memory, disk = (FrameFolder(str(root), frames=3, memory_gb=gb).load("train") for gb in (4.0, 0.0))
    one, other = memory.__getitems__([3, 0, 0]), disk.__getitems__([3, 0, 0])
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_memory_limit_is_in_bytes(root: Path) -> None:
    exactly = 4 * 2 * 3 * 32 * 32 / 1e9
    assert not FrameFolder(str(root), frames=2, memory_gb=exactly).load("train").workers
    assert FrameFolder(str(root), frames=2, memory_gb=exactly * 0.999).load("train").workers


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_the_digest_depends_on_used_frames_size_and_labels(root: Path, memory_gb: float) -> None:
    def of(size: int = 8, frames: int = 4, split: str = "train") -> str:
        return FrameFolder(str(root), size, frames, memory_gb).load(split).digest()

    before = [of(), of(size=9), of(frames=3), of(split="test")]
    assert of() == before[0]
    assert len(set(before)) == 4
    Image.new("RGB", (40, 20), "white").save(root / "train/jump/two/3.png")
    assert of() != before[0]
    (root / "train/walk").rename(root / "train/hurry")
    (root / "test/walk").rename(root / "test/hurry")
    assert of() not in before


def test_the_datamodule_loads_them_in_workers(root: Path) -> None:
    images = ImageDataModule(FrameFolder(str(root), frames=2, memory_gb=0), batch_size=3, validation=0.5, workers=1)
    images.setup("fit")
    assert [batch["clip"].shape for batch in images.train_dataloader()] == [(2, 2, 3, 32, 32)]
    assert next(iter(images.val_dataloader()))["label"].tolist() == [0, 1]


def spoil_frame(root: Path) -> None:
    (root / "train/jump/two/2.png").write_bytes(b"")


def loose_frame(root: Path) -> None:
    write(root / "train/jump", [1])


REFUSED = {
    r"two holds 4 frames, and every clip needs 5: lower frames, or remove it": (5, lambda root: None),
    r"three holds 0 frames, and every clip needs 4": (4, lambda root: (root / "test/walk/three").mkdir()),
    r"jump/1\.png is not in a clip's folder: sort the clips": (4, loose_frame),
    r"train/run is a class without clips": (4, lambda root: (root / "train/run").mkdir()),
    r"holds only one class, jump": (4, lambda root: (root / "train/walk").rename(root / "other")),
    r"train/1\.png is not in a class folder": (4, lambda root: write(root / "train", [1])),
}


@pytest.mark.parametrize("says", REFUSED)
def test_unusable_clips_are_named_before_decoding(root: Path, says: str) -> None:
    frames, spoil = REFUSED[says]
    spoil(root)
    with pytest.raises(InputError, match=says):
        FrameFolder(str(root), frames=frames).prepare()


@pytest.mark.parametrize("memory_gb", [4.0, 0.0])
def test_a_damaged_frame_is_named_wherever_it_is_decoded(root: Path, memory_gb: float) -> None:
    spoil_frame(root)
    with pytest.raises(InputError, match=r"two/2\.png cannot be read as an image"):
        FrameFolder(str(root), frames=4, memory_gb=memory_gb).load("train").read(torch.tensor([1]))


@pytest.mark.parametrize("options", [{"size": 0}, {"frames": 0}])
def test_clips_without_frames_or_pixels_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="has to be 1 or more, and is 0"):
        FrameFolder(str(tmp_path), **options)
