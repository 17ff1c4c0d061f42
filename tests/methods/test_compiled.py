"""CUDA graphs where a step allows them, a message where it does not; view sizes are compiled separately."""

from functools import partial
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn

from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.methods import Rotation
from simmim_pl.methods.compiled import Compiled
from simmim_pl.views import ContrastiveViews
from tests import test_combinations
from tests.methods import test_self_distillation as distilled
from tests.methods.test_contrastive import fit, method

SETTINGS = [
    ("cuda", {}, 1, {}, None),
    ("cuda", {}, 2, {}, "DistributedDataParallel"),
    ("cuda", {"accumulate_grad_batches": 4}, 1, {}, "gradients that accumulate"),
    ("cuda", {}, 1, {"gradient_cache": 2}, "the gradient cache"),
    ("cpu", {"accumulate_grad_batches": 4}, 1, {}, None),
]


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """What earlier tests compiled counts towards torch's limit for one function."""
    torch.compiler.reset()


@pytest.mark.parametrize(("device", "asked", "ranks", "options", "why"), SETTINGS)
def test_cuda_graphs_are_used_only_for_independent_steps(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    device: str,
    asked: dict[str, Any],
    ranks: int,
    options: dict[str, Any],
    why: str | None,
) -> None:
    modes, marks = [], []
    monkeypatch.setattr(nn.Module, "compile", lambda self, mode, dynamic: modes.append((self, mode, dynamic)))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: marks.append(1))
    network, trainer = method(**options), Trainer(accelerator="cpu", devices=1, logger=False, **asked)
    monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device(device))
    monkeypatch.setattr(Trainer, "world_size", ranks)
    compiled = Compiled()
    compiled.on_fit_start(trainer, network)
    compiled.on_train_batch_start(trainer, network, {}, 0)  # type: ignore[typeddict-item]
    graphs = device == "cuda" and why is None
    mode = "reduce-overhead" if graphs else None
    assert modes == [(network.encoder, mode, False), (network.head, mode, False)]
    assert len(marks) == graphs
    assert caplog.text.count("Compiled without CUDA graphs: ") == (why is not None)
    assert (why or "") in caplog.text


def test_compiling_changes_neither_the_loss_nor_the_names_in_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        assert not any(isinstance(each, torch.SymInt) for each in inputs)  # no dynamic shapes
        graphs.append([tuple(each.shape) for each in inputs])
        return graph.forward

    def losses(network: Any) -> torch.Tensor:
        views = {"views": ContrastiveViews(size=16), "local_views": ContrastiveViews(size=8)}
        data = ImageDataModule(Shapes(train=74, test=10, size=16), 16, validation=10, **views)
        return torch.stack([step["outputs"]["loss"].detach() for step in fit(tmp_path, data, network, max_steps=2)])

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # shape checks would be compiled too
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    compiled = method(compile=True)
    found = losses(compiled)
    monkeypatch.undo()
    torch.testing.assert_close(found, losses(method()), rtol=1e-4, atol=1e-4)
    assert len(graphs) == 3
    assert all(size in shapes for size, shapes in zip([(32, 3, 16, 16), (32, 32), (32, 3, 8, 8)], graphs, strict=True))
    assert compiled.state_dict().keys() == method().state_dict().keys()
    assert caplog.text.count("later runs take it from torch's cache") == 1  # of two steps the first compiled


@pytest.mark.parametrize("name", ["BYOL", "MoCoV3"])
def test_a_teachers_parts_are_compiled_without_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(torch.is_grad_enabled())
        return graph.forward

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plain, compiled = distilled.Journal(), distilled.Journal()
    distilled.fit(tmp_path, distilled.method(name), [plain], max_steps=2)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    distilled.fit(tmp_path, distilled.method(name, compile=True), [compiled], max_steps=2)
    torch.testing.assert_close(torch.stack(compiled.losses), torch.stack(plain.losses), rtol=1e-4, atol=1e-4)
    assert sorted(graphs) == [False, False, True, True, True]  # encoder and head of both; the predictor


def test_encoder_and_classifier_of_rotation_are_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append([tuple(each.shape) for each in inputs])
        return graph.forward

    def losses(**options: Any) -> torch.Tensor:
        torch.manual_seed(0)
        network = Rotation(FastCNN(2), optimizer=partial(torch.optim.SGD, lr=0.1), **options)
        return torch.stack(test_combinations.fit(network).losses)

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    plain = losses()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch.testing.assert_close(losses(compile=True), plain, rtol=1e-4, atol=1e-4)
    assert (4 * 32, 3, 16, 16) in graphs[0]  # every view at four angles
    assert len(graphs) == 2 or torch.__version__ < (2, 14)  # torch 2.10 does not compile a Linear by itself
    assert all((4 * 32, 16) in graph for graph in graphs[1:])
