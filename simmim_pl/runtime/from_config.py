"""Build the encoder or method that a checkpoint's config describes, without unsafe imports and without downloads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pkgutil import resolve_name
from textwrap import shorten
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings

from simmim_pl.contracts import InputError
from simmim_pl.runtime.yaml_schema import require_config_size

Method = TypeVar("Method")
# Import paths whose classes a config may name.
ROOMS = ("simmim_pl.encoders", "simmim_pl.losses", "simmim_pl.optimizers", "torch.optim")
EARLY = "an early one"  # version of a checkpoint that does not say it
# Arguments by which encoders of this package download weights, with the values that turn it off.
NO_DOWNLOAD = {"weights": None, "pretrained": False}


def method_arguments(saved: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The method's arguments in a checkpoint's config. Raises :class:`InputError` if there are none."""
    spec: Any = saved["config"]
    for key in ("model", "init_args"):
        spec = spec.get(key) if isinstance(spec, dict) else None
    if not isinstance(spec, dict):
        raise InputError(f"{path} contains no encoder: give a checkpoint that pretraining wrote.")
    return spec


def written_by(saved: Mapping[str, Any]) -> str:
    """The version of this package that wrote a checkpoint, in words."""
    return str(saved.get("version", EARLY))


def build_method(
    method: type[Method], saved: Mapping[str, Any], path: str, allow: frozenset[str], given: dict[str, Any]
) -> Method:
    """Build a method as a checkpoint's config describes it, with initial weights.

    Args:
        method: its class.
        saved: the checkpoint.
        path: the checkpoint's path, for errors.
        allow: class paths outside this package that may be imported.
        given: arguments that replace those of the config.

    Raises:
        InputError: as :func:`instantiate`.
    """
    spec = {key: value for key, value in method_arguments(saved, path).items() if key not in given}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(method, "method", skip={*given}, instantiate=False)
    return method(**instantiate(parser, {"method": spec}, path, allow, written_by(saved)).method.as_dict(), **given)


def instantiate(
    parser: ArgumentParser, spec: dict[str, Any], path: str | Path, allow: frozenset[str], version: str = EARLY
) -> Namespace:
    """Instantiate the classes that a config describes.

    Args:
        parser: knows the types of the arguments.
        spec: the config.
        path: the checkpoint that holds it, for errors.
        allow: class paths outside this package that may be imported.
        version: of simmim_pl that wrote the checkpoint, for errors.

    Raises:
        InputError: it names a class that is neither in this package nor allowed, or cannot be built.
    """
    require_config_size(spec, str(path))
    places = [*ROOMS, *allow, *map(definition, allow)]
    try:
        with imports_limited_to(places):
            parsed = parser.parse_object(spec)
            disable_downloads(parsed)
            built: Namespace = parser.instantiate_classes(parsed)
    except Exception as error:  # jsonargparse's ArgumentError, or anything that a constructor raises
        reason = shorten(str(error), 1000)
        denied = re.search(r"Importing '(.+?)' is not allowed", reason)
        if denied and denied[1].startswith("simmim_pl."):
            raise InputError(
                f"{path} asks to import {denied[1]}, which is none of this version's encoders, losses and optimizers: "
                f"use the version of simmim_pl that wrote the file ({version})."
            ) from error
        if denied:
            raise InputError(
                f"{path} asks to import {denied[1]}, which is not an encoder, loss or optimizer of simmim_pl or "
                f"torch: allow it with --model.allow [{denied[1]}] if you trust the file."
            ) from error
        raise InputError(f"{path} describes an encoder that this version cannot build: {reason}") from error
    return built


@contextmanager
def imports_limited_to(places: list[str]) -> Iterator[None]:
    """In this context jsonargparse imports nothing but what is defined below these import paths.

    It checks each name before it imports it, and then where the object that it found is defined: a module of simmim_pl
    does not give access to what it has imported. Its settings cannot be restored publicly, hence the private name.
    """
    before = parsing_settings.copy()
    parsing_settings["import_path_verdicts"] = {}  # whatever else the process has allowed
    set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=places)
    try:
        yield
    finally:
        parsing_settings.update(before)


def definition(name: str) -> str:
    """Where the class that an allowed name imports is defined: ``timm.optim.Lion`` is timm.optim.lion's."""
    try:
        found = resolve_name(name)
        return f"{found.__module__}.{found.__qualname__}"
    except Exception as error:  # the module may raise anything
        raise InputError(
            f"--model.allow names {name}, which cannot be imported as a class ({error}): correct the name."
        ) from error


def disable_downloads(config: Any) -> None:
    """Turn off downloads of all encoders of this package in a parsed config, in place."""
    parts = vars(config) if isinstance(config, Namespace) else config
    for part in parts.values() if isinstance(parts, dict) else parts if isinstance(parts, (list, tuple)) else ():
        disable_downloads(part)
    if isinstance(parts, dict) and str(parts.get("class_path")).startswith("simmim_pl."):
        for given in (parts.get("init_args") or {}, parts.get("dict_kwargs") or {}):
            for key in NO_DOWNLOAD.keys() & (vars(given) if isinstance(given, Namespace) else given).keys():
                given[key] = NO_DOWNLOAD[key]
