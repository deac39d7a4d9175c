"""Machines that tests pretend to stand on."""

from modelforge import Hardware

CPU = Hardware("cpu", "x86_64", 0, 0.0, None, False, 16.0, 2)


def card(vram_gb, bf16=True):
    """One CUDA card of this size, in GiB."""
    return Hardware("cuda", "card", 1, vram_gb, (8, 6) if bf16 else (7, 5), bf16, 64.0, 8)
