"""A step of BYOL and MoCo v3 by hand; the teacher's updates, in the trainer and from the command line."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import Tensor

from simmim_pl import methods
from simmim_pl.contracts import InputError
from simmim_pl.data import ImageDataModule, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.methods.teacher import Teacher, cosine_momentum
from simmim_pl.runtime.checkpoint import load_encoder
from simmim_pl.runtime.resume import require_allowed_changes
from simmim_pl.views import ContrastiveViews
from tests.conftest import NO_PICTURES, TINY
from tests.test_parity import BYOL, LOCAL

HEAD = partial(ProjectionHead, hidden_dim=6, output_dim=4, norm=True)
BOTH = pytest.mark.parametrize("name", ["BYOL", "MoCoV3"])


def method(name: str = "BYOL", lr: float = 1.0, **options: Any) -> Any:
    torch.manual_seed(0)
    optimizer = partial(torch.optim.SGD, lr=lr, momentum=0.9, weight_decay=0.1)
    return getattr(methods, name)(FastCNN(2), HEAD, HEAD, optimizer=optimizer, **options)


class Journal(Callback):
    """Records copies of the networks before every batch, the batches and their losses."""

    def __init__(self) -> None:
        self.before: list[Any] = []
        self.batches: list[Any] = []
        self.losses: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        parts = {name: copy.deepcopy(pl_module.get_submodule(name)) for name in ("encoder", "head", "predictor")}
        self.before.append(parts | {"teacher": copy.deepcopy(pl_module.teacher)})
        self.batches.append(batch)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())


def fit(
    root: Path, module: Any, callbacks: Sequence[Callback], local: int = 0, validated: bool = False, **options: Any
) -> Trainer:
    """64 images in batches of 16: four batches per epoch."""
    smaller = ContrastiveViews(size=8, views=local, scale=(0.1, 0.3)) if local else None
    data = ImageDataModule(Shapes(train=74, test=10, size=16), 16, ContrastiveViews(size=16), smaller, validation=10)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    quiet |= {} if validated else {"limit_val_batches": 0}
    options = {"enable_checkpointing": False, "log_every_n_steps": 1, "num_sanity_val_steps": 0, **quiet, **options}
    trainer = Trainer(accelerator="cpu", devices=1, default_root_dir=root, callbacks=[*callbacks], **options)
    trainer.fit(module, datamodule=data)
    return trainer


@BOTH
@pytest.mark.parametrize("local", [0, 3])
def test_every_view_predicts_the_teachers_output_of_all_other_views(tmp_path: Path, name: str, local: int) -> None:
    module, journal = method(name), Journal()
    fit(tmp_path, module, [journal], local=local, max_steps=2)
    for parts, batch, found in zip(journal.before, journal.batches, journal.losses, strict=True):

        def projected(network: Any, head: Any, views: Tensor) -> list[Tensor]:
            return list(head(network(views.flatten(0, 1)).pooled).split(16))

        z = projected(parts["encoder"], parts["head"], batch["views"])
        if local:
            assert batch["local"].shape == (3, 16, 3, 8, 8)
            z += projected(parts["encoder"], parts["head"], batch["local"])
        q = parts["predictor"](torch.cat(z)).split(16)
        with torch.no_grad():
            k = projected(parts["teacher"].encoder, parts["teacher"].head, batch["views"])
        pairs = [(i, j) for i, j in permutations(range(2 + local), 2) if j < 2]
        assert len(pairs) == 2 + 2 * local
        expected = torch.stack([module.compare(q[i][None], k[j]) for i, j in pairs]).mean()
        torch.testing.assert_close(found, expected)


def test_the_teacher_is_updated_once_after_every_optimizer_step(tmp_path: Path) -> None:
    module, journal = method("BYOL", momentum=0.5), Journal()
    trainer = fit(tmp_path, module, [journal], max_epochs=2, accumulate_grad_batches=3)
    assert trainer.global_step == 4  # of three batches and of one, twice
    optimized = {id(weight) for group in trainer.optimizers[0].param_groups for weight in group["params"]}
    assert not optimized & {id(weight) for weight in module.teacher.parameters()}
    online = (module.encoder, module.head, module.predictor)
    assert optimized == {id(weight) for part in online for weight in part.parameters()}
    states = [*journal.before, {"encoder": module.encoder, "head": module.head, "teacher": module.teacher}]
    step = 0
    for batch, (old, new) in enumerate(pairwise(states)):
        steps = batch % 4 in (2, 3)  # the batches after which the optimizer steps
        trained = (*new["encoder"].parameters(), *new["head"].parameters())
        momentum = cosine_momentum(step, 4, 0.5) if steps else 1.0
        for before, after, weight in zip(
            old["teacher"].parameters(), new["teacher"].parameters(), trained, strict=True
        ):
            torch.testing.assert_close(after, before.lerp(weight, 1 - momentum), atol=1e-7, rtol=1e-6)
            assert steps or torch.equal(after, before)
        step += steps
    assert step == 4
    moved = zip(module.teacher.parameters(), (*module.encoder.parameters(), *module.head.parameters()), strict=True)
    assert all(not torch.equal(*pair) for pair in moved)


@BOTH
def test_chunked_encoding_equals_the_whole_step(tmp_path: Path, name: str) -> None:
    whole, chunked = (method(name, gradient_cache=chunks).double() for chunks in (1, 3))
    for module in (whole, chunked):  # BatchNorm's statistics would be those of a chunk
        for part in (module.encoder, module.head, module.predictor, module.teacher):
            part.eval()
            part.train = lambda mode=True: None  # type: ignore[method-assign]
        fit(tmp_path, module, [], max_steps=2, precision="64-true")
    for key, value in whole.state_dict().items():
        torch.testing.assert_close(chunked.state_dict()[key], value, msg=key)


def test_the_command_line_updates_the_teacher_and_saves_both_networks(
    cli: Callable[[list[Any]], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    momenta, update = [], Teacher.update

    def counted(self: Teacher, encoder: Any, head: Any, momentum: float) -> None:
        momenta.append(momentum)
        update(self, encoder, head, momentum)

    monkeypatch.setattr(Teacher, "update", counted)
    run = cli([*TINY, *BYOL, *LOCAL, *NO_PICTURES, "--model.momentum=0.9", "--trainer.accumulate_grad_batches=2"])
    path = run / "checkpoints/last.ckpt"
    saved = torch.load(path, weights_only=True)
    assert len(momenta) == saved["global_step"] == 6  # of two, two and one of five batches, twice
    assert momenta == [cosine_momentum(step, 6, 0.9) for step in range(6)]
    encoders = [load_encoder(path, network=network).state_dict() for network in ("online", "teacher")]
    for prefix, encoder in zip(("encoder.", "teacher.encoder."), encoders, strict=True):
        assert all(torch.equal(tensor, saved["state_dict"][prefix + name]) for name, tensor in encoder.items())
    opened = methods.BYOL.load_from_checkpoint(path)
    assert all(torch.equal(tensor, opened.state_dict()[name]) for name, tensor in saved["state_dict"].items())
    with pytest.raises(InputError, match="its weights belong to that predictor"):
        require_allowed_changes([("model.predictor.hidden_dim", 8, 9)])


def test_a_predictor_of_another_width_is_refused() -> None:
    with pytest.raises(InputError, match=r"The predictor's output_dim is 5 and .* is 4, .*: set both to the same"):
        methods.BYOL(FastCNN(2), HEAD, partial(HEAD, output_dim=5), optimizer=torch.optim.SGD)
