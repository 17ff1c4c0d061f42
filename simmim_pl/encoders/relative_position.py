"""Attention with relative position biases."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.vision_transformer import EncoderBlock


class RelativeBlock(EncoderBlock):  # type: ignore[misc]
    """torchvision's ViT block with a learned bias of attention by relative position (BEiT's, arXiv 2106.08254).

    Each head has a bias for every offset of two patches, and three more if there is a class token: from it to patches,
    from patches to it, and from it to itself. For a grid of another size the biases are interpolated (bilinear). Every
    block has its own table, as in BEiT's fine-tuning; in pretraining its blocks, and those of SimMIM's
    authors, share one.

    Args:
        num_heads: attention heads, which divide the width.
        width: D, the length of a token.
        hidden: width of the hidden layer.
        dropout: share of the activations that are dropped in training.
        side: side of the grid of patches that the biases are for.
        class_token: whether a class token comes before the patches.
    """

    def __init__(self, num_heads: int, width: int, hidden: int, dropout: float, side: int, class_token: bool) -> None:
        super().__init__(num_heads, width, hidden, dropout, dropout)
        self.side, self.class_token = side, class_token
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * side - 1) ** 2 + 3 * class_token, num_heads))

    def forward(
        self, tokens: Float[Tensor, "B L D"], grid: tuple[int, int], offsets: Int64[Tensor, "L L"]
    ) -> Float[Tensor, "B L D"]:
        """Apply the block to tokens of a grid of patches; ``offsets`` is the grid's :func:`offset_index`."""
        attention = self.self_attention
        projected = F.linear(self.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)  # [B, heads, L, D / heads]
        # Not by indexing, whose gradient on several CPU threads depends on their order.
        bias = F.embedding(offsets, self.table(*grid)).permute(2, 0, 1).to(q.dtype)  # [heads, L, L]
        dropped = attention.dropout if self.training else 0.0
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, dropout_p=dropped)
        x = tokens + self.dropout(attention.out_proj(found.transpose(1, 2).flatten(2)))
        out: Tensor = x + self.mlp(self.ln_2(x))
        return out

    def no_weight_decay(self) -> set[str]:
        """The biases, which are no weights."""
        return {"relative_position_bias_table"}

    def table(self, height: int, width: int) -> Float[Tensor, "offsets heads"]:
        """The biases of every head, for a grid of this size."""
        if (height, width) == (self.side, self.side):
            return self.relative_position_bias_table
        sides = 2 * self.side - 1
        of_patches, of_class = self.relative_position_bias_table.split([sides**2, 3 * self.class_token])
        grid = of_patches.view(1, sides, sides, -1).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (2 * height - 1, 2 * width - 1), mode="bilinear", align_corners=False)
        return torch.cat([grid[0].flatten(1).T, of_class])


def offset_index(height: int, width: int, class_token: bool, device: torch.device) -> Int64[Tensor, "L L"]:
    """The row of the table for every query, a row, and key: offsets row by row, then the class token's three."""
    y = torch.arange(height, device=device).repeat_interleave(width)
    x = torch.arange(width, device=device).repeat(height)
    patches = (y[:, None] - y + height - 1) * (2 * width - 1) + x[:, None] - x + width - 1
    if not class_token:
        return patches
    index, last = F.pad(patches, (1, 0, 1, 0)), (2 * height - 1) * (2 * width - 1)
    index[0], index[:, 0], index[0, 0] = last, last + 1, last + 2
    return index
