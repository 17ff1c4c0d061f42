"""What a file computes is compared with the encoder, and a network that is not the same is found out."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.encoders import FastCNN, ViT
from simmim_pl.export.formats.safetensors import Safetensors
from simmim_pl.export.verify import TOLERANCE, compare, verify
from tests.export.conftest import Run, randomised

IMAGES = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
RUN = ["pooled = encode(images)"]


def lines(body: str) -> list[str]:
    """Of a network that is made anew, as the encoder was."""
    return [
        "import torch",
        "from simmim_pl.encoders import FastCNN",
        "from tests.export.conftest import randomised",
        "encoder = torch.manual_seed(1) and randomised(FastCNN(2))",
        f"encode = lambda images: {body}",
    ]


@pytest.fixture
def encoder() -> FastCNN:
    torch.manual_seed(1)
    made = randomised(FastCNN(2))
    assert isinstance(made, FastCNN)
    return made


def test_the_same_network_differs_by_nothing(encoder: FastCNN) -> None:
    found = verify(lines("encoder(images).pooled"), RUN, encoder, IMAGES, "x")
    with torch.no_grad():
        features = encoder(IMAGES)
    assert found.largest == 0
    assert found.magnitude == features.pooled.abs().max().item()
    found = verify(lines("encoder(images).pooled + 1e-6"), RUN, encoder, IMAGES, "x")
    assert found.largest == pytest.approx(1e-6, rel=0.2)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("encoder(images.flip(1)).pooled", "What x computes differs from the encoder by"),  # BGR
        ("encoder(images * 255).pooled", "differs from the encoder by"),
        ("encoder(images.flip(0)).pooled", "differs from the encoder by"),  # another order of the images
        ("encoder.train()(images).pooled", "differs from the encoder by"),
        ("encoder(images).pooled * 1.001", "differs from the encoder by"),
        ("encoder(images).pooled + (len(images) == 3)", "differs from the encoder by"),  # in the other batch only
        ("encoder(images).pooled * float('nan')", "differs from the encoder by nan"),
        ("encoder(images).pooled[:, :3]", r"x gives \[8, 3\] for \[8, 16\] of the encoder"),
        ("encoder(images[:8].view(8, 3, 16, 16)).pooled", r"x cannot run what was exported \(shape '\[8, 3, 16, 16\]'"),
        ("missing(images)", r"x cannot run what was exported \(name 'missing' is not defined\)"),
    ],
)
def test_another_network_is_found_out(encoder: FastCNN, body: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        verify(lines(body), RUN, encoder, IMAGES, "x")


def test_the_feature_map_is_compared_too(encoder: FastCNN) -> None:
    running = ["pooled, feature_map = encode(images)"]
    assert verify(lines("encoder(images)"), running, encoder, IMAGES, "x").largest == 0
    with pytest.raises(InputError, match="differs from the encoder"):
        verify(lines("(encoder(images).pooled, encoder(images).feature_map.mT)"), running, encoder, IMAGES, "x")


def test_the_tolerance_is_of_the_largest_feature() -> None:
    want = torch.tensor([[1.0, 10.0]])
    assert compare([(want + 0.9 * TOLERANCE * 10, want)], "x").magnitude == 10
    with pytest.raises(InputError, match=r"differs from the encoder by 0\.0011, where features are up to 10, so"):
        compare([(want + 1.1 * TOLERANCE * 10, want)], "x")


def test_an_encoder_that_cannot_tell_images_apart_or_refuses_them_is_not_exported(encoder: FastCNN) -> None:
    with pytest.raises(InputError, match="the same features for all 8 images, so a comparison would show nothing"):
        verify(lines("encoder(images).pooled"), RUN, encoder, torch.zeros(8, 3, 16, 16), "x")
    with pytest.raises(
        InputError, match=r"cannot encode images of 30×30 pixels \(Images of 30×30 .*\): give another --size\."
    ):
        verify([], RUN, ViT(width=12, depth=1).eval(), torch.rand(8, 3, 30, 30), "x")


def damage(change: Callable[[dict[str, Tensor]], None]) -> Callable[[Safetensors, Path], None]:
    """Writing, by which a file holds something else."""
    write = Safetensors.write

    def writing(self: Safetensors, folder: Path) -> None:
        write(self, folder)
        path = folder / self.file
        metadata = {"simmim_pl.encoder": json.dumps(self.pretrained.spec)}
        state = load_file(path)
        change(state)
        save_file(state, path, metadata)

    return writing


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda state: state["net.9.branch.1.weight"].neg_(), "What safetensors computes differs from the encoder by"),
        (lambda state: state["mean"].zero_(), "What safetensors computes differs from the encoder by"),
        (lambda state: state.pop("net.0.0.weight"), "safetensors cannot run what was exported ("),
    ],
)
def test_a_file_that_is_not_the_encoder_is_not_announced_and_nothing_is_left(
    pretrained: Path,
    refused: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: Callable[[dict[str, Tensor]], None],
    says: str,
) -> None:
    monkeypatch.setattr(Safetensors, "write", damage(change))
    error = refused(pretrained, "safetensors", tmp_path / "out")
    assert says in error
    assert "so nothing is written: export to another format." in error
