"""Choose the fast precision of a device: bfloat16 if the hardware supports it, else float32; never TF32."""

from __future__ import annotations

import torch

# What torch calls bfloat16's dot products on x86, AMX's tiles on x86, and bfloat16 on ARM.
CAPABILITIES = ("avx512_bf16", "amx_bf16", "bf16")


def bfloat16_in_hardware(device: str) -> bool:
    """Whether a device, ``cpu`` or ``cuda``, supports bfloat16 in hardware.

    Otherwise it is emulated: a CPU with only AVX2 is then about nine times slower than in float32.
    """
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # oneDNN computes a CPU's convolutions and matrix products; ONEDNN_MAX_CPU_ISA may restrict its instruction set.
    return device == "cpu" and any(capabilities().get(name) for name in CAPABILITIES) and onednn_has_bfloat16()


def capabilities() -> dict[str, bool]:
    """Which of ``CAPABILITIES`` torch reports for this CPU."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name: bool(torch.cpu.get_capabilities().get(name)) for name in CAPABILITIES}
    # An older torch does not report ARM's bfloat16; ARM then trains in float32.
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
    """The precision to train in, and a message about it for the user, or an empty string.

    - ``asked``: the user's ``--trainer.precision``, which is always used; ``None`` to choose by the hardware.
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
    """The chosen precision, the reason, and the alternative."""
    if device not in ("cpu", "cuda"):
        return f"32-true: bf16-mixed is untested on {device} (--trainer.precision bf16-mixed does)"
    if fast:
        rest = ", the rest is float32 without TF32" if device == "cuda" else ""
        return f"bf16-mixed: this {device} computes bfloat16 in hardware{rest} (or --trainer.precision 32-true)"
    other = "16-mixed" if device == "cuda" else "bf16-mixed"
    return f"32-true: this {device} does not compute bfloat16 in hardware (or --trainer.precision {other})"


def forbid_tf32() -> None:
    """Turn off TF32 for float32 on NVIDIA GPUs: by default torch uses it for convolutions, not for matrix products.

    TF32 has ten bits of mantissa. What has to be fast runs in bfloat16; what runs in float32, such as losses,
    neighbours and probes, has to be exact.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
