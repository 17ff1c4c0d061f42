"""The Swin Transformer, for small images too, whose patches can be masked."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torchvision.models.swin_transformer import PatchMerging, SwinTransformerBlock

from simmim_pl.contracts import Features, InputError, MaskableEncoder
from simmim_pl.encoders.channels import CIFAR_MEAN, CIFAR_STD, statistics
from simmim_pl.encoders.patches import Patches, masked
from simmim_pl.runtime.ranges import PositiveFloat, PositiveInt, Probability, ranged


class Swin(MaskableEncoder):
    """Swin (Liu et al. 2021, arXiv 2103.14030) of torchvision's blocks, whose attention is within shifted windows.

    Every stage but the first halves the grid and doubles the width, so the stride is patch_size · 2^(stages - 1). The
    defaults are for 32 pixels: grids of 16, 8 and 4 positions. For 224 pixels, Swin-T has patch_size 4, depths
    [2, 2, 6, 2], num_heads [3, 6, 12, 24] and window_size 7. A grid that windows do not divide is padded with zeros,
    which take part in attention. There are relative positions only, so images may have any size.

    Args:
        patch_size: side of a patch, in pixels, which divides that of every image.
        width: length of an embedded patch; D is width · 2^(stages - 1).
        depths: blocks of each stage, of which every second one shifts its windows.
        num_heads: attention heads of each stage, which divide its width.
        window_size: side of a window, in positions: at most that of the last grid.
        mlp_ratio: width of a block's hidden layer, in widths.
        stochastic_depth: probability that the last block is left out in training; it grows linearly from 0.
        mean: per-channel mean of the images, in [0, 1]; by default CIFAR-10's; 0.5 if they are not RGB.
        std: per-channel standard deviation of the images; by default CIFAR-10's, or 0.25.
        channels: of the images: 3 for RGB, 1 for grey, or more.

    Raises:
        InputError: heads do not divide a stage's width; at the first batch, patches do not divide the image.
    """

    @ranged
    def __init__(
        self,
        patch_size: PositiveInt = 2,
        width: PositiveInt = 96,
        depths: Sequence[PositiveInt] = (2, 6, 2),
        num_heads: Sequence[PositiveInt] = (3, 6, 12),
        window_size: PositiveInt = 4,
        mlp_ratio: PositiveFloat = 4.0,
        stochastic_depth: Probability = 0.0,
        mean: tuple[Probability, ...] = CIFAR_MEAN,
        std: tuple[PositiveFloat, ...] = CIFAR_STD,
        channels: PositiveInt = 3,
    ) -> None:
        widths = [width * 2**stage for stage in range(len(depths))]
        if not depths or len(num_heads) != len(depths) or any(w % n for w, n in zip(widths, num_heads, strict=True)):
            raise InputError(
                "Swin needs a number of heads for each stage, and it has to divide the stage's width: the widths are "
                f"{widths}, and num_heads is {list(num_heads)}."
            )
        super().__init__(widths[-1], *statistics(channels, mean, std), stride=patch_size * 2 ** (len(depths) - 1))
        self.patch_size, self.token_dim = patch_size, width
        self.patches = Patches(patch_size, width, channels)
        self.patches_norm = nn.LayerNorm(width)
        self.stages = nn.Sequential()
        dropped = iter(stochastic_depth * block / max(sum(depths) - 1, 1) for block in range(sum(depths)))
        for stage, (depth, heads) in enumerate(zip(depths, num_heads, strict=True)):
            blocks = nn.Sequential(*([PatchMerging(widths[stage - 1])] if stage else []))
            for block in range(depth):
                shift = (block % 2) * (window_size // 2)
                size, how = widths[stage], {"mlp_ratio": mlp_ratio, "stochastic_depth_prob": next(dropped)}
                blocks.append(SwinTransformerBlock(size, heads, [window_size] * 2, [shift] * 2, **how))
            self.stages.append(blocks)
        self.norm = nn.LayerNorm(widths[-1])

    def no_weight_decay(self) -> set[str]:
        """Biases of attention by relative position."""
        return {name for name, _ in self.named_parameters() if name.endswith("relative_position_bias_table")}

    def decay_layers(self) -> list[str]:
        """The blocks of all stages; what merges patches goes with the block before, as in SimMIM's authors' code."""
        return [name for name, part in self.named_modules() if isinstance(part, SwinTransformerBlock)]

    def forward(
        self,
        image: Float[Tensor, "B C H W"],
        mask: Bool[Tensor, "B h w"] | None = None,
        mask_token: Float[Tensor, " E"] | None = None,
    ) -> Features:
        tokens = masked(self.patches_norm(self.patches(self.normalize(image))), mask, mask_token)
        feature_map = self.norm(self.stages(tokens)).permute(0, 3, 1, 2)
        return Features(pooled=feature_map.mean((2, 3)), feature_map=feature_map)
