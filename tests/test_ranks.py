"""Talking to the other processes: real ones over gloo."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mappa.errors import RankError
from mappa.ranks import gather, peers, world
from tests.runs import CONTEXT


def _rank(rank: int, folder: Path) -> None:
    """Both ranks gather once; then rank 1 is killed and rank 0 gathers again."""
    import torch.distributed as dist

    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2, timeout=timedelta(hours=1)
    )
    assert gather({"from": rank}) == [{"from": 0}, {"from": 1}]
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        with peers():
            gather(world())
    except RankError as error:
        (folder / "message").write_text(str(error))


def test_who_has_not_imported_torch_is_alone_and_need_not():
    code = "import sys; from mappa.ranks import gather, world; print(world(), gather(7), 'torch' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "(0, 1) [7] False\n"


def test_a_process_that_is_killed_is_one_line_to_the_others(tmp_path: Path):
    processes = [CONTEXT.Process(target=_rank, args=(rank, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
        process.kill()
    assert [process.exitcode for process in processes] == [0, -9], "it noticed, and did not wait for the timeout"
    message = (tmp_path / "message").read_text()
    assert message.startswith("another process of this run ended or cannot be reached (")
    assert "resume=" in message
    assert "\n" not in message


def test_other_errors_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes"), peers():
        raise RuntimeError("shapes do not fit")


def test_one_process_is_the_identity():
    assert world() == (0, 1)
    assert gather("x") == ["x"]
