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
_COUNTED_DEPTH = 64


@dataclass(frozen=True)
class FileInfo:
    """Size and change times of one regular file; compare two listings to find new and changed files."""

    size: int
    """Bytes."""
    mtime_ns: int
    ctime_ns: int
    """Cannot be set by code, unlike `mtime_ns`: a changed file always differs here."""


class Workspace:
    """A private folder that is the kernel's working directory.

    The code inside may plant links, fifos, devices and folders without permissions, and may swap any of
    them while the host looks. So every path is walked with `openat` and `O_NOFOLLOW`, and only regular
    files are read. These methods block for as long as the disk does: large files belong in a thread.
    """

    def __init__(self, path: str, owner: int | None = None, inside: int | None = None) -> None:
        """
        Args:
            path: an existing folder.
            owner: uid (and gid) that files written from outside get; None = the caller's.
            inside: descriptor of the folder that `path` is relative to.
        """
        self._owner = owner
        self._top = os.open(path, _DIRECTORY, dir_fd=inside)

    @property
    def path(self) -> str:
        """As this process may name it while the workspace is open; other processes see nothing there."""
        return f"/proc/{os.getpid()}/fd/{self._top}"

    def same_as(self, other: Workspace) -> bool:
        """Whether both are the same folder."""
        return os.path.samestat(os.fstat(self._top), os.fstat(other._top))

    def copy_from(self, other: Workspace) -> None:
        """Take over every file of a workspace that no kernel can be given any more."""
        for name, info in other.list().items():
            self.write(name, other.read(name, info.size))

    def close(self) -> None:
        """Give up the descriptor; may be called again."""
        top, self._top = self._top, -1
        if top >= 0:
            os.close(top)

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
        """Every regular file by relative name, hidden ones and up to 32 folders deep.

        Left out are links, and names that are not UTF-8.
        """
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
                    entry.name.encode()
                    info = os.stat(entry.name, dir_fd=folder, follow_symlinks=False)
                    if stat.S_ISREG(info.st_mode):
                        found[prefix + entry.name] = FileInfo(info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                    elif stat.S_ISDIR(info.st_mode) and depth:
                        child = os.open(entry.name, _DIRECTORY, dir_fd=folder)
                        try:
                            self._walk(child, f"{prefix}{entry.name}/", depth - 1, max_files, found)
                        finally:
                            os.close(child)
                except (OSError, UnicodeEncodeError):
                    continue  # gone, swapped, without permission or without a name that can be told

    def repair(self) -> None:
        """Give the folder itself its mode back: code may have locked it, and a fresh kernel starts in it."""
        os.fchmod(self._top, 0o700)

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
                fd = os.open(".", _DIRECTORY, dir_fd=self._top)
            except PermissionError:
                self.repair()
                fd = os.open(".", _DIRECTORY, dir_fd=self._top)
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
    """(bytes on disk, entries) below `path`, never following links; stops once either bound is passed.

    What cannot be counted counts as too much: folders nested deeper than 64, and those that cannot be opened.
    """
    total = [0, 0]
    with contextlib.suppress(FileNotFoundError):
        top = open_folder(path, None)
        try:
            _count(top, _COUNTED_DEPTH, total, (max_bytes, max_files))
        finally:
            os.close(top)
    return total[0], total[1]


def _count(folder: int, depth: int, total: list[int], bounds: tuple[int, int]) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                total[0] += os.stat(entry.name, dir_fd=folder, follow_symlinks=False).st_blocks * 512
                total[1] += 1
                if entry.is_dir(follow_symlinks=False):
                    try:
                        child = open_folder(entry.name, folder)
                    except NotADirectoryError:
                        continue  # swapped
                    except PermissionError:
                        total[0] += bounds[0] + 1
                        return
                    try:
                        if depth:
                            _count(child, depth - 1, total, bounds)
                        else:
                            total[0] += bounds[0] + 1
                    finally:
                        os.close(child)
            if total[0] > bounds[0] or total[1] > bounds[1]:
                return


def tail(folder: int | None, name: str, size: int = 2000) -> str:
    """The last `size` bytes of a file; empty where there is none. Links are not followed."""
    with contextlib.suppress(OSError):
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        with os.fdopen(fd, "rb") as file:
            file.seek(max(0, os.fstat(fd).st_size - size))
            return file.read(size).decode("utf-8", "replace").strip()
    return ""


def remove_tree(path: str) -> None:
    """Remove a folder that hostile code filled, as far as permissions go; a missing one is fine.

    Iterative, and by moving deep folders up: no depth of nesting and no folder without permissions stops it; no link
    is followed, even one that is swapped in meanwhile.
    """
    with contextlib.suppress(OSError):
        top = open_folder(path, None)
        try:
            while names := _folders_left(top, top):
                for name in names:
                    child = open_folder(name, top)
                    try:
                        _folders_left(child, top)
                    finally:
                        os.close(child)
                    os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(path)


def open_folder(name: str, parent: int | None) -> int:
    """A folder, opened up where its mode forbids to list it. Raises OSError, also for a link."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
            return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(handle)


def _folders_left(folder: int, top: int) -> list[str]:
    """Delete the files of `folder` and move its folders to `top`; returns the names of those."""
    names = []
    os.fchmod(folder, 0o700)
    with os.scandir(folder) as entries:
        found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
    for name, is_folder in found:
        if not is_folder:
            os.unlink(name, dir_fd=folder)
            continue
        if folder != top:
            os.close(open_folder(name, folder))  # one that may not be written cannot be moved
            name, old = secrets.token_hex(8), name
            os.rename(old, name, src_dir_fd=folder, dst_dir_fd=top)
        names.append(name)
    return names
