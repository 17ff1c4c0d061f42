"""SimMIM: encoder of a masked image → linear head → the masked pixels."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from simmim_pl.contracts import Batch, Encoder, Features, InputError, MaskableEncoder
from simmim_pl.methods.method import Method, Output
from simmim_pl.methods.required_views import require_view_maker, views_of
from simmim_pl.runtime import distributed
from simmim_pl.runtime.pixels import as_float
from simmim_pl.runtime.ranges import PositiveInt, Share, ranged
from simmim_pl.runtime.seeding import uniform


class MaskedImage(Method):
    """SimMIM (Xie et al. 2022, arXiv 2111.09886): random patches of an image are masked, and their pixels predicted.

    A learned mask token replaces the embeddings of masked patches, the encoder sees all tokens, and one linear layer
    predicts the pixels of each position of the feature map. The loss is the mean absolute error of masked pixels of the
    normalised image.

    For an encoder that is no :class:`simmim_pl.contracts.MaskableEncoder`, such as a convolutional one, masked pixels
    are replaced by the mean colour. Such networks gain little: masked images have other pixel statistics than complete
    ones, and the mask fades from layer to layer (Tian et al. 2023, arXiv 2301.03580).

    The loss does not reach layers between an encoder's feature map and its pooled output, such as those of a MobileNet.
    Their gradient is zero, so only weight decay changes them: fine-tune such an encoder.

    Args:
        encoder: image → features; the part that is kept.
        mask_unit: side of a masked patch, in pixels: a multiple of the encoder's patch size that divides the image. The
            paper masks units of 32 pixels of images of 192.
        mask_ratio: share of the units that are masked, rounded up; every image has the same number.
        kwargs: see :class:`simmim_pl.methods.method.Method`.

    Raises:
        InputError: an argument is out of its range, or unit and patch do not fit; of the images at the first batch.
    """

    compiles = ("encoder", "decoder")

    @ranged
    def __init__(self, encoder: Encoder, mask_unit: PositiveInt = 4, mask_ratio: Share = 0.6, **kwargs: Any) -> None:
        super().__init__(encoder, **kwargs)
        self.mask_unit, self.mask_ratio = mask_unit, mask_ratio
        if isinstance(encoder, MaskableEncoder):
            if mask_unit % encoder.patch_size:
                raise InputError(
                    f"mask_unit has to be a multiple of the encoder's patch_size {encoder.patch_size}, and is "
                    f"{mask_unit}."
                )
            self.mask_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(encoder.token_dim), std=0.02))
        pixels = nn.Conv2d(encoder.feature_map_channels, len(encoder.mean) * encoder.stride**2, kernel_size=1)
        self.decoder = nn.Sequential(pixels, nn.PixelShuffle(encoder.stride))
        self.side = math.lcm(mask_unit, encoder.stride)  # pixels: divides the images

    def on_fit_start(self) -> None:
        require_view_maker(self, "CropFlip", local_views=False)

    def training_step(self, batch: Batch, batch_idx: int) -> Output:
        # [V·B, C, S, S] in [0, 1]: every view of an image has its own mask
        image = views_of(batch, 1, "CropFlip").flatten(0, 1)
        require_whole_units(image, self.side)
        mask, target = self.mask(image), self.encoder.normalize(image)
        features, predicted = self.reconstruct(image, mask)
        loss = masked_l1(predicted, target, mask)
        loss = loss + 0 * features.pooled.mean()  # DDP waits for a gradient of every parameter
        self.log("train/loss_at_chance", partial(l1_at_chance, target, mask))
        return self.finish(loss, features.pooled, batch)

    def mask(self, image: Float[Tensor, "B C H W"]) -> Bool[Tensor, "B 1 H W"]:
        """Which pixels are masked: random units, the same number in every image."""
        height, width = (size // self.mask_unit for size in image.shape[-2:])
        number = masked_units(height * width, self.mask_ratio)
        rank = uniform(self.generator("mask"), len(image), height * width, along=0).argsort(1).argsort(1)
        units = (rank < number).view(-1, 1, height, width)
        return units.repeat_interleave(self.mask_unit, 2).repeat_interleave(self.mask_unit, 3)

    def reconstruct(
        self, image: Float[Tensor, "B C H W"], mask: Bool[Tensor, "B 1 H W"]
    ) -> tuple[Features, Float[Tensor, "B C H W"]]:
        """Features of masked images, and the normalised pixels that are predicted from them."""
        encoder = self.encoder
        if isinstance(encoder, MaskableEncoder):
            features = encoder(image, mask[:, 0, :: encoder.patch_size, :: encoder.patch_size], self.mask_token)
        else:
            features = encoder(torch.where(mask, encoder.mean, image))
        predicted = self.decoder(features.feature_map)
        if predicted.shape != image.shape:  # of AlexNet, whose convolutions lose the border
            raise InputError(
                f"{type(encoder).__name__} has no feature map of one position for every {encoder.stride}×"
                f"{encoder.stride} pixels, which the decoder needs: choose another encoder."
            )
        return features, predicted

    def pictures(self, batch: Batch) -> dict[str, Float[Tensor, "N 3 C H W"]]:
        """Each image, its masked version, and the masked version with predicted pixels filled in."""
        image = as_float(batch["image"])
        height, width = (size // self.side * self.side for size in image.shape[-2:])
        image = image[..., :height, :width]  # what lies beyond has no whole unit
        if not image.numel():
            return {}
        mask = self.mask(image)
        with torch.compiler.set_stance("force_eager"):  # a batch of another size than in training
            predicted = self.reconstruct(image, mask)[1] * self.encoder.std + self.encoder.mean
        masked, completed = torch.where(mask, 0.5, image), torch.where(mask, predicted.clamp(0, 1), image)
        return {"image, masked, reconstruction": torch.stack([image, masked, completed], 1)}


def masked_units(units: int, ratio: float) -> int:
    """``units · ratio`` rounded up, with the ratio as written in decimal: floating point may exceed a whole number.

    >>> masked_units(64, 0.6), masked_units(100, 0.55), 100 * 0.55
    (39, 55, 55.00000000000001)
    """
    return math.ceil(round(ratio * units, 9))


def masked_l1(
    predicted: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"], mask: Bool[Tensor, "B 1 H W"]
) -> Float[Tensor, ""]:
    """Sum of absolute errors of masked pixels, divided by the number of their channel values (section 3.4)."""
    loss: Tensor = ((predicted - target).abs() * mask).sum() / (target.shape[1] * mask.sum())
    return loss


def l1_at_chance(target: Float[Tensor, "B C H W"], mask: Bool[Tensor, "B 1 H W"]) -> Float[Tensor, ""]:
    """The loss of predicting one colour for all pixels of all images, the best one: the median of each channel.

    A mean over ranks, each with the colour of its own images. All ranks must call it.
    """
    values = target.transpose(0, 1).flatten(1).sort().values  # torch.median is not deterministic on a GPU
    colour = values[:, values.shape[1] // 2].view(1, -1, 1, 1)
    return distributed.all_reduce_mean(masked_l1(colour.expand_as(target), target, mask))


def require_whole_units(image: Float[Tensor, "B C H W"], side: int) -> None:
    """Raise :class:`InputError` where images cannot be cut into squares of so many pixels a side."""
    height, width = image.shape[-2:]
    if height % side or width % side:
        raise InputError(
            f"Views of {height}×{width} pixels cannot be masked: mask_unit and the encoder's stride have to divide "
            f"them, so set --data.views.size to a multiple of {side}, or another mask_unit."
        )
