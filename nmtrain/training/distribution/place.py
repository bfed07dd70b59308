"""What a launcher such as torchrun says in the environment of each process that it starts. Imports nothing heavy."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nmtrain.errors import ConfigError

_NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Which of several processes this one is."""

    rank: int
    world: int
    local_rank: int  # among those of its machine
    local_world: int


def place_among_ranks() -> Place | None:
    """Where this process stands; None where it is alone.

    Raises:
        ConfigError: where the environment says but a part of it.
    """
    if (world := os.environ.get("WORLD_SIZE", "1")) == "1":
        return None
    if missing := [name for name in _NEEDED if not os.environ.get(name)]:
        told = f"says that there are several processes, but {', '.join(missing)}, by which they meet, are not set"
        raise ConfigError([f"WORLD_SIZE={world}: {told}; start them with torchrun or launch.processes, or unset it"])
    place = Place(
        whole_number("RANK"),
        whole_number("WORLD_SIZE"),
        whole_number("LOCAL_RANK", os.environ["RANK"]),
        whole_number("LOCAL_WORLD_SIZE", world),
    )
    whole_number("MASTER_PORT")
    if place.rank >= place.world:
        raise ConfigError([f"RANK={place.rank}: is not below WORLD_SIZE={place.world}"])
    return place


def whole_number(name: str, default: str = "") -> int:
    """The value of a variable. Raises ConfigError if it is none."""
    given = os.environ.get(name, default)
    if not given.isdecimal():
        raise ConfigError([f"{name}={given}: is no whole number; launchers such as torchrun set it"])
    return int(given)
