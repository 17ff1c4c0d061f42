"""A part of gpu.py: limits of fit. The network alone, and plain loops with other packages' parts, on one device."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from flops import parts
from gpu_fit import Images, wait
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

Work = Callable[[], Any]
MATRIX = 8192


def seconds_of(work: Work, device: torch.device, seconds: float) -> float:
    """Seconds per call over a given time, synchronising only at the start and the end."""
    taken = 0.0
    for known in (3, 10, 0):  # warm up; find how many calls fill the time; time these
        number = known or max(3, round(seconds / taken))
        wait(device)
        since = time.perf_counter()
        for _ in range(number):
            work()
        wait(device)
        taken = (time.perf_counter() - since) / number
    return taken


def matmul_speed(device: torch.device, seconds: float, side: int = MATRIX) -> float:
    """FLOP/s of square matrix products in bfloat16."""
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: a @ b, device, seconds)


@contextmanager
def fastest_convolutions() -> Iterator[None]:
    """Let cuDNN choose the fastest algorithms, for a limit of the device."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


class Network:
    """A config's encoder and head, with constant views of a batch: only forward and backward.

    Weights are channels-last if the config says so, and passes are in bfloat16; there is no augmentation, no loss
    (a constant gradient replaces it) and no optimizer.

    Args:
        config: of a fit, as values.
        device: where to compute.
        compiled: compile the encoder, as ``--model.compile true`` does.
    """

    def __init__(self, config: dict[str, Any], device: torch.device, compiled: bool) -> None:
        torch._dynamo.reset()
        config["model"]["init_args"]["compile"] = False
        method, data = parts(config)
        self.encoder, self.head, self.device = method.encoder.to(device), method.head.to(device), device
        self.parameters = [*self.encoder.parameters(), *self.head.parameters()]
        self.images, self.size = data.batch_size, data.views.size
        self.views = torch.rand(data.views.views * self.images, 3, self.size, self.size, device=device)
        self.gradient = torch.randn_like(self.project(self.views))
        with FlopCounterMode(display=False) as counter:
            self.passes()
        self.flop = counter.get_total_flops() / self.images  # of an image
        if compiled:
            self.encoder.compile()

    def project(self, views: Tensor) -> Tensor:
        """Projections of the views."""
        with torch.autocast(self.device.type, torch.bfloat16):
            projections: Tensor = self.head(self.encoder(views).pooled)
        return projections

    def passes(self) -> None:
        """Forward and backward."""
        for parameter in self.parameters:
            parameter.grad = None
        self.project(self.views).backward(self.gradient)

    def rate(self, seconds: float, graph: bool) -> float:
        """Images per second; with ``graph`` the passes are one CUDA graph, which the host launches at once."""
        with fastest_convolutions():
            work = self.captured() if graph else self.passes
            return self.images / seconds_of(work, self.device, seconds)

    def captured(self) -> Work:
        """The passes as a CUDA graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # excludes tensors created at the first call
            for _ in range(3):
                self.passes()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.passes()
        return graph.replay


def loop(network: Network, views: str, loss: str, seconds: float) -> float:
    """Images per second of a plain training loop: network, SGD, and views and loss of other packages.

    All images are on the device; nothing is logged, checked or saved.
    """
    make, loss_of = VIEWS[views](network.size), LOSSES[loss](network.images)
    optimizer = torch.optim.SGD(network.parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4)
    images = Images(train=4 * network.images).load("train").images.to(network.device)

    def step() -> None:
        image = images[torch.randint(len(images), (network.images,), device=network.device)] / 255
        z = network.project(torch.cat([make(image), make(image)]))
        optimizer.zero_grad()
        loss_of(z.float()).backward()
        optimizer.step()

    return network.images / seconds_of(step, network.device, seconds)


def kornias(size: int) -> Callable[[Tensor], Tensor]:
    """kornia's augmentations with cifar10.yaml's settings, with random parameters for every image."""
    import kornia.augmentation as K

    return torch.nn.Sequential(
        K.RandomResizedCrop((size, size), scale=(0.2, 1.0), cropping_mode="resample"),
        K.RandomHorizontalFlip(0.5),
        K.ColorJitter(0.4, 0.4, 0.4, 0.1, p=0.8),
        K.RandomGrayscale(p=0.1),
    )


def torchvisions(size: int) -> Callable[[Tensor], Tensor]:
    """torchvision's augmentations, with one set of parameters per batch: less work than required."""
    from torchvision.transforms import v2

    jitter = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    chain = [v2.RandomResizedCrop(size, scale=(0.2, 1.0)), v2.RandomHorizontalFlip()]
    return v2.Compose([*chain, v2.RandomApply([jitter], 0.8), v2.RandomGrayscale(0.1)])


def lightlys(images: int) -> Callable[[Tensor], Tensor]:
    """lightly's NT-Xent."""
    from lightly.loss import NTXentLoss

    loss = NTXentLoss(0.5)
    return lambda z: loss(z[:images], z[images:])


def solo_learns(images: int) -> Callable[[Tensor], Tensor]:
    """NT-Xent as in solo-learn's simclr_loss_func: the full matrix, with masks from image indices."""

    def loss(z: Tensor) -> Tensor:
        z = F.normalize(z, dim=-1)
        similarity = torch.exp(z @ z.T / 0.5)
        index = torch.arange(images, device=z.device).repeat(2)
        same = index[:, None] == index
        positive = (similarity * (same ^ torch.eye(len(z), dtype=torch.bool, device=z.device))).sum(1)
        return -torch.log(positive / (positive + (similarity * ~same).sum(1))).mean()

    return loss


VIEWS = {"kornia's views": kornias, "torchvision's views, one draw per batch": torchvisions}
LOSSES = {"lightly's loss": lightlys, "solo-learn's loss": solo_learns}
