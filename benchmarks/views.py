"""Views a core makes in a second, beside lightly's SimCLR transform and kornia's batched augmentations.

    python benchmarks/views.py                # pip install -e '.[benchmarks]'; half a minute, one thread

Two views of 32×32 of an image of 32×32, at the same settings: crop of 8 to 100 % of the area, flip, colour jitter of
half strength, grayscale, normalisation; then with blur. lightly works on PIL images, one at a time, as its data sets
serve them; kornia on a batch, as ours. Rates are medians of rounds by turns. Fails below 10 and 3 times.
"""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable

import kornia
import kornia.augmentation as K
import lightly
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

from simmim_pl.encoders import FastCNN
from simmim_pl.views import ContrastiveViews

BATCH, ROUNDS = 256, 7
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)


def ours(images: torch.Tensor, blur: float) -> Callable[[], None]:
    """A batch of views, normalised by the encoder's buffers."""
    views, encoder, generator = ContrastiveViews(32, blur=blur), FastCNN(2, MEAN, STD), torch.Generator().manual_seed(0)
    return lambda: encoder.normalize(views(images, generator))


def lightlys(images: torch.Tensor, blur: float) -> Callable[[], None]:
    """The same from PIL images, which are in memory already."""
    normalise = {"mean": list(MEAN), "std": list(STD)}
    transform = SimCLRTransform(32, cj_strength=0.5, gaussian_blur=blur, normalize=normalise)
    pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
    return lambda: [torch.stack(views) for views in zip(*map(transform, pictures), strict=True)]


def kornias(images: torch.Tensor, blur: float, cropping: str) -> Callable[[], None]:
    """The same from the batch, without antialiasing, which it does not have; cropped in one of its two ways."""
    chain = [
        K.RandomResizedCrop((32, 32), scale=(0.08, 1.0), cropping_mode=cropping),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.2),
        *([K.RandomGaussianBlur((3, 3), (0.1, 2.0), p=blur)] if blur else []),
        K.Normalize(torch.tensor(MEAN), torch.tensor(STD)),
    ]
    transform = torch.nn.Sequential(*chain)
    return lambda: [transform(images / 255) for _ in range(2)]


def seconds(work: Callable[[], None]) -> float:
    """Of one call."""
    since = time.perf_counter()
    work()
    return time.perf_counter() - since


def main() -> int:
    torch.set_num_threads(1)
    versions = f"torch {torch.__version__}, lightly {lightly.__version__}, kornia {kornia.__version__}"
    print(f"{platform.machine()}, one thread, batches of {BATCH}, {versions}")
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    good = True
    for blur in (0.0, 0.5):
        sides = {"ours": ours(images, blur), "lightly": lightlys(images, blur)}
        sides |= {f"kornia, {way}": kornias(images, blur, way) for way in ("slice", "resample")}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(ROUNDS + 1):  # the first warms up
            for name, work in sides.items():
                times[name].append(seconds(work))
        rates = {name: BATCH / statistics.median(taken[1:]) for name, taken in times.items()}
        said = [
            f"{name} {rate:,.0f} ({rates['ours'] / rate:.1f} times)" for name, rate in rates.items() if name != "ours"
        ]
        print(f"blur {blur:g}: ours {rates['ours']:,.0f} images/s; {'; '.join(said)}")
        kornia_best = max(rate for name, rate in rates.items() if "kornia" in name)
        good &= rates["ours"] >= 10 * rates["lightly"] and rates["ours"] >= 3 * kornia_best
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
