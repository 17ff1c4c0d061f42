"""Heads: their layers, and their outputs compared with NumPy and scikit-learn."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from torch import nn

from simmim_pl.encoders.heads import Classifier, ProjectionHead


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def kinds(head: ProjectionHead) -> list[type]:
    return [type(module) for module in head.mlp]


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("norm", [False, True])
def test_a_hidden_layer_is_linear_norm_and_relu_and_the_last_is_linear(layers: int, norm: bool) -> None:
    head = ProjectionHead(6, hidden_dim=7, output_dim=3, num_layers=layers, norm=norm)
    hidden = [nn.Linear, nn.BatchNorm1d, nn.ReLU] if norm else [nn.Linear, nn.ReLU]
    assert kinds(head) == hidden * (layers - 1) + [nn.Linear]
    linear = [module for module in head.mlp if isinstance(module, nn.Linear)]
    widths = [6] + [7] * (layers - 1) + [3]
    assert [(m.in_features, m.out_features) for m in linear] == list(itertools.pairwise(widths))
    assert head(torch.randn(5, 6)).shape == (5, 3)


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_hidden_layers_with_a_norm_have_no_bias(norm: bool, bias: bool) -> None:
    linear = [m for m in ProjectionHead(6, 7, 3, num_layers=3, norm=norm, bias=bias).mlp if isinstance(m, nn.Linear)]
    assert [m.bias is not None for m in linear] == [not norm, not norm, bias]


@pytest.mark.parametrize("norm", [False, True])
def test_the_projection_equals_numpy(norm: bool) -> None:
    head = ProjectionHead(6, hidden_dim=7, output_dim=3, num_layers=2, norm=norm, bias=True)
    x = torch.randn(20, 6)
    state = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    h = x.double().numpy() @ state["mlp.0.weight"].T
    h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-05) if norm else h + state["mlp.0.bias"]
    last = "mlp.3" if norm else "mlp.2"
    expected = np.maximum(h, 0) @ state[f"{last}.weight"].T + state[f"{last}.bias"]
    np.testing.assert_allclose(head(x).detach().numpy(), expected, atol=1e-5)


def test_an_output_norm_standardises_the_projection_and_has_no_weights() -> None:
    plain, normed = (ProjectionHead(6, 7, 3, output_norm=norm) for norm in (False, True))
    normed.load_state_dict(
        plain.state_dict() | {k: v for k, v in normed.state_dict().items() if k not in plain.state_dict()}
    )
    x = torch.randn(20, 6)
    expected = StandardScaler().fit_transform(plain(x).detach().double().numpy())
    np.testing.assert_allclose(normed(x).detach().numpy(), expected, atol=1e-3)
    assert len([*normed.parameters()]) == len([*plain.parameters()])


def test_the_defaults_are_those_of_simclr_on_cifar() -> None:
    head = ProjectionHead(512)
    assert kinds(head) == [nn.Linear, nn.ReLU, nn.Linear]
    assert head.mlp[-1].out_features == 128


def test_the_classifier_is_linear_in_features_standardised_by_the_batch() -> None:
    classifier = Classifier(5, num_classes=4)
    x = torch.randn(50, 5) * torch.tensor([1.0, 1, 10, 100, 3]) + torch.tensor([5.0, 0, -100, 1, 2])
    standard = StandardScaler().fit_transform(x.double().numpy())
    weight, bias = (p.detach().double().numpy() for p in (classifier.linear.weight, classifier.linear.bias))
    assert classifier.num_classes == 4
    np.testing.assert_allclose(classifier(x).detach().numpy(), standard @ weight.T + bias, atol=1e-4)


def test_in_eval_mode_the_classifier_standardises_by_what_it_has_seen() -> None:
    classifier, x = Classifier(5, num_classes=4), torch.randn(200, 5) * 7 + 3
    for _ in range(200):
        classifier(x)
    classifier.eval()
    standard = torch.from_numpy(StandardScaler().fit_transform(x.double().numpy())).float()
    torch.testing.assert_close(classifier(x), classifier.linear(standard), rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(classifier(x[:1]), classifier(x)[:1])


def test_the_classifier_does_not_see_the_scale_or_the_offset_of_a_feature() -> None:
    classifier, x = Classifier(5, num_classes=4), torch.randn(50, 5, dtype=torch.float32)
    torch.testing.assert_close(classifier(x * 1000 - 500), classifier(x), rtol=1e-3, atol=1e-3)
