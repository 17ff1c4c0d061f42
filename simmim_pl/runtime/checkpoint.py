"""Read a checkpoint without running anything that it names."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.runtime.from_config import described, instantiate
from simmim_pl.runtime.integrity import require_intact
from simmim_pl.runtime.safe_import import parts
from simmim_pl.runtime.unpickle import unpickle
from simmim_pl.runtime.weight_names import needed, same_network, tables
from simmim_pl.runtime.yaml_schema import MOST

# Of what a run needs to go on, as far as Lightning does not keep it. To be raised when it changes.
FORMAT = 5
MOST_VALUES = 1_000_000  # in a checkpoint; a network of a thousand tensors and its optimizer's state have ten thousand
LARGE = 10**9  # bytes of an encoder that is built whatever its file has


def read(path: str | Path, weights_only: bool = True) -> dict[str, Any]:
    """Load a checkpoint of a ``fit`` of ours to the CPU, as tensors and plain values only unless the file is trusted.

    Raises:
        InputError: the file cannot be read, or was written by another tool.
    """
    checkpoint = unpickle(path, weights_only)
    if is_weights_only(checkpoint):
        raise InputError(
            f"{path} is a weights-only checkpoint of Lightning's, as ModelCheckpoint(save_weights_only=True) writes: "
            "it lacks the config and the optimizer of its run. Evaluate it with --model.encoder and --model.weights "
            f"{path}, and go on from a checkpoint that simmim_pl.callbacks.Checkpoint wrote."
        )
    sections = ("state_dict", "config")
    if not isinstance(checkpoint, dict) or not all(isinstance(checkpoint.get(key), dict) for key in sections):
        raise InputError(
            f"{path} was not written by `python -m simmim_pl fit`: it lacks the weights or the config that a run of "
            "ours leaves in its checkpoints."
        )
    require_tensors(checkpoint["state_dict"], path)
    for section, most in ((checkpoint["config"], MOST), (checkpoint, MOST_VALUES)):
        deque(parts(section, str(path), most), maxlen=0)  # of values that are shared, whoever walks them meets all
    return checkpoint


def is_weights_only(checkpoint: Any) -> bool:
    """Whether Lightning wrote this without a trainer's state."""
    lightnings = isinstance(checkpoint, dict) and {"pytorch-lightning_version", "state_dict"} <= checkpoint.keys()
    return lightnings and not checkpoint.keys() & {"config", "optimizer_states"}


def require_tensors(state: Mapping[Any, Any], path: str | Path) -> None:
    """Raises :class:`InputError` where a state dict is anything but tensors by name."""
    for name, value in state.items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise InputError(
                f"{path} has no tensor at {name} among its weights, but {type(value).__name__}: it is damaged, so use "
                "another checkpoint."
            )


def require_resumable(saved: Mapping[str, Any], path: str | Path) -> None:
    """Raises :class:`InputError` unless this version of the package can go on exactly from a checkpoint."""
    if saved.get("format") != FORMAT:
        raise InputError(
            f"{path} was written by another version of simmim_pl ({saved.get('version', 'an early one')}), from whose "
            "checkpoints this one cannot go on: use that version, or start a new run. Its encoder can be evaluated."
        )
    require_intact(saved, path)


def require_same(state: dict[str, Any], own: dict[str, Any], path: str | Path) -> None:
    """Refuse weights of another architecture, naming the first tensor that differs.

    Raises:
        InputError: a tensor is missing, left over, or of another shape.
    """
    for name in sorted(state.keys() | own.keys()):
        theirs, ours = (tuple(side[name].shape) if name in side else "no such tensor" for side in (state, own))
        if theirs != ours:
            raise InputError(
                f"{path} is of another architecture: at {name} it has {theirs}, the config builds {ours}. "
                "Use the config.yaml that lies in the run directory of the checkpoint."
            )


def load_encoder(path: str | Path, trained: bool = True, allow: Sequence[str] = ()) -> Encoder:
    """Build the encoder that a checkpoint's config describes, with its weights or freshly initialised, in eval mode.

    Only classes of this package, and those that the user allows by name, are imported because a checkpoint names them;
    a config can name anything. An encoder of ours downloads nothing: its weights are in the checkpoint.

    Args:
        path: a checkpoint that pretraining wrote.
        trained: with the checkpoint's weights; otherwise with random ones.
        allow: class paths outside this package that may be imported, each exactly as the checkpoint writes it.

    Raises:
        InputError: the checkpoint cannot be read, names a class that is neither ours nor allowed, or does not fit its
            own config.
    """
    saved = read(path)
    spec = described(saved, path).get("encoder")
    if not isinstance(spec, dict) or "class_path" not in spec:  # a bare string would be imported as a class path
        raise InputError(f"{path} holds no encoder: give a checkpoint that pretraining wrote.")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--encoder", type=Encoder)
    prefix = "encoder."
    state = {k.removeprefix(prefix): v for k, v in saved["state_dict"].items() if k.startswith(prefix)}

    def build() -> Encoder:
        found: Encoder = instantiate(parser, {"encoder": spec}, path, frozenset(allow)).encoder
        return found

    own = {} if spec["class_path"] in [*allow] else shapes(build)
    if own and trained:
        require_same(state, own, path)
    elif sum(tensor.nbytes for tensor in own.values()) > max(LARGE, 2 * Path(path).stat().st_size):
        raise InputError(f"{path} describes an encoder that is far larger than the file: do not use it.")
    encoder = build()
    if trained:
        require_same(state, encoder.state_dict(), path)
        fill(encoder, state)
    return encoder.eval()


def shapes(build: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """The tensors of a network without their memory; none where it cannot be built so, as some of timm's."""
    with suppress(InputError), torch.device("meta"):
        return build().state_dict()
    return {}


def fill(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Load tensors into an encoder, for which those that it has tell the version of its modules."""
    own = encoder.state_dict()
    own.update(state)
    encoder.load_state_dict(own)


def load_weights(encoder: Encoder, path: str | Path) -> list[str]:
    """Load the weights that another tool saved, a mapping from names to tensors, into an encoder.

    The mapping may lie under any key, or under the one that ``path`` ends with: ``FILE:teacher``. The names may be the
    encoder's, or those that :func:`simmim_pl.runtime.weight_names.dialects` knows, behind a prefix (``module.``,
    ``backbone.``, ``module.encoder_q.``); of two networks in one mapping that both fit, the first is taken. The
    encoder's own ``mean`` and ``std`` stay if the file has none, and so do BatchNorm's counts of batches, which only
    training uses.

    Returns:
        The names in the mapping, in its order, of the tensors that are not the encoder's: a classifier, a head.

    Raises:
        InputError: the file cannot be read, lacks a tensor of the encoder, has it in another shape or further layers of
            the same kind, or holds several mappings that fit.
    """
    file, key = str(path), ""
    if not Path(file).exists() and Path(file.rpartition(":")[0]).is_file():
        file, _, key = file.rpartition(":")
    content = unpickle(file)
    deque(parts(content, file, MOST_VALUES), maxlen=0)
    found = tables(content)
    theirs = found[fitting(found, encoder, file, key)]
    own, (names, _) = encoder.state_dict(), same_network(theirs, encoder)
    fits = {name for name, key in names.items() if key in theirs and theirs[key].shape == own[name].shape}
    fill(encoder, {name: theirs[names[name]] for name in fits})
    taken = {names[name] for name in fits}
    return [name for name in theirs if name not in taken]


def fitting(found: Mapping[str, Mapping[str, Tensor]], encoder: Encoder, path: str, key: str) -> str:
    """The key of the one mapping in a file that holds the encoder, which may be given; the file's own is empty.

    Raises:
        InputError: none fits, or several do and none of them is where weights usually are.
    """
    asked = {place: theirs for place, theirs in found.items() if not key or place == key}
    fits = [place for place, theirs in asked.items() if same_network(theirs, encoder)[1] is None]
    usual = [place for place in ("", "state_dict", "model") if place in fits]
    if usual or len(fits) == 1:
        return (usual or fits)[0]
    if fits:
        raise InputError(
            f"{path} holds several networks that fit the encoder, under {', '.join(fits)}: choose one, as with "
            f"--model.weights {path}:{fits[0]}"
        )
    theirs = max(asked.values(), key=len, default={})
    names, found_at = same_network(theirs, encoder)
    at = str(found_at)
    own = encoder.state_dict()
    ours = next((name for name in own if names[name] == at), "")
    has = tuple(theirs[at].shape) if at in theirs else "no such tensor"
    needs = f"the encoder's {ours} is {tuple(own[ours].shape)}" if ours else "the encoder has no such layer"
    under = f"; its keys with tensors are {', '.join(filter(None, found))}" if [*found] not in ([], [""]) else ""
    raise InputError(
        f"{path} does not fit the encoder: at {at} it has {has}, {needs}. It holds {few(list(theirs))}{under}; "
        f"the encoder needs {few(needed(encoder))}. Give the encoder that these weights were trained with."
    )


def few(names: list[str]) -> str:
    """The first names of many."""
    return ", ".join([*names[:4], *(["…"] if len(names) > 4 else [])]) or "no tensors by name"
