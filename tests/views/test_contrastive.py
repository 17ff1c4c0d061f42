"""Complete views: seeded, independent between images, in range, distributed like torchvision's transforms."""

import pytest
import torch
import yaml
from torchvision.transforms import v2

from simmim_pl.contracts import InputError
from simmim_pl.runtime.seeding import make_generator, uniform
from simmim_pl.views import (
    ColorJitter,
    ContrastiveViews,
    GaussianBlur,
    Grayscale,
    Operation,
    Solarize,
    contrastive,
)
from simmim_pl.views.plan import Crop, draw_plan
from tests.conftest import TINY


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def picture(height: int, width: int) -> torch.Tensor:
    """An image without symmetry: a gradient in each channel with coarse coloured noise."""
    coarse = torch.rand(1, 3, 4, 4, generator=seeded(7))
    grains = torch.nn.functional.interpolate(coarse, size=(height, width), mode="nearest")[0]
    slope = torch.linspace(0, 1, width) * torch.tensor([1.0, 0.5, 0.2])[:, None, None]
    return (255 * (grains + slope) / 2).to(torch.uint8)


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.randint(0, 256, (16, 3, 24, 40), dtype=torch.uint8, generator=seeded(0))


@pytest.mark.parametrize(("views", "size"), [(2, 32), (3, 8), (8, 48)])
def test_shape_and_range(batch, views, size):
    result = ContrastiveViews(size=size, views=views, brightness=1, contrast=2)(batch, seeded(0))
    assert result.shape == (views, 16, 3, size, size)
    assert result.dtype == torch.float32
    assert 0 <= result.min() < result.max() <= 1


def test_views_depend_on_the_seed_and_not_on_global_state(batch):
    views = ContrastiveViews()
    torch.manual_seed(0)
    first = views(batch, seeded(1))
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again, other = views(batch, seeded(1)), views(batch, seeded(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_generator_advances(batch):
    views, generator = ContrastiveViews(), seeded(0)
    assert not torch.equal(views(batch, generator), views(batch, generator))


def test_the_input_is_not_changed(batch):
    before = batch.clone()
    ContrastiveViews()(batch, seeded(0))
    assert torch.equal(batch, before)


def test_every_view_of_every_image_has_its_own_parameters():
    equal = picture(32, 32).expand(64, -1, -1, -1)
    result = ContrastiveViews(views=3, jitter=1, grayscale=0)(equal, seeded(0)).flatten(0, 1).flatten(1)
    assert len(result.unique(dim=0)) == 3 * 64


def test_without_randomness_a_view_is_the_image():
    image = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=seeded(0))
    still = ContrastiveViews(scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, grayscale=0)
    torch.testing.assert_close(still(image, seeded(0)), (image / 255).expand(2, -1, -1, -1, -1))


def test_flip_and_greyscale_have_their_probabilities():
    image = picture(8, 8).expand(4000, -1, -1, -1)
    views = ContrastiveViews(size=8, scale=(1, 1), ratio=(1, 1), jitter=0, flip=0.3, grayscale=0.15)
    result = views(image, seeded(0)).flatten(0, 1)
    grey = (result[:, 0] == result[:, 1]).flatten(1).all(dim=1)
    flipped = (result[~grey] - image[0].flip(-1) / 255).abs().flatten(1).amax(dim=1) < 1e-5
    assert grey.double().mean().item() == pytest.approx(0.15, abs=0.015)
    assert flipped.double().mean().item() == pytest.approx(0.3, abs=0.02)


def test_the_distribution_equals_torchvisions():
    count, image = 3000, picture(24, 32)
    reference = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.RandomResizedCrop(16, antialias=True),
            v2.RandomHorizontalFlip(0.5),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], 0.8),
            v2.RandomGrayscale(0.2),
        ]
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.stack([reference(image) for _ in range(count)])
    ours = ContrastiveViews(size=16)(image.expand(count // 2, -1, -1, -1), seeded(0)).flatten(0, 1)
    for statistic in (
        lambda x: x,  # each pixel's mean over draws: the position of crops
        lambda x: x.square(),
        lambda x: x.std(dim=(2, 3)),  # the size of crops, the contrast
        lambda x: x.amax(dim=1) - x.amin(dim=1),  # the saturation
    ):
        one, two = statistic(ours).flatten(1), statistic(theirs).flatten(1)
        error = ((one.var(dim=0) + two.var(dim=0)) / count).sqrt()
        z = (one.mean(dim=0) - two.mean(dim=0)) / error
        assert z.abs().max() < 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 0),
        ("views", 1),
        ("scale", (0.0, 1.0)),
        ("scale", (0.5, 0.2)),
        ("scale", (0.5, 1.1)),
        ("ratio", (0.0, 1.0)),
        ("ratio", (2.0, 1.0)),
        ("flip", -0.1),
        ("flip", float("nan")),
        ("jitter", 1.1),
        ("grayscale", 2.0),
        ("brightness", -0.1),
        ("contrast", -1.0),
        ("saturation", float("nan")),
        ("hue", 0.6),
        ("hue", -0.1),
    ],
)
def test_an_argument_out_of_range_is_named(name, value):
    with pytest.raises(InputError, match=f"^{name} "):
        ContrastiveViews(**{name: value})


def test_blocks_do_not_change_views(batch, monkeypatch):
    views = ContrastiveViews(size=20, blur=0.5, solarize=0.5)
    whole = views(batch, seeded(0))
    monkeypatch.setattr(contrastive, "BLOCK", 5 * batch[0].numel())
    torch.testing.assert_close(views(batch, seeded(0)), whole, atol=1e-6, rtol=0)


def test_a_seed_gives_the_same_views_as_in_earlier_versions(batch):
    """Crops and flips of the first views of a seed: a change would invalidate all earlier results."""
    views = ContrastiveViews()
    plan = draw_plan(batch, Crop(32, views.scale, views.ratio, views.flip), views.operations[0], seeded(0))
    assert plan.box[:3].tolist() == [[1, 2, 23, 22], [0, 7, 17, 22], [5, 13, 19, 23]]
    assert plan.flip[:8].tolist() == [True, True, True, True, False, False, True, False]
    assert ContrastiveViews()(batch, seeded(0))[1].mean().item() == pytest.approx(0.46783, abs=1e-4)  # and the second


class Darken(Operation):
    """A user's operation: darkens each image by a random factor."""

    def sample(self, batch: int, generator: torch.Generator, device: torch.device) -> torch.Tensor:
        return uniform(generator, batch, along=0).to(device)

    def apply(self, view: torch.Tensor, parameters: torch.Tensor) -> torch.Tensor:
        return view * parameters[:, None, None, None]


def test_default_operations_equal_the_settings(batch):
    asked = [ColorJitter(0.7, 0.3, 0.3, 0.2, 0.1), Grayscale(0.3), GaussianBlur(0.4), Solarize(0.2)]
    settings = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.2, "grayscale": 0.3, "blur": 0.4, "solarize": 0.2}
    given = ContrastiveViews(size=20, operations=asked)(batch, seeded(1))
    assert torch.equal(given, ContrastiveViews(size=20, jitter=0.7, **settings)(batch, seeded(1)))


def test_a_custom_operation_runs_in_its_order(batch):
    plain, first, last = (
        ContrastiveViews(size=20, operations=order)(batch, seeded(0))[0]
        for order in ([Darken()], [Darken(), Solarize(1.0)], [Solarize(1.0), Darken()])
    )
    assert torch.equal(first, torch.where(plain >= 0.5, 1 - plain, plain))
    assert not torch.equal(first, last)


def test_views_of_one_image_may_differ_in_their_operations(batch):
    one, other = ContrastiveViews(size=20, operations=[[Grayscale(1.0)], [Solarize(1.0)]])(batch, seeded(0))
    assert (one.amax(dim=1) == one.amin(dim=1)).all()
    assert other.max() <= 0.5
    assert not (other.amax(dim=1) == other.amin(dim=1)).all()
    assert ContrastiveViews(size=20, operations=[])(batch, seeded(0)).shape == (2, len(batch), 3, 20, 20)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"operations": [Grayscale()], "hue": 0.2, "blur": 0.1}, "operations replaces hue, blur"),
        ({"operations": [[Grayscale()]]}, "operations has 1 lists for 2 views"),
        ({"operations": [[], [GaussianBlur()]], "size": 16}, "16 pixels is too small for GaussianBlur"),
    ],
)
def test_operations_with_conflicting_settings_are_refused(settings, says):
    with pytest.raises(InputError, match=says):
        ContrastiveViews(**settings)


def test_an_incomplete_operation_cannot_be_instantiated():
    with pytest.raises(TypeError, match="abstract"):
        type("Half", (Operation,), {"sample": Darken.sample})()


def test_operations_can_be_set_in_yaml(cli, tmp_path):
    places = [[{"class_path": "simmim_pl.views.ColorJitter"}, {"class_path": f"{__name__}.Darken"}]] * 2
    places[1] = [*places[1], {"class_path": "simmim_pl.views.Solarize", "init_args": {"probability": 0.2}}]
    unset = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1, "grayscale": 0.2}
    views = {"class_path": "simmim_pl.views.ContrastiveViews", "init_args": {"operations": places, **unset}}
    (tmp_path / "views.yaml").write_text(yaml.safe_dump(views))
    run = cli([*TINY, f"--data.views={tmp_path / 'views.yaml'}", "--trainer.max_steps=2"])
    saved = yaml.safe_load((run / "config.yaml").read_text())["data"]["init_args"]["views"]["init_args"]["operations"]
    assert [len(part) for part in saved] == [2, 3]


def test_views_do_not_depend_on_other_images() -> None:
    image = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    views, cpu = ContrastiveViews(size=8, jitter=1.0, grayscale=0.5), torch.device("cpu")
    together = views(image, make_generator(0, 1, cpu))
    for rank in range(24):
        alone = views(image[rank : rank + 1], make_generator(0, 1, cpu, rank, 24))
        assert torch.equal(alone[:, 0], together[:, rank])
