"""What the YAML of a W&B sweep says, where its method is a grid: the combinations, and the command of each."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import sys
from dataclasses import dataclass
from typing import Any

from simmim_pl.contracts import InputError
from simmim_pl.runtime import yaml_schema

REQUIRED = ("method", "metric", "parameters", "command")
OPTIONAL = ("program", "name", "description", "project", "entity")
MACROS = ("${env}", "${interpreter}", "${program}", "${args}", "${args_no_equals}")
Values = dict[str, Any]  # of one combination: a value by its key on the command line


@dataclass(frozen=True)
class SweepConfig:
    """A sweep's metric, command and combinations."""

    metric: str
    maximise: bool
    program: str
    command: list[str]
    combinations: list[Values]


def read(path: str) -> SweepConfig:
    """Read a sweep in W&B's format."""
    sweep = yaml_schema.mapping(yaml_schema.load(path), path, REQUIRED, OPTIONAL)
    if sweep["method"] != "grid":
        raise InputError(
            f"{path} has the method {sweep['method']}, and only a grid is run here: write method: grid, or let W&B "
            f"choose the values, with wandb sweep {path} and wandb agent ID."
        )
    metric = yaml_schema.mapping(sweep["metric"], f"The metric of {path}", ["name", "goal"])
    if metric["goal"] not in ("maximize", "minimize"):
        raise InputError(f"The metric of {path} has the goal {metric['goal']}: write maximize or minimize.")
    if not isinstance(sweep["parameters"], dict) or not sweep["parameters"]:
        raise InputError(f"{path} has no parameters: name at least one, such as model.optimizer.lr.")
    for key in sweep["parameters"]:
        yaml_schema.text(key, f"A parameter's key in {path}")
    axes = {key: choices(key, entry) for key, entry in sweep["parameters"].items()}
    return SweepConfig(
        metric=yaml_schema.text(metric["name"], f"The metric's name in {path}"),
        maximise=metric["goal"] == "maximize",
        program=str(sweep.get("program", "simmim_pl")),
        command=words(sweep["command"], f"The command of {path}"),
        combinations=[dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())],
    )


def choices(key: str, entry: Any) -> list[Any]:
    """The values of a parameter."""
    entry = yaml_schema.mapping(entry, f"The parameter {key}", [], ["values", "value"])
    if len(entry) != 1:
        raise InputError(f"The parameter {key} needs either values, a list, or value, a single one.")
    return (
        [entry["value"]] if "value" in entry else yaml_schema.items(entry["values"], f"values of the parameter {key}")
    )


def words(command: Any, where: str) -> list[str]:
    """The words of a command, of which one stands for the values."""
    found = [str(word) for word in yaml_schema.items(command, where)]
    if unknown := [word for word in found if re.fullmatch(r"\$\{\w+\}", word) and word not in MACROS]:
        raise InputError(f"{where} has {unknown[0]}, and known here are {', '.join(MACROS)}.")
    if not {"${args}", "${args_no_equals}"} & set(found):
        raise InputError(f"{where} has no ${{args}}: add it, or all combinations are the same.")
    return found


def expand(config: SweepConfig, values: Values) -> list[str]:
    """The command of a combination, as W&B's agent writes it; the interpreter is the one that runs this."""
    macros = {
        "${env}": [] if os.name == "nt" else ["/usr/bin/env"],
        "${interpreter}": [sys.executable],
        "${program}": [config.program],
        "${args}": [f"--{key}={value}" for key, value in values.items()],
        "${args_no_equals}": [word for key, value in values.items() for word in (f"--{key}", str(value))],
    }
    found = [word for part in config.command for word in macros.get(part, [part])]
    return [re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda name: os.environ.get(name[1], name[1]), w) for w in found]


def describe(values: Values) -> str:
    """A combination for people: the last part of each key, and its value."""
    return ",".join(f"{key.rsplit('.', 1)[-1]}={value}" for key, value in values.items())


def name(config: SweepConfig, values: Values) -> str:
    """The name of a combination's run: another command or another value is another run."""
    digest = hashlib.sha256(repr((config.program, config.command, values)).encode()).hexdigest()[:6]
    return re.sub(r"[^\w.=,-]+", "_", describe(values))[:80] + "-" + digest
