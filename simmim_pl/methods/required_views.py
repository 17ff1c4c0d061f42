"""What a method needs of the data: views of every image, made by the datamodule or by a DataLoader."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from lightning.pytorch import LightningModule
from torch import Tensor

from simmim_pl.contracts import InputError


def require_view_maker(method: LightningModule, makes: str, local_views: bool = True) -> None:
    """Refuse a datamodule whose ``views`` is None; with other datamodules :func:`views_of` checks each batch.

    Args:
        method: the method, attached to a trainer.
        makes: a class of :mod:`simmim_pl.views` to recommend.
        local_views: whether the method uses local views.

    Raises:
        InputError: there are no views, or local views that the method does not use.
    """
    data, name = method.trainer.datamodule, type(method).__name__  # type: ignore[attr-defined]
    if data is not None and getattr(data, "views", data) is None:
        raise InputError(f"{name} pretraining needs views: set --data.views simmim_pl.views.{makes}.")
    if not local_views and getattr(data, "local_views", None) is not None:
        raise InputError(f"{name} does not use local views: remove --data.local_views.")


def views_of(batch: Any, least: int, makes: str) -> Float[Tensor, "V B C H W"]:
    """The views of a batch, ``least`` or more of each image.

    Raises:
        InputError: a batch, as a DataLoader without our datamodule gives it, has no such views.
    """
    views = batch.get("views") if isinstance(batch, Mapping) else None
    if not isinstance(views, Tensor) or views.ndim != 5 or len(views) < least or not views.is_floating_point():
        raise InputError(
            f'A training batch has to be a mapping with "views", float [V, B, C, S, S] in [0, 1], V ≥ {least} views of '
            "every image. Give the DataLoader a collate_fn that makes them, or pass Trainer.fit a datamodule: "
            f"simmim_pl.data.ImageDataModule(source, views=simmim_pl.views.{makes}(...))."
        )
    return views
