"""What a pickle of tensors would take in memory, found without making any of it."""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

# Bytes of an element, by the kind of storage that ``torch.save`` writes.
ELEMENT = {"Untyped": 1, "Byte": 1, "Char": 1, "Bool": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4}
ELEMENT |= {"Long": 8, "Double": 8, "ComplexFloat": 8, "ComplexDouble": 16}
STORAGE = re.compile(r"torch(?:\.cuda|\.storage)?\.(\w+)Storage")
# All that tensors and plain values are made with. Of what torch would let a file call besides, some takes memory by a
# number in the file, such as bytearray(10**10).
TENSORS = {f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")}
PARAMETERS = {f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state")}
PLAIN = {"collections.OrderedDict", "collections.Counter", "torch.Size", "torch.device", "_codecs.encode"}
PLAIN |= {f"{module}.{name}" for module in ("builtins", "__builtin__") for name in ("set", "complex")}
TEXTS = {"_codecs.encode", "torch.device"}  # other calls would take a text apart
NESTED = 1000  # values in a key: of tuples in tuples all are looked at, as often as they stand there


class RefusedError(Exception):
    """Why a file is not read."""


@dataclass(frozen=True)
class Name:
    """A function or type that the file names."""

    path: str


@dataclass(frozen=True)
class Storage:
    """Memory of tensors: how many bytes, and of how many each element is."""

    size: int
    element: int


@dataclass(eq=False)
class Group:
    """A list, dict, set or what a call made of one: its parts, and how many values it is as a key."""

    parts: list[Any] = field(default_factory=list)
    weight: int = 1

    def extend(self, parts: list[Any]) -> None:
        self.parts.extend(parts)
        self.weight = min(self.weight + weight(parts) - 1, NESTED + 1)


class Tuple(Group):
    """A tuple that the file writes out."""


TENSOR = object()


class Pickled:
    """Follows the instructions of a pickle and calls nothing.

    Args:
        size: bytes of the whole file, which what is made of it may not exceed.
        entries: bytes by key of storage, where the file is an archive.
    """

    def __init__(self, size: int, entries: dict[str, int] | None = None) -> None:
        self.size, self.entries = size, entries
        self.storages: dict[str, Storage] = {}
        self.taken, self.followed, self.copied = 0, 0, 0

    def read(self, file: Any) -> None:
        """Follow one pickle of an open file.

        Raises:
            RefusedError: it would take more memory, or time, than such a file may.
            Exception: ``torch.save`` did not write it.
        """
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # the stacks below, one a mark
        self.memo: dict[int, Any] = {}
        for instruction, argument, _ in pickletools.genops(file):
            self.follow(instruction.name, argument)

    def follow(self, instruction: str, argument: Any) -> None:
        """Do one instruction on the stack, of those that ``torch.load(weights_only=True)`` knows."""
        self.followed += 1
        match instruction:
            case "PROTO" | "STOP":
                return
            case "MARK":
                self.outer.append(self.stack)
                self.stack = []
                return
            case "BUILD":
                if self.pop(1)[0].parts[::2] != ["_metadata"]:  # of a state dict; others could replace its methods
                    raise ValueError("it sets attributes")
                return
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS":
                parts = self.marked() if instruction.endswith("S") else self.pop(1 + (instruction == "SETITEM"))
                if instruction.startswith("SET"):
                    require_keys(parts[::2])
                self.stack[-1].extend(parts)
                return
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
                return
            case "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                value: Any = Group()
            case "EMPTY_TUPLE":
                value = Tuple()
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                parts = self.marked() if instruction == "TUPLE" else self.pop(int(instruction[-1]))
                value = Tuple(parts, weight(parts))
            case "BINGET" | "LONG_BINGET":
                value = self.memo[argument]
            case "GLOBAL":
                value = Name(known(argument.replace(" ", ".", 1)))
            case "REDUCE":
                function, arguments = self.pop(2)
                value = self.call(function.path, written(arguments))
            case "BINPERSID":
                value = self.storage(*written(self.pop(1)[0]))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                value = argument
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                value = None
            case _:
                raise ValueError(f"{instruction} is no instruction of torch.save")
        self.stack.append(value)

    def pop(self, number: int) -> list[Any]:
        """Take the last values off the stack."""
        values = self.stack[-number:]
        del self.stack[-number:]
        return values

    def marked(self) -> list[Any]:
        """Take the values after the last mark off the stack."""
        values, self.stack = self.stack, self.outer.pop()
        return values

    def take(self, size: int) -> None:
        """Count memory that something takes."""
        self.taken += size
        if self.taken > self.size:
            raise RefusedError(f"it asks for {self.taken} bytes of memory and has {self.size}: it was made to do harm")

    def storage(self, kind: str, type_: Name, key: str, device: str, elements: int, view: Any = None) -> Storage:
        """The memory that tensors share; of an archive, an entry that has just that size."""
        element = ELEMENT[STORAGE.fullmatch(type_.path)[1]]  # type: ignore[index]
        found = Storage(elements * element, element)
        if self.entries is not None and self.entries[key] != found.size:
            raise ValueError("a storage is not of the size that its tensors need")
        if self.entries is None and key not in self.storages:
            self.take(found.size)
        return self.storages.setdefault(key, found)

    def call(self, path: str, given: list[Any]) -> Any:
        """What a call gives: a tensor that lies within its memory, or a plain value no larger than what is given."""
        if path in TENSORS:
            (storage, offset), (size, stride) = given[:2], map(written, given[2:4])
            type_ = given[6].path if path.endswith("v3") else ""
            element = getattr(torch, type_.removeprefix("torch.")).itemsize if type_ else storage.element
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            inside = min([offset, *size, *stride]) >= 0
            if prod(size) and not (inside and (last + 1) * element <= storage.size):
                raise ValueError("a tensor is larger than its storage")
            if prod(size) * element > self.size:
                raise RefusedError("a tensor in it repeats few numbers to more bytes than the file has")
            return TENSOR
        if path in PARAMETERS and given[0] is TENSOR:
            return TENSOR
        text = sum(len(part) for part in given if isinstance(part, str))
        odd = TENSOR in given or (text and path not in TEXTS) or (path == "_codecs.encode" and given[1] != "latin1")
        if path not in PLAIN or odd:
            raise ValueError(f"it calls {path}")
        self.take(text)
        inner = [part for each in given if isinstance(each, Group) for part in each.parts]
        self.copied += len(inner)
        if self.copied > self.followed:  # what is given to a call is written out for it
            raise RefusedError(f"it copies {self.copied} values: it was made to do harm")
        require_keys(inner)
        return given[0] if text else Group(inner, weight(inner))


def written(value: Any) -> list[Any]:
    """The parts of a tuple that the file writes out: torch takes apart anything, a set in an order of its own."""
    if not isinstance(value, Tuple):
        raise ValueError("a call is given no tuple")
    return value.parts


def known(path: str) -> str:
    """The name, if it is of what tensors and plain values are made of. Raises ValueError if not."""
    storage = STORAGE.fullmatch(path)
    kind = getattr(torch, path.removeprefix("torch."), None) if path.count(".") == 1 else None
    ours = path in TENSORS | PARAMETERS | PLAIN or (storage and storage[1] in ELEMENT) or isinstance(kind, torch.dtype)
    if not ours:
        raise ValueError(f"it names {path}")
    return path


def weight(parts: list[Any]) -> int:
    """How many values a tuple of these is as a key, as far as it matters."""
    return min(1 + sum(part.weight if isinstance(part, Group) else 1 for part in parts), NESTED + 1)


def require_keys(parts: list[Any]) -> None:
    """Raises :class:`RefusedError` where a key of a dict or set would take long to compare."""
    if any(isinstance(part, Group) and part.weight > NESTED for part in parts):
        raise RefusedError("a key in it is of tuples within tuples without end")
