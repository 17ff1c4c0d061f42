"""Speed at which a source reads images: Hugging Face's Arrow and Parquet against a folder of the same JPEG files.

    python benchmarks/sources.py            # pip install -e '.[huggingface]'; two minutes, one thread
    python benchmarks/sources.py --smoke    # a few images, seconds: a test that everything runs

Random batches are decoded without cache, as from a set that is too large for memory. Times are medians of alternating
rounds, after a first one that brings the files into memory; so they compare reading and decoding, not disks. Fails if a
ratio is below GOAL.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from simmim_pl.data import FileList, Folder, HuggingFace, ImageDataset

GOAL = 0.9  # of the folder's images per second
CASES = [(96, 64, 1024), (500, 224, 256)]  # side of the JPEGs and size that they are decoded to, in pixels; how many


def write(folder: Path, side: int, number: int) -> None:
    """The same JPEG files as a folder, a list, a folder of save_to_disk and a Parquet file."""
    import datasets

    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = folder / "cache"
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 12, 12, 3), dtype=np.uint8)  # smooth, so that files are as small as photos
    (folder / "images").mkdir()
    files = [folder / f"images/{index:05}.jpg" for index in range(number)]
    for file, pixels in zip(files, coarse, strict=True):
        Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC).save(file, quality=90)
    (folder / "list.csv").write_text("\n".join(["path", *map(str, files)]))
    rows = [{"bytes": file.read_bytes(), "path": file.name} for file in files]
    table = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    table.save_to_disk(folder / "saved")
    table.to_parquet(folder / "rows.parquet")


def sides(folder: Path, size: int) -> dict[str, ImageDataset]:
    """The training split of each source, which decodes batch by batch."""
    found = {
        "Folder": Folder(str(folder / "images"), size=size, memory_gb=0),
        "FileList": FileList(str(folder / "list.csv"), size=size, memory_gb=0),
        "HuggingFace, save_to_disk": HuggingFace(str(folder / "saved"), size=size, memory_gb=0),
        "HuggingFace, Parquet": HuggingFace(str(folder / "rows.parquet"), size=size, memory_gb=0),
    }
    return {name: source.load("train") for name, source in found.items()}


def measure(splits: dict[str, ImageDataset], rounds: int, batch: int) -> dict[str, float]:
    """Images per second of each side: medians of alternating rounds of the whole set in one random order."""
    number = len(next(iter(splits.values())))
    order = torch.randperm(number, generator=torch.Generator().manual_seed(0)).split(batch)
    times: dict[str, list[float]] = {name: [] for name in splits}
    for _ in range(rounds + 1):
        for name, images in splits.items():
            since = time.perf_counter()
            for index in order:
                images.read(index)
            times[name].append(time.perf_counter() - since)
    return {name: number / statistics.median(taken[1:]) for name, taken in times.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    smoke = parser.parse_args().smoke
    torch.set_num_threads(1)
    versions = [f"{name} {version(name)}" for name in ("torch", "pillow", "datasets", "pyarrow")]
    print(f"{platform.machine()}, one thread; {', '.join(versions)}")
    print(f"| {'JPEG, decoded to':<20} | {'source':<26} | {'images/s':>9} | {'of Folder':>9} |")
    good = True
    for side, size, number in CASES:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), side, 32 if smoke else number)
            splits = sides(Path(folder), size)
            assert len({images.read(torch.arange(8)).sum().item() for images in splits.values()}) == 1
            rates = measure(splits, 1 if smoke else 9, 16 if smoke else 64)
        for name, rate in rates.items():
            good &= rate >= GOAL * rates["Folder"]
            print(f"| {f'{side} px, {size} px':<20} | {name:<26} | {rate:>9,.0f} | {rate / rates['Folder']:>9.2f} |")
    return 0 if good or smoke else 1


if __name__ == "__main__":
    sys.exit(main())
