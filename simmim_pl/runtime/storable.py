"""Convert what goes into a checkpoint to types that ``torch.load(weights_only=True)`` reads back."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import PurePath
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from simmim_pl.contracts import InputError

# By exact type: subclasses are pickled by reference to their class, which torch.load(weights_only=True) refuses.
PLAIN = (type(None), bool, int, float, complex, str, torch.Size, torch.dtype, torch.device)
TENSORS = (Tensor, torch.nn.Parameter)
MAX_INT_BITS = 255 * 8 - 1  # longer integers are pickled with an opcode that torch does not read


def storable(value: Any, place: str) -> Any:
    """Convert a value to tensors, plain values and plain containers of them.

    NumPy scalars become Python numbers and arrays tensors, paths become strings, enum members their values, instances
    of container subclasses the plain container.

    Args:
        value: anything.
        place: where it is, for the error, such as ``the state of the callback OnlineProbe``.

    Raises:
        InputError: it holds an object that could not be read back.
    """
    if isinstance(value, Tensor):
        return plain_tensor(value, place)
    if isinstance(value, int) and value.bit_length() > MAX_INT_BITS:
        refuse_value(f"a whole number of {value.bit_length()} bits", place)
    if isinstance(value, (bytes, bytearray)):
        return bytes(value) or refuse_value("bytes of length 0", place)
    if type(value) in PLAIN:
        return value
    if isinstance(value, np.generic):
        return storable(value.item(), place)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        return torch.from_numpy(np.array(value, order="C"))
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, Enum):
        return storable(value.value, place)
    for base in (int, float, str):  # subclasses of these
        if isinstance(value, base):
            return base(value)
    if isinstance(value, Mapping):
        parts = {storable(key, place): storable(part, f"{place}, {key}") for key, part in value.items()}
        kind: Any = next((kind for kind in (OrderedDict, Counter) if type(value) is kind), dict)
        found = kind(parts)
        if kind is OrderedDict and hasattr(value, "_metadata"):  # a state dict's versions of modules
            found._metadata = storable(value._metadata, place)
        return found
    if isinstance(value, tuple):
        return tuple(storable(part, place) for part in value)
    if isinstance(value, (set, frozenset)):
        return {storable(part, place) for part in value}
    if isinstance(value, Sequence):
        return [storable(part, place) for part in value]
    refuse_value(f"a {type(value).__module__}.{type(value).__qualname__}", place)


def plain_tensor(value: Tensor, place: str) -> Tensor:
    """A tensor without its Python subclass and attributes, which torch would not read back.

    Raises:
        InputError: it is sparse, quantised, nested or on the meta device.
    """
    kind = "quantised" if value.is_quantized else "nested" if value.is_nested else str(value.layout)
    if kind != "torch.strided" or value.is_meta:
        refuse_value(f"a tensor that is {'on meta' if value.is_meta else kind.removeprefix('torch.')}", place)
    if type(value) in TENSORS and not vars(value):
        return value
    return value.detach().as_subclass(Tensor)


def refuse_value(what: str, place: str) -> NoReturn:
    """Raise :class:`InputError` for a value that cannot be stored."""
    raise InputError(
        f"{place[0].upper()}{place[1:]}, holds {what}, which could not be read back from a checkpoint: have "
        "state_dict() return tensors, numbers, strings, and lists and dicts of these."
    )


def storable_checkpoint(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Apply :func:`storable` to each section of Lightning's checkpoint, and to each callback's state."""
    found = {}
    for section, state in checkpoint.items():
        if section == "callbacks":
            found[section] = {
                key: storable(each, f"the state of the callback {callback_name(key)}") for key, each in state.items()
            }
        else:
            found[section] = storable(state, f"the checkpoint's section {section}")
    return found


def callback_name(key: str) -> str:
    """Class name of a callback from Lightning's state key, which may end in arguments: ``Name{...}``."""
    return key.partition("{")[0]
