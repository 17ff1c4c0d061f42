"""The functions and types that a pickle of tensors and plain values may name."""

from __future__ import annotations

import re

import torch

# Bytes of an element, by the type of storage that ``torch.save`` writes.
ELEMENT_BYTES = {
    "Untyped": 1,
    "Byte": 1,
    "Char": 1,
    "Bool": 1,
    "Short": 2,
    "Half": 2,
    "BFloat16": 2,
    "Int": 4,
    "Float": 4,
}
ELEMENT_BYTES |= {"Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16}
STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
# The calls that build tensors and plain values. torch.load(weights_only=True) allows more, some of which allocate any
# amount of memory, such as bytearray(10**10).
TENSORS = {f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")}
PARAMETERS = {f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state")}
PLAIN = {"collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "_codecs.encode"}
PLAIN |= {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "complex")}
STRING_CALLS = {"_codecs.encode", "torch.device"}  # may get a string; others would iterate over its characters


def require_known_global(path: str) -> str:
    """Return the dotted name of a function or type if tensors and plain values need it; else raise ValueError."""
    storage = STORAGE.fullmatch(path)
    kind = getattr(torch, path.removeprefix("torch."), None) if path.count(".") == 1 else None
    known = (
        path in TENSORS | PARAMETERS | PLAIN
        or (storage and storage[1] in ELEMENT_BYTES)
        or isinstance(kind, torch.dtype)
    )
    if not known:
        raise ValueError(f"it names {path}")
    return path
