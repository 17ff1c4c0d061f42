"""Parse the YAML of a W&B grid sweep: all combinations of parameter values, and the command of each."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.runtime import yaml_schema

REQUIRED = ("method", "metric", "parameters", "command")
OPTIONAL = ("program", "name", "description", "project", "entity", "evaluate")
MACROS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_no_equals}")
Values = dict[str, Any]  # one combination: values by key of the command line


@dataclass(frozen=True)
class SweepConfig:
    """A sweep's metric, command and combinations; ``evaluate`` is the command for a finished run, empty without one."""

    metric: str
    maximise: bool
    program: str
    command: list[str]
    combinations: list[Values]
    evaluate: list[str]


def load_sweep_config(path: str) -> SweepConfig:
    """Load a sweep in W&B's format. Raises :class:`InputError` if it is invalid or no grid."""
    sweep = yaml_schema.mapping(yaml_schema.load(path), path, REQUIRED, OPTIONAL)
    if sweep["method"] != "grid":
        raise InputError(
            f"{path} has the method {sweep['method']}, but only grids are run here: set method: grid, or let W&B "
            f"choose the values, with wandb sweep {path} and wandb agent ID."
        )
    metric = yaml_schema.mapping(sweep["metric"], f"The metric of {path}", ["name", "goal"])
    if metric["goal"] not in ("maximize", "minimize"):
        raise InputError(f"The metric of {path} has the goal {metric['goal']}: set it to maximize or minimize.")
    if not isinstance(sweep["parameters"], dict) or not sweep["parameters"]:
        raise InputError(f"{path} has no parameters: name at least one, such as model.optimizer.lr.")
    for key in sweep["parameters"]:
        yaml_schema.text(key, f"A parameter's key in {path}")
    axes = {key: parameter_values(key, entry) for key, entry in sweep["parameters"].items()}
    return SweepConfig(
        metric=yaml_schema.text(metric["name"], f"The metric's name in {path}"),
        maximise=metric["goal"] == "maximize",
        program=str(sweep.get("program", "simmim_pl")),
        command=parse_command(sweep["command"], f"The command of {path}"),
        combinations=[dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())],
        evaluate=parse_command(sweep["evaluate"], f"evaluate of {path}", MACROS[:3]) if "evaluate" in sweep else [],
    )


def parameter_values(key: str, entry: Any) -> list[Any]:
    """The values of a parameter, from W&B's ``values`` or ``value``. Raises :class:`InputError`."""
    entry = yaml_schema.mapping(entry, f"The parameter {key}", [], ["values", "value"])
    if len(entry) != 1:
        raise InputError(f"The parameter {key} needs either values, a list, or value, a single one.")
    return (
        [entry["value"]] if "value" in entry else yaml_schema.items(entry["values"], f"values of the parameter {key}")
    )


def parse_command(command: Any, where: str, macros: Sequence[str] = MACROS) -> list[str]:
    """The words of a command, with macros. Raises :class:`InputError` for an unknown macro or a missing ``${args}``."""
    found = [str(word) for word in yaml_schema.items(command, where)]
    if unknown := [word for word in found if re.fullmatch(r"\$\{\w+\}", word) and word not in macros]:
        raise InputError(f"{where} has {unknown[0]}, but only {', '.join(macros)} are supported.")
    if "${args}" in macros and not {"${args}", "${args_no_equals}"} & set(found):
        raise InputError(f"{where} has no ${{args}}: add it, or all combinations are the same.")
    return found


def build_command(config: SweepConfig, values: Values) -> list[str]:
    """The command of a combination, with macros expanded as W&B's agent does; ``${interpreter}`` is this Python."""
    return expand(config.command, config.program, values)


def expand(words: Sequence[str], program: str, values: Values) -> list[str]:
    """The words of a command with macros and environment variables in place."""
    macros = {
        "${env}": [] if os.name == "nt" else ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [program],
        "${args}": [f"--{key}={value}" for key, value in values.items()],
        "${args_no_equals}": [word for key, value in values.items() for word in (f"--{key}", str(value))],
    }
    found = [word for part in words for word in macros.get(part, [part])]
    return [re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda name: os.environ.get(name[1], name[1]), w) for w in found]


def describe_values(values: Values) -> str:
    """A combination as ``key=value,…`` with the last part of each key, and of a YAML file its name."""
    shown = {key: Path(value).stem if str(value).endswith(".yaml") else value for key, value in values.items()}
    return ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in shown.items())


def run_name(config: SweepConfig, values: Values) -> str:
    """Name of a combination's run: its values, and a digest of command and values, which makes it unique."""
    digest = hashlib.sha256(repr((config.program, config.command, values)).encode()).hexdigest()[:6]
    return re.sub(r"[^\w.=,-]+", "_", describe_values(values))[:80] + "-" + digest
