"""A run starts from a checkpoint, a state dict or a safetensors file, and resumes without it."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from safetensors.torch import save_file
from torch import Tensor

from simmim_pl import load_encoder
from simmim_pl.contracts import InputError
from simmim_pl.encoders import FastCNN
from simmim_pl.encoders.heads import ProjectionHead
from simmim_pl.losses import NTXent
from simmim_pl.methods import Contrastive
from simmim_pl.methods.initial_weights import InitialWeights
from simmim_pl.report.run import load_run
from tests.conftest import NO_PICTURES, TINY
from tests.test_parity import BYOL, MASKED_IMAGE, VIT

Cli = Callable[[list[Any]], Path]


class First(Callback):
    """Records the encoder before the first batch of each run."""

    seen: ClassVar[list[dict[str, Tensor]]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.seen.append(copy.deepcopy(pl_module.encoder.state_dict()))


def encoder_of(checkpoint: Path) -> dict[str, Tensor]:
    saved = torch.load(checkpoint, weights_only=True)["state_dict"]
    return {name.removeprefix("encoder."): each for name, each in saved.items() if name.startswith("encoder.")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_starts_from_another_checkpoint_and_resumes_without_it(
    cli: Cli, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "start.ckpt"
    file.write_bytes(pretrained.read_bytes())
    args = [*TINY, *NO_PICTURES, f"--model.weights={file}", "--model.loss=simmim_pl.losses.VICReg"]
    args += ["--model.head.output_dim=6", "--trainer.max_epochs=1", "--trainer.num_sanity_val_steps=0"]
    args += ["--trainer.check_val_every_n_epoch=1", "--trainer.callbacks+=tests.methods.test_initial_weights.First"]
    First.seen.clear()
    run = cli(args)
    last = run / "checkpoints/last.ckpt"
    trained = encoder_of(last)
    assert same(First.seen[0], encoder_of(pretrained))
    assert not same(trained, First.seen[0])
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["init_args"]["weights"] == str(file)
    before, theirs = (load_run(path).last("val/knn_untrained") for path in (run, pretrained.parents[1]))
    assert before != theirs  # measured with the initial weights
    file.unlink()
    assert same(load_encoder(last).state_dict(), trained)
    assert same(Contrastive.load_from_checkpoint(last).encoder.state_dict(), trained)
    assert cli([*args, "--ckpt_path=last", "--trainer.max_epochs=2"]) == run
    assert same(First.seen[1], trained)
    with pytest.raises(SystemExit, match="2"):
        cli([*args, "--ckpt_path=last", "--trainer.max_epochs=3", "--model.weights=another.pt"])
    assert "and another.pt now, and only a new run starts from weights" in capsys.readouterr().err


@pytest.mark.parametrize(("before", "encoder"), [(MASKED_IMAGE, VIT), (BYOL, [])], ids=["masked images", "byol"])
def test_a_contrastive_run_starts_from_the_network_that_another_method_trained(
    cli: Cli, before: list[str], encoder: list[str]
) -> None:
    short = [*TINY, *NO_PICTURES, *encoder, "--trainer.max_steps=2", "--callbacks.online_probe=null"]
    trained = cli([*short, *before]) / "checkpoints/last.ckpt"
    First.seen.clear()
    cli([*short, f"--model.weights={trained}", "--trainer.callbacks+=tests.methods.test_initial_weights.First"])
    assert same(First.seen[0], encoder_of(trained))  # of two networks the one that the optimizer trained
    teacher = {
        name.removeprefix("teacher.encoder."): tensor
        for name, tensor in torch.load(trained, weights_only=True)["state_dict"].items()
        if name.startswith("teacher.encoder.")
    }
    assert bool(teacher) == (before is BYOL)
    assert not same(First.seen[0], teacher)


def start(encoder: FastCNN, path: Any, resumed: str | None = None) -> torch.nn.Module:
    """A method with this encoder and a teacher, after the start of its run."""
    method = torch.nn.Module()
    method.encoder, method.teacher = encoder, copy.deepcopy(encoder)
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.ckpt_path = resumed
    InitialWeights(str(path)).on_fit_start(trainer, method)
    return method


def test_state_dicts_and_safetensors_initialise_encoder_and_teacher(tmp_path: Path) -> None:
    source = FastCNN(2)
    state = {f"backbone.{name}": tensor for name, tensor in source.state_dict().items()} | {"fc.bias": torch.ones(3)}
    torch.save(state, tmp_path / "plain.pt")
    torch.save({"student": FastCNN(2).state_dict(), "teacher": source.state_dict()}, tmp_path / "two.pt")
    save_file(state, tmp_path / "plain.safetensors")
    for name in ("plain.pt", "two.pt:teacher", "plain.safetensors"):
        method = start(FastCNN(2), tmp_path / name)
        assert same(method.encoder.state_dict(), source.state_dict()), name
        assert same(method.teacher.state_dict(), source.state_dict()), name
        assert method.initial_weights is None
    fresh = FastCNN(2)
    before = copy.deepcopy(fresh.state_dict())
    assert same(start(fresh, tmp_path / "nowhere", resumed="last.ckpt").encoder.state_dict(), before)


def test_weights_are_loaded_once() -> None:
    method = Contrastive(FastCNN(2), ProjectionHead, NTXent(), optimizer=torch.optim.SGD, weights="file.pt")
    (found,) = method.configure_callbacks()
    assert isinstance(found, InitialWeights)
    assert found.path == "file.pt"
    method.initial_weights = None  # as after loading them
    assert method.configure_callbacks() == []


def test_invalid_initial_weights_are_refused_before_the_run(
    cli: Cli, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "damaged.safetensors").write_bytes(b"no")
    for path, says in {
        "nowhere.pt": "There is no checkpoint",
        "nowhere.safetensors": "cannot be read as a safetensors file",
        "damaged.safetensors": "cannot be read as a safetensors file",
    }.items():
        with pytest.raises(InputError, match=says):
            start(FastCNN(2), tmp_path / path)
    with pytest.raises(SystemExit) as exit_:
        cli([*TINY, f"--model.weights={pretrained}", "--model.encoder.width=4"])
    assert exit_.value.code == 2
    assert "does not fit the encoder" in capsys.readouterr().err.splitlines()[-1]
    assert not list(Path("runs").glob("*/*"))
