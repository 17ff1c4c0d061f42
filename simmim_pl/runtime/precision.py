"""Which precision a processor computes fast: bfloat16 where it is in hardware, float32 elsewhere; never TF32."""

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
    if asked is None:
        return ("bf16-mixed" if fast else "32-true"), f"Precision {reason(device, fast)}."
    if device == "cpu" and not fast and str(asked) in ("bf16-mixed", "16-mixed", "bf16", "16"):
        return asked, f"This cpu emulates {asked}, which is several times slower than --trainer.precision 32-true."
    if device == "cuda" and fast and str(asked) in ("32-true", "32"):
        return (
            asked,
            "Precision 32-true: float32 without TF32, much slower on this cuda than --trainer.precision bf16-mixed.",
        )
    return asked, ""


def reason(device: str, fast: bool) -> str:
    """What is chosen, why, and what else could be."""
    if device not in ("cpu", "cuda"):
        return f"32-true: bf16-mixed was never tried on {device} (--trainer.precision bf16-mixed does)"
    if fast:
        rest = ", the rest is float32 without TF32" if device == "cuda" else ""
        return f"bf16-mixed: this {device} computes bfloat16 in hardware{rest} (or --trainer.precision 32-true)"
    other = "16-mixed" if device == "cuda" else "bf16-mixed"
    return f"32-true: this {device} does not compute bfloat16 in hardware (or --trainer.precision {other})"


def forbid_tf32() -> None:
    """Float32 on an NVIDIA GPU is float32: products always are, and convolutions, by torch's default, are not.

    TF32 keeps ten bits of a fraction. What has to be quick is in bfloat16; what is in float32, such as losses,
    neighbours and probes, is there to be exact.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
