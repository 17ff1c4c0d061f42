"""NT-Xent's kernels compared with the definition in float64: on a GPU if present, else in Triton's interpreter.

The interpreter has to be chosen before Triton is imported, so a process of its own then runs these tests.
"""

import math
import os
from typing import Any

import pytest
import torch

from simmim_pl.contracts import InputError
from simmim_pl.gpu import nt_xent as fused
from simmim_pl.losses import nt_xent
from simmim_pl.losses.nt_xent import contrastive_accuracy
from simmim_pl.runtime import distributed

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
CUDA = torch.cuda.is_available() and not INTERPRETED
DEVICE = "cuda" if CUDA else "cpu"
computed = pytest.mark.skipif(not (CUDA or INTERPRETED), reason="neither a GPU nor the interpreter")
on_gpu = pytest.mark.skipif(not CUDA, reason="no GPU")


@pytest.mark.skipif(INTERPRETED or not fused.TRITON, reason="no compiler")
@pytest.mark.parametrize("name", ["log_partition", "gradient"])
def test_a_kernel_compiles_for_an_h100_without_one(name: str) -> None:
    import triton
    from triton.backends.compiler import GPUTarget

    from simmim_pl.gpu import nt_xent_kernels as kernels

    shared = 232448
    tall, wide, warps, stages = fused.tile(64, shared)
    sizes = {"WIDTH": 64, "TALL": tall, "WIDE": wide, "FAR": False, "RANKS": 1}
    types = dict.fromkeys(("z", "agreement", "log_mass", "loss", "grads", "out"), "*fp32") | {"rows": "*fp16"}
    types |= dict.fromkeys(("scale", "pull", "share"), "fp32") | dict.fromkeys(sizes, "constexpr")
    kernel = getattr(kernels, name)
    signature = {each: types.get(each, "i32") for each in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, {each: sizes[each] for each in sizes if each in signature})
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    assert compiled.metadata.shared <= shared
    assert "wgmma" in compiled.asm["ptx"]  # on tensor cores


def projections(views: int, images: int, width: int, seed: int = 0) -> torch.Tensor:
    """Similar views."""
    z = torch.randn(views, images, width, generator=torch.Generator().manual_seed(seed))
    return (z[:1] + 1.5 * torch.randn(z.shape, generator=torch.Generator().manual_seed(seed + 1))).to(DEVICE)


def losses(z: torch.Tensor, temperature: float, decoupled: bool) -> torch.Tensor:
    """The definition over the whole matrix: every anchor's loss, ``[V, B]``."""
    rows = torch.nn.functional.normalize(z, dim=-1).flatten(0, 1)
    similarity = rows @ rows.T / temperature
    itself = torch.eye(len(rows), dtype=torch.bool, device=z.device)
    image = torch.arange(z.shape[1], device=z.device).repeat(z.shape[0])
    positive = (image[:, None] == image) & ~itself
    partition = similarity.masked_fill(itself | positive if decoupled else itself, -torch.inf).logsumexp(1)
    return (partition - (similarity * positive).sum(1) / positive.sum(1)).view(z.shape[:2])


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Equal up to a fraction of the largest element."""
    torch.testing.assert_close(found.double(), expected, atol=tolerance * expected.abs().max().item(), rtol=0)


CASES = [
    (2, 5, 3, 0.5, False),
    (2, 2, 16, 1.0, True),
    (2, 70, 32, 0.05, False),
    (3, 45, 20, 0.2, True),
    (5, 13, 100, 0.1, False),
    (2, 33, 256, 0.1, True),
    (2, 40, 16, 0.02, False),  # the ratio of two weights exceeds float32
    pytest.param(2, 512, 128, 0.1, False, marks=on_gpu),
    pytest.param(3, 1001, 65, 0.1, True, marks=on_gpu),
    pytest.param(2, 20_000, 128, 0.5, False, marks=on_gpu),
]


@computed
@pytest.mark.parametrize(("views", "images", "width", "temperature", "decoupled"), CASES)
def test_loss_and_gradient(views: int, images: int, width: int, temperature: float, decoupled: bool) -> None:
    ours = projections(views, images, width).requires_grad_()
    exact = ours.detach().double().requires_grad_()
    loss, expected = fused.nt_xent(ours, temperature, decoupled), losses(exact, temperature, decoupled).mean()
    (3 * loss).backward()
    (3 * expected).backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    close(ours.grad, exact.grad)
    again = ours.detach().requires_grad_()
    (3 * fused.nt_xent(again, temperature, decoupled)).backward()
    assert torch.equal(again.grad, ours.grad)


@computed
@pytest.mark.parametrize("decoupled", [False, True])
def test_each_rank_has_the_gradient_of_all_losses(monkeypatch: pytest.MonkeyPatch, decoupled: bool) -> None:
    grads = (2.0, 0.0, -0.5)  # of the ranks' losses
    z = [projections(2, 23, 12, seed).requires_grad_() for seed in range(3)]
    rows = torch.cat([fused.normalised(each.detach(), 1.0)[0] for each in z])
    known = [torch.zeros(46, device=DEVICE)] * 3  # log-sum-exps: first of no rank, the second time of every rank
    found = []
    for rank in (0, 1, 2, 0, 1, 2):

        def gather(local: torch.Tensor, rank: int = rank) -> torch.Tensor:
            if local.dim() == 3:
                return rows
            if len(local) == 1:
                return torch.tensor(grads, device=DEVICE)
            known[rank] = local.clone()
            return torch.cat(known)

        monkeypatch.setattr(distributed, "all_gather", gather)
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        z[rank].grad = None
        loss = fused.nt_xent(z[rank], 0.2, decoupled)
        (grads[rank] * loss).backward()
        found.append(loss.item())
    exact = torch.cat([each.detach().double() for each in z], 1).requires_grad_()
    expected = losses(exact, 0.2, decoupled).view(2, 3, 23).mean((0, 2))
    (expected @ expected.new_tensor(grads)).backward()
    assert found[3:] == pytest.approx(expected.tolist(), abs=1e-5)
    close(torch.cat([each.grad for each in z], 1), exact.grad)


@computed
@pytest.mark.parametrize("decoupled", [False, True])
def test_the_loss_of_a_collapse_is_the_logarithm_of_the_other_rows(decoupled: bool) -> None:
    z = torch.ones(3, 30, 7, device=DEVICE)
    assert fused.nt_xent(z, 0.1, decoupled).item() == pytest.approx(math.log(90 - (3 if decoupled else 1)), abs=1e-5)
    assert fused.contrastive_accuracy(z).item() == 0


@computed
def test_rows_of_zero_and_of_any_length() -> None:
    z = projections(2, 20, 9)
    z[0, 3], z[1, 4], z[0, 5] = 0, z[1, 4] * 1e-30, z[0, 5] * 1e30
    ours, page = z.clone().requires_grad_(), z.double().requires_grad_()
    loss, expected = fused.nt_xent(ours, 0.1, False), nt_xent(page, 0.1)
    loss.backward()
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    assert (ours.grad[0, 3] == 0).all()
    usual = [image for image in range(20) if image not in (4, 5)]
    close(ours.grad[:, usual], page.grad[:, usual])
    close(ours.grad[1, 4], page.grad[1, 4])


@computed
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_and_outputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    low = projections(2, 30, 16).to(dtype).requires_grad_()
    exact = low.detach().double().requires_grad_()
    with torch.autocast(DEVICE, dtype=torch.bfloat16):
        loss = fused.nt_xent(low, 0.1, False)
    loss.backward()
    losses(exact, 0.1, False).mean().backward()
    assert loss.dtype == torch.float32
    assert low.grad.dtype == dtype
    assert loss.item() == pytest.approx(losses(exact, 0.1, False).mean().item(), abs=1e-5)
    close(low.grad, exact.grad, tolerance=torch.finfo(dtype).eps)


@computed
def test_strides_do_not_matter_and_a_second_derivative_is_refused() -> None:
    z = projections(2, 20, 8)
    strided = z.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    loss = fused.nt_xent(strided, 0.3, False)
    assert loss.item() == fused.nt_xent(z, 0.3, False).item()
    with pytest.raises(InputError, match="FusedNTXent has a first derivative only"):
        torch.autograd.grad(loss, strided, create_graph=True)


@computed
@pytest.mark.parametrize("views", [2, 3])
def test_contrastive_accuracy_is_that_of_the_whole_matrix(views: int) -> None:
    z = projections(views, 50, 64)
    expected = contrastive_accuracy(z.double()).item()
    assert 0.1 < expected < 0.9
    assert fused.contrastive_accuracy(z).item() == pytest.approx(expected)


@pytest.mark.parametrize("shared", [101376, 166912, 232448])  # Ada, A100 and H100
@pytest.mark.parametrize("width", [16, 64, 128, 256])
def test_tiles_fit_into_shared_memory(width: int, shared: int) -> None:
    tall, wide, warps, stages = fused.tile(width, shared)
    assert (tall + stages * wide) * 4 * width + fused.SPARE <= shared
    assert warps == 8 or width <= 128
    assert tall == 64 or width > 128


def test_cpus_and_float64_use_the_torch_implementation() -> None:
    z = torch.zeros(2, 4, 8)
    assert not fused.serves(z)
    assert not fused.serves(z.to(DEVICE).double())


@on_gpu
def test_on_a_gpu_the_loss_uses_kernels_without_synchronisation() -> None:
    z = projections(2, 512, 128).requires_grad_()
    assert fused.serves(z)
    assert not fused.serves(torch.zeros(2, 4, 257, device="cuda"))

    def step() -> Any:
        loss = nt_xent(z, 0.1)
        return loss.detach(), *torch.autograd.grad(loss, z), contrastive_accuracy(z)

    expected = step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
        nt_xent(z.double(), 0.1, decoupled=True).backward()
        contrastive_accuracy(z.double())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = step()
    graph.replay()
    assert [torch.equal(*pair) for pair in zip(found, expected, strict=True)] == [True] * 3
