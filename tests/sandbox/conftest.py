"""Pools of every kind that works here, one per module and kind."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from sandbox import KernelPool, KernelSession, SandboxUnavailableError
from sandbox.proof.attacks import LIMITS

KINDS = ("namespace", "process")
"""Every level that isolates."""

OpenPool = Callable[..., Awaitable[KernelPool]]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`kind`: every level that isolates; a plain run takes the first of `metafunc.module.LEVELS`."""
    if "kind" in metafunc.fixturenames:
        here = KINDS if shutil.which("bwrap") else KINDS[1:]
        fast = here[: getattr(metafunc.module, "LEVELS", 1)]
        metafunc.parametrize("kind", [k if k in fast else pytest.param(k, marks=pytest.mark.slow) for k in KINDS])


async def open_pool(kind: str, **changes: object) -> KernelPool:
    """A started pool, or a skip that says why this machine has none of that kind."""
    if kind == "namespace" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    settings: dict[str, object] = {"limits": LIMITS, "warm": 2, "preload": ("numpy",), "level": kind}
    pool = KernelPool(**{**settings, "allow_unsafe": kind == "none", **changes})  # type: ignore[arg-type]
    try:
        return await pool.start()
    except SandboxUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(name="open_pool")
def open_pool_fixture() -> OpenPool:
    """For tests with a pool of their own."""
    return open_pool


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def pools() -> AsyncIterator[OpenPool]:
    """`await pools(kind)`: a pool shared by the tests of one module."""
    async with contextlib.AsyncExitStack() as stack:
        started: dict[str, KernelPool] = {}

        async def get(kind: str) -> KernelPool:
            if kind not in started:
                started[kind] = await open_pool(kind)
                stack.push_async_callback(started[kind].close)
            return started[kind]

        yield get


@pytest_asyncio.fixture(loop_scope="module")
async def session(pools: OpenPool, kind: str) -> AsyncIterator[KernelSession]:
    """A session that must still answer after the test."""
    pool = await pools(kind)
    async with pool.session() as opened:
        yield opened
        result = await opened.execute("1 + 1")
        assert (result.status, result.result) == ("ok", "2"), result
