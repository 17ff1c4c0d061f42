"""Load weights that another tool saved, without running code that the file names."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from simmim_pl.contracts import Encoder, InputError
from simmim_pl.runtime.safetensors_file import load_safetensors
from simmim_pl.runtime.unpickle import unpickle
from simmim_pl.runtime.weight_names import find_state_dicts, match_names, required_names
from simmim_pl.runtime.yaml_schema import walk

MAX_VALUES_IN_FILE = 1_000_000  # a network of a thousand tensors with its optimizer state has about ten thousand


def load_weights(encoder: Encoder, path: str | Path) -> list[str]:
    """Load a state dict that another tool saved, or the encoder's part of a checkpoint of simmim_pl, into an encoder.

    The state dict may be nested under any key. Names may be the encoder's own or follow one of
    :func:`simmim_pl.runtime.weight_names.naming_schemes`, behind a prefix (``module.``, ``backbone.``,
    ``module.encoder_q.``). If two networks in one state dict fit, the first is taken. The encoder keeps its own
    ``mean``, ``std`` and ``num_batches_tracked`` where the file has none.

    Args:
        encoder: receives the weights.
        path: a file of ``torch.save`` or safetensors, or ``FILE:KEY`` for the state dict under that key, such as
            ``FILE:teacher``.

    Returns:
        Names of the tensors in the state dict that the encoder does not have, such as a classifier's, in file order.

    Raises:
        InputError: the file cannot be read, lacks a tensor of the encoder, has one in another shape, has more layers
            than the encoder, or holds several state dicts that fit.
    """
    file, key = str(path), ""
    if not Path(file).exists() and Path(file.rpartition(":")[0]).is_file():
        file, _, key = file.rpartition(":")
    content = load_safetensors(file) if file.endswith(".safetensors") else unpickle(file)
    deque(walk(content, file, MAX_VALUES_IN_FILE), maxlen=0)
    found = find_state_dicts(content)
    theirs = found[select_state_dict(found, encoder, file, key)]
    own, (names, _) = encoder.state_dict(), match_names(theirs, encoder)
    fits = {name for name, key in names.items() if key in theirs and theirs[key].shape == own[name].shape}
    update_state_dict(encoder, {name: theirs[names[name]] for name in fits})
    taken = {names[name] for name in fits}
    return [name for name in theirs if name not in taken]


def select_state_dict(found: Mapping[str, Mapping[str, Tensor]], encoder: Encoder, path: str, key: str) -> str:
    """The key of the state dict that fits the encoder; ``""`` is the top level of the file.

    Args:
        found: state dicts by key.
        encoder: to be loaded.
        path: the file, for the error.
        key: the key that the user chose, or ``""`` for any.

    Raises:
        InputError: none fits, or several do and none of them has a usual key.
    """
    asked = {place: theirs for place, theirs in found.items() if not key or place == key}
    fits = [place for place, theirs in asked.items() if match_names(theirs, encoder)[1] is None]
    usual = [place for place in ("", "state_dict", "model") if place in fits]  # where tools usually store weights
    if usual or len(fits) == 1:
        return (usual or fits)[0]
    if fits:
        raise InputError(
            f"{path} holds several networks that fit the encoder, under {', '.join(fits)}: choose one, as with "
            f"--model.weights {path}:{fits[0]}"
        )
    theirs = max(asked.values(), key=len, default={})
    names, found_at = match_names(theirs, encoder)
    at = str(found_at)
    own = encoder.state_dict()
    ours = next((name for name in own if names[name] == at), "")
    has = tuple(theirs[at].shape) if at in theirs else "no such tensor"
    needs = f"the encoder's {ours} is {tuple(own[ours].shape)}" if ours else "the encoder has no such layer"
    under = f"; its keys with tensors are {', '.join(filter(None, found))}" if [*found] not in ([], [""]) else ""
    raise InputError(
        f"{path} does not fit the encoder: at {at} it has {has}, {needs}. It holds {abbreviate_names(list(theirs))}"
        f"{under}; the encoder needs {abbreviate_names(required_names(encoder))}. Give the encoder that these weights "
        "were trained with."
    )


def abbreviate_names(names: list[str]) -> str:
    """The first four names."""
    return ", ".join([*names[:4], *(["…"] if len(names) > 4 else [])]) or "no tensors by name"


def update_state_dict(encoder: Encoder, state: Mapping[str, Tensor]) -> None:
    """Load some tensors into an encoder; the others stay."""
    own = encoder.state_dict()  # with _metadata, the versions of its modules
    own.update(state)
    encoder.load_state_dict(own)
