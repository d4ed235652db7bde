"""Talking to the other processes of a distributed run; on a single process everything is the identity."""

from __future__ import annotations

from typing import Any, TypeVar

import torch.distributed as dist

T = TypeVar("T")


def world() -> tuple[int, int]:
    """(this process's rank, number of processes)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """One picklable object of this rank -> the objects of all ranks, in rank order. Collective."""
    size = world()[1]
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    dist.all_gather_object(values, value)
    return values


def full(tensor: Any) -> Any:
    """The whole of a sharded tensor (collective); anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
