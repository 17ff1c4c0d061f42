"""The data set that a run's config describes, without unsafe imports and without downloads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from simmim_pl.contracts import InputError
from simmim_pl.data.files.pixel_format import PixelFormat
from simmim_pl.data.source import Source
from simmim_pl.runtime.from_config import instantiate

# Sources of encoded images, which are decoded when they are asked for.
ENCODED = frozenset(f"simmim_pl.data.{name}" for name in ("FileList", "Folder", "HuggingFace"))
# Sources of images of this package; a file may name no other. None downloads unless it is prepared, or on the hub.
SOURCES = ENCODED | {
    f"simmim_pl.data.{name}" for name in ("CIFAR10", "CIFAR100", "STL10", "OxfordPets", "Shapes", "HeldOut")
}


def nested(config: Any, *keys: str) -> Any:
    """A value of a config by its keys; ``None`` where one is missing."""
    for key in keys:
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def source_of(config: Any) -> Any:
    """Config of the run's data set, without what holds a part of it out."""
    spec = nested(config, "data", "init_args", "source")
    while (inner := nested(spec, "init_args", "source")) is not None:
        spec = inner
    return spec


def size_of(config: Any) -> int | None:
    """Side of the run's images, or else of its views; ``None`` if it does not say."""
    sizes = (
        nested(source_of(config), "init_args", "size"),
        nested(config, "data", "init_args", "views", "init_args", "size"),
    )
    return next((size for size in sizes if isinstance(size, int) and size > 0), None)


def format_of(config: Any) -> PixelFormat:
    """Pixels of the run's images, without the range that it found if none is stated."""
    arguments = nested(source_of(config), "init_args") or {}
    stated = arguments.get("range")
    return PixelFormat(arguments.get("channels", "rgb"), (stated[0], stated[1]) if stated else None)


def build_source(spec: Any, path: Path, **given: Any) -> Source:
    """Build a data set of images of this package.

    Args:
        spec: its config, ``class_path`` and ``init_args``.
        path: the file that holds it, for errors.
        given: arguments that replace those of the config.

    Raises:
        InputError: it is another class, or cannot be built.
    """
    class_path = str(nested(spec, "class_path"))
    if class_path not in SOURCES:
        raise InputError("they are of no data set of images of this package")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--source", type=Source)
    arguments = {**local_arguments(spec), **given}
    source: Source = instantiate(
        parser, {"source": {"class_path": class_path, "init_args": arguments}}, path, SOURCES
    ).source
    return source


def local_arguments(spec: Any) -> dict[str, Any]:
    """Arguments of a source, and of one inside it, to read a few images. Raises :class:`InputError` for the hub."""
    name, arguments = str(nested(spec, "class_path")), dict(nested(spec, "init_args") or {})
    if name == "simmim_pl.data.HuggingFace" and not Path(str(arguments.get("path"))).expanduser().exists():
        raise InputError(f"{arguments.get('path')} is not on this disk, and nothing is downloaded here")
    if isinstance(inner := arguments.get("source"), Mapping):
        arguments["source"] = {**inner, "init_args": local_arguments(inner)}
    return {**arguments, "memory_gb": 0.0} if name in ENCODED else arguments
