"""A large batch in the memory of a small one: the exact gradient, from chunks that are encoded twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


def chunked_forward(
    run: Callable[[Tensor], tuple[Tensor, ...]], views: Float[Tensor, "V B 3 S S"], chunks: int, network: nn.Module
) -> tuple[Tensor, ...]:
    """What ``run`` makes of views, ``[V, B, ...]`` each, with the activations of one chunk of the images at a time.

    Gao et al. 2021 (arXiv 2101.06983) cache the gradient of the loss by the embeddings and encode every chunk again to
    pass it on. torch's checkpointing is the same in other words: each chunk forgets its activations, and when the
    gradient by its embeddings is known, they are computed again. Autograd sums over the chunks before it hands a
    parameter its gradient, so DDP sends it once a step, and mixed precision, accumulation and clipping need nothing.

    The loss sees the whole batch and the gradient is that of the whole batch, with one exception: BatchNorm's
    statistics are a chunk's (over all ranks). Its running ones are updated once a chunk, and dropout repeats its draw.

    - ``run``: views ``[V, b, ...]`` of some images → tensors ``[V, b, ...]``.
    - ``chunks``: into how many parts to divide the images.
    - ``network``: the module whose running statistics must not be updated twice.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(network)

    parts = [checkpoint(run, part, use_reentrant=False, context_fn=contexts) for part in views.chunk(chunks, 1)]
    return tuple(torch.cat(column, 1) for column in zip(*parts, strict=True))


@contextmanager
def frozen_statistics(network: nn.Module) -> Iterator[None]:
    """Within, BatchNorm normalises by its batch as ever; what it remembers of it is forgotten in the end.

    Nothing about the layers is changed for the time: torch.compile would take them for others and compile them again.
    """
    buffers = [buffer for part in network.modules() if isinstance(part, _BatchNorm) for buffer in part.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, kept in zip(buffers, before, strict=True):
            buffer.copy_(kept)
