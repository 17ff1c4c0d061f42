"""Speed of views, compared with lightly's SimCLR transform, kornia's batched augmentations and torchvision's v2.

    python benchmarks/views.py                  # pip install -e '.[benchmarks]'; half a minute, one thread
    python benchmarks/views.py --device cuda    # half a minute
    python benchmarks/views.py --smoke          # a few images on the CPU, seconds: a test that everything runs

Two views of each image at the same settings: crop of 8 to 100 % of the area, flip, colour jitter of half strength,
grayscale, normalisation; with and without blur. lightly works on PIL images, one at a time, as its data sets give
them; kornia on a batch with parameters for each image, like ours; torchvision on a batch with the same
parameters for all images, which is less work. Times are medians of alternating rounds. A package that is not installed
is skipped with a message. Fails if ours is not as many times as fast as in ``GOALS``.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch
from torchvision.transforms import v2

from simmim_pl.encoders import FastCNN
from simmim_pl.views import ContrastiveViews
from simmim_pl.views.gaussian_blur import kernel_size

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
Work = Callable[[], object]
# Batch size, image size, view size, probability of blur.
CASES = {
    "cpu": [(256, 32, 0.0), (256, 32, 0.5)],
    "cuda": [(512, 32, 0.0), (4096, 32, 0.0), (512, 32, 0.5), (4096, 32, 0.5), (256, 224, 0.0), (256, 224, 0.5)],
    "smoke": [(4, 32, 0.5)],
}
GOALS = {"lightly": 10, "kornia slice": 3, "kornia": 3, "torchvision": 0}  # on a CPU
GOALS_ON_GPU = {"kornia": 10, "torchvision": 3}


def ours(images: torch.Tensor, size: int, blur: float) -> Work:
    """A batch of views, normalised by the encoder's buffers."""
    views, encoder = ContrastiveViews(size, blur=blur), FastCNN(2, MEAN, STD).to(images.device)
    generator = torch.Generator(images.device).manual_seed(0)
    return lambda: encoder.normalize(views(images, generator))


def torchvisions(images: torch.Tensor, size: int, blur: float) -> Work:
    """The same from a batch, with the same parameters for all images."""
    blurred = [v2.RandomApply([v2.GaussianBlur(kernel_size(size), (0.1, 2.0))], blur)] if blur else []
    transform = v2.Compose(
        [
            *(v2.ToDtype(torch.float32, scale=True), v2.RandomResizedCrop(size, antialias=True)),
            *(v2.RandomHorizontalFlip(0.5), v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8)),
            *(v2.RandomGrayscale(0.2), *blurred, v2.Normalize(MEAN, STD)),
        ]
    )
    return lambda: [transform(images) for _ in range(2)]


def lightlys(images: torch.Tensor, size: int, blur: float) -> Work:
    """The same from PIL images in memory."""
    from lightly.transforms import SimCLRTransform
    from PIL import Image

    normalise = {"mean": list(MEAN), "std": list(STD)}
    transform = SimCLRTransform(size, cj_strength=0.5, gaussian_blur=blur, normalize=normalise)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return lambda: [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]


def kornias(images: torch.Tensor, size: int, blur: float, cropping: str = "resample") -> Work:
    """The same from a batch, without antialiasing, which kornia does not have; with one of its two crop modes."""
    import kornia.augmentation as K

    kernel = (kernel_size(size),) * 2
    chain = [
        K.RandomResizedCrop((size, size), scale=(0.08, 1.0), cropping_mode=cropping),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        *([K.RandomGaussianBlur(kernel, (0.1, 2.0), p=blur)] if blur else []),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ]
    transform = torch.nn.Sequential(*chain).to(images.device)
    return lambda: [transform(images / 255) for _ in range(2)]


def peers(images: torch.Tensor, size: int, blur: float) -> dict[str, Work]:
    """Peers that are installed and run on the device."""
    found = {"torchvision": torchvisions(images, size, blur)}
    if installed("kornia"):
        found["kornia"] = kornias(images, size, blur)
    if images.device.type == "cpu" and installed("kornia"):
        found["kornia slice"] = kornias(images, size, blur, "slice")  # a loop over images
    if images.device.type == "cpu" and installed("lightly"):
        found["lightly"] = lightlys(images, size, blur)
    return found


def installed(package: str) -> str | None:
    """The version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def seconds(work: Work, device: torch.device) -> float:
    """Seconds per call, including synchronisation."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    wait()
    since = time.perf_counter()
    work()
    wait()
    return time.perf_counter() - since


def measure(sides: dict[str, Work], device: torch.device, rounds: int) -> dict[str, float]:
    """Seconds per call of each side, alternating."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds + 1):  # the first call warms up and compiles kernels
        for name, work in sides.items():
            times[name].append(seconds(work, device))
    return {name: statistics.median(taken[1:]) for name, taken in times.items()}


def line(cells: Sequence[str]) -> str:
    """A row of a table."""
    return f"| {cells[0]:<24} | {cells[1]:<12} | {cells[2]:>10} | {cells[3]:>14} | {cells[4]:>10} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--smoke", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    device, goals = torch.device(given.device), GOALS_ON_GPU if given.device == "cuda" else GOALS
    where = torch.cuda.get_device_name() if given.device == "cuda" else f"{platform.machine()}, one thread"
    versions = [
        f"{name} {installed(name) or 'not installed'}" for name in ("torch", "torchvision", "kornia", "lightly")
    ]
    print(f"{where}; {', '.join(versions)}")
    print(line(("two views of", "by", "ms", "images/s", "ours is")))
    good = True
    for batch, size, blur in CASES["smoke" if given.smoke else given.device]:
        images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8).to(device)
        sides = {"ours": ours(images, size, blur), **peers(images, size, blur)}
        taken = measure(sides, device, rounds=1 if given.smoke else 7)
        for name, each in taken.items():
            ahead = each / taken["ours"]
            good &= name == "ours" or ahead >= goals[name]
            case = f"{batch} of {size} px, blur {blur:g}"
            print(line((case, name, f"{1e3 * each:.3f}", f"{batch / each:,.0f}", f"{ahead:.1f} times")))
    return 0 if good or given.smoke else 1


if __name__ == "__main__":
    sys.exit(main())
