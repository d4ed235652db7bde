"""The files of one episode, read and written from outside without trusting anything that lies there."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from sandbox.errors import WorkspaceError
from sandbox.limits import MIB

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_DEPTH = 32


@dataclass(frozen=True)
class FileInfo:
    """Size and change times of one regular file; compare two listings to find new and changed files."""

    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    """Cannot be set by code, unlike `mtime_ns`: a changed file always differs here."""


class Workspace:
    """A private folder of the host, mounted into the kernel as its working directory.

    The code inside may plant links, fifos, devices and folders without permissions, and may swap any of
    them while the host looks. So every path is walked with `openat` and `O_NOFOLLOW`, and only regular
    files are read. These methods block for as long as the disk does: large files belong in a thread.
    """

    def __init__(self, path: str, owner: int | None = None) -> None:
        """`owner`: uid (and gid) that files written from outside get; None = the caller's."""
        self.path = path
        self._owner = owner
        os.makedirs(path, mode=0o700, exist_ok=True)
        if owner is not None:
            os.chown(path, owner, owner)

    def read(self, name: str, max_bytes: int = 64 * MIB) -> bytes:
        """Contents of the regular file `name` (relative, `/` between folders).

        Raises FileNotFoundError if there is none, WorkspaceError if it is a link, lies behind a link,
        is no regular file, or has more than `max_bytes`.
        """
        folders, last = self._split(name)
        with self._folder(folders, name) as folder:
            with _refusals(name):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
                fd = os.open(last, flags, dir_fd=folder)
            try:
                if not stat.S_ISREG(os.fstat(fd).st_mode):
                    raise WorkspaceError(f"not a regular file: {name}")
                with os.fdopen(fd, "rb", closefd=False) as file:
                    data = file.read(max_bytes + 1)
            finally:
                os.close(fd)
        if len(data) > max_bytes:
            raise WorkspaceError(f"{name} is larger than {max_bytes} bytes")
        return data

    def write(self, name: str, data: bytes) -> None:
        """Create or replace `name` atomically, with its folders; a link of that name is replaced, not followed."""
        folders, last = self._split(name)
        with self._folder(folders, name, create=True) as folder, _refusals(name):
            draft = f".{secrets.token_hex(8)}.part"
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with os.fdopen(os.open(draft, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(data)
                    if self._owner is not None:
                        os.fchown(file.fileno(), self._owner, self._owner)
                os.replace(draft, last, src_dir_fd=folder, dst_dir_fd=folder)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(draft, dir_fd=folder)
                raise

    def list(self, max_files: int = 100_000) -> dict[str, FileInfo]:
        """Every regular file by relative name, hidden ones and up to 32 folders deep; links are left out."""
        found: dict[str, FileInfo] = {}
        with self._folder([], ".") as root:
            self._walk(root, "", _MAX_DEPTH, max_files, found)
        return dict(sorted(found.items()))

    def _walk(self, folder: int, prefix: str, depth: int, max_files: int, found: dict[str, FileInfo]) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if len(found) >= max_files:
                    return
                try:
                    info = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        found[prefix + entry.name] = FileInfo(info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                    elif stat.S_ISDIR(info.st_mode) and depth:
                        child = os.open(entry.name, _DIRECTORY, dir_fd=folder)
                        try:
                            self._walk(child, f"{prefix}{entry.name}/", depth - 1, max_files, found)
                        finally:
                            os.close(child)
                except OSError:
                    continue  # gone, swapped or without permission: not a file to report

    def repair(self) -> None:
        """Give the folder itself its mode back: code may have locked it, and a fresh kernel starts in it."""
        os.chmod(self.path, 0o700)

    @staticmethod
    def _split(name: str) -> tuple[list[str], str]:
        parts = [part for part in name.split("/") if part not in ("", ".")]
        if not parts or name.startswith("/") or ".." in parts or "\0" in name:
            raise WorkspaceError(f"not a name inside the workspace: {name!r}")
        return parts[:-1], parts[-1]

    @contextlib.contextmanager
    def _folder(self, parts: list[str], name: str, create: bool = False) -> Iterator[int]:
        """Descriptor of the folder `parts`, reached without following any link."""
        with _refusals(name):
            try:
                fd = os.open(self.path, _DIRECTORY)
            except PermissionError:
                self.repair()
                fd = os.open(self.path, _DIRECTORY)
        try:
            for part in parts:
                with _refusals(name):
                    made = create and self._make_folder(part, fd)
                    child = os.open(part, _DIRECTORY, dir_fd=fd)
                os.close(fd)
                fd = child
                if made and self._owner is not None:
                    os.fchown(fd, self._owner, self._owner)
            yield fd
        finally:
            os.close(fd)

    @staticmethod
    def _make_folder(part: str, parent: int) -> bool:
        try:
            os.mkdir(part, 0o700, dir_fd=parent)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def _refusals(name: str) -> Iterator[None]:
    """Every refusal of the file system but "not found" as one WorkspaceError that names the file."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise WorkspaceError(f"cannot use {name!r} of the workspace: {error}") from error


def usage(path: str, max_bytes: int, max_files: int) -> tuple[int, int]:
    """(bytes on disk, entries) below `path`, never following links; stops once either bound is passed."""
    size = entries = 0
    folders = [path]
    while folders:
        with contextlib.suppress(OSError), os.scandir(folders.pop()) as found:
            for entry in found:
                entries += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                if size > max_bytes or entries > max_files:
                    return size, entries
    return size, entries


def remove_tree(path: str) -> None:
    """Remove a folder that hostile code filled, as far as permissions go; a missing one is fine.

    Iterative, and by moving deep folders up: no depth of nesting and no folder without permissions stops it.
    Call it when the code is dead: it does not defend against links swapped meanwhile.
    """
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
        while names := _folders_left(path, path):
            for name in names:
                child = os.path.join(path, name)
                _folders_left(child, path)
                os.rmdir(child)
        os.rmdir(path)


def _folders_left(folder: str, top: str) -> list[str]:
    """Delete the files of `folder`, open its folders and move them to `top`; returns the names of those."""
    names = []
    with os.scandir(folder) as entries:
        found = list(entries)
    for entry in found:
        if not entry.is_dir(follow_symlinks=False):
            os.unlink(entry.path)
            continue
        os.chmod(entry.path, 0o700)
        name = entry.name
        if folder != top:
            name = secrets.token_hex(8)
            os.rename(entry.path, os.path.join(top, name))
        names.append(name)
    return names
