"""A checkpoint is data: reading it never runs code, and an invalid one is a one-line error."""

import pickle
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18

from simmim_pl.contracts import InputError
from simmim_pl.data import Shapes
from simmim_pl.encoders import FastCNN, ResNet, Torchvision, timm
from simmim_pl.runtime.checkpoint import load_checkpoint, load_encoder, require_same_architecture
from simmim_pl.runtime.storable import storable
from simmim_pl.runtime.weights import load_weights
from tests.conftest import TINY

FASTCNN = "simmim_pl.encoders.FastCNN"
DEFAULT = {"weights": "DEFAULT"}


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Any], str]:
    """Write a checkpoint whose config describes this encoder, without weights."""

    def write(encoder: Any) -> str:
        path = tmp_path / "any.ckpt"
        torch.save({"state_dict": {}, "config": {"model": {"init_args": {"encoder": encoder}}}}, path)
        return str(path)

    return write


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that importing the module ``evil`` creates."""
    touched = tmp_path / "touched"
    (tmp_path / "evil.py").write_text(
        f"open({str(touched)!r}, 'w')\n"
        "from simmim_pl.encoders import FastCNN\n"
        "from simmim_pl.contracts import Encoder as Ours\n"
        "class Encoder(FastCNN): pass\n"
        "class Around(FastCNN):\n"
        "    def __init__(self, inner: Ours, kind: type = int, width: int = 2):\n"
        "        super().__init__(width)\n"
        "        self.inner = inner\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield touched
    sys.modules.pop("evil", None)


def test_the_malicious_pickle_works(tmp_path: Path) -> None:
    torch.save(Trap(tmp_path / "touched"), tmp_path / "trap")
    torch.load(tmp_path / "trap", weights_only=False).close()
    assert (tmp_path / "touched").exists()


def test_the_malicious_module_works(evil: Path) -> None:
    __import__("evil")
    assert evil.exists()


def test_reading_gives_the_weights_and_the_config_of_a_run(pretrained: Path) -> None:
    saved = load_checkpoint(pretrained)
    assert saved["config"]["model"]["init_args"]["encoder"] == {
        "class_path": FASTCNN,
        "init_args": {**saved["config"]["model"]["init_args"]["encoder"]["init_args"], "width": 2},
    }
    assert all(isinstance(tensor, Tensor) for tensor in saved["state_dict"].values())
    assert saved["global_step"] == 10


@pytest.mark.parametrize("name", ["nowhere.ckpt", "."])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="There is no checkpoint") as error:
        load_checkpoint(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, pretrained: Path, kept: float) -> None:
    whole = pretrained.read_bytes()
    short = tmp_path / "short.ckpt"
    short.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(InputError, match="cannot be read as a checkpoint: it is truncated"):
        load_checkpoint(short)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 10, 30])
def test_the_first_bytes_of_a_file_are_refused(tmp_path: Path, pretrained: Path, length: int) -> None:
    (tmp_path / "short.ckpt").write_bytes(pretrained.read_bytes()[:length])
    with pytest.raises(InputError, match="truncated"):
        load_checkpoint(tmp_path / "short.ckpt")


def test_a_pickle_with_code_does_not_run_it(tmp_path: Path) -> None:
    trap, path = Trap(tmp_path / "touched"), tmp_path / "trap.ckpt"
    good = {"state_dict": {}, "config": {}}
    for content in (trap, {**good, "extra": trap}, {**good, "state_dict": {"encoder.mean": trap}}):
        torch.save(content, path)
        with pytest.raises(InputError, match="more than tensors and plain values"):
            load_checkpoint(path)
        path.write_bytes(pickle.dumps(content))  # torch's old format
        with pytest.raises(InputError, match="more than tensors and plain values"):
            load_checkpoint(path)
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"layer.weight": torch.zeros(2)},  # a bare state dict
        {"state_dict": {"layer.weight": torch.zeros(2)}, "epoch": 3},  # Lightning's without simmim_pl's config
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
        load_checkpoint(tmp_path / "other.ckpt")


def test_the_first_tensor_that_differs_is_named_with_both_shapes() -> None:
    own = {"a": torch.zeros(2), "b.weight": torch.zeros(3, 4), "c": torch.zeros(1)}
    require_same_architecture(own, {name: torch.ones_like(tensor) for name, tensor in own.items()}, "x.ckpt")
    with pytest.raises(InputError, match=r"x.ckpt .* at b.weight it has \(3, 5\), the config builds \(3, 4\)"):
        require_same_architecture({**own, "b.weight": torch.zeros(3, 5), "c": torch.zeros(2)}, own, "x.ckpt")
    with pytest.raises(InputError, match=r"at c it has no such tensor, the config builds \(1,\)"):
        require_same_architecture({name: own[name] for name in ("a", "b.weight")}, own, "x.ckpt")
    with pytest.raises(InputError, match=r"at d it has \(7,\), the config builds no such tensor"):
        require_same_architecture({**own, "d": torch.zeros(7)}, own, "x.ckpt")


def test_the_trained_encoder_is_loaded(pretrained: Path) -> None:
    state = torch.load(pretrained, weights_only=True)["state_dict"]
    loaded = load_encoder(str(pretrained), trained=True).state_dict()
    assert {f"encoder.{name}" for name in loaded} == {name for name in state if name.startswith("encoder.")}
    assert all(torch.equal(tensor, state[f"encoder.{name}"]) for name, tensor in loaded.items())


def test_the_teachers_encoder_is_loaded_if_present(pretrained: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no teacher, only the online network: remove --model\.network teacher"):
        load_encoder(pretrained, network="teacher")
    saved = torch.load(pretrained, weights_only=True)
    saved["state_dict"] |= {f"teacher.{k}": v + 1 for k, v in saved["state_dict"].items() if k.startswith("encoder.")}
    torch.save(saved, tmp_path / "both.ckpt")
    online, teacher = (load_encoder(tmp_path / "both.ckpt", network=network) for network in ("online", "teacher"))
    assert not teacher.training
    for name, tensor in online.state_dict().items():
        assert torch.equal(tensor, saved["state_dict"][f"encoder.{name}"])
        assert torch.equal(tensor + 1, teacher.state_dict()[name])


def test_the_untrained_encoder_has_the_architecture_and_random_weights(pretrained: Path) -> None:
    trained, fresh = (load_encoder(str(pretrained), trained) for trained in (True, False))
    require_same_architecture(trained.state_dict(), fresh.state_dict(), pretrained)
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
    assert load_encoder(str(tmp_path / "odd.ckpt"), trained=False).embed_dim == 24


def test_module_versions_are_restored(tmp_path: Path) -> None:
    path, net = tmp_path / "x.ckpt", Torchvision("mnasnet0_5")
    spec = {"class_path": "simmim_pl.encoders.Torchvision", "init_args": {"name": "mnasnet0_5"}}
    state = nn.ModuleDict({"encoder": net}).state_dict()
    torch.save(storable({"state_dict": state, "config": {"model": {"init_args": {"encoder": spec}}}}, "x"), path)
    nn.ModuleDict({"encoder": Torchvision("mnasnet0_5")}).load_state_dict(
        load_checkpoint(path)["state_dict"]
    )  # as Lightning does
    loaded, filled = load_encoder(path), Torchvision("mnasnet0_5")
    assert load_weights(filled, path) == []
    for encoder in (loaded, filled):
        assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize(("trained", "says"), [(True, "has another architecture"), (False, "far larger than the fil")])
def test_an_encoder_larger_than_the_file_is_not_built(
    write: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch, trained: bool, says: str
) -> None:
    made: list[Tensor] = []
    monkeypatch.setattr("torch.nn.init.kaiming_uniform_", lambda tensor, **more: made.append(tensor))
    monkeypatch.setattr("simmim_pl.runtime.checkpoint.ALWAYS_ALLOWED_BYTES", 10**6)
    with pytest.raises(InputError, match=says):
        load_encoder(write({"class_path": FASTCNN, "init_args": {"width": 32}}), trained)
    assert made
    assert all(tensor.is_meta for tensor in made)


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
    with pytest.raises(InputError, match=r"asks to import (simmim_pl_)?evil.Encoder, which is not an|cannot build"):
        load_encoder(write(encoder), trained)
    assert not evil.exists()
    assert "evil" not in sys.modules


@pytest.mark.parametrize("encoder", ["evil.Encoder", ["evil.Encoder"], {"init_args": {"width": 2}}, 3, None, {}])
def test_invalid_class_specs_are_refused_and_not_imported(
    write: Callable[[Any], str], evil: Path, encoder: Any
) -> None:
    with pytest.raises(InputError, match="contains no encoder"):
        load_encoder(write(encoder), trained=False)
    assert not evil.exists()


@pytest.mark.parametrize("config", [{}, {"model": None}, {"model": "x"}, {"model": {"init_args": None}}])
def test_a_config_without_an_encoder_is_refused(tmp_path: Path, config: Any) -> None:
    torch.save({"state_dict": {}, "config": config}, tmp_path / "odd.ckpt")
    with pytest.raises(InputError, match="contains no encoder: give a checkpoint that pretraining wrote"):
        load_encoder(str(tmp_path / "odd.ckpt"), trained=True)


@pytest.mark.parametrize(
    ("encoder", "says"),
    [
        ({"class_path": "simmim_pl.encoders.heads.ProjectionHead", "init_args": {"width": 3}}, "subclass of Encoder"),
        ({"class_path": "simmim_pl.encoders.Gone"}, "Gone"),
        ({"class_path": "simmim_pl.encoders.gone.Encoder"}, "gone"),
        ({"class_path": FASTCNN, "init_args": {"widht": 2}}, "widht"),
        ({"class_path": FASTCNN, "init_args": {"width": "wide"}}, "wide"),
        ({"class_path": FASTCNN, "init_args": {"width": -1}}, "width has to be 1 or more"),
        ({"class_path": FASTCNN, "init_args": {"mean": [0.5, 0.5]}}, "2 numbers for 3 channels"),
        ({"class_path": "simmim_pl.encoders.ResNet", "init_args": {"depth": 7}}, "7"),
    ],
)
def test_an_encoder_that_cannot_be_built_is_a_one_line_error(
    write: Callable[[Any], str], encoder: Any, says: str
) -> None:
    path = write(encoder)
    with pytest.raises(InputError, match="describes an encoder that this version cannot build") as error:
        load_encoder(path, trained=False)
    assert says in str(error.value)
    assert path in str(error.value)
    assert "\n" not in str(error.value)


OURS = {"class_path": FASTCNN, "init_args": {"width": 2}}


@pytest.mark.parametrize("text", [False, True])
def test_a_deeply_nested_config_is_a_one_line_error(write: Callable[[Any], str], text: bool) -> None:
    nested: Any = "[" * 5000 if text else "evil.Encoder"
    deep = 5000 if sys.version_info < (3, 12) else 1500  # later versions have a limit for C code that nobody can raise
    for _ in range(0 if text else deep):
        nested = [nested]
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(100_000)  # to write a file that is read under the usual limit
    try:
        path = write({**OURS, "init_args": {"width": nested}})
    finally:
        sys.setrecursionlimit(limit)
    with pytest.raises(InputError, match=r"nested more than 100 deep|cannot build"):
        load_encoder(path, trained=False)


@pytest.mark.parametrize(
    "encoder",
    [
        {"class_path": FASTCNN, "init_args": {"width": "evil.Encoder"}},
        {"class_path": FASTCNN, "init_args": {"width": " evil . Encoder "}},
        {"class_path": FASTCNN, "init_args": {"width": "int | list[evil.Encoder]"}},
        {"class_path": FASTCNN, "init_args": {"width": "{class_path: evil.Encoder}"}},
        {"class_path": FASTCNN, "init_args": {"width": "[{a: evil.Encoder}]"}},
        {"class_path": FASTCNN, "init_args": {"mean": (0.1, {"a": ({"class_path": "evil.Encoder"},)}, 0.3)}},
        {"class_path": FASTCNN, "init_args.width.class_path": "evil.Encoder"},
        {"class_path": FASTCNN, "init_args": {"mean": ["evil.Encoder", 1, 2]}},
        {"class_path": FASTCNN, "dict_kwargs": {"x": "evil.Encoder"}},
        {"class_path": "Encoder", "init_args": {"x": "evil.Encoder"}},
        {"class_path": ["evil.Encoder"]},
    ],
)
@pytest.mark.parametrize("allow", [(), ["json.JSONDecoder"]])
def test_strings_like_class_paths_are_refused_and_not_imported(
    write: Callable[[Any], str], evil: Path, encoder: Any, allow: Any
) -> None:
    with pytest.raises(
        InputError, match=r"asks to import .*: (allow it with --model.allow \[.*\] if you|use the)|cannot build"
    ):
        load_encoder(write(encoder), trained=False, allow=allow)
    assert not evil.exists()
    assert "evil" not in sys.modules


def test_a_class_that_this_version_no_longer_has_names_the_version_that_has_it(tmp_path: Path) -> None:
    spec = {"class_path": "simmim_pl.resnet.ResNet"}
    saved = {"state_dict": {}, "config": {"model": {"init_args": {"encoder": spec}}}, "version": "0.0.7"}
    torch.save(saved, tmp_path / "old.ckpt")
    with pytest.raises(InputError, match=r"asks to import simmim_pl.resnet.ResNet, .* use the version .* \(0.0.7\)"):
        load_encoder(tmp_path / "old.ckpt", trained=False)


@pytest.mark.parametrize("allow", [["evil"], ["evil.Encoder.x"], ["evil.Gone"], ["gone.Encoder"], "evil.Encoder"])
def test_allow_accepts_only_importable_classes(write: Callable[[Any], str], evil: Path, allow: Any) -> None:
    with pytest.raises(InputError, match=r"--model.allow names \S+, which cannot be imported as a class"):
        load_encoder(write({"class_path": "evil.Encoder"}), trained=False, allow=allow)


@pytest.mark.parametrize(
    "text",
    ["os.system", "json.decoder.JSONDecoder", "__main__.x", "torch.load", "wandb.init", "simmim_pl.command.cli.main"],
)
def test_a_string_is_not_imported_where_a_class_is_expected(write: Callable[[Any], str], evil: Path, text: str) -> None:
    spec = {"class_path": "evil.Around", "init_args": {"inner": OURS, "kind": text}}
    with pytest.raises(InputError, match=f"asks to import {text}, "):
        load_encoder(write(spec), trained=False, allow=["evil.Around"])


@pytest.mark.parametrize(
    "name", ["resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k", "", "a.b c", "/tmp/evil.pth"]
)
def test_other_strings_pass(write: Callable[[Any], str], evil: Path, name: str) -> None:
    spec = {"class_path": "simmim_pl.encoders.Timm", "init_args": {"name": name}}
    if "resnet18" in name:
        pytest.importorskip("timm")
        assert load_encoder(write(spec), trained=False).embed_dim == 512
    else:
        with pytest.raises(InputError, match="cannot build") as error:
            load_encoder(write({**OURS, "init_args": {"width": name}}), trained=False)
        assert "asks to import" not in str(error.value)
    assert not evil.exists()


@pytest.mark.parametrize(
    "name",
    [
        "simmim_pl.command.cli.os.system",
        "simmim_pl.runtime.unpickle.torch.load",
        "simmim_pl.contracts.nn.Linear",
        "simmim_pl.contracts.InputError",
        "simmim_pl.gone.Encoder",
        "simmim_pl.runtime.checkpoint.load_encoder",  # a function that returns an Encoder
        "simmim_pl.load_encoder",
        "simmim_pl.encoders.torchvision.get_model",
        "simmim_pl.encoders.torchvision.nn.Linear",
        "simmim_pl.encoders",
        "simmim_pl./../evil.Encoder",
        "simmim_pl..evil.Encoder",
        "simmim_pl.",
    ],
)
@pytest.mark.parametrize("nested", [True, False])
def test_a_path_below_simmim_pl_must_lead_to_a_class_of_simmim_pl(
    write: Callable[[Any], str], evil: Path, name: str, nested: bool
) -> None:
    before = {module.partition(".")[0] for module in sys.modules}
    spec = {"class_path": name}
    with pytest.raises(InputError, match=r"asks to import|cannot build") as error:
        load_encoder(write({**OURS, "init_args": {"width": [spec]}} if nested else spec), trained=False)
    assert name.rpartition(".")[2] in str(error.value)
    assert not evil.exists()
    assert {module.partition(".")[0] for module in sys.modules} == before


def test_an_allowed_class_is_imported_and_built_with_parts_of_simmim_pl(
    write: Callable[[Any], str], evil: Path
) -> None:
    spec = {"class_path": "evil.Around", "init_args": {"inner": OURS, "width": 3}}
    path = write(spec)
    with pytest.raises(InputError, match=r"evil.Around, which is not an encoder, .*--model.allow \[evil.Around\]"):
        load_encoder(path, trained=False)
    assert not evil.exists()
    encoder = load_encoder(path, trained=False, allow=["evil.Around"])
    assert evil.exists()
    assert type(encoder).__name__ == "Around"
    assert encoder.embed_dim == 24
    assert isinstance(encoder.inner, FastCNN)


def test_an_allowed_class_does_not_allow_others(write: Callable[[Any], str], evil: Path, tmp_path: Path) -> None:
    (tmp_path / "inner.yaml").write_text("class_path: evil.Encoder\n")
    for inner in ({"class_path": "evil.Encoder"}, "evil.Encoder", "{class_path: evil.Encoder}", ["evil.Encoder"]):
        with pytest.raises(InputError, match=r"asks to import evil.Encoder|cannot build"):
            load_encoder(
                write({"class_path": "evil.Around", "init_args": {"inner": inner}}),
                trained=False,
                allow=["evil.Around"],
            )
    # A string is never read as the name of a config file.
    spec = {"class_path": "evil.Around", "init_args": {"inner": str(tmp_path / "inner.yaml")}}
    with pytest.raises(InputError, match="cannot build"):
        load_encoder(write(spec), trained=False, allow=["evil.Around"])
    both = ["evil.Around", "evil.Encoder"]
    spec = {"class_path": "evil.Around", "init_args": {"inner": {"class_path": "evil.Encoder"}, "kind": "evil.Encoder"}}
    assert type(load_encoder(write(spec), trained=False, allow=both).inner).__name__ == "Encoder"


def test_an_allowed_encoder_is_loaded_with_its_weights(evil: Path, tmp_path: Path) -> None:
    weights = FastCNN(2).state_dict()
    config = {"model": {"init_args": {"encoder": {**OURS, "class_path": "evil.Encoder"}}}}
    state = {f"encoder.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": state, "config": config}, tmp_path / "x.ckpt")
    loaded = load_encoder(str(tmp_path / "x.ckpt"), trained=True, allow=["evil.Encoder"]).state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in loaded.items())


def test_loading_an_encoder_downloads_nothing(write: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("download")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    make = timm.create_model
    monkeypatch.setattr(
        "simmim_pl.encoders.timm.create_model",
        lambda name, pretrained, channels: fail() if pretrained else make(name, False, channels),
    )
    init = {"name": "resnet18", "weights": "DEFAULT"}
    assert (
        load_encoder(write({"class_path": "simmim_pl.encoders.Torchvision", "init_args": init}), False).embed_dim == 512
    )
    init = {"name": "resnet18", "pretrained": True}
    assert load_encoder(write({"class_path": "simmim_pl.encoders.Timm", "init_args": init}), False).embed_dim == 512


HIDDEN = [
    {"class_path": "simmim_pl.encoders.Torchvision", "init_args": {"name": "resnet18"}, "dict_kwargs": DEFAULT},
    {"class_path": "simmim_pl.encoders.Torchvision", "init_args": {"name": "resnet18", **DEFAULT}},
    {"class_path": "simmim_pl.encoders.Torchvision", "init_args.name": "resnet18", "init_args.weights": "DEFAULT"},
    {"class_path": "simmim_pl.encoders.Torchvision", "dict_kwargs": {"name": "resnet18", **DEFAULT}},
    {"class_path": "simmim_pl.encoders.Timm", "init_args": {"name": "resnet18"}, "dict_kwargs": {"pretrained": True}},
    {
        "class_path": "simmim_pl.encoders.Timm",
        "init_args": {"name": "hf-hub:timm/resnet18.a1_in1k", "pretrained": True},
    },
    {"class_path": "simmim_pl.encoders.Timm", "init_args": {"name": "hf_hub:timm/resnet18.a1_in1k"}},
]


@pytest.mark.parametrize("around", [False, True])
@pytest.mark.parametrize("spec", HIDDEN)
def test_no_config_can_start_a_download(
    write: Callable[[Any], str], evil: Path, monkeypatch: pytest.MonkeyPatch, spec: dict[str, Any], around: bool
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("socket.socket.connect", lambda *address: asked.append(address))
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *url, **more: asked.append(url))
    monkeypatch.setattr("timm.models._builder.load_pretrained", lambda *net, **more: asked.append(net))
    whole = {"class_path": "evil.Around", "init_args": {"inner": spec}} if around else spec
    with suppress(InputError):  # it may also be refused
        load_encoder(write(whole), trained=False, allow=["evil.Around"])
    assert asked == []


def test_a_weights_only_checkpoint_of_lightning_is_reported(cli: Callable[[list[Any]], Path], tmp_path: Path) -> None:
    keeps = "--trainer.callbacks+=lightning.pytorch.callbacks.ModelCheckpoint"
    cli(
        [
            *TINY,
            "--trainer.max_epochs=1",
            keeps,
            *("--trainer.callbacks.save_weights_only=true", "--trainer.callbacks.save_on_train_epoch_end=true"),
        ]
    )
    (path,) = [path for path in tmp_path.rglob("*.ckpt") if path.name != "last.ckpt"]
    with pytest.raises(
        InputError, match=r"weights-only checkpoint of Lightning's, .* --model.encoder and --model.weights"
    ):
        load_checkpoint(path)
    encoder = FastCNN(2)
    load_weights(encoder, path)
    assert torch.equal(encoder.net[0][0].weight, torch.load(path)["state_dict"]["encoder.net.0.0.weight"])


@pytest.fixture(scope="module")
def theirs() -> dict[str, Tensor]:
    """The state dict of torchvision's ResNet-18."""
    torch.manual_seed(0)
    return resnet18().state_dict()


def named(theirs: dict[str, Tensor], prefix: str, head: str = "fc") -> dict[str, Tensor]:
    """The tensors under other names, with another head."""
    body = {f"{prefix}{name}": tensor for name, tensor in theirs.items() if not name.startswith("fc")}
    return {**body, f"{head}.weight": torch.ones(2, 512), f"{head}.bias": torch.ones(2)}


# Possible contents of a file, made from the state dict of a ResNet-18; and the names that remain unused.
WRAPS: dict[str, tuple[Callable[[dict[str, Tensor]], Any], list[str]]] = {
    "plain": (lambda sd: sd, ["fc.weight", "fc.bias"]),
    "DataParallel": (
        lambda sd: {f"module.{name}": tensor for name, tensor in sd.items()},
        ["module.fc.weight", "module.fc.bias"],
    ),
    "solo-learn": (
        lambda sd: {"epoch": 3, "state_dict": named(sd, "backbone.", "projector.0"), "lr": [0.1]},
        ["projector.0.weight", "projector.0.bias"],
    ),
    "MoCo": (
        lambda sd: {"arch": "resnet18", "state_dict": named(sd, "module.encoder_q.", "module.encoder_q.fc.0")},
        ["module.encoder_q.fc.0.weight", "module.encoder_q.fc.0.bias"],
    ),
    "under model": (lambda sd: {"model": named(sd, "encoder.", "head"), "step": 1}, ["head.weight", "head.bias"]),
    "with ours": (lambda sd: named(sd, "net."), ["fc.weight", "fc.bias"]),
    "old, without counts of batches": (
        lambda sd: {name: tensor for name, tensor in sd.items() if not name.endswith("num_batches_tracked")},
        ["fc.weight", "fc.bias"],
    ),
    "half precision": (lambda sd: {n: t.half() for n, t in sd.items()}, ["fc.weight", "fc.bias"]),
    "numbers among them": (lambda sd: {**sd, "epoch": 3, 4: torch.ones(1)}, ["fc.weight", "fc.bias"]),
}


@pytest.mark.parametrize("case", WRAPS)
def test_weights_of_another_tool_are_found_under_their_names(
    theirs: dict[str, Tensor], tmp_path: Path, case: str
) -> None:
    wrap, expected = WRAPS[case]
    torch.save(wrap(theirs), tmp_path / "x.pth")
    encoder = Torchvision("resnet18", mean=(0.1, 0.2, 0.3))
    assert load_weights(encoder, tmp_path / "x.pth") == expected
    for name, tensor in encoder.net.state_dict().items():
        wanted = theirs[name].half().float() if case == "half precision" else theirs[name]
        assert tensor.dtype == theirs[name].dtype
        assert torch.equal(tensor, wanted), name
    assert encoder.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])


def test_the_first_of_two_networks_in_a_file_is_used(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    online, momentum = named(theirs, "encoder_q."), {f"encoder_k.{n}": torch.zeros_like(t) for n, t in theirs.items()}
    torch.save({**online, **momentum}, tmp_path / "x.pth")
    encoder = Torchvision("resnet18")
    left = load_weights(encoder, tmp_path / "x.pth")
    assert torch.equal(encoder.net.conv1.weight, theirs["conv1.weight"])
    assert left == ["fc.weight", "fc.bias", *momentum]


def test_mean_and_std_are_loaded_from_the_file(tmp_path: Path) -> None:
    source, encoder = FastCNN(2, mean=(0.1, 0.2, 0.3)), FastCNN(2)
    state = {f"encoder.{name}": tensor for name, tensor in source.state_dict().items()}
    torch.save({"state_dict": {**state, "head.weight": torch.ones(1)}}, tmp_path / "x.ckpt")
    assert load_weights(encoder, tmp_path / "x.ckpt") == ["head.weight"]
    assert all(torch.equal(tensor, encoder.state_dict()[name]) for name, tensor in source.state_dict().items())
    state["encoder.mean"] = torch.ones(5)  # from another tool
    torch.save(state, tmp_path / "x.ckpt")
    encoder = FastCNN(2)
    assert load_weights(encoder, tmp_path / "x.ckpt") == ["encoder.mean"]
    assert torch.equal(encoder.mean, FastCNN(2).mean)


def test_a_checkpoint_of_simmim_pl_gives_its_encoder(pretrained: Path) -> None:
    encoder = FastCNN(2)
    left = load_weights(encoder, pretrained)
    expected = load_encoder(str(pretrained), trained=True).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in encoder.state_dict().items())
    assert left
    assert all(name.startswith("head.") for name in left)


def test_a_missing_tensor_and_another_shape_are_named_and_nothing_is_loaded(
    theirs: dict[str, Tensor], tmp_path: Path
) -> None:
    encoder, path = Torchvision("resnet18"), tmp_path / "x.pth"
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    some = named(theirs, "backbone.")
    for name in ("conv1.weight", "layer4.1.bn2.running_var"):
        torch.save({key: tensor for key, tensor in some.items() if key != f"backbone.{name}"}, path)
        with pytest.raises(InputError, match=f"at backbone.{name} it has no such tensor, the encoder's net.{name} is"):
            load_weights(encoder, path)
    torch.save({**some, "backbone.conv1.weight": torch.ones(64, 3, 3, 3)}, path)
    with pytest.raises(InputError, match=r"at backbone.conv1.weight it has \(64, 3, 3, 3\), .* is \(64, 3, 7, 7\)"):
        load_weights(encoder, path)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("content", [{}, {"a": torch.ones(1)}, [torch.ones(1)], torch.ones(1), None, {"model": 3}])
def test_a_file_without_the_encoders_tensors_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match=r"x.pth does not fit the encoder: at .* it has no such tensor"):
        load_weights(ResNet(), tmp_path / "x.pth")


def test_a_file_with_exponentially_shared_tables_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds per level: visiting all would take hours."""
    monkeypatch.setattr("simmim_pl.runtime.weights.MAX_VALUES_IN_FILE", 10_000)
    content: Any = {"x": torch.ones(1)}
    for _ in range(4):
        content = dict.fromkeys(map(str, range(12)), content)
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InputError, match="more than 10000 values"):
        load_weights(FastCNN(2), tmp_path / "x.pth")


def test_an_unreadable_weight_file_is_refused_without_running_code(theirs: dict[str, Tensor], tmp_path: Path) -> None:
    encoder, path = Torchvision("resnet18"), tmp_path / "x.pth"
    with pytest.raises(InputError, match=r"There is no checkpoint .*x.pth"):
        load_weights(encoder, path)
    torch.save({"state_dict": theirs, "args": Trap(tmp_path / "touched")}, path)
    with pytest.raises(InputError, match=r"more than tensors and plain values.* save its state_dict alone"):
        load_weights(encoder, path)
    assert not (tmp_path / "touched").exists()
    torch.save(theirs, path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match="truncated"):
        load_weights(encoder, str(path))
