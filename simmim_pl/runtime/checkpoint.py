"""Load checkpoints of this package without running code that they name."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.runtime.encoder_file import is_encoder_file, load_encoder_file
from simmim_pl.runtime.from_config import instantiate, method_arguments, written_by
from simmim_pl.runtime.integrity import require_intact
from simmim_pl.runtime.unpickle import unpickle
from simmim_pl.runtime.weights import MAX_VALUES_IN_FILE, update_state_dict
from simmim_pl.runtime.yaml_schema import MAX_VALUES, walk

# Version of what this package adds to Lightning's checkpoints in order to resume. Raise it when that changes.
FORMAT_VERSION = 5
ALWAYS_ALLOWED_BYTES = 10**9  # an encoder up to this size is built, however small its checkpoint is
Network = Literal["online", "teacher"]  #: the one that the optimizer trains, or its moving average
PREFIXES: dict[Network, str] = {"online": "encoder.", "teacher": "teacher.encoder."}


def load_checkpoint(path: str | Path, weights_only: bool = True) -> dict[str, Any]:
    """Load a checkpoint that ``fit`` wrote, to the CPU.

    Args:
        path: the file.
        weights_only: accept tensors and plain values only. False trusts the file, which may then run code.

    Raises:
        InputError: the file cannot be read, or was written by another tool.
    """
    checkpoint = unpickle(path, weights_only)
    if is_weights_only(checkpoint):
        raise InputError(
            f"{path} is a weights-only checkpoint of Lightning's, as ModelCheckpoint(save_weights_only=True) writes: "
            "it lacks the config and the optimizer of its run. Evaluate it with --model.encoder and --model.weights "
            f"{path}, and resume from a checkpoint that simmim_pl.callbacks.Checkpoint wrote."
        )
    sections = ("state_dict", "config")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(key), dict) for key in sections):
        raise InputError(
            f"{path} was not written by `python -m simmim_pl fit`: it lacks the weights or the config that such a "
            "checkpoint stores."
        )
    require_tensors(checkpoint["state_dict"], path)
    for section, most in ((checkpoint["config"], MAX_VALUES), (checkpoint, MAX_VALUES_IN_FILE)):
        deque(walk(section, str(path), most), maxlen=0)  # raises if shared values would make later walks endless
    return checkpoint


def is_weights_only(checkpoint: Any) -> bool:
    """Whether Lightning's ``ModelCheckpoint(save_weights_only=True)`` wrote this: no optimizer or trainer state."""
    by_lightning = isinstance(checkpoint, dict) and {"pytorch-lightning_version", "state_dict"} <= checkpoint.keys()
    return by_lightning and not checkpoint.keys() & {"config", "optimizer_states"}


def require_tensors(state: Mapping[Any, Any], path: str | Path) -> None:
    """Raise :class:`InputError` unless a state dict maps names to tensors only."""
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(
                f"{path} has no tensor at {name} among its weights, but {type(value).__name__}: it is damaged, so use "
                "another checkpoint."
            )


def require_resumable(saved: Mapping[str, Any], path: str | Path) -> None:
    """Raise :class:`InputError` unless a run can resume exactly: the format is this version's, the digests match."""
    if saved.get("format") != FORMAT_VERSION:
        raise InputError(
            f"{path} was written by another version of simmim_pl ({written_by(saved)}), and this "
            "version cannot resume from it: use that version, or start a new run. Its encoder can be evaluated."
        )
    require_intact(saved, path)


def require_same_architecture(state: dict[str, Any], own: dict[str, Any], path: str | Path) -> None:
    """Refuse weights of another architecture, naming the first tensor that differs.

    Args:
        state: state dict of the checkpoint.
        own: state dict of the network that the config builds.
        path: the checkpoint, for the error.

    Raises:
        InputError: a tensor is missing, is unexpected, or has another shape.
    """
    for name in sorted(state.keys() | own.keys()):
        theirs, ours = (tuple(side[name].shape) if name in side else "no such tensor" for side in (state, own))
        if theirs != ours:
            raise InputError(
                f"{path} has another architecture: at {name} it has {theirs}, the config builds {ours}. "
                "Use the config.yaml in the run directory of the checkpoint."
            )


def load_encoder(
    path: str | Path, trained: bool = True, allow: Sequence[str] = (), network: Network = "online"
) -> Encoder:
    """Build the encoder of a pretraining checkpoint, in eval mode, or one that was exported as safetensors.

    A config can name any class. Imported are only encoders of this package and what ``allow`` names. Encoders of this
    package download nothing here: their weights are in the checkpoint.

    Args:
        path: a checkpoint that pretraining wrote; or what ``python -m simmim_pl.export --to safetensors`` wrote, the
            folder or the file in it.
        trained: load the checkpoint's weights; otherwise keep random initial ones.
        allow: class paths outside this package that may be imported, as the checkpoint writes them.
        network: whose encoder: the one that the optimizer trained, or its moving average, the teacher of such methods
            as :class:`simmim_pl.methods.BYOL`. An exported file holds one encoder only.

    Raises:
        InputError: the checkpoint cannot be read, names a class that is neither in this package nor allowed, its
            weights do not fit its config, or it has no such network.
    """
    return build_encoder(*open_saved(path), trained, allow, network)


def open_saved(path: str | Path) -> tuple[Path, dict[str, Any]]:
    """The file that holds an encoder, and its content: a checkpoint, or what an exported file has of one.

    Raises:
        InputError: it cannot be read.
    """
    return load_encoder_file(path) if is_encoder_file(path) else (Path(path), load_checkpoint(path))


def build_encoder(
    path: str | Path,
    saved: Mapping[str, Any],
    trained: bool = True,
    allow: Sequence[str] = (),
    network: Network = "online",
) -> Encoder:
    """Build the encoder of a file that was read, see :func:`load_encoder`."""
    spec = encoder_config(path, saved)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=Encoder)
    prefix = PREFIXES[network]
    state = {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}
    if not state and network == "teacher":
        raise InputError(f"{path} has no teacher, only the online network: remove --model.network teacher.")

    def build() -> Encoder:
        found: Encoder = instantiate(parser, {"encoder": spec}, path, frozenset(allow), written_by(saved)).encoder
        return found

    own = {} if allow else meta_state_dict(build)  # what it allows may not be importable on the meta device
    if own and trained:
        require_same_architecture(state, own, path)
    elif sum(tensor.nbytes for tensor in own.values()) > max(ALWAYS_ALLOWED_BYTES, 2 * Path(path).stat().st_size):
        raise InputError(f"{path} describes an encoder that is far larger than the file: do not use it.")
    encoder = build()
    if trained:
        require_same_architecture(state, encoder.state_dict(), path)
        update_state_dict(encoder, state)
    return encoder.eval()


def encoder_config(path: str | Path, saved: Mapping[str, Any]) -> dict[str, Any]:
    """How the encoder is built: ``class_path`` and ``init_args``. Raises :class:`InputError` if there is none."""
    spec = method_arguments(saved, path).get("encoder")
    if not isinstance(spec, dict) or "class_path" not in spec:  # a bare string would be imported as a class path
        raise InputError(f"{path} contains no encoder: give a checkpoint that pretraining wrote.")
    return spec


def meta_state_dict(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """State dict on the meta device, which takes no memory; empty if a network (some of timm) cannot be built there."""
    with suppress(InputError), torch.device("meta"):
        return build().state_dict()
    return {}
