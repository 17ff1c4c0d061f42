"""Find how much memory a pickle of tensors would take, without unpickling it."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch

from simmim_pl.runtime.pickle_globals import (
    ELEMENT_BYTES,
    PARAMETERS,
    PLAIN,
    STORAGE,
    STRING_CALLS,
    TENSORS,
    require_known_global,
)

MAX_KEY_VALUES = 1000  # nested values in a dict key or set item: hashing visits each as often as it occurs


class RefusedError(Exception):
    """Refuses a file; the message is the reason."""


@dataclass(frozen=True)
class Global:
    """A function or type that the pickle names."""

    path: str


@dataclass(frozen=True)
class Storage:
    """The storage behind tensors: its bytes, and bytes of an element."""

    size: int
    element: int


@dataclass(eq=False)
class Group:
    """A list, dict or set, or what a call made of one: its parts, and how many nested values hashing it visits."""

    parts: list[Any] = field(default_factory=list)
    key_values: int = 1

    def extend(self, parts: list[Any]) -> None:
        """Add parts, and count what hashing visits."""
        self.parts.extend(parts)
        self.key_values = min(self.key_values + count_key_values(parts) - 1, MAX_KEY_VALUES + 1)


class Tuple(Group):
    """A tuple that the pickle spells out item by item."""


TENSOR = object()


class PickleScanner:
    """Simulates the opcodes of a pickle on a stack and calls nothing.

    Args:
        size: bytes of the whole file: the limit on what it may take in memory.
        entries: bytes by storage key, if the file is a ZIP archive.
    """

    def __init__(self, size: int, entries: dict[str, int] | None = None) -> None:
        self.size, self.entries = size, entries
        self.storages: dict[str, Storage] = {}
        self.allocated, self.executed, self.copied = 0, 0, 0

    def scan(self, file: Any) -> None:
        """Scan one pickle of an open file, from its position.

        Raises:
            RefusedError: it would take more memory or time than a file of this size may.
            Exception: ``torch.save`` did not write it.
        """
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        for opcode, argument, _ in pickletools.genops(file):
            self.execute(opcode.name, argument)

    def execute(self, opcode: str, argument: Any) -> None:
        """Execute one opcode on the stack; known are those of ``torch.load(weights_only=True)``."""
        self.executed += 1
        match opcode:
            case "PROTO" | "STOP":
                return
            case "MARK":
                self.marks.append(self.stack)
                self.stack = []
                return
            case "BUILD":
                if self.pop(1)[0].parts[::2] != ["_metadata"]:  # a state dict's; other attributes could replace methods
                    raise ValueError("it sets attributes")
                return
            case "APPEND" | "APPENDS" | "SETITEM" | "SETITEMS":
                parts = self.pop_mark() if opcode.endswith("S") else self.pop(1 + (opcode == "SETITEM"))
                if opcode.startswith("SET"):
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
                parts = self.pop_mark() if opcode == "TUPLE" else self.pop(int(opcode[-1]))
                value = Tuple(parts, count_key_values(parts))
            case "BINGET" | "LONG_BINGET":
                value = self.memo[argument]
            case "GLOBAL":
                value = Global(require_known_global(argument.replace(" ", ".", 1)))
            case "REDUCE":
                function, arguments = self.pop(2)
                value = self.call(function.path, tuple_items(arguments))
            case "BINPERSID":
                value = self.storage(*tuple_items(self.pop(1)[0]))
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE" | "SHORT_BINSTRING":
                value = argument
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                value = None
            case _:
                raise ValueError(f"{opcode} is an instruction that torch.save never writes")
        self.stack.append(value)

    def pop(self, number: int) -> list[Any]:
        """Pop the last values off the stack."""
        values = self.stack[-number:]
        del self.stack[-number:]
        return values

    def pop_mark(self) -> list[Any]:
        """Pop the values above the last mark."""
        values, self.stack = self.stack, self.marks.pop()
        return values

    def allocate(self, size: int) -> None:
        """Count bytes that unpickling would allocate. Raises :class:`RefusedError` above the limit."""
        self.allocated += size
        if self.allocated > self.size:
            raise RefusedError(
                f"it has {self.size} bytes and asks for {self.allocated} bytes of memory: it may be malicious"
            )

    def storage(self, kind: str, type_: Global, key: str, device: str, elements: int, view: Any = None) -> Storage:
        """A persistent id: the storage of tensors, in an archive an entry of exactly that size."""
        element = ELEMENT_BYTES[STORAGE.fullmatch(type_.path)[1]]  # type: ignore[index]
        found = Storage(elements * element, element)
        if self.entries is not None and self.entries[key] != found.size:
            raise ValueError("a storage does not have the size that its tensors need")
        if self.entries is None and key not in self.storages:
            self.allocate(found.size)
        return self.storages.setdefault(key, found)

    def call(self, path: str, given: list[Any]) -> Any:
        """Result of a call: a tensor that lies within its storage, or a plain value no larger than its arguments."""
        if path in TENSORS:
            (storage, offset), (size, stride) = given[:2], map(tuple_items, given[2:4])
            type_ = given[6].path if path.endswith("v3") else ""
            element = getattr(torch, type_.removeprefix("torch.")).itemsize if type_ else storage.element
            last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
            inside = min([offset, *size, *stride]) >= 0
            if prod(size) and not (inside and (last + 1) * element <= storage.size):
                raise ValueError("a tensor is larger than its storage")
            if prod(size) * element > self.size:
                raise RefusedError("a tensor in it expands few numbers to more bytes than the file has")
            return TENSOR
        if path in PARAMETERS and given[0] is TENSOR:
            return TENSOR
        text = sum(len(part) for part in given if isinstance(part, str))
        odd = (
            TENSOR in given
            or (text and path not in STRING_CALLS)
            or (path == "_codecs.encode" and given[1] != "latin1")
        )
        if path not in PLAIN or odd:
            raise ValueError(f"it calls {path}")
        self.allocate(text)
        inner = [part for each in given if isinstance(each, Group) for part in each.parts]
        self.copied += len(inner)
        if self.copied > self.executed:  # the parts of an argument are copied for the call
            raise RefusedError(f"it copies {self.copied} values: it may be malicious")
        require_keys(inner)
        return given[0] if text else Group(inner, count_key_values(inner))


def tuple_items(value: Any) -> list[Any]:
    """Items of a spelled-out tuple. torch would unpack any iterable here, also a set, whose order is not known."""
    if not isinstance(value, Tuple):
        raise ValueError("the arguments of a call are not a tuple")
    return value.parts


def count_key_values(parts: list[Any]) -> int:
    """Number of nested values of a tuple of these parts, at most one above MAX_KEY_VALUES."""
    return min(1 + sum(part.key_values if isinstance(part, Group) else 1 for part in parts), MAX_KEY_VALUES + 1)


def require_keys(parts: list[Any]) -> None:
    """Raise :class:`RefusedError` if a dict key or set item would take long to hash and compare."""
    if any(isinstance(part, Group) and part.key_values > MAX_KEY_VALUES for part in parts):
        raise RefusedError("a key in it consists of too many nested tuples")
