"""How much of a window span corruption takes out: arithmetic that needs no torch."""

from __future__ import annotations


def corrupted_counts(length: int, noise_density: float, mean_span: float) -> tuple[int, int]:
    """How many of ``length`` tokens are taken out, and in how many spans."""
    if length < 2:
        return 0, 0
    noise = min(max(int(length * noise_density + 0.5), 1), length - 1)
    return noise, min(max(int(noise / mean_span + 0.5), 1), noise, length - noise)
