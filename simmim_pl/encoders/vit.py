"""The Vision Transformer, for images of any size, whose patches can be masked."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import EncoderBlock

from simmim_pl.contracts import Features, InputError, MaskableEncoder
from simmim_pl.encoders.channels import CIFAR_MEAN, CIFAR_STD, statistics
from simmim_pl.encoders.patches import Patches, masked
from simmim_pl.encoders.relative_position import RelativeBlock, offset_index
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, ranged


class ViT(MaskableEncoder):
    """ViT (Dosovitskiy et al. 2021, arXiv 2010.11929) of torchvision's blocks: pre-norm, GELU, a final norm.

    The defaults are ViT-Tiny (width 192, depth 12, 3 heads) for 32 pixels. ViT-S has width 384 and 6 heads, ViT-B 768
    and 12. ``feature_map`` is the normalised patch tokens as a grid. Images of another size than ``image_size`` get
    position embeddings that are interpolated (bicubic), as those of DINO and Hugging Face are. With relative positions
    attention has BEiT's biases.

    Args:
        image_size: side of the images that the position embeddings are for, in pixels.
        patch_size: side of a patch, in pixels, which divides that of every image.
        width: D, the length of a token.
        depth: number of blocks.
        num_heads: attention heads, which divide the width.
        mlp_ratio: width of a block's hidden layer, in widths.
        pool: ``mean`` of the patch tokens, or the ``class`` token, which only then is there.
        position: embeddings that are ``learned``, or ``sincos``, fixed (MAE's, He et al. 2022, arXiv 2111.06377).
            With ``relative`` there are none, but biases of attention: see
            :class:`simmim_pl.encoders.relative_position.RelativeBlock`.
        dropout: share of the activations that are dropped in training, after every attention and linear layer.
        mean: per-channel mean of the images, in [0, 1]; by default CIFAR-10's; 0.5 if they are not RGB.
        std: per-channel standard deviation of the images; by default CIFAR-10's, or 0.25.
        channels: of the images: 3 for RGB, 1 for grey, or more.

    Raises:
        InputError: sizes do not divide each other; at the first batch, patches do not divide the image.
    """

    @ranged
    def __init__(
        self,
        image_size: PositiveInt = 32,
        patch_size: PositiveInt = 4,
        width: PositiveInt = 192,
        depth: PositiveInt = 12,
        num_heads: PositiveInt = 3,
        mlp_ratio: PositiveFloat = 4.0,
        pool: Literal["class", "mean"] = "mean",
        position: Literal["learned", "sincos", "relative"] = "learned",
        dropout: Probability = 0.0,
        mean: tuple[Probability, ...] = CIFAR_MEAN,
        std: tuple[PositiveFloat, ...] = CIFAR_STD,
        channels: PositiveInt = 3,
    ) -> None:
        super().__init__(width, *statistics(channels, mean, std), stride=patch_size)
        if image_size % patch_size or width % num_heads or (position == "sincos" and width % 4):
            raise InputError(
                f"A ViT's image_size {image_size} has to be a multiple of patch_size {patch_size}, and its width "
                f"{width} a multiple of num_heads {num_heads}, and of 4 with position sincos."
            )
        self.patch_size, self.token_dim = patch_size, width
        side = image_size // patch_size
        self.patches = Patches(patch_size, width, channels)
        if position == "learned":
            self.position = nn.Parameter(nn.init.trunc_normal_(torch.empty(side, side, width), std=0.02))
        elif position == "sincos":
            self.register_buffer("position", sincos(width, side), persistent=False)
        if pool == "class":  # its position is part of it
            self.class_token = nn.Parameter(nn.init.trunc_normal_(torch.empty(width), std=0.02))
        self.pool, self.relative = pool, position == "relative"
        sizes = num_heads, width, round(mlp_ratio * width), dropout
        self.blocks = nn.Sequential(
            *(
                RelativeBlock(*sizes, side, pool == "class") if self.relative else EncoderBlock(*sizes, dropout)
                for _ in range(depth)
            )
        )
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def no_weight_decay(self) -> set[str]:
        """Parameters that are positions or tokens, not weights."""
        return {"position", "class_token"}

    def layers(self) -> list[str]:
        return [f"blocks.{number}" for number in range(len(self.blocks))]

    def forward(
        self,
        image: Float[Tensor, "B C H W"],
        mask: Bool[Tensor, "B h w"] | None = None,
        mask_token: Float[Tensor, " D"] | None = None,
    ) -> Features:
        patches = masked(self.patches(self.normalize(image)), mask, mask_token)
        height, width = patches.shape[1:3]
        if not self.relative:
            patches = patches + resized(self.position, height, width)
        tokens = patches.flatten(1, 2)
        if self.pool == "class":  # a trace would keep len(tokens)
            tokens = torch.cat([self.class_token.expand(tokens.shape[0], 1, -1), tokens], 1)
        if self.relative:
            offsets = offset_index(height, width, self.pool == "class", tokens.device)
            for block in self.blocks:
                tokens = block(tokens, (height, width), offsets)
        else:
            tokens = self.blocks(tokens)
        tokens = self.norm(tokens)
        patches = tokens[:, -height * width :]
        pooled = tokens[:, 0] if self.pool == "class" else patches.mean(1)
        return Features(pooled=pooled, feature_map=patches.mT.unflatten(2, (height, width)))


def resized(position: Float[Tensor, "s s D"], height: int, width: int) -> Float[Tensor, "h w D"]:
    """Position embeddings of a grid of another size."""
    if position.shape[:2] == (height, width):
        return position
    maps = position.permute(2, 0, 1)[None]
    return F.interpolate(maps, (height, width), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)


def sincos(width: int, side: int) -> Float[Tensor, "s s D"]:
    """MAE's: sines and cosines of x, then of y, at wavelengths from 2π to 2π · 10⁴ positions."""
    quarter = width // 4
    angle = torch.arange(side, dtype=torch.float64)[:, None] / 1e4 ** (torch.arange(quarter) / quarter)
    along = torch.cat([angle.sin(), angle.cos()], 1).float().expand(side, side, -1)  # of x, at every y
    return torch.cat([along, along.transpose(0, 1)], 2)
