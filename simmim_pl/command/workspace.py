"""``python -m simmim_pl.workspace``: save a dashboard layout from YAML as a view of a W&B project."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from simmim_pl.command.cli import read_dotenv
from simmim_pl.contracts import InputError
from simmim_pl.runtime import yaml_schema

KINDS = ("lines", "histogram", "media", "table")


def import_wandb_workspaces() -> tuple[Any, Any]:
    """wandb-workspaces' modules for workspaces and for panels. Raises :class:`InputError` if it is not installed."""
    try:
        return import_module("wandb_workspaces.workspaces"), import_module("wandb_workspaces.reports.v2")
    except ImportError as error:
        raise InputError(
            f"wandb-workspaces cannot be imported ({error}): install it with pip install -e '.[dashboard]'."
        ) from error


def build_workspace(spec: Any, where: str, entity: str, project: str) -> Any:
    """Build the workspace that a spec describes. W&B shows all other metrics below it.

    Args:
        spec: from YAML.
        where: path of the YAML, for errors.
        entity: W&B user or team.
        project: W&B project.

    Raises:
        InputError: the spec is invalid.
    """
    workspaces, panels = import_wandb_workspaces()
    spec = yaml_schema.mapping(spec, where, ["name", "sections"], ["x"])
    x = yaml_schema.text(spec.get("x", "Step"), f"x of {where}")
    sections = []
    for number, entry in enumerate(yaml_schema.items(spec["sections"], f"sections of {where}"), 1):
        section = yaml_schema.mapping(entry, f"Section {number} of {where}", ["name", "panels"])
        name = yaml_schema.text(section["name"], f"name of section {number} of {where}")
        listed = enumerate(yaml_schema.items(section["panels"], f"panels of section {name}"), 1)
        made = [build_panel(item, f"Panel {place} of section {name}", x, panels) for place, item in listed]
        sections.append(workspaces.Section(name=name, panels=made, is_open=True))
    name = yaml_schema.text(spec["name"], f"name of {where}")
    return workspaces.Workspace(entity=entity, project=project, name=name, sections=sections, auto_generate_panels=True)


def build_panel(entry: Any, where: str, x: str, panels: Any) -> Any:
    """Build one panel: lines of several metrics, ``*`` for any name, or a histogram, media or table of one key."""
    kinds = [kind for kind in KINDS if isinstance(entry, dict) and kind in entry]
    if len(kinds) != 1:
        raise InputError(f"{where} needs one of {', '.join(KINDS)}: {entry!r} does not fit.")
    (kind,) = kinds
    # A table panel has no title: W&B shows the key instead.
    entry = yaml_schema.mapping(entry, where, [kind] if kind == "table" else ["title", kind])
    keys = yaml_schema.items(entry["lines"], f"lines of {where}") if kind == "lines" else [entry[kind]]
    keys = [yaml_schema.text(key, f"A key of {where}") for key in keys]
    if kind == "table":
        return panels.WeavePanelSummaryTable(table_name=keys[0])
    title = yaml_schema.text(entry["title"], f"title of {where}")
    if kind == "media":
        return panels.MediaBrowser(title=title, media_keys=keys)
    if any("*" in key for key in keys):
        return panels.LinePlot(title=title, x=x, metric_regex="|".join(re.escape(k).replace(r"\*", ".*") for k in keys))
    # W&B shows histograms in a line plot, over its own step counter.
    return panels.LinePlot(title=title, x=x if kind == "lines" else "Step", y=keys)


def save_view(workspace: Any) -> str:
    """Save a workspace as a new view of its project and return its URL. Raises :class:`InputError` if that fails."""
    try:
        workspace.save()
        return str(workspace.url)
    except (
        Exception,
        KeyboardInterrupt,
    ) as error:  # W&B's, its network's, its prompt's: no common base
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise InputError(
            f"W&B did not save the view ({reason}): check WANDB_API_KEY or wandb login, the network, and whether "
            f"{workspace.entity}/{workspace.project} is yours."
        ) from error


def main(args: Sequence[str] | None = None) -> None:
    """Run the command line. User errors print one line and exit with code 2."""
    parser = argparse.ArgumentParser(prog="python -m simmim_pl.workspace", description=__doc__, allow_abbrev=False)
    try:
        read_dotenv()
        options = parse_arguments(parser, args)
        if not options.entity:
            raise InputError(
                "The W&B entity of the project is missing: add --entity USER_OR_TEAM, or set WANDB_ENTITY."
            )
        print(save_view(build_workspace(yaml_schema.load(options.spec), options.spec, options.entity, options.project)))
    except InputError as error:
        parser.exit(2, f"error: {error}\n")


def parse_arguments(parser: argparse.ArgumentParser, args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; defaults come from WANDB_ENTITY and WANDB_PROJECT."""
    parser.add_argument("spec", help="YAML of the layout, such as configs/workspace.yaml")
    parser.add_argument("--entity", default=os.environ.get("WANDB_ENTITY"), help="W&B user or team [WANDB_ENTITY]")
    project = os.environ.get("WANDB_PROJECT") or "simmim_pl"
    parser.add_argument("--project", default=project, help="W&B project [WANDB_PROJECT, or simmim_pl]")
    return parser.parse_args(args)
