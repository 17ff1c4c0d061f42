"""Types that subpackages exchange, and abstract base classes of replaceable parts. Imports nothing of this package."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, cast, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt, UInt8
from torch import Tensor, nn
from torch.utils.data import Dataset


class InputError(Exception):
    """A user error: one sentence that says what is wrong and what to do. Shown without a traceback."""


class Batch(TypedDict, total=False):
    """A batch of images, or of clips: then ``clip`` replaces ``image``.

    A set without labels has no ``label`` key, one without masks no ``mask``; ``views`` appear in pretraining only.

    Attributes:
        image: ``[B, C, H, W]``, uint8 from 0 to 255 or uint16 from 0 to 65535. Three channels are RGB.
        clip: frames in order, ``[B, T, C, H, W]``.
        label: class of each image, ``[B]``.
        mask: class of each pixel, ``[B, H, W]``; 255 is ignored.
        index: position in the whole set, ``[B]``: identifies images that several ranks repeat.
        views: random views in [0, 1], ``[V, B, C, S, S]``.
        local: further views, of smaller regions and another size, ``[L, B, C, s, s]``.
    """

    image: UInt[Tensor, "B C H W"]
    clip: UInt[Tensor, "B T C H W"]
    label: Int64[Tensor, " B"]
    mask: UInt8[Tensor, "B H W"]
    index: Int64[Tensor, " B"]
    views: Float[Tensor, "V B C S S"]
    local: Float[Tensor, "L B C s s"]


class Features(NamedTuple):
    """What an encoder returns: one vector an image, and the feature map it was pooled from.

    A tuple with names, which ``torch.export`` and ``torch.jit.trace`` take as they take tensors.

    Attributes:
        pooled: one vector per image, ``[B, D]``, for classification and search.
        feature_map: ``[B, G, h, w]``, for segmentation. G is D unless something between feature map and pooling changes
            it, such as the head of a MobileNet.
    """

    pooled: Float[Tensor, "B D"]
    feature_map: Float[Tensor, "B G h w"]


class Encoder(nn.Module, ABC):
    """Contract of every encoder: images in [0, 1], ``[B, C, H, W]`` → :class:`Features` of ``embed_dim`` D.

    A method calls it on views in training and on whole images in validation, evaluations on whole images in eval mode.
    Heads are built from its attributes, before the first image. Mean and standard deviation are buffers of the encoder,
    so a probe or an exported model always normalises as in training.

    Args:
        embed_dim: D, the length of a pooled feature.
        mean: per-channel mean of the images, in [0, 1]: as many numbers as the images have channels.
        std: per-channel standard deviation of the images.
        stride: pixels, in y and x, from one position of the feature map to the next: for images whose sides it divides,
            the feature map is ``[B, G, H / stride, W / stride]``.
        feature_map_channels: G, if it is not D.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        embed_dim: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        stride: int,
        feature_map_channels: int | None = None,
    ) -> None:
        super().__init__()
        self.embed_dim, self.stride = embed_dim, stride
        self.feature_map_channels = feature_map_channels or embed_dim
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1))

    def normalize(self, image: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Centre and scale each channel. Raises :class:`InputError` if the images have another number of channels."""
        found, due = image.shape[1], len(self.mean)
        if found != due:  # arithmetic would broadcast
            options = f"--model.encoder.channels {found}, or --data.source.channels {'rgb' if due == 3 else due}"
            raise InputError(f"The images' number of channels is {found}, and the encoder's is {due}: set {options}.")
        return (image - self.mean).div_(self.std)  # in place: a second copy of the batch costs more than the numbers

    def layers(self) -> list[str]:
        """Names of the submodules that an image passes one after the other, the earliest first.

        Evaluations can use a layer's output instead of the encoder's. By default these are the submodules with weights
        at the first depth where none of them holds four fifths of all matrices and convolutions: the blocks of a
        transformer, the stages of a ResNet. Override it where this does not fit.
        """
        name, at = "", cast(nn.Module, self)
        while True:
            count = {f"{name}{part}": matrices(child) for part, child in at.named_children() if matrices(child)}
            largest = max(count, key=lambda part: count[part], default="")
            if not count or count[largest] == 1 or count[largest] < 0.8 * matrices(self):
                return list(count)
            name, at = f"{largest}.", self.get_submodule(largest)

    def decay_layers(self) -> list[str]:
        """Names of the layers that fine-tuning can give learning rates of their own, the earliest the smallest."""
        return self.layers()

    @abstractmethod
    def forward(self, image: Float[Tensor, "B C H W"]) -> Features:
        """Encode a batch of images."""


class MaskableEncoder(Encoder):
    """Contract of an encoder of patches that can replace some of them by a mask token, for masked image modelling.

    The token belongs to the method, so that with other methods the encoder has no unused parameter.

    Attributes:
        patch_size: side of a patch in pixels, which divides that of an image.
        token_dim: E, the length of an embedded patch.
    """

    patch_size: int
    token_dim: int

    @abstractmethod
    def forward(
        self,
        image: Float[Tensor, "B C H W"],
        mask: Bool[Tensor, "B h w"] | None = None,
        mask_token: Float[Tensor, " E"] | None = None,
    ) -> Features:
        """Encode a batch of images; where ``mask`` is true, ``mask_token`` replaces the embedded patch.

        :class:`simmim_pl.methods.MaskedImage` gives a mask in training. Everything else calls it without one.
        """


def matrices(module: nn.Module) -> int:
    """How many matrices and convolution kernels a module has."""
    return sum(weight.ndim > 1 for weight in module.parameters())


class Views(nn.Module, ABC):
    """Contract of every view maker: pixels ``[B, C, H, W]`` → ``float [V, B, C, S, S]`` in [0, 1], on the same device.

    The data module calls it for every training batch, on its device; and
    :class:`simmim_pl.callbacks.Representation` for validation images. All randomness comes from ``generator``, never
    from global state.
    """

    @abstractmethod
    def forward(self, image: UInt[Tensor, "B C H W"], generator: torch.Generator) -> Float[Tensor, "V B C S S"]:
        """Draw the views of a batch."""

    def require_channels(self, channels: int) -> None:
        """Raise :class:`InputError` if images of so many channels have no such views. Called before training."""


@runtime_checkable
class LabelledSet(Protocol):
    """A labelled set beside the training set, for :class:`simmim_pl.callbacks.LabelledProbe`."""

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes in label order."""
        ...

    def dataloader(self, part: Literal["train", "validation"]) -> Iterable[Any]:
        """This rank's share of the images to fit probes on, or of the others to evaluate them on: :class:`Batch`.

        With ``index``, results are the same on any number of ranks.
        """
        ...


class DataModule(Protocol):
    """Attributes that are read from a LightningDataModule; :class:`simmim_pl.data.ImageDataModule` has all of them.

    The DataLoaders of your own module yield :class:`Batch` mappings, with what the method trains on, such as ``views``.
    All attributes are optional. What needs a missing one is left out, with a message.

    Attributes:
        batch_size: images per step over all devices, to which the learning rate is scaled. By default that of the
            training DataLoader.
        seed: of the random numbers of a method. By default that of ``seed_everything``.
        views: makes the views of validation images for :class:`simmim_pl.callbacks.Representation`.
        classes: names of the classes in label order, empty without labels: for online probe, map and evaluations.
        splits: ``train``, ``validation`` and ``test`` after ``setup``, for evaluations: torch datasets of
            ``{"image": uint8 [C, H, W], "label": int}``.
    """

    batch_size: int
    seed: int
    views: Views | None

    @property
    def classes(self) -> Sequence[str]:
        """Names of the classes in label order."""
        ...

    @property
    def splits(self) -> Mapping[str, Dataset[Any]]:
        """The data set of each split."""
        ...

    @property
    def labelled_sets(self) -> Mapping[str, LabelledSet]:
        """Labelled sets beside the training set, by name."""
        ...

    def reference_dataloader(self) -> Iterable[Any]:
        """Clean training images with labels, this rank's share, in which the online kNN searches neighbours."""
        ...
