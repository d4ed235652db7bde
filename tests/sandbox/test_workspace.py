"""Reading and writing where hostile code has been: links, fifos, devices, swaps, locked and deep folders."""

from __future__ import annotations

import os
import threading

import pytest

from sandbox import Workspace, WorkspaceError
from sandbox.workspace import remove_tree, usage


@pytest.fixture
def workspace(tmp_path):
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "ws").mkdir()
    opened = Workspace(str(tmp_path / "ws"))
    yield opened
    opened.close()


@pytest.fixture
def inside(tmp_path, workspace):
    return tmp_path / "ws"


def test_round_trip_and_listing(workspace):
    workspace.write("a/b/data.csv", b"1")
    workspace.write("a/b/data.csv", b"22")
    assert workspace.read("a/b/data.csv") == b"22"
    assert {name: info.size for name, info in workspace.list().items()} == {"a/b/data.csv": 2}


def test_a_listing_shows_what_changed_even_if_times_are_forged(workspace, inside):
    workspace.write("f", b"one")
    before = workspace.list()
    (inside / "f").write_bytes(b"two")
    os.utime(inside / "f", ns=(before["f"].mtime_ns, before["f"].mtime_ns))
    after = workspace.list()
    assert after["f"].mtime_ns == before["f"].mtime_ns
    assert after["f"] != before["f"]


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "", ".", "a/../../secret", "a\0b"])
def test_names_that_leave_are_refused(workspace, name):
    for call in (lambda: workspace.read(name), lambda: workspace.write(name, b"")):
        with pytest.raises(WorkspaceError):
            call()


def test_links_are_not_followed(workspace, inside):
    (inside / "link").symlink_to("../secret")
    (inside / "folder").symlink_to("..")
    for name in ("link", "folder/secret"):
        with pytest.raises(WorkspaceError):
            workspace.read(name)
    with pytest.raises(WorkspaceError):
        workspace.write("folder/secret", b"overwritten")
    workspace.write("link", b"mine")
    assert (inside.parent / "secret").read_text() == "secret"
    assert workspace.read("link") == b"mine"
    assert set(workspace.list()) == {"link"}


def test_a_missing_file_is_told_apart(workspace):
    with pytest.raises(FileNotFoundError):
        workspace.read("none")


def test_fifos_sockets_folders_and_devices_do_not_block(workspace, inside):
    import socket

    os.mkfifo(inside / "fifo")
    (inside / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(inside / "s"))
        for name in ("fifo", "folder", "s"):
            with pytest.raises(WorkspaceError):
                workspace.read(name)
    assert workspace.list() == {}


def test_large_files_are_refused_without_reading_them(workspace, inside):
    with open(inside / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(WorkspaceError, match="larger than 1000 bytes"):
        workspace.read("sparse", max_bytes=1000)


def test_swapping_a_folder_for_a_link_never_leaks(workspace, inside):
    (inside / "real").mkdir()
    (inside / "real" / "secret").write_text("harmless")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.rename(inside / "real", inside / "kept")
            os.symlink("..", inside / "real")
            os.unlink(inside / "real")
            os.rename(inside / "kept", inside / "real")

    thread = threading.Thread(target=swap)
    thread.start()
    seen = set()
    for _ in range(3000):
        try:
            seen.add(workspace.read("real/secret"))
        except OSError:
            continue
    stop.set()
    thread.join()
    assert seen <= {b"harmless"}


def test_a_locked_workspace_opens_again(workspace, inside):
    workspace.write("f", b"x")
    inside.chmod(0)
    workspace.repair()
    assert workspace.read("f") == b"x"


def test_listing_is_bounded_in_depth_and_number(workspace, inside):
    folder = inside
    for _ in range(60):
        folder = folder / "d"
        folder.mkdir()
        (folder / "f").write_text("")
    assert len(workspace.list()) == 32
    assert len(workspace.list(max_files=5)) == 5


def test_a_name_that_is_no_text_is_not_listed(workspace, inside):
    with open(os.fsencode(inside) + b"/\xff.csv", "w"), open(inside / "ü.csv", "w"):
        pass
    assert set(workspace.list()) == {"ü.csv"}


def test_what_cannot_be_counted_counts_as_too_much(tmp_path):
    for depth in (60, 70):
        top = folder = tmp_path / str(depth)
        for _ in range(depth):
            folder = folder / "d"
        folder.mkdir(parents=True)
        assert (usage(str(top), 1 << 30, 1000)[0] > 1 << 30) == (depth == 70)
    locked = tmp_path / "locked"
    (locked / "in").mkdir(parents=True)
    (locked / "in" / "f").write_bytes(bytes(5000))
    (locked / "in").chmod(0o300)
    size, entries = usage(str(locked), 1 << 30, 1000)
    assert (size >= 5000, entries) == (True, 2)


def test_no_link_is_followed_while_removing(tmp_path):
    """Nor does the mode of what a link points to change."""
    (tmp_path / "kept").mkdir(mode=0o500)
    (tmp_path / "t" / "d").mkdir(parents=True)
    (tmp_path / "t" / "d" / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "t" / "link").symlink_to(tmp_path / "kept")
    remove_tree(str(tmp_path / "t"))
    assert not (tmp_path / "t").exists()
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o500


def test_usage_counts_blocks_and_stops_early(workspace, inside):
    for i in range(50):
        (inside / f"f{i}").write_bytes(b"x" * 5000)
    (inside / "link").symlink_to("/usr")
    size, entries = usage(str(inside), 1 << 40, 1 << 40)
    assert entries == 51
    assert size >= 50 * 5000
    assert usage(str(inside), 1 << 40, 10)[1] == 11
    assert usage("/nowhere", 1, 1) == (0, 0)


def test_remove_tree_copes_with_deep_and_locked_folders(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    top = fd = os.open(os.mkdir(tmp_path / "t") or tmp_path / "t", os.O_RDONLY)
    for _ in range(3000):  # deeper than any path may be long
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        if fd != top:
            os.close(fd)
        fd = below
    os.mkdir("locked", dir_fd=top)
    os.mkdir("locked/in", dir_fd=top)
    os.chmod("locked", 0, dir_fd=top)
    for used in (fd, top, here):
        os.close(used)
    remove_tree(str(tmp_path / "t"))
    assert not (tmp_path / "t").exists()
    remove_tree(str(tmp_path / "t"))
