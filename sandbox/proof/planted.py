"""Things planted outside a sandbox for hostile code to find: a secret, open folders, listeners, a process."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from typing import Any

from sandbox.isolation import IsolationLevel
from sandbox.provisioners.spec import python_roots
from sandbox.session import KernelSession
from sandbox.workspace import remove_tree


@contextlib.contextmanager
def planted(session: KernelSession, other: KernelSession) -> Iterator[str]:
    """JSON for `Check.source`: bait for `session`, which has `other` as its neighbour. Both are started."""
    assert session.kernel is not None
    assert other.kernel is not None
    marker, uid = f"MARKER-{secrets.token_hex(6)}", session.kernel.spec.uid
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="bait-", dir="/tmp")
        stack.callback(remove_tree, folder)
        _fill(folder, marker)
        home = os.path.expanduser("~")
        listeners = _listen(folder, stack)
        yield json.dumps(
            {
                "marker": marker,
                "victim": _victim(marker, uid, stack).pid,
                "trainer": os.getpid(),
                "alone": session.kernel.way.level is IsolationLevel.NAMESPACE,
                "folder": folder,
                "secret": f"{folder}/secret",
                "open_folder": f"{folder}/open",
                "cut": f"{folder}/cut",
                "shared_file": _share(marker, stack),
                "segment": _segment(stack),
                "setuid_id": f"{folder}/setuid-id",
                "home": home,
                "home_names": [name for name in os.listdir(home) if not _holds_python(f"{home}/{name}")],
                "group": session.kernel.group.path if session.kernel.group else "/no/control/group",
                "other_workspace": other.workspace.path,
                "other_socket": f"{other.workspace.path}/../{other.kernel.spec.run}/k-1",
                **listeners,
            }
        )


def _holds_python(path: str) -> bool:
    """Whether the interpreter lies there: such folders exist inside, with nothing else in them."""
    return any(root == path or root.startswith(f"{path}/") for root in python_roots())


def _fill(folder: str, marker: str) -> None:
    """Files that every user of the machine may read, and a folder everybody may change."""
    os.chmod(folder, 0o755)
    with open(f"{folder}/secret", "w", encoding="ascii") as file:
        file.write(marker)
    os.chmod(f"{folder}/secret", 0o644)
    with open(f"{folder}/cut", "w", encoding="ascii") as file:
        file.write("whole")
    os.chmod(f"{folder}/cut", 0o666)
    os.mkdir(f"{folder}/open")
    with open(f"{folder}/open/old", "w", encoding="ascii") as file:
        file.write("old")
    os.chmod(f"{folder}/open", 0o777)
    shutil.copy("/usr/bin/id", f"{folder}/setuid-id")
    os.chmod(f"{folder}/setuid-id", 0o4755)


def _share(marker: str, stack: contextlib.ExitStack) -> str:
    """A file in the machine's shared memory that everybody may read."""
    path = f"/dev/shm/{marker}"
    with open(path, "w", encoding="ascii") as file:
        file.write(marker)
    stack.callback(os.unlink, path)
    os.chmod(path, 0o644)
    return path


def _segment(stack: contextlib.ExitStack) -> int:
    """A System V segment that everybody may use."""
    libc = ctypes.CDLL(None)
    number = libc.shmget(0, 4096, 0o1666)
    stack.callback(libc.shmctl, number, 0, None)
    return number


def _victim(marker: str, uid: int | None, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    """A process of the kernel's own user, outside the sandbox, with the marker in its name and environment."""
    user: dict[str, Any] = {} if uid is None else {"user": uid, "group": uid, "extra_groups": []}
    victim = subprocess.Popen([marker, "1000"], executable="/bin/sleep", env={"BAIT": marker}, **user)
    stack.callback(victim.wait)
    stack.callback(victim.kill)
    return victim


def _listen(folder: str, stack: contextlib.ExitStack) -> dict[str, Any]:
    """Sockets that wait for a visitor; the UDP one answers."""
    abstract = f"bait-{secrets.token_hex(6)}"
    tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    for address in (f"\0{abstract}", f"{folder}/stream"):
        listener = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(address)
        listener.listen(8)
    datagram = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    datagram.bind(f"{folder}/datagram")
    for name in ("stream", "datagram"):
        os.chmod(f"{folder}/{name}", 0o777)
    udp = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    udp.bind(("127.0.0.1", 0))
    udp.settimeout(0.2)
    closing = threading.Event()
    echo = threading.Thread(target=_echo, args=(udp, closing), daemon=True)
    echo.start()
    stack.callback(echo.join)
    stack.callback(closing.set)
    return {
        "tcp_port": tcp.getsockname()[1],
        "udp_port": udp.getsockname()[1],
        "abstract_socket": abstract,
        "path_socket": f"{folder}/stream",
        "datagram_socket": f"{folder}/datagram",
    }


def _echo(udp: socket.socket, closing: threading.Event) -> None:
    while not closing.is_set():
        with contextlib.suppress(OSError):
            data, address = udp.recvfrom(64)
            udp.sendto(data, address)
