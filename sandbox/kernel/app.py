"""A slimmed ipykernel: no history, no terminal, no listener on localhost, bounded output."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import ipykernel.kernelapp
from ipykernel.iostream import IOPubThread
from ipykernel.ipkernel import IPythonKernel
from ipykernel.kernelapp import IPKernelApp
from ipykernel.zmqshell import ZMQInteractiveShell
from traitlets import default
from traitlets.config import Config

from .output import BoundedOutStream, BoundedSession, clip, end_execution
from .policy import KernelPolicy


def _leave_out_debugger() -> None:
    """Keep ipykernel from importing debugpy, which takes longer than all the rest of a start."""
    sys.modules["debugpy"] = None  # type: ignore[assignment]
    importlib.import_module("ipykernel.debugger")
    del sys.modules["debugpy"]


_leave_out_debugger()


class SandboxShell(ZMQInteractiveShell):
    """The shell without pseudo-terminals and without a memory of what was printed or raised."""

    def system_piped(self, cmd: str) -> None:
        """`!command` through plain pipes."""
        self.system_raw(cmd)

    system = system_piped

    @contextlib.contextmanager
    def _tee(self, channel: str) -> Iterator[None]:
        """IPython >= 9 would keep every printed character for ever."""
        yield

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Clip huge messages first: formatting copies them several times."""
        value = (exc_tuple or sys.exc_info())[1]
        arguments = getattr(value, "args", ())
        if isinstance(arguments, tuple) and any(isinstance(x, str) for x in arguments):
            with contextlib.suppress(Exception):
                value.args = tuple(clip(x, BoundedOutStream.limit // 2) if isinstance(x, str) else x for x in arguments)
        super().showtraceback(exc_tuple, *args, **kwargs)

    def ask_exit(self) -> None:
        """`exit()` ends nothing: the next code would find no kernel."""

    def forget_execution(self) -> None:
        """Drop the last exception, whose frames may hold gigabytes, and stored output."""
        for name in ("last_type", "last_value", "last_traceback", "last_exc"):
            if hasattr(sys, name):
                setattr(sys, name, None)
        for name in ("etype", "value", "tb", "evalue"):
            if hasattr(self.InteractiveTB, name):
                setattr(self.InteractiveTB, name, None)
        self._last_traceback = None
        getattr(self.history_manager, "outputs", {}).clear()


class SandboxKernel(IPythonKernel):
    """Ends every execution with complete output."""

    shell_class = SandboxShell

    streams: tuple[Any, Any] | None = None
    """The kernel's own stdout and stderr: code that replaces them loses its output, not its kernel."""

    async def do_execute(self, *args: Any, **kwargs: Any) -> Any:
        """As IPythonKernel."""
        self.streams = self.streams or (sys.stdout, sys.stderr)
        try:
            return await super().do_execute(*args, **kwargs)
        finally:
            sys.stdout, sys.stderr = self.streams
            self.shell.forget_execution()
            end_execution()

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """Whoever made this kernel kills it; code that asks is ignored."""
        return {"status": "ok", "restart": restart}


class SandboxKernelApp(IPKernelApp):
    """The application around it."""

    kernel_class = SandboxKernel
    config_file_name = ""
    outstream_class = f"{BoundedOutStream.__module__}.{BoundedOutStream.__name__}"

    @default("session")
    def _default_session(self) -> BoundedSession:
        return BoundedSession(parent=self)

    def init_iopub(self, context: Any) -> None:
        """As IPKernelApp, less the TCP listener for forked children (they write to the descriptor)."""

        def quiet_thread(socket: Any, pipe: bool = False, **kwargs: Any) -> IOPubThread:
            return IOPubThread(socket, pipe=False, **kwargs)

        ipykernel.kernelapp.IOPubThread = quiet_thread
        try:
            super().init_iopub(context)
        finally:
            ipykernel.kernelapp.IOPubThread = IOPubThread

    def log_connection_info(self) -> None:
        """Nobody reads it."""

    def write_connection_file(self, **kwargs: Any) -> None:
        """The host wrote it."""


def _config(policy: KernelPolicy) -> Config:
    config = Config()
    config.SandboxKernelApp.connection_file = policy.connection_file
    config.Application.log_level = 40
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    config.InteractiveShell.colors = "nocolor"
    config.InteractiveShell.cache_size = 0
    config.InteractiveShell.xmode = "Context"
    config.Completer.use_jedi = False
    return config


def run(policy: KernelPolicy) -> None:
    """Serve the connection file of `policy` until told to stop."""
    BoundedOutStream.limit = policy.output_chars
    BoundedSession.text_chars = policy.output_chars
    BoundedSession.folder = policy.working_dir
    os.chdir(policy.working_dir)
    sys.argv = ["kernel"]
    sys.path.append("")  # last: a file of the workspace must not stand in for a module the kernel needs
    app = SandboxKernelApp.instance(config=_config(policy))
    app.initialize([])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, BoundedOutStream):
            stream.stop_echo()
    app.start()
    while True:  # code has stopped the loop
        app.io_loop.start()
