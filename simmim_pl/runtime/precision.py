"""Which precision a processor computes fast: bfloat16 where it is in hardware, float32 elsewhere."""

from __future__ import annotations

import torch

# What torch calls bfloat16's dot products on x86, AMX's tiles on x86, and bfloat16 on ARM.
CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")


def bfloat16_in_hardware(device: str) -> bool:
    """Whether a kind of device, ``cpu`` or ``cuda``, computes in bfloat16 itself.

    One that does not emulates it: a CPU with AVX2 only is then about nine times slower than in float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN does a CPU's convolutions and products; it obeys ONEDNN_MAX_CPU_ISA, which may hold a processor back.
    return device == "cpu" and any(capabilities().get(name) for name in CAPABILITIES) and onednn_has_bfloat16()


def capabilities() -> dict[str, bool]:
    """What torch finds of ``CAPABILITIES`` on this CPU."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name: bool(torch.cpu.get_capabilities().get(name)) for name in CAPABILITIES}
    # An older torch: ARM's it does not tell, which then trains in float32.
    tests = {"avx512_bf16": "_is_avx512_bf16_supported", "amx_bf16": "_is_amx_tile_supported"}
    return {name: bool(getattr(torch.cpu, test, bool)()) for name, test in tests.items()}


def onednn_has_bfloat16() -> bool:
    """Whether oneDNN has kernels for bfloat16 here, in hardware or not; False without oneDNN."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def device_of(accelerator: str) -> str:
    """The kind of device that the Trainer's ``accelerator`` means: ``cpu``, ``cuda`` or another one's name."""
    if accelerator not in ("auto", "gpu"):
        return accelerator
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose(asked: str | int | None, accelerator: str) -> tuple[str | int, str]:
    """The precision to train in, and a sentence on it for the user, empty where there is nothing to say.

    - ``asked``: the user's ``--trainer.precision``, which is always obeyed; ``None`` leaves it to the processor.
    - ``accelerator``: the Trainer's.
    """
    device = device_of(accelerator)
    fast = bfloat16_in_hardware(device)
    if asked is None and device not in ("cpu", "cuda"):
        return "32-true", ""
    if asked is None:
        has, other = ("computes", "32-true") if fast else ("does not compute", "bf16-mixed")
        chosen = "bf16-mixed" if fast else "32-true"
        return chosen, f"Precision {chosen}: this {device} {has} bfloat16 in hardware (or --trainer.precision {other})."
    if device == "cpu" and not fast and str(asked) in ("bf16-mixed", "16-mixed", "bf16", "16"):
        return asked, f"This cpu emulates {asked}, which is several times slower than --trainer.precision 32-true."
    return asked, ""
