"""Videos: the requested frames, the choice of decoder, and the error without one."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torchvision
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, VideoFolder
from simmim_pl.data.sources.video import decode_video
from tests.forked import Program, environment


class Decoder:
    """Replaces torchcodec's decoder: the file contains its number of frames; red counts them."""

    def __init__(self, file: str) -> None:
        self.length = int(Path(file).read_text())

    def __len__(self) -> int:
        return self.length

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        return SimpleNamespace(data=video(self.length)[indices])


def video(length: int) -> Tensor:
    pixels = torch.zeros(length, 3, 20, 40, dtype=torch.uint8)
    pixels[:, 0] = torch.arange(length).view(-1, 1, 1)
    return pixels


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("torchcodec.decoders")
    module.VideoDecoder = Decoder
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", module)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for label in ("jump", "walk"):
            for name, length in (("a.mp4", 12), ("deep/b.AVI", 4), ("c.webm", 30)):
                (tmp_path / split / label / name).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / split / label / name).write_text(str(length))
    (tmp_path / "train/walk/notes.txt").touch()
    return tmp_path


def without(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # importing it then fails


@pytest.mark.usefixtures("fake")
def test_clips_of_both_splits(root: Path) -> None:
    folder = VideoFolder(str(root), size=8, frames=4)
    folder.prepare()
    for split in ("train", "test"):
        clips = folder.load(split)
        assert folder.classes == ["jump", "walk"]
        assert (len(clips), clips.labels.tolist(), clips.clips, clips.workers) == (6, [0, 0, 0, 1, 1, 1], True, True)
        batch = clips.__getitems__([0, 2, 4])
        assert set(batch) == {"clip", "label", "index"}
        assert batch["clip"].shape == (3, 4, 3, 8, 8)
        assert batch["clip"].dtype == torch.uint8
        assert batch["clip"][:, :, 0, 4, 4].tolist() == [[1, 4, 7, 10], [0, 1, 2, 3], [3, 11, 18, 26]]


@pytest.mark.usefixtures("fake")
def test_the_datamodule_loads_them_in_workers(root: Path) -> None:
    images = ImageDataModule(VideoFolder(str(root), frames=2), batch_size=4, validation=2, workers=1)
    images.setup("fit")
    assert [batch["clip"].shape for batch in images.train_dataloader()] == [(4, 2, 3, 32, 32)]


@pytest.mark.usefixtures("fake")
def test_the_digest_depends_on_files_frames_size_and_labels(root: Path) -> None:
    def of(size: int = 8, frames: int = 4, split: str = "train") -> str:
        return VideoFolder(str(root), size, frames).load(split).digest()

    before = [of(), of(size=9), of(frames=3), of(split="test")]
    assert of() == before[0]
    assert len(set(before)) == 4
    (root / "train/jump/a.mp4").write_text("120")
    assert of() not in before


@pytest.mark.usefixtures("fake")
def test_a_video_that_is_too_short_or_damaged_is_named(root: Path) -> None:
    clips = VideoFolder(str(root), frames=5).load("train")
    with pytest.raises(InputError, match=r"b\.AVI holds 4 frames, and every clip needs 5: lower frames"):
        clips.read(torch.tensor([2]))
    (root / "train/jump/a.mp4").write_text("no\nnumber")
    with pytest.raises(InputError, match=r"a\.mp4 cannot be read as a video \(invalid literal.*\): replace it"):
        VideoFolder(str(root), frames=5).prepare()


def test_without_a_decoder_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "torchcodec")
    monkeypatch.delattr(torchvision.io, "read_video", raising=False)
    with pytest.raises(InputError, match=r"pip install 'simmim_pl\[video\]'"):
        VideoFolder(str(root)).prepare()


def test_an_older_torchvision_can_read_videos(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_video(file: str, pts_unit: str, output_format: str) -> tuple[Tensor, None, None]:
        assert (pts_unit, output_format) == ("sec", "TCHW")
        return video(int(Path(file).read_text())), None, None

    without(monkeypatch, "torchcodec")
    monkeypatch.setattr(torchvision.io, "read_video", read_video, raising=False)
    assert decode_video(str(root / "train/jump/a.mp4"), 4, 8)[:, 0, 4, 4].tolist() == [1, 4, 7, 10]
    with pytest.raises(InputError, match="12 frames, and every clip needs 13"):
        decode_video(str(root / "train/jump/a.mp4"), 13, 8)


def test_a_torchcodec_without_ffmpeg_says_what_to_install(
    root: Path, fake: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unloadable(self: Decoder, file: str) -> None:
        raise RuntimeError("Could not load libtorchcodec. Likely causes:\n 1. FFmpeg is not properly installed")

    monkeypatch.setattr(Decoder, "__init__", unloadable)
    with pytest.raises(InputError, match="torchcodec is installed but cannot be loaded: install FFmpeg"):
        VideoFolder(str(root)).prepare()


@pytest.mark.parametrize("options", [{"size": 0}, {"frames": 0}])
def test_clips_without_frames_or_pixels_are_refused(tmp_path: Path, options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="has to be 1 or more, and is 0"):
        VideoFolder(str(tmp_path), **options)


def test_a_folder_without_videos_is_refused(root: Path) -> None:
    for path in (root / "train/walk").rglob("*.*"):
        path.unlink()
    with pytest.raises(InputError, match="train/walk is a class without videos"):
        VideoFolder(str(root)).prepare()


# Detects torchcodec and FFmpeg in a separate process, because a failed import leaves state.
ENDINGS = ["mp4", "mkv", "avi", "mov", "webm", "gif"]
REAL = """
import sys, torch
from torchcodec.encoders import VideoEncoder
for ending in sys.argv[1:]:
    try:
        VideoEncoder(torch.zeros(4, 3, 64, 64).byte(), frame_rate=9).to_file(f"x.{ending}")
    except RuntimeError:
        continue
    print(ending, flush=True)
"""


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The extensions for which a video can be encoded."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "real.py").write_text(REAL)
    return Program("real", ENDINGS, folder, environment()).communicate(120)[0].split()


@pytest.mark.parametrize("ending", ENDINGS)
def test_real_videos_are_decoded(encoded: list[str], tmp_path: Path, ending: str) -> None:
    if ending not in encoded:
        pytest.skip("torchcodec and FFmpeg are not installed")
    from torchcodec.encoders import VideoEncoder

    pixels = torch.zeros(12, 3, 64, 128, dtype=torch.uint8)
    pixels[:, :, :, 32:96] = 20 * torch.arange(12).view(-1, 1, 1, 1).byte()  # the centre is brighter in every frame
    file = str(tmp_path / f"x.{ending}")
    VideoEncoder(pixels, frame_rate=10).to_file(file)
    clip = decode_video(file, 4, 32)
    assert clip.shape == (4, 3, 32, 32)
    expected = torch.tensor([20, 80, 140, 200.0])
    assert (clip.float().mean((1, 2, 3)) - expected).abs().max() < 12  # lossy
    with pytest.raises(InputError, match=r"x\.\w+ holds 12 frames, and every clip needs 13"):
        decode_video(file, 13, 32)
    (tmp_path / f"x.{ending}").write_bytes(b"not a video")
    with pytest.raises(InputError, match=r"x\.\w+ cannot be read as a video"):
        decode_video(file, 4, 32)
