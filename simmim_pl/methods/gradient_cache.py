"""Train on a large batch in the memory of a small one, with the exact gradient: each chunk is encoded twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def chunked_forward(
    run: Callable[[Tensor], tuple[Tensor, ...]], views: Float[Tensor, "V B C S S"], chunks: int, network: nn.Module
) -> tuple[Tensor, ...]:
    """Apply ``run`` to views, chunk by chunk, keeping the activations of one chunk; tensors ``[V, B, ...]``.

    Gao et al. 2021 (arXiv 2101.06983) cache the gradient of the loss with respect to the embeddings, and encode every
    chunk again for the backward pass. torch's activation checkpointing does the same: each chunk drops its activations
    and recomputes them in the backward pass. Autograd sums a parameter's gradient over the chunks before it is ready,
    so DDP sends it once a step, and mixed precision, accumulation and clipping work unchanged.

    Loss and gradient are those of the whole batch, with one exception: BatchNorm's statistics are those of a chunk
    (over all ranks). Its running statistics are updated once per chunk. Recomputation repeats the same dropout masks.

    - ``run``: views ``[V, b, ...]`` of some images → tensors ``[V, b, ...]``.
    - ``chunks``: number of chunks.
    - ``network``: the module whose running statistics must not be updated twice.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(network)

    parts = [checkpoint(run, part, use_reentrant=False, context_fn=contexts) for part in views.chunk(chunks, 1)]
    return tuple(torch.cat(column, 1) for column in zip(*parts, strict=True))


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Restore BatchNorm's running statistics on exit; within the context, layers normalise by their batch as usual.

    No attribute of a layer changes, which would make torch.compile recompile it.
    """
    buffers = [buffer for part in network.modules() if isinstance(part, _BatchNorm) for buffer in part.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, kept in zip(buffers, before, strict=True):
            buffer.copy_(kept)
