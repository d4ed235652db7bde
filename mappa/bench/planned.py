"""The planner's memory and time of an update beside what one takes, at several shapes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mappa.bench.resident import AGENTS, CHUNK
from mappa.bench.shapes import SHAPES
from mappa.config import ASSETS
from mappa.policy.footprint import Footprint, footprint
from mappa.policy.lora import Adapters
from mappa.policy.model import Model
from mappa.report.cost import GIB, pass_flops

MMAP = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that what was freed is no longer resident."""


@dataclass(frozen=True)
class Case:
    """One micro-batch."""

    shape: str
    rows: int
    length: int
    checkpointing: bool

    @property
    def name(self) -> str:
        return f"{self.shape} {self.rows} x {self.length}{', checkpoints' * self.checkpointing}"


ON_CPU = [
    *(Case("tiny", rows, length, again) for rows, length in ((64, 200), (8, 1600)) for again in (False, True)),
    Case("qwen3_0_6b", 8, 64, False),
    *(Case("qwen3_0_6b", 1, 512, again) for again in (False, True)),
]
ON_GPU = [
    *(Case("qwen3_0_6b", 8, 1024, again) for again in (False, True)),
    *(Case("qwen3_4b", rows, length, True) for rows, length in ((64, 256), (8, 2048), (1, 16384))),
]


def folder_of(shape: str, folder: Path) -> str:
    """Where the config of a model of this shape is; made in `folder` if need be, and nothing else."""
    if SHAPES[shape] is None:
        return str(ASSETS / "tiny")
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3"} | SHAPES[shape]
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def planned_and_measured(case: Case, dtype: str, folder: Path) -> tuple[Footprint, dict[str, float]]:
    """By the planner, and in a process that does it."""
    model = Model(folder_of(case.shape, folder), dtype, gradient_checkpointing=case.checkpointing)
    sizes = footprint(model, Adapters, AGENTS, case.rows * case.length, case.length, CHUNK)
    words = [case.shape, dtype, str(case.checkpointing), str(case.rows), str(case.length)]
    command = [sys.executable, "-m", "mappa.bench.resident", *words]
    ran = subprocess.run(command, env=os.environ | MMAP, stdout=subprocess.PIPE, text=True, check=True)
    return sizes, json.loads(ran.stdout.splitlines()[-1])


def compare(dtype: str, on_gpu: bool, flops: float | None) -> dict[str, dict[str, float | None]]:
    """Each case.

    Args:
        flops: a second that the update is taken to reach; None = the geometric mean of what the cases reach, so that
            only their proportions are looked at.
    """
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in ON_GPU if on_gpu else ON_CPU:
            sizes, real = planned_and_measured(case, dtype, Path(folder) / case.shape)
            work = pass_flops(sizes, case.rows * case.length, case.rows * case.length**2, case.checkpointing)
            found[case.name] = (sizes.update / GIB, real["bytes"] / GIB, work, real["seconds"])
    reached = math.exp(sum(math.log(work / s) for _, _, work, s in found.values()) / len(found))
    return {
        name: {
            "planned GiB": planned,
            "GiB": gib,
            "memory ratio": planned / gib,
            "planned seconds": work / (flops or reached),
            "seconds": seconds,
            "time ratio": work / (flops or reached) / seconds,
        }
        for name, (planned, gib, work, seconds) in found.items()
    }
