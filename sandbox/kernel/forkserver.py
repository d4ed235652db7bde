"""The pre-forked parent: imports libraries once, runs no code of strangers, forks one confined kernel per order."""

from __future__ import annotations

import array
import gc
import importlib
import json
import os
import random
import signal
import socket
import sys
import traceback
from typing import Any, NoReturn

from . import libc, storage
from .hardening import harden
from .namespaces import SHM, enter_namespaces, mount_shared_memory
from .policy import KernelPolicy
from .supervisor import supervise

_MESSAGE_BYTES = 65_536


def serve(config: dict[str, Any]) -> None:
    """Until the host closes the socket, or dies."""
    if config["namespaces"]:  # else bubblewrap sees to the rest
        storage.prepare()
    else:
        libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != config["parent"]:
            return
    os.environ.clear()
    os.environ.update(config["environment"])
    orders = socket.socket(fileno=config["fd"])
    for name in ("_sandbox_kernel.app", *config["preload"]):
        importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 1
    if threads > 1:
        orders.send(json.dumps({"error": f"a preloaded module started {threads - 1} threads"}).encode())
        return
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # dead monitors are collected by the system
    orders.send(b"{}")
    server = os.getpid()
    while order := orders.recv(_MESSAGE_BYTES):
        try:
            _obey(orders, json.loads(order), server, config["namespaces"])
        except OSError as error:
            orders.send(json.dumps({"error": str(error)}).encode())


def _obey(orders: socket.socket, order: dict[str, Any], server: int, namespaces: bool) -> None:
    if "forget" in order:
        storage.forget(order["forget"])
        orders.send(b"{}")
        return
    fds = [storage.lay_out(order["storage"])] if namespaces else []
    try:
        pid = os.fork()
        if pid == 0:
            _child(order["policy"], server, namespaces)
        fds.insert(0, os.pidfd_open(pid))
        orders.sendmsg([b"{}"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])
    finally:
        for fd in fds:
            os.close(fd)


def _child(order: str, server: int, namespaces: bool) -> NoReturn:
    """Become what `order` says; nothing escapes into the loop of the parent."""
    try:
        libc.close_from(3)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        policy = KernelPolicy.from_json(order)
        if namespaces:
            enter_namespaces(policy)
        _own_streams(policy.log_file)
        random.seed()
        if "numpy" in sys.modules:
            sys.modules["numpy"].random.seed()
        os.environ.clear()
        os.environ.update(policy.environment)
        if policy.landlock == "require" and mount_shared_memory(policy):
            policy.writable.append(SHM)
        if policy.supervise:
            supervise(server, policy.uid)
        harden(policy)
        sys.modules["_sandbox_kernel.app"].run(policy)
    except BaseException:  # noqa: BLE001 - boundary: whatever it was, this process must end here
        traceback.print_exc()
    finally:
        os._exit(1)


def _own_streams(log_file: str) -> None:
    """Nothing to read, nowhere to write, but a log of its own for errors."""
    null = os.open(os.devnull, os.O_RDWR)
    log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for source, target in ((null, 0), (null, 1), (log, 2)):
        os.dup2(source, target)
    libc.close_from(3)
