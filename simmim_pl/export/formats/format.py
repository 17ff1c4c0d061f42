"""Contract of every format: what it writes, and the lines of Python that load it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from simmim_pl.contracts import InputError
from simmim_pl.export.pretrained import Pretrained


class Format(ABC):
    """An encoder in another tool's format.

    Args:
        pretrained: what is exported.
        images: real ones; some formats are for images of their size.

    Attributes:
        file: name of the file that the lines load.
        library: what Hugging Face's hub calls the tool.
        needs: packages without which it cannot be written or verified.
        imports: modules that the lines use.
        said: sentences of the card, on what is special.

    Raises:
        InputError: a package is not installed, or the format has no such network.
    """

    file: ClassVar[str]
    library: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    imports: tuple[str, ...]
    said: tuple[str, ...] = ()

    def __init__(self, pretrained: Pretrained, images: Float[Tensor, "B C S S"]) -> None:
        for package in self.needs:
            require_package(package)
        self.pretrained, self.images = pretrained, images

    @abstractmethod
    def write(self, folder: Path) -> None:
        """Write the files into an empty folder.

        Raises:
            InputError: the encoder cannot be written so.
            WriteError: the disk takes no more.
        """

    @abstractmethod
    def load(self, file: str) -> list[str]:
        """Lines that load the file, given as a Python expression, after the imports: four at most."""

    @property
    @abstractmethod
    def run(self) -> list[str]:
        """Lines that make ``pooled``, and ``feature_map`` if they can, of ``images [B, C, S, S]`` in [0, 1]."""

    def loading(self, path: str | None = None, repository: str | None = None) -> list[str]:
        """The imports, and the lines that load the file.

        Args:
            path: of the file; by default its name.
            repository: of Hugging Face's hub, from which it is downloaded instead.
        """
        if repository is None:
            return [f"import {', '.join(self.imports)}", *self.load(quoted(path or self.file))]
        file = f"huggingface_hub.hf_hub_download({quoted(repository)}, {quoted(self.file)})"
        return [f"import {', '.join(sorted(['huggingface_hub', *self.imports]))}", *self.load(file)]


def quoted(text: str) -> str:
    """A text as Python's source has it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def normalize(pretrained: Pretrained) -> str:
    """The expression that normalises ``images`` for a network that does not."""
    mean, std = pretrained.normalization
    return f"torchvision.transforms.functional.normalize(images, {mean}, {std})"


def require_package(name: str) -> None:
    """Raise :class:`InputError` if a package of the extra ``export`` is not installed."""
    try:
        import_module(name)
    except ImportError as error:
        raise InputError(f"This format needs {name} ({error}): pip install 'simmim_pl[export]'.") from error
