"""A checkpoint is data: whatever it holds, reading it runs nothing, and what is wrong with it is one sentence."""

import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from simmim_pl.checkpoint import load_encoder, read, require_same
from simmim_pl.data import Shapes
from simmim_pl.records import InputError

FASTCNN = "simmim_pl.encoders.FastCNN"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    """A checkpoint whose config describes this encoder, and which holds no weights."""

    def write(encoder: Any) -> str:
        path = tmp_path / "any.ckpt"
        torch.save({"state_dict": {}, "config": {"model": {"init_args": {"encoder": encoder}}}}, path)
        return str(path)

    return write


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that exists once somebody has imported the module ``evil``."""
    touched = tmp_path / "touched"
    (tmp_path / "evil.py").write_text(f"open({str(touched)!r}, 'w')\nclass Encoder: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield touched
    sys.modules.pop("evil", None)


def test_the_trap_works(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "touched"), tmp_path / "trap")
    torch.load(tmp_path / "trap", weights_only=False).close()
    assert (tmp_path / "touched").exists()


def test_the_module_works(evil: Path) -> None:
    __import__("evil")
    assert evil.exists()


def test_reading_gives_the_weights_and_the_config_of_a_run(pretrained: Path) -> None:
    saved = read(pretrained)
    assert saved["config"]["model"]["init_args"]["encoder"] == {
        "class_path": FASTCNN,
        "init_args": {**saved["config"]["model"]["init_args"]["encoder"]["init_args"], "width": 2},
    }
    assert all(isinstance(tensor, Tensor) for tensor in saved["state_dict"].values())
    assert saved["global_step"] == 10


@pytest.mark.parametrize("name", ["nowhere.ckpt", "."])
def test_a_path_that_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="There is no checkpoint") as error:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, pretrained: Path, kept: float) -> None:
    whole = pretrained.read_bytes()
    short = tmp_path / "short.ckpt"
    short.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match="cannot be read as a checkpoint: it is truncated"):
        read(short)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 30])
def test_the_first_bytes_of_a_file_are_refused(tmp_path: Path, pretrained: Path, length: int) -> None:
    (tmp_path / "short.ckpt").write_bytes(pretrained.read_bytes()[:length])
    with pytest.raises(InputError, match="truncated"):
        read(tmp_path / "short.ckpt")


def test_a_pickle_that_would_run_code_runs_nothing(tmp_path: Path) -> None:
    trap, path = Trap(tmp_path / "touched"), tmp_path / "trap.ckpt"
    good = {"state_dict": {}, "config": {}}
    for content in (trap, {**good, "extra": trap}, {**good, "state_dict": {"encoder.mean": trap}}):
        torch.save(content, path)
        with pytest.raises(InputError, match="more than tensors and plain values"):
            read(path)
        path.write_bytes(pickle.dumps(content))  # torch's format of old
        with pytest.raises(InputError, match="more than tensors and plain values"):
            read(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"layer.weight": torch.zeros(2)},  # a bare state dict
        {"state_dict": {"layer.weight": torch.zeros(2)}, "epoch": 3},  # Lightning's without our config
        {"model": {}, "config": {}},
        {"state_dict": None, "config": {}},
        {"state_dict": {}, "config": "model: x"},
        [torch.zeros(2)],
        torch.zeros(2),
        None,
    ],
)
def test_a_checkpoint_of_another_tool_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match="was not written by `python -m simmim_pl fit`"):
        read(tmp_path / "other.ckpt")


def test_the_first_tensor_that_differs_is_named_with_both_shapes() -> None:
    own = {"a": torch.zeros(2), "b.weight": torch.zeros(3, 4), "c": torch.zeros(1)}
    require_same(own, {name: torch.ones_like(tensor) for name, tensor in own.items()}, "x.ckpt")
    with pytest.raises(InputError, match=r"x.ckpt .* at b.weight it has \(3, 5\), the config builds \(3, 4\)"):
        require_same({**own, "b.weight": torch.zeros(3, 5), "c": torch.zeros(2)}, own, "x.ckpt")
    with pytest.raises(InputError, match=r"at c it has no such tensor, the config builds \(1,\)"):
        require_same({name: own[name] for name in ("a", "b.weight")}, own, "x.ckpt")
    with pytest.raises(InputError, match=r"at d it has \(7,\), the config builds no such tensor"):
        require_same({**own, "d": torch.zeros(7)}, own, "x.ckpt")


def test_the_encoder_that_is_loaded_is_the_one_that_was_trained(pretrained: Path) -> None:
    state = torch.load(pretrained, weights_only=True)["state_dict"]
    loaded = load_encoder(str(pretrained), trained=True).state_dict()
    assert {f"encoder.{name}" for name in loaded} == {name for name in state if name.startswith("encoder.")}
    assert all(torch.equal(tensor, state[f"encoder.{name}"]) for name, tensor in loaded.items())


def test_the_untrained_encoder_has_the_architecture_and_none_of_the_training(pretrained: Path) -> None:
    trained, fresh = (load_encoder(str(pretrained), trained) for trained in (True, False))
    require_same(trained.state_dict(), fresh.state_dict(), pretrained)
    assert all(not torch.equal(p, q) for p, q in zip(trained.parameters(), fresh.parameters(), strict=True))
    assert all(int(steps) == 0 for name, steps in fresh.named_buffers() if name.endswith("num_batches_tracked"))
    images = Shapes(train=10, test=10, size=16, copies=1).load("test").images / 255
    trained.eval(), fresh.eval()
    assert not torch.allclose(trained(images).pooled, fresh(images).pooled)


def test_weights_that_the_config_does_not_describe_are_refused(pretrained: Path, tmp_path: Path) -> None:
    saved = torch.load(pretrained, weights_only=True)
    saved["config"]["model"]["init_args"]["encoder"]["init_args"]["width"] = 3
    torch.save(saved, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match=r"at net.0.0.weight it has \(2, 3, 3, 3\), the config builds \(3, 3, 3, 3\)"):
        load_encoder(str(tmp_path / "odd.ckpt"), trained=True)
    assert load_encoder(str(tmp_path / "odd.ckpt"), trained=False).width == 24


@pytest.mark.parametrize(
    "encoder",
    [
        {"class_path": "evil.Encoder"},
        {"class_path": FASTCNN, "init_args": {"width": {"class_path": "evil.Encoder"}}},
        {"class_path": FASTCNN, "init_args": {"mean": [0.1, {"a": [{"class_path": "evil.Encoder"}]}, 0.3]}},
        {"class_path": FASTCNN, "dict_kwargs": {"x": {"y": {"class_path": "evil.Encoder", "init_args": {}}}}},
        {"class_path": "simmim_pl_evil.Encoder"},
    ],
)
@pytest.mark.parametrize("trained", [True, False])
def test_a_class_outside_the_package_is_refused_at_any_depth_and_not_imported(
    write: Callable[[Any], str], evil: Path, encoder: Any, trained: bool
) -> None:
    with pytest.raises(InputError, match=r"asks to import (simmim_pl_)?evil.Encoder, which is not part of simmim_pl"):
        load_encoder(write(encoder), trained)
    assert not evil.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("encoder", ["evil.Encoder", ["evil.Encoder"], {"init_args": {"width": 2}}, 3, None, {}])
def test_what_is_no_description_of_a_class_is_refused_and_not_imported(
    write: Callable[[Any], str], evil: Path, encoder: Any
) -> None:
    with pytest.raises(InputError, match="holds no encoder"):
        load_encoder(write(encoder), trained=False)
    assert not evil.exists()


@pytest.mark.parametrize("config", [{}, {"model": None}, {"model": "x"}, {"model": {"init_args": None}}])
def test_a_config_without_an_encoder_is_refused(tmp_path: Path, config: Any) -> None:
    torch.save({"state_dict": {}, "config": config}, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match="holds no encoder: give a checkpoint that pretraining wrote"):
        load_encoder(str(tmp_path / "odd.ckpt"), trained=True)


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ({"class_path": "simmim_pl.heads.ProjectionHead", "init_args": {"width": 3}}, "subclass of Encoder"),
        ({"class_path": "simmim_pl.records.InputError"}, "subclass of Encoder"),
        ({"class_path": "simmim_pl.encoders.Gone"}, "Gone"),
        ({"class_path": "simmim_pl.gone.Encoder"}, "gone"),
        ({"class_path": FASTCNN, "init_args": {"widht": 2}}, "widht"),
        ({"class_path": FASTCNN, "init_args": {"width": "wide"}}, "wide"),
        ({"class_path": FASTCNN, "init_args": {"width": -1}}, "negative"),
        ({"class_path": FASTCNN, "init_args": {"mean": [0.5, 0.5]}}, "3 elements"),
        ({"class_path": "simmim_pl.encoders.ResNet", "init_args": {"depth": 7}}, "7"),
    ],
)
def test_an_encoder_that_cannot_be_built_is_refused_in_one_sentence(
    write: Callable[[Any], str], encoder: Any, says: str
) -> None:
    path = write(encoder)
    with pytest.raises(InputError, match="describes an encoder that this version cannot build") as error:
        load_encoder(path, trained=False)
    assert says in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)
