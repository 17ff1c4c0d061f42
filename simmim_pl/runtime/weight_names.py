"""By which names a file knows the tensors of an encoder: other tools give the same network other names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from simmim_pl.contracts import Encoder

Tensors = Mapping[str, Tensor]
Names = dict[str, str]  # the encoder's name of a tensor → another


def tables(content: Any, place: str = "", deepest: int = 3) -> dict[str, dict[str, Tensor]]:
    """All mappings from names to tensors in a file, by the keys under which they lie; the file itself by ``""``."""
    if not isinstance(content, Mapping) or deepest < 0:
        return {}
    own = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)}
    found = {place: own} if own else {}
    for key, value in content.items():
        if isinstance(key, str):
            found |= tables(value, f"{place}.{key}" if place else key, deepest - 1)
    return found


def needed(encoder: Encoder) -> list[str]:
    """Names of the tensors without which the encoder's function is not known: all but its mean, std and counts."""
    names = list(encoder.state_dict())
    return [name for name in names if name not in ("mean", "std") and not name.endswith(".num_batches_tracked")]


def same_network(theirs: Tensors, encoder: Encoder) -> tuple[Names, str | None]:
    """The encoder's tensors in a file, and where the first is missing or of another shape; None if all are there.

    All of them have to be there under the names of one tool, in their shapes, and the file may hold no further part of
    the same kind: the ResNet-18 that can be found in a ResNet-34 is not what was trained.
    """
    own, wanted = encoder.state_dict(), needed(encoder)
    best: tuple[int, Names] = (-1, {})
    for names in dialects(encoder):
        pairs = under_prefix(theirs, {name: names.get(name, name) for name in own}, wanted)
        fit = [name for name in wanted if pairs[name] in theirs and theirs[pairs[name]].shape == own[name].shape]
        if len(fit) == len(wanted):
            more = further(theirs, [pairs[name] for name in wanted])
            return pairs, more
        best = max(best, (len(fit), pairs), key=lambda found: found[0])
    pairs = best[1]
    lacking = [n for n in wanted if pairs[n] not in theirs or theirs[pairs[n]].shape != own[n].shape]
    return pairs, pairs[lacking[0]] if lacking else None


def dialects(encoder: Encoder) -> Iterator[Names]:
    """How tools name what the encoder needs, without what all names begin with.

    Its own way; by the numbers of its parts, as in an ``nn.Sequential`` of a backbone's children; by the names that its
    parts have in torchvision. lightly calls a ResNet's ``downsample`` ``shortcut``. Parts are counted with those that
    hold no tensors: a sequence that lacks the ReLU is another network, whose layers have other numbers.
    """
    own, wanted = list(encoder.state_dict()), needed(encoder)
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
            yield {name: renamed(name, way).replace(old, new) for name in own if name.startswith("net.")}


def renamed(name: str, way: Names) -> str:
    """``net.layer1.0.weight`` as ``4.0.weight``, where the part ``layer1`` is called ``4``."""
    _, part, rest = name.split(".", 2)
    return f"{way.get(part, part)}.{rest}"


def under_prefix(theirs: Tensors, names: Names, wanted: list[str]) -> Names:
    """Names in the file, each with the one prefix under which most of those wanted are: ``module.encoder_q.``.

    Of two prefixes with as many, the one that comes first in the file.
    """
    ends = {names[name] for name in wanted}
    votes: Counter[str] = Counter()
    for name in theirs:
        cuts = [0, *(match.end() for match in re.finditer(r"\.", name))]
        votes.update(name[:cut] for cut in cuts if name[cut:] in ends)
    before = max(votes, key=lambda prefix: votes[prefix], default="")
    return {name: before + end for name, end in names.items()}


def further(theirs: Tensors, taken: list[str]) -> str | None:
    """A weight in the file that is named like one that is taken but for its numbers: of a layer that is not ours."""

    def kind(name: str) -> tuple[str, int]:
        return re.sub(r"\d+", "#", name), theirs[name].ndim

    known, kinds = {*taken}, {kind(name) for name in taken}
    return next((name for name in theirs if name not in known and theirs[name].ndim > 1 and kind(name) in kinds), None)
