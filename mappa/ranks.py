"""Talking to the other processes of a distributed run; on a single process everything is the identity."""

from __future__ import annotations

import functools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from mappa.errors import RankError

T = TypeVar("T")


def _distributed() -> Any:
    """Imported only when it is needed: judges and engines that name this module are checked before torch is loaded."""
    import torch.distributed

    return torch.distributed


def world() -> tuple[int, int]:
    """(this process's rank, number of processes). Where torch was not imported there is nobody else."""
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: T) -> list[T]:
    """One picklable object of this rank -> the objects of all ranks, in rank order. Collective."""
    size = world()[1]
    if size == 1:
        return [value]
    values: list[Any] = [None] * size
    _distributed().all_gather_object(values, value, group=_on_hosts())
    return values


@functools.cache
def _on_hosts() -> Any:
    """The group in which objects travel, None = that of the tensors: gloo, which ends at once when a rank does.

    NCCL would wait until the timeout of its collectives.
    """
    dist = _distributed()
    return None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")


def added(numbers: Mapping[str, float], over: Callable[[Any], list[Any]] = gather) -> Counter[str]:
    """Named numbers of this rank -> their sums over all ranks. Collective."""
    totals: Counter[str] = Counter()
    for part in over(numbers):
        totals.update(part)
    return totals


def full(tensor: Any) -> Any:
    """The whole of a sharded tensor (collective); anything else as it is."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def sharded_like(tensor: Any, other: Any) -> Any:
    """The inverse of `full`: a whole tensor sharded as `other` is (collective); as it is, on its device, if not."""
    if not hasattr(other, "device_mesh"):
        return tensor.to(other.device)
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements)


@contextmanager
def peers() -> Iterator[None]:
    """What the backend raises when another process is gone becomes one line.

    Raises:
        RankError: names no rank; which one was lost is known only to whoever started the processes.
    """
    try:
        yield
    except RuntimeError as error:  # NCCL's errors have a class of their own, gloo's have not
        if not isinstance(error, _distributed().DistError) and "gloo/" not in str(error):
            raise
        reason = re.sub(r"^\[\S*\] ", "", str(error)).splitlines()[0].partition(". ")[0]
        raise RankError(
            f"another process of this run ended or cannot be reached ({reason}); its last checkpoint is whole: "
            "go on with resume=FOLDER, on any number of processes"
        ) from error
