"""Build the encoder or method that a checkpoint's config describes, without unsafe imports and without downloads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentParser, Namespace

from simmim_pl.contracts import InputError
from simmim_pl.runtime.safe_import import require_safe_imports

Method = TypeVar("Method")
# Arguments by which encoders of this package download weights, with the values that turn it off.
NO_DOWNLOAD = {"weights": None, "pretrained": False}


def method_arguments(saved: Mapping[str, Any], path: str | Path) -> dict[str, Any]:
    """The method's arguments in a checkpoint's config. Raises :class:`InputError` if there are none."""
    spec: Any = saved["config"]
    for key in ("model", "init_args"):
        spec = spec.get(key) if isinstance(spec, dict) else None
    if not isinstance(spec, dict):
        raise InputError(f"{path} holds no encoder: give a checkpoint that pretraining wrote.")
    return spec


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
    return method(**instantiate(parser, {"method": spec}, path, allow).method.as_dict(), **given)


def instantiate(parser: ArgumentParser, spec: dict[str, Any], path: str | Path, allow: frozenset[str]) -> Namespace:
    """Instantiate the classes that a config describes.

    Args:
        parser: knows the types of the arguments.
        spec: the config.
        path: the checkpoint that holds it, for errors.
        allow: class paths outside this package that may be imported.

    Raises:
        InputError: it names a class that is neither in this package nor allowed, or cannot be built.
    """
    require_safe_imports(spec, str(path), allow)
    try:
        parsed = parser.parse_object(spec)
        disable_downloads(parsed)
        built: Namespace = parser.instantiate_classes(parsed)
    except Exception as error:  # jsonargparse's ArgumentError, or anything that a constructor raises
        reason = " ".join(str(error).split())
        raise InputError(f"{path} describes an encoder that this version cannot build: {reason}") from error
    return built


def disable_downloads(config: Any) -> None:
    """Turn off downloads of all encoders of this package in a parsed config, in place."""
    parts = vars(config) if isinstance(config, Namespace) else config
    for part in parts.values() if isinstance(parts, dict) else parts if isinstance(parts, (list, tuple)) else ():
        disable_downloads(part)
    if isinstance(parts, dict) and str(parts.get("class_path")).startswith("simmim_pl."):
        for given in (parts.get("init_args") or {}, parts.get("dict_kwargs") or {}):
            for key in NO_DOWNLOAD.keys() & (vars(given) if isinstance(given, Namespace) else given).keys():
                given[key] = NO_DOWNLOAD[key]
