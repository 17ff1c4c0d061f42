"""timm's models without their classifier, compared with timm's own API."""

import copy
import subprocess
import sys
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.encoders import Timm, Torchvision

timm = pytest.importorskip("timm")

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
# Name, size of the images, width of pooled, channels and side of the grid.
FAMILIES = [
    ("resnet18", 8, 512, 512, 1),
    ("resnet18.a1_in1k", 64, 512, 512, 2),
    ("convnext_atto", 64, 320, 320, 2),
    ("mobilenetv3_small_050", 64, 1024, 288, 2),
    ("efficientnet_b0", 64, 1280, 1280, 2),
    ("vit_tiny_patch16_224", 224, 192, 192, 14),
    ("swin_tiny_patch4_window7_224", 224, 768, 768, 7),
    ("mixer_s32_224", 224, 512, 512, 7),
]
MEAN_IS_POOLED = ("resnet18", "resnet18.a1_in1k", "efficientnet_b0", "swin_tiny_patch4_window7_224", "mixer_s32_224")


def images(size: int, batch: int = 1) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "size", "width", "channels", "side"), FAMILIES)
def test_pooled_and_feature_map_equal_timm(name: str, size: int, width: int, channels: int, side: int) -> None:
    torch.manual_seed(0)
    encoder, x = Timm(name, mean=MEAN, std=STD).eval(), images(size)
    before = {key: tensor.clone() for key, tensor in encoder.state_dict().items()}
    normalised = torchvision.transforms.functional.normalize(x, MEAN, STD)
    with torch.no_grad():
        features = encoder(x)
        last = encoder.net.forward_features(normalised)
        expected = encoder.net.forward_head(last, pre_logits=True)
        assert torch.equal(encoder(x).pooled, features.pooled)
    torch.testing.assert_close(features.pooled, expected)
    assert encoder.embed_dim == width
    assert encoder.feature_map_channels == channels
    assert encoder.stride == encoder.net.feature_info[-1]["reduction"]  # as in timm's config
    assert features.pooled.shape == (1, width)
    assert features.feature_map.shape == (1, channels, side, side)
    if name in MEAN_IS_POOLED:
        torch.testing.assert_close(features.feature_map.mean((2, 3)), features.pooled)
    assert all(torch.equal(tensor, before[key]) for key, tensor in encoder.state_dict().items())


def test_a_transformers_feature_map_is_its_normalised_patch_tokens() -> None:
    encoder, x = Timm("test_vit", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval(), images(160, batch=2)
    with torch.no_grad():
        grid, tokens = encoder(x).feature_map, encoder.net.forward_features(x)
    torch.testing.assert_close(grid.flatten(2).mT, tokens[:, 1:])


def test_resnet_equals_torchvision() -> None:
    torch.manual_seed(0)
    ours, theirs = Timm("resnet18").eval(), Torchvision("resnet18").eval()
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        one, two = ours(images(64)), theirs(images(64))
    torch.testing.assert_close(one.feature_map, two.feature_map)
    torch.testing.assert_close(one.pooled, two.pooled)


def test_mean_and_std_default_to_the_models() -> None:
    assert Timm("resnet18").mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    inception = Timm("test_vit")
    assert inception.mean.flatten().tolist() == inception.std.flatten().tolist() == [0.5, 0.5, 0.5]
    assert Timm("test_vit", mean=MEAN).mean.flatten().tolist() == pytest.approx(MEAN)
    assert Timm("test_vit", std=STD).std.flatten().tolist() == pytest.approx(STD)


def test_a_copy_and_a_reloaded_encoder_encode_the_same() -> None:
    encoder = Timm("test_convnext", mean=MEAN, std=STD).eval()
    clone, other = copy.deepcopy(encoder), Timm("test_convnext").eval()
    other.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        expected = encoder(images(64))
        for parameter in encoder.parameters():
            parameter.fill_(0.1)
        for each in (clone, other):
            assert torch.equal(each(images(64)).pooled, expected.pooled)
            assert torch.equal(each(images(64)).feature_map, expected.feature_map)
        assert not torch.equal(encoder(images(64)).pooled, expected.pooled)


def test_gradients_reach_every_parameter_from_pooled() -> None:
    encoder = Timm("test_efficientnet")
    encoder(images(64, batch=4)).pooled.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_an_unsupported_image_size_is_a_one_line_error() -> None:
    with pytest.raises(InputError, match=r"vit_tiny_patch16_224 cannot encode .* 32×48 pixels .*224"):
        Timm("vit_tiny_patch16_224")(torch.rand(1, 3, 32, 48))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet81", "choose a name such as .*resnet18"),
        ("", "choose a name such as resnet18, "),
        ("hf-hub:timm/resnet18.a1_in1k", "choose a name such as"),  # neither from a hub nor a folder: a checkpoint
        ("local-dir:resnet18", "choose a name such as"),  # that names one must not cause reading it
    ],
)
def test_an_unknown_name_is_refused_with_similar_names(name: str, says: str) -> None:
    with pytest.raises(InputError, match=f"timm has no model {name}: {says}"):
        Timm(name)


def test_an_unknown_tag_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"timm cannot make resnet18.nonsense \(Invalid pretrained tag .*: check the tag"
    ):
        Timm("resnet18.nonsense")


def test_a_failed_weight_download_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, **given: Any) -> None:
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr(timm, "create_model", fail)
    with pytest.raises(InputError, match=r"cannot make resnet18 \(We couldn't connect to the hub\): .* the connection"):
        Timm("resnet18", pretrained=True)


def test_a_model_without_a_feature_map_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: torch.nn.Identity())
    with pytest.raises(InputError, match="timm cannot give the feature map of resnet18: choose another model"):
        Timm("resnet18")


def test_images_too_small_for_a_model_are_a_one_line_error() -> None:
    with pytest.raises(InputError, match=r"vgg11 cannot encode images of 16×16 pixels \(.*too small.*another size"):
        Timm("vgg11").eval()(images(16))


def test_a_model_with_several_feature_maps_is_refused() -> None:
    with torch.no_grad(), pytest.raises(InputError, match="crossvit_tiny_240 has no single feature map: choose"):
        Timm("crossvit_tiny_240")(images(240))


def test_without_timm_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=r"needs timm: pip install 'simmim_pl\[timm\]'"):
        Timm("resnet18")


def test_the_package_does_not_import_timm() -> None:
    code = "import sys; sys.modules['timm'] = None; from simmim_pl.encoders import Timm; import simmim_pl.command.cli"
    subprocess.run([sys.executable, "-c", code], check=True)
