"""Match an encoder's tensors with those of a file, where other tools name the same network differently."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from simmim_pl.contracts import Encoder

StateDict = Mapping[str, Tensor]
NameMap = dict[str, str]  # name of a tensor in the encoder → its name in the file


def find_state_dicts(content: Any, place: str = "", deepest: int = 3) -> dict[str, dict[str, Tensor]]:
    """All state dicts in a file, by dotted key; the top level has the key ``""``.

    Args:
        content: the loaded file.
        place: dotted key of ``content``.
        deepest: levels to search below it.
    """
    if not isinstance(content, Mapping) or deepest < 0:
        return {}
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    found = {place: own} if own else {}
    for key, value in content.items():
        if isinstance(key, str):
            found |= find_state_dicts(value, f"{place}.{key}" if place else key, deepest - 1)
    return found


def required_names(encoder: Encoder) -> list[str]:
    """Names of the tensors that a file must have: all but mean, std and ``num_batches_tracked``."""
    names = list(encoder.state_dict())
    return [name for name in names if name not in ("mean", "std") and not name.endswith(".num_batches_tracked")]


def match_names(theirs: StateDict, encoder: Encoder) -> tuple[NameMap, str | None]:
    """Match an encoder's tensors with those of a file.

    All required tensors must be there, in their shapes, under the names of one naming scheme. The file must not hold
    further layers of the same kind: a ResNet-34 contains the names of a ResNet-18, but was trained as another network.

    Args:
        theirs: state dict of the file.
        encoder: to be loaded.

    Returns:
        Name in the file of each tensor by the best scheme, and the first name that is missing, has another shape or is
        left over; ``None`` if the file fits.
    """
    own, wanted = encoder.state_dict(), required_names(encoder)
    best: tuple[int, NameMap] = (-1, {})
    for names in naming_schemes(encoder):
        pairs = add_common_prefix(theirs, {name: names.get(name, name) for name in own}, wanted)
        fit = [name for name in wanted if pairs[name] in theirs and theirs[pairs[name]].shape == own[name].shape]
        if len(fit) == len(wanted):
            more = find_extra_layer(theirs, [pairs[name] for name in wanted])
            return pairs, more
        best = max(best, (len(fit), pairs), key=lambda found: found[0])
    pairs = best[1]
    lacking = [n for n in wanted if pairs[n] not in theirs or theirs[pairs[n]].shape != own[n].shape]
    return pairs, pairs[lacking[0]] if lacking else None


def naming_schemes(encoder: Encoder) -> Iterator[NameMap]:
    """The names that different tools give to the encoder's tensors, without their common prefix.

    These are the encoder's own names, with any leading part removed; the positions of its children, as in an
    ``nn.Sequential`` of a backbone; and torchvision's names (the encoder's ``published``). Each also with ``shortcut``
    for ``downsample``, as in lightly. Positions count children without tensors too: a sequence without the ReLU is
    another network, whose layers have other positions.
    """
    own, wanted = list(encoder.state_dict()), required_names(encoder)
    first = wanted[0].split(".") if wanted else []
    starts = [".".join([*first[:depth], ""]) if depth else "" for depth in range(len(first))]
    for start in starts:
        if all(name.startswith(start) for name in wanted):
            yield {name: name.removeprefix(start) for name in own if name.startswith(start)}
    net = getattr(encoder, "net", None)
    if not isinstance(net, nn.Module) or not all(name.startswith("net.") for name in wanted):
        return
    parts = dict(net.named_children())
    ways = [
        {name: name for name in parts},
        {name: str(place) for place, name in enumerate(parts)},
        dict(zip(parts, getattr(encoder, "published", ()), strict=False)),
    ]
    for way in ways:
        for old, new in (("", ""), (".downsample.", ".shortcut.")):
            yield {name: rename_part(name, way).replace(old, new) for name in own if name.startswith("net.")}


def rename_part(name: str, way: NameMap) -> str:
    """Rename a child in a tensor's name and drop ``net.``: ``net.layer1.0.weight`` → ``4.0.weight``."""
    _, part, rest = name.split(".", 2)
    return f"{way.get(part, part)}.{rest}"


def add_common_prefix(theirs: StateDict, names: NameMap, wanted: list[str]) -> NameMap:
    """Add the prefix (such as ``module.encoder_q.``) under which the file has most of the wanted names.

    If two prefixes have the same number of names, the one that comes first in the file is taken.
    """
    ends = {names[name] for name in wanted}
    votes: Counter[str] = Counter()
    for name in theirs:
        cuts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        votes.update(name[:cut] for cut in cuts if name[cut:] in ends)
    before = max(votes, key=lambda prefix: votes[prefix], default="")
    return {name: before + end for name, end in names.items()}


def find_extra_layer(theirs: StateDict, taken: list[str]) -> str | None:
    """A weight in the file that belongs to a further layer: its name differs from a matched one in numbers only."""

    def kind(name: str) -> tuple[str, int]:
        return re.sub(r"\d+", "#", name), theirs[name].ndim

    known, kinds = {*taken}, {kind(name) for name in taken}
    return next((name for name in theirs if name not in known and theirs[name].ndim > 1 and kind(name) in kinds), None)
