"""The callbacks that every run has: ``--callbacks.NAME.OPTION`` sets an option, ``--callbacks.NAME null`` is off."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint as Base
from lightning.pytorch.cli import LightningArgumentParser

from simmim_pl.callbacks import (
    Checkpoint,
    CollapseMonitor,
    Dashboard,
    EmbeddingMap,
    Embeddings,
    LabelledProbe,
    MaxFlop,
    OnlineProbe,
    Pictures,
    Report,
    Representation,
    TrainingMonitor,
)
from simmim_pl.contracts import InputError

OF_METHODS = (
    *(MaxFlop, OnlineProbe, LabelledProbe, Representation, CollapseMonitor, EmbeddingMap, Pictures, TrainingMonitor),
    Embeddings,
)
# In the order in which they are called: the last ones show what the earlier ones found.
CALLBACKS: dict[str, type[Callback]] = {
    re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower(): kind
    for kind in (Checkpoint, *OF_METHODS, Dashboard, Report)
}


def add_arguments(parser: LightningArgumentParser) -> None:
    """Add an argument (and so a YAML key) for each callback, and ``--callbacks.enabled`` for all."""
    group = parser.add_argument_group("Callbacks of every run: null turns one off, --trainer.callbacks+=CLASS adds one")
    group.add_argument("--callbacks.enabled", type=bool, default=True, help="Whether a run has any of those below.")
    for name, kind in CALLBACKS.items():
        told = (inspect.getdoc(kind) or "").partition("\n")[0].replace("``", "")
        options = ", ".join(inspect.signature(kind).parameters)
        told += f" Options, as --callbacks.{name}.OPTION: {options}." if options else ""
        group.add_argument(f"--callbacks.{name}", type=kind | None, default={"class_path": path(kind)}, help=told)
    (further,) = (action for action in parser._actions if action.dest == "trainer.callbacks")
    further.help = "Callbacks in addition to those of every run, see --callbacks; one of the same class replaces it."


def chosen(asked: Any, built: Any, model: Any) -> dict[str, Any]:
    """The trainer's callbacks: those of every run, then the user's. Unused ones are set to null in ``asked``.

    - ``asked``: a subcommand's config, parsed; ``built``: the same with its classes built; ``model``: the run's.

    Raises:
        InputError: options are set for a callback that this run does not use.
    """
    own = built.trainer.callbacks
    users = own if isinstance(own, list) else [] if own is None else [own]
    found = dict(built.callbacks or {})  # callbacks: null, in YAML, turns off all
    for name, kind in CALLBACKS.items():
        for why in reasons(kind, users, asked, model) if found.get(name) else ():
            if asked.callbacks.enabled and changed(asked.callbacks[name], kind):  # all off is off, whatever a YAML sets
                raise InputError(f"The options of --callbacks.{name} would do nothing, since {why}: leave them out.")
            asked.callbacks[name] = found[name] = None
    callbacks = [*filter(None, map(found.get, CALLBACKS)), *users]
    if asked.trainer.enable_checkpointing is None and not any(isinstance(each, Base) for each in callbacks):
        asked.trainer.enable_checkpointing = False  # otherwise Lightning adds its own checkpoint callback
    return {"callbacks": callbacks, "enable_checkpointing": asked.trainer.enable_checkpointing}


def reasons(kind: type[Callback], users: list[Callback], asked: Any, model: Any) -> Iterator[str]:
    """Why a run does not use a callback; empty if it does."""
    if not asked.callbacks.enabled:
        yield "--callbacks.enabled is false"
    elif any(isinstance(each, kind) for each in users):
        yield f"the {kind.__name__} of --trainer.callbacks replaces it"
    elif kind is Checkpoint and asked.trainer.enable_checkpointing is False:
        yield "--trainer.enable_checkpointing is false"
    elif kind in OF_METHODS and not getattr(model, "pretrains", False):
        yield f"it watches methods, and {type(model).__name__} is not one"


def changed(spec: Any, kind: type[Callback]) -> bool:
    """Whether a callback's config differs from its default."""
    parameters = inspect.signature(kind).parameters
    args = spec.get("init_args") or {}
    return spec.class_path != path(kind) or any(value != parameters[key].default for key, value in args.items())


def path(kind: type) -> str:
    """The class path under which a callback is found in YAML."""
    return f"simmim_pl.callbacks.{kind.__name__}"
