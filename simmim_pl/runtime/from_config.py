"""Build what a checkpoint's config describes: nothing is imported or downloaded because the config says so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from simmim_pl.contracts import InputError
from simmim_pl.runtime.safe_import import require_ours

Method = TypeVar("Method")
# What an encoder of ours would download at its start, and how to say that it should not.
DOWNLOADS = {"weights": None, "pretrained": False}


def described(saved: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """What a checkpoint's config says of the method's arguments."""
    spec: Any = saved["config"]
    for key in ("model", "init_args"):
        spec = spec.get(key) if isinstance(spec, dict) else None
    if not isinstance(spec, dict):
        raise InputError(f"{path} holds no encoder: give a checkpoint that pretraining wrote.")
    return spec


def build(
    method: type[Method], saved: Mapping[str, Any], path: str, allow: frozenset[str], given: dict[str, Any]
) -> Method:
    """A method as a checkpoint's config describes it, with fresh weights, but for the arguments that are given."""
    spec = {key: value for key, value in described(saved, path).items() if key not in given}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(method, "method", skip={*given}, instantiate=False)
    return method(**instantiate(parser, {"method": spec}, path, allow).method.as_dict(), **given)


def instantiate(parser: ArgumentParser, spec: dict[str, Any], path: str | Path, allow: frozenset[str]) -> Namespace:
    """Build what a config describes.

    Raises:
        InputError: it names a class that is neither ours nor allowed, or cannot be built.
    """
    require_ours(spec, str(path), allow)
    try:
        parsed = parser.parse_object(spec)
        without_downloads(parsed)
        built: Namespace = parser.instantiate_classes(parsed)
    except Exception as error:  # jsonargparse's ArgumentError, or whatever a class raises at such arguments
        reason = " ".join(str(error).split())
        raise InputError(f"{path} describes an encoder that this version cannot build: {reason}") from error
    return built


def without_downloads(config: Any) -> None:
    """Have no encoder of ours within a parsed config fetch weights, whichever way it is told to."""
    parts = vars(config) if isinstance(config, Namespace) else config
    for part in parts.values() if isinstance(parts, dict) else parts if isinstance(parts, (list, tuple)) else ():
        without_downloads(part)
    if isinstance(parts, dict) and str(parts.get("class_path")).startswith("simmim_pl."):
        for given in (parts.get("init_args") or {}, parts.get("dict_kwargs") or {}):
            for key in DOWNLOADS.keys() & (vars(given) if isinstance(given, Namespace) else given).keys():
                given[key] = DOWNLOADS[key]
