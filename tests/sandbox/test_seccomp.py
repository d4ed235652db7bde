"""The seccomp program, run by a small interpreter of classic BPF, and its numbers against other sources."""

from __future__ import annotations

import os
import platform
import re
import struct
from pathlib import Path

import pytest

from sandbox.kernel import seccomp
from sandbox.kernel.seccomp import ALLOW, AUDIT_ARCH, KILL, program, syscall_number

ERRNO = 0x00050000
MACHINES = list(AUDIT_ARCH)
NUMBERS = {"read": {"x86_64": 0, "aarch64": 63}, "execve": {"x86_64": 59, "aarch64": 221}}


def run(instructions, number: int, *arguments: int, arch: int) -> int:
    """What the kernel would do: load words, compare, jump, return."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(a & (1 << 64) - 1 for a in padded))
    accumulator = position = 0
    while True:
        code, if_true, if_false, constant = instructions[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("<I", data, constant)[0]
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x06:
            return constant
        else:
            outcome = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
            position += if_true if outcome[code] else if_false


@pytest.fixture(params=MACHINES)
def machine(request) -> str:
    return request.param


def outcome(machine: str, name: str, *arguments: int, **settings: object) -> int:
    number = NUMBERS[name][machine] if name in NUMBERS else syscall_number(name, machine)
    assert number is not None
    return run(program(machine, **settings), number, *arguments, arch=AUDIT_ARCH[machine])


@pytest.mark.parametrize("settings", [{"network": True}, {"foreign": True}, {"signals_to": 77}])
def test_ordinary_calls_pass_and_every_denied_one_fails(machine, settings):
    assert outcome(machine, "read", **settings) == ALLOW
    assert outcome(machine, "execve", **settings) == ALLOW
    for name in seccomp._DENIED:
        if syscall_number(name, machine) is not None:
            assert outcome(machine, name, **settings) == ERRNO | seccomp.EPERM, name


def test_foreign_architectures_are_killed(machine):
    assert run(program(machine), 0, arch=0x40000003) == KILL
    other = AUDIT_ARCH[next(m for m in MACHINES if m != machine)]
    assert run(program(machine), 0, arch=other) == KILL


def test_x32_calls_do_not_exist():
    assert run(program("x86_64"), 0x40000000 | 272, arch=AUDIT_ARCH["x86_64"]) == ERRNO | seccomp.ENOSYS


def test_threads_and_forks_pass_but_namespaces_do_not(machine):
    assert outcome(machine, "clone3") == ERRNO | seccomp.ENOSYS
    assert outcome(machine, "clone", 0x003D0F00) == ALLOW  # pthread_create
    assert outcome(machine, "clone", 17) == ALLOW  # fork
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert outcome(machine, "clone", flag | 17) == ERRNO | seccomp.EPERM


@pytest.mark.parametrize(("network", "family", "type_", "allowed"), [
    (False, 1, 1, True), (False, 1, 1 | 0o2000000, True), (False, 1, 2, False), (False, 1, 5, False),
    (False, 2, 1, False), (False, 10, 2, False), (False, 16, 3, False), (False, 40, 1, False),
    (True, 1, 2, True), (True, 2, 1, True), (True, 16, 3, True), (True, 17, 3, False), (True, 40, 1, False),
])  # fmt: skip
def test_sockets(machine, network, family, type_, allowed):
    expected = ALLOW if allowed else ERRNO | seccomp.EAFNOSUPPORT
    assert outcome(machine, "socket", family, type_, network=network) == expected


def test_without_network_nothing_connects_and_no_pair_sends_elsewhere(machine):
    assert outcome(machine, "connect", 3) == ERRNO | seccomp.EACCES
    assert outcome(machine, "connect", 3, network=True) == ALLOW
    assert outcome(machine, "socketpair", 1, 1) == ALLOW
    assert outcome(machine, "socketpair", 1, 2) == ERRNO | seccomp.EAFNOSUPPORT


def test_signals_reach_only_the_kernel_itself(machine):
    for name in ("kill", "tgkill"):
        assert outcome(machine, name, 77, signals_to=77) == ALLOW
        for pid in (78, 1, -1, -78):
            assert outcome(machine, name, pid, signals_to=77) == ERRNO | seccomp.EPERM
            assert outcome(machine, name, pid) == ALLOW
    for name in ("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal"):
        assert outcome(machine, name, 77, signals_to=77) == ERRNO | seccomp.EPERM
    assert outcome(machine, "fcntl", 3, 8, 1, signals_to=77) == ERRNO | seccomp.EPERM
    assert outcome(machine, "fcntl", 3, 2, 1, signals_to=77) == ALLOW


def test_other_processes_keep_their_limits(machine):
    for name in ("prlimit64", "sched_setaffinity"):
        assert outcome(machine, name, 0, foreign=True) == ALLOW
        assert outcome(machine, name, 1234, foreign=True) == ERRNO | seccomp.EPERM
    for name, process in (("setpriority", 0), ("ioprio_set", 1)):
        assert outcome(machine, name, process, 0, foreign=True) == ALLOW
        for kind, who in ((process, 1234), (process + 1, 0), (process + 2, 0)):
            assert outcome(machine, name, kind, who, foreign=True) == ERRNO | seccomp.EPERM
    assert outcome(machine, "sched_setscheduler", 1234, foreign=True) == ERRNO | seccomp.PRETEND


def test_memory_of_no_file_is_not_shared(machine):
    """No limit sees it: mapped, touched and let go again it stays."""
    shared, shared_validate, private, anonymous = 1, 3, 2, 0x20
    for flags in (shared, shared_validate):
        assert outcome(machine, "mmap", 0, 4096, 3, flags | anonymous) == ERRNO | seccomp.ENOMEM
        assert outcome(machine, "mmap", 0, 4096, 3, flags) == ALLOW
    assert outcome(machine, "mmap", 0, 4096, 3, private | anonymous) == ALLOW


def test_where_landlock_does_not_know_truncation_nothing_is_cut(machine):
    old = {"truncation_confined": False}
    assert outcome(machine, "truncate", **old) == ERRNO | seccomp.EACCES
    assert outcome(machine, "openat2", **old) == ERRNO | seccomp.ENOSYS
    for name, before in (("open", 1), ("openat", 2)):
        if syscall_number(name, machine) is not None:
            arguments = [0] * before
            assert outcome(machine, name, *arguments, os.O_RDONLY | os.O_TRUNC, **old) == ERRNO | seccomp.EACCES
            assert outcome(machine, name, *arguments, os.O_RDONLY | os.O_TRUNC) == ALLOW
            for flags in (os.O_RDONLY, os.O_WRONLY | os.O_TRUNC, os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                assert outcome(machine, name, *arguments, flags, **old) == ALLOW


def test_modes_and_times_of_others_stay(machine):
    for name in seccomp._METADATA:
        if syscall_number(name, machine) is not None:
            assert outcome(machine, name) == ALLOW
            assert outcome(machine, name, foreign=True) == ERRNO | seccomp.PRETEND
    assert outcome(machine, "ioctl", 3, 0x40086602, foreign=True) == ERRNO | seccomp.EPERM
    assert outcome(machine, "ioctl", 3, 0x5401, foreign=True) == ALLOW


def test_jumps_fit_and_every_path_returns(machine):
    instructions = program(machine, foreign=True, signals_to=1)
    assert len(instructions) < 4096
    for position, (code, if_true, if_false, _) in enumerate(instructions):
        if code & 0x07 == 0x05:
            assert position + 1 + max(if_true, if_false) < len(instructions)
            assert max(if_true, if_false) < 256
    assert instructions[-1][0] == 0x06


def test_numbers_agree_with_the_system_headers():
    header = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
    if platform.machine() != "x86_64" or not header.exists():
        pytest.skip("no x86_64 kernel headers here")
    known = dict(re.findall(r"#define __NR_(\w+) (\d+)", header.read_text()))
    names = [*seccomp._DENIED, *seccomp._METADATA, *seccomp._UNCONFINED, *seccomp._FILTERED]
    ours = {name: syscall_number(name, "x86_64") for name in names if name in known}
    wrong = {name: n for name, n in ours.items() if n not in (None, int(known[name]))}
    assert wrong == {}


def test_aarch64_numbers_agree_with_the_generic_headers():
    header = Path("/usr/include/asm-generic/unistd.h")
    if not header.exists():
        pytest.skip("no kernel headers here")
    known = dict(re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)", header.read_text()))
    names = [*seccomp._DENIED, *seccomp._METADATA, *seccomp._UNCONFINED, *seccomp._FILTERED]
    ours = {name: syscall_number(name, "aarch64") for name in names if name in known}
    wrong = {name: n for name, n in ours.items() if n not in (None, int(known[name]))}
    assert wrong == {}
