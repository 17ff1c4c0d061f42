"""Views by kernels equal torch's for the same random numbers, for any list of operations."""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from simmim_pl.contracts import Views
from simmim_pl.runtime.constants import constant
from simmim_pl.runtime.seeding import RankGenerator
from simmim_pl.views import (
    ColorJitter,
    ContrastiveViews,
    CropFlip,
    GaussianBlur,
    Grayscale,
    Solarize,
    fused,
)
from simmim_pl.views.plan import Crop, draw_plan, make_view
from tests.kernels import DEVICE, needs_kernels
from tests.views.test_contrastive import Darken

COLOURS = [ColorJitter(0.8, 0.4, 0.6, 0.2, 0.3), Grayscale(0.3)]
CROP = Crop(20, (0.2, 1.0), (0.6, 1.5), 0.4)
KNOWN = {
    "SimCLR": [COLOURS, COLOURS],
    "blurred": [[*COLOURS, GaussianBlur(0.7, (0.3, 1.5))]] * 2,
    "BYOL": [[*COLOURS, GaussianBlur(1.0)], [*COLOURS, GaussianBlur(0.1), Solarize(0.6)]],
    "some": [[Grayscale(0.5), Solarize(0.5)], []],
}
MIXED = {
    "own last": [[*COLOURS, Darken()]] * 2,
    "own first": [[Darken(), *COLOURS, Solarize(0.5)]] * 2,
    "own between": [[*COLOURS, Darken(), GaussianBlur(0.8)], COLOURS],
    "another order": [[Solarize(0.6), *COLOURS], [*COLOURS, ColorJitter(1.0), Grayscale(0.2)]],
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(batch: int = 3 if DEVICE.type == "cpu" else 64, height: int = 24, width: int = 30) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=seeded(0))


@needs_kernels
@pytest.mark.parametrize("name", KNOWN | MIXED)
def test_kernel_views_equal_torchs_for_the_same_random_numbers(name: str) -> None:
    image, operations = images(), (KNOWN | MIXED)[name]
    views, generator = fused.fused_views(image.to(DEVICE), CROP, operations, seeded(2)), seeded(2)
    plans = [draw_plan(image, CROP, each, generator) for each in operations]
    for view, plan, each in zip(views, plans, operations, strict=True):
        torch.testing.assert_close(view.cpu(), make_view(image / 255, plan, CROP.size, each), atol=2e-5, rtol=0)


@needs_kernels
def test_a_rank_gets_its_part_of_the_whole_batch() -> None:
    image = images(4)
    whole = fused.fused_views(image.to(DEVICE), CROP, KNOWN["SimCLR"], seeded(3))
    for rank in (0, 1):
        share = RankGenerator("cpu").manual_seed(3)
        share.rank, share.ranks = rank, 2
        part = fused.fused_views(image[rank::2].to(DEVICE), CROP, KNOWN["SimCLR"], share)
        assert torch.equal(part, whole[:, rank::2])


@needs_kernels
@pytest.mark.parametrize("views", [ContrastiveViews(20, views=3), CropFlip(), CropFlip(9)])
def test_a_device_with_kernels_uses_them(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    image = images()
    monkeypatch.setattr(fused, "runs_kernels", lambda device: True)
    found = views(image.to(DEVICE), seeded(4))
    crop = Crop(views.size or 24, views.scale, views.ratio, views.flip)
    operations = getattr(views, "operations", [[]])
    assert torch.equal(found, fused.fused_views(image.to(DEVICE), crop, operations, seeded(4)))
    assert found.shape == (views.views, len(image), 3, crop.size, crop.size)


class Watch(TorchDispatchMode):
    """Counts kernel launches; fake tensors refuse synchronisation, and this class refuses copies to the device."""

    def __init__(self) -> None:
        super().__init__()
        self.launched: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        before = {each.device.type for each in args if isinstance(each, torch.Tensor)}
        assert not isinstance(result, torch.Tensor) or before <= {result.device.type}, f"{func} copies to the device"
        if not (func.is_view or "empty" in str(func) or func.namespace == "prim"):
            self.launched.append(str(func))
        return result

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        """Mock a kernel launch."""
        assert min(grid) > 0
        return lambda *given, **constants: self.launched.append("kernel")


@pytest.mark.skipif(find_spec("triton") is None, reason="no Triton")
@pytest.mark.parametrize(("name", "most"), [("SimCLR", 3), ("BYOL", 3), ("own between", 111), ("another order", 116)])
def test_views_are_made_without_synchronisation(name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.__version__.startswith("2.6") and most > 3:
        pytest.skip("torch 2.6 slices tensors of a GPU only where there is one, even tensors without contents")
    rand, watch, operations = torch.rand, Watch(), (KNOWN | MIXED)[name]
    monkeypatch.setattr("simmim_pl.gpu.views.one_view", watch)
    monkeypatch.setattr("simmim_pl.gpu.parameters.draw_rows", watch)
    monkeypatch.setattr("torch.cuda.device_of", lambda tensor: nullcontext())
    monkeypatch.setattr(torch, "rand", lambda shape, generator, device: rand(shape, device="cuda"))
    constant.cache_clear()
    with FakeTensorMode():
        image = torch.empty(6, 3, 24, 30, dtype=torch.uint8, device="cuda")
        fused.fused_views(image, CROP, operations, seeded(0))  # from here on constants are on the device
        watch.launched.clear()
        with watch:
            views = fused.fused_views(image, CROP, operations, seeded(0))
    constant.cache_clear()
    assert views.shape == (len(operations), 6, 3, 20, 20)
    assert "kernel" in watch.launched
    assert len(watch.launched) <= most, Counter(watch.launched)
