"""Torchvision's models without their classifier, compared with the whole models."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet50_Weights, VisionTransformer, get_model

from simmim_pl.contracts import InputError
from simmim_pl.encoders import Torchvision
from simmim_pl.encoders import torchvision as page

MEAN, STD = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
# Name, size of the images, width of pooled, channels and side of the grid.
FAMILIES = [
    ("resnet18", 8, 512, 512, 1),
    ("resnet18", 64, 512, 512, 2),
    ("vgg11", 32, 4096, 512, 1),
    ("densenet121", 64, 1024, 1024, 2),
    ("mobilenet_v2", 64, 1280, 1280, 2),
    ("mobilenet_v3_small", 64, 1024, 576, 2),
    ("efficientnet_b0", 40, 1280, 1280, 2),
    ("regnet_y_400mf", 40, 440, 440, 2),
    ("mnasnet0_5", 32, 1280, 1280, 1),
    ("shufflenet_v2_x0_5", 64, 1024, 1024, 2),
    ("convnext_tiny", 64, 768, 768, 2),
    ("swin_t", 64, 768, 768, 2),
]
ANOTHER_HEAD = ("vgg11", "mobilenet_v3_small", "convnext_tiny")  # changes the pooled vector


def images(size: int, batch: int = 2) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def vit(monkeypatch: pytest.MonkeyPatch) -> Torchvision:
    """The encoder of a small VisionTransformer registered under the name of a large one."""
    torch.manual_seed(0)
    net = VisionTransformer(image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)
    nn.init.normal_(net.heads.head.weight)
    monkeypatch.setattr(page, "get_model", lambda name, weights: copy.deepcopy(net))
    encoder = Torchvision("vit_b_16", mean=MEAN, std=STD).eval()
    encoder.whole = net.eval()
    return encoder


def attributes(encoder: nn.Module) -> dict[str, Any]:
    """All attributes of a module and its children other than tensors, including hooks."""
    return {
        f"{path}.{name}": copy.copy(value) if isinstance(value, dict) else value
        for path, module in encoder.named_modules()
        for name, value in vars(module).items()
        if name not in ("_parameters", "_buffers", "_modules")
    }


@pytest.mark.parametrize(("name", "size", "width", "channels", "side"), FAMILIES)
def test_the_classifier_on_pooled_gives_the_models_logits(
    name: str, size: int, width: int, channels: int, side: int
) -> None:
    torch.manual_seed(0)
    whole = get_model(name).eval()
    encoder = Torchvision(name, mean=MEAN, std=STD).eval()
    left = encoder.net.load_state_dict(whole.state_dict(), strict=False)
    assert left.missing_keys == []
    assert len(left.unexpected_keys) == 2
    x = images(size)
    with torch.no_grad():
        features = encoder(x)
        scores = whole(torchvision.transforms.functional.normalize(x, MEAN, STD))
    classifier = whole.get_submodule(left.unexpected_keys[0].rpartition(".")[0])
    torch.testing.assert_close(classifier(features.pooled), scores)
    assert encoder.embed_dim == width
    assert (encoder.feature_map_channels, encoder.stride) == (channels, 32)
    assert features.pooled.shape == (2, width)
    assert features.feature_map.shape == (2, channels, side, side)
    assert torch.equal(features.pooled, encoder(x).pooled)
    if name not in ANOTHER_HEAD:
        torch.testing.assert_close(features.feature_map.mean((2, 3)), features.pooled)


@pytest.mark.parametrize("train", [True, False])
def test_resnet_equals_its_layers_in_sequence(train: bool) -> None:
    encoder = Torchvision("resnet18", mean=MEAN, std=STD).train(train)
    net, x = copy.deepcopy(encoder.net), images(64)
    h = net.maxpool(net.relu(net.bn1(net.conv1(torchvision.transforms.functional.normalize(x, MEAN, STD)))))
    expected = net.layer4(net.layer3(net.layer2(net.layer1(h))))
    features = encoder(x)
    torch.testing.assert_close(features.feature_map, expected)
    torch.testing.assert_close(features.pooled, expected.mean((2, 3)))


def test_swin_gives_its_normalised_last_map_with_channels_first() -> None:
    encoder = Torchvision("swin_t", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)).eval()
    with torch.no_grad():
        expected = encoder.net.norm(encoder.net.features(images(64))).permute(0, 3, 1, 2)
        torch.testing.assert_close(encoder(images(64)).feature_map, expected)


def test_a_vision_transformers_feature_map_is_its_patch_tokens(vit: Torchvision) -> None:
    x = images(32)
    whole, normalised = vit.whole, torchvision.transforms.functional.normalize(x, MEAN, STD)
    with torch.no_grad():
        features = vit(x)
        patches = whole._process_input(normalised)
        tokens = whole.encoder(torch.cat([whole.class_token.expand(2, -1, -1), patches], 1))
        torch.testing.assert_close(whole.heads(features.pooled), whole(normalised))
    assert vit.embed_dim == 16
    assert features.feature_map.shape == (2, 16, 4, 4)
    torch.testing.assert_close(features.pooled, tokens[:, 0])
    for row in range(4):
        for column in range(4):
            torch.testing.assert_close(features.feature_map[:, :, row, column], tokens[:, 1 + 4 * row + column])


def test_an_unsupported_image_size_is_a_one_line_error(vit: Torchvision) -> None:
    before = attributes(vit)
    with pytest.raises(InputError, match=r"vit_b_16 cannot encode images of 16×24 pixels .*Expected 32"):
        vit(torch.rand(1, 3, 16, 24))
    assert attributes(vit) == before


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_images_too_small_for_a_network_are_a_one_line_error(name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} cannot encode images of 16×16 pixels \(.*too small.*another size"):
        Torchvision(name)(images(16))


def test_other_errors_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = Torchvision("resnet18")
    for error in (RuntimeError("a device fell off"), torch.OutOfMemoryError("Tried to allocate a size of 3 GiB")):
        monkeypatch.setattr(encoder.net, "forward", lambda image, error=error: (_ for _ in ()).throw(error))
        with pytest.raises(type(error), match=str(error)):
            encoder(images(16))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_a_forward_pass_leaves_no_state(name: str) -> None:
    encoder = Torchvision(name).eval()
    before, state = attributes(encoder), {key: value.clone() for key, value in encoder.state_dict().items()}
    with torch.no_grad():
        encoder(images(16))
    assert attributes(encoder) == before
    assert all(torch.equal(value, state[key]) for key, value in encoder.state_dict().items())


def test_a_copy_and_a_reloaded_encoder_encode_the_same() -> None:
    encoder = Torchvision("mobilenet_v2", mean=MEAN, std=STD).eval()
    clone, other = copy.deepcopy(encoder), Torchvision("mobilenet_v2").eval()
    other.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        expected = encoder(images(32))
        encoder.net.features[0][0].weight.zero_()
        for each in (clone, other):
            assert torch.equal(each(images(32)).pooled, expected.pooled)
            assert torch.equal(each(images(32)).feature_map, expected.feature_map)
        assert not torch.equal(encoder(images(32)).pooled, expected.pooled)


def test_threads_can_share_an_encoder() -> None:
    encoder = Torchvision("resnet18").eval()
    batches = [images(32) * scale for scale in torch.linspace(0.1, 1, 16)]
    with torch.no_grad():
        expected = [encoder(batch).feature_map for batch in batches]

    def grid(batch: Tensor) -> Tensor:
        with torch.no_grad():  # a thread has its own mode
            return encoder(batch).feature_map

    with ThreadPoolExecutor(4) as pool:
        for found, wanted in zip(pool.map(grid, batches), expected, strict=True):
            torch.testing.assert_close(found, wanted)


def test_gradients_reach_every_parameter_from_pooled() -> None:
    encoder = Torchvision("resnet18")
    encoder(images(64, batch=4)).pooled.square().sum().backward()
    assert all(parameter.grad is not None for parameter in encoder.parameters())


def test_every_image_classifier_with_one_final_linear_layer_is_supported() -> None:
    refused = []
    with torch.device("meta"):
        for name in ("alexnet", "squeezenet1_1", "maxvit_t", "wide_resnet50_2", "vit_b_32", "convnext_base"):
            try:
                assert Torchvision(name).embed_dim > 500
            except InputError:
                refused.append(name)
    assert refused == ["squeezenet1_1"]


@pytest.mark.parametrize("name", ["squeezenet1_0", "googlenet"])
@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_a_model_that_does_not_end_in_one_linear_layer_is_refused(name: str) -> None:
    with torch.device("meta"), pytest.raises(InputError, match=f"{name} does not end in one linear layer: choose"):
        Torchvision(name)


@pytest.mark.parametrize("weights", [None, "DEFAULT"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("resnet81", "choose a name such as .*resnet18"),
        ("ResNet18", "choose a name such as .*resnet18"),
        ("", "choose a name such as resnet18, "),
        ("fasterrcnn_resnet50_fpn", "choose a name such as "),  # torchvision's, but no classifier
    ],
)
def test_an_unknown_name_is_refused_with_similar_names(name: str, says: str, weights: str | None) -> None:
    with pytest.raises(InputError, match=f"torchvision has no image classifier {name}: {says}"):
        Torchvision(name, weights)


def test_unknown_weights_are_refused_with_a_list() -> None:
    with pytest.raises(
        InputError, match=r"resnet50 has no weights IMAGENET in .* IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"
    ):
        Torchvision("resnet50", "IMAGENET")


@pytest.mark.parametrize("error", [URLError("no route"), RuntimeError("invalid hash value")])
def test_a_failed_weight_download_is_a_one_line_error(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    with pytest.raises(InputError, match=r"weights IMAGENET1K_V1 of resnet18 cannot be downloaded .*(no route|hash)"):
        Torchvision("resnet18", "IMAGENET1K_V1")


def test_downloaded_weights_set_their_mean_and_std(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = get_model("mobilenet_v3_small")
    asked = []

    def download(url: str, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        asked.append(url)
        return whole.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    encoder = Torchvision("mobilenet_v3_small", "DEFAULT")
    assert len(asked) == 1
    assert torch.equal(encoder.net.features[0][0].weight, whole.features[0][0].weight)
    assert encoder.mean.flatten().tolist() == pytest.approx(ResNet50_Weights.DEFAULT.transforms().mean)
    table = type(
        "Table", (), {"name": "X", "transforms": staticmethod(lambda: type("T", (), {"mean": MEAN, "std": STD}))}
    )
    monkeypatch.setattr(page, "find_weights", lambda name, weights: table)
    monkeypatch.setattr(page, "create_model", lambda name, weights: copy.deepcopy(whole))
    assert Torchvision("mobilenet_v3_small", "DEFAULT").mean.flatten().tolist() == pytest.approx(MEAN)
    assert Torchvision("mobilenet_v3_small", "DEFAULT", STD).mean.flatten().tolist() == pytest.approx(STD)
    assert Torchvision("mobilenet_v3_small").std.flatten().tolist() == pytest.approx(page.IMAGENET_STD)
