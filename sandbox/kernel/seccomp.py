"""The system calls a kernel may not make: a classic BPF program assembled by hand, without libseccomp."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

from . import libc
from .landlock import SIGNAL_SCOPE_ABI, TRUNCATE_ABI

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant."""

_LOAD, _JUMP_EQ, _JUMP_GE, _JUMP_SET, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
PRETEND, EPERM, ENOMEM, EACCES, ENOSYS, ENOTSUP, EAFNOSUPPORT = 0, 1, 12, 13, 38, 95, 97

AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_BIT = 0x40000000
_NAMESPACES = 0x7E020000
"""Every CLONE_NEW* flag that clone(2) takes."""
_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_SOCK_STREAM, _SOCK_SEQPACKET = 1, 5

# name: (x86_64, aarch64), None where the architecture has no such call
_DENIED: dict[str, tuple[int | None, int | None]] = {
    # namespaces and mounts
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467), "quotactl": (179, 60), "quotactl_fd": (443, 443), "swapon": (167, 224),
    "swapoff": (168, 225), "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "move_pages": (279, 239), "migrate_pages": (256, 238),
    # kernel attack surface
    "bpf": (321, 280), "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "fanotify_init": (300, 262), "vmsplice": (278, 75), "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18), "mbind": (237, 235), "set_mempolicy": (238, 237), "nfsservctl": (180, 42),
    "set_mempolicy_home_node": (450, 450), "uselib": (134, None), "remap_file_pages": (216, 234),
    # memory that no limit sees, and what is the user's without belonging to a process
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "mq_open": (240, 180), "mq_unlink": (241, 181),
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "shmdt": (67, 197),
    "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192), "semctl": (66, 191),
    "msgget": (68, 186), "msgsnd": (69, 189), "msgrcv": (70, 188), "msgctl": (71, 187),
    # the machine
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "reboot": (169, 142), "acct": (163, 89), "iopl": (172, None), "ioperm": (173, None),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "adjtimex": (159, 171), "clock_adjtime": (305, 266),
    "sethostname": (170, 161), "setdomainname": (171, 162), "syslog": (103, 116), "vhangup": (153, 58),
    "sched_setattr": (314, 274),
}  # fmt: skip
# level `process`, where no mount hides the files of others: what Landlock says nothing of
_METADATA: dict[str, tuple[int | None, int | None]] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "umask": (95, 166),
    "chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54),
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
}  # fmt: skip
"""Nothing happens, and the caller is told all is well: honest code sets modes and times of its own copies."""
_UNCONFINED: dict[str, tuple[int | None, int | None]] = {
    "setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "setxattrat": (463, 463),
    "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16), "removexattrat": (466, 466),
    "file_setattr": (469, 469), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "sendmsg": (46, 211), "sendmmsg": (307, 269),  # descriptors on their way hold files that nobody can count
}  # fmt: skip
_FILTERED: dict[str, tuple[int | None, int | None]] = {
    "mmap": (9, 222), "setsid": (112, 157), "truncate": (76, 45), "open": (2, None), "openat": (257, 56),
    "openat2": (437, 437),
    "clone": (56, 220), "clone3": (435, 435), "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203),
    "kill": (62, 129), "tgkill": (234, 131), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424), "fcntl": (72, 25), "ioctl": (16, 29),
    "prlimit64": (302, 261), "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118), "setpriority": (141, 140), "ioprio_set": (251, 30),
}  # fmt: skip
_SIGNAL_CALLS = ("tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_send_signal")
_FCNTL_OWNER, _IOCTL_OWNER = (8, 15), (0x8901, 0x8902)
_IOCTL_FILE_FLAGS = (0x40086602, 0x40046602, 0x401C5820)
_SHARED_AND_OF_NO_FILE = 0x21
_ACCESS_AND_TRUNCATE, _TRUNCATE_ONLY = 0o1003, 0o1000
_MYSELF = {"setpriority": 0, "ioprio_set": 1}
"""First argument that says: the number of a process follows."""
_PID_IN_ARGUMENT = {
    "prlimit64": (0, EPERM), "sched_setaffinity": (0, EPERM),
    # libzmq aborts when it cannot set the policy of its own threads: nothing happens, and it is told all is well
    "sched_setscheduler": (0, PRETEND), "sched_setparam": (0, PRETEND),
}  # fmt: skip


def syscall_number(name: str, machine: str) -> int | None:
    """Number of a system call this module knows."""
    column = list(AUDIT_ARCH).index(machine)
    return next(table[name] for table in (_DENIED, _METADATA, _UNCONFINED, _FILTERED) if name in table)[column]


def program(
    machine: str,
    *,
    network: bool = False,
    foreign: bool = False,
    signals_to: int | None = None,
    truncation_confined: bool = True,
) -> list[Instruction]:
    """The filter.

    Args:
        network: network sockets and connect(2) are allowed.
        foreign: there are no namespaces, so calls that name another process, or that change what Landlock does not
            protect of another's files, are denied.
        signals_to: the only pid that may be signalled (where Landlock cannot confine signals); None = no rule.
        truncation_confined: whether Landlock sees to truncate(2).
    """
    instructions: list[Instruction] = [
        (_LOAD, 0, 0, 4), (_JUMP_EQ, 1, 0, AUDIT_ARCH[machine]), (_RETURN, 0, 0, KILL), (_LOAD, 0, 0, 0),
    ]  # fmt: skip
    if machine == "x86_64":
        instructions += [(_JUMP_GE, 0, 1, _X32_BIT), _errno(ENOSYS)]

    def rule(name: str, body: list[Instruction]) -> None:
        """Run `body`, which always returns, for the call `name`."""
        number = syscall_number(name, machine)
        if number is not None:
            instructions.extend([(_JUMP_EQ, 0, len(body), number), *body])

    for name in _DENIED:
        rule(name, [_errno(EPERM)])
    rule("clone3", [_errno(ENOSYS)])  # its flags cannot be read here; glibc falls back to clone
    rule("clone", [_argument(0), (_JUMP_SET, 0, 1, _NAMESPACES), _errno(EPERM), _allow()])
    if network:
        rule("socket", _only(0, (_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK), EAFNOSUPPORT))
    else:
        # a datagram socket could be sent to any path without connecting
        stream = [_argument(1), (_AND, 0, 0, 0xF), (_JUMP_EQ, 1, 0, _SOCK_STREAM), _errno(EAFNOSUPPORT)]
        rule("socket", [*stream, *_only(0, (_AF_UNIX,), EAFNOSUPPORT)])
        rule("socketpair", [_argument(1), (_AND, 0, 0, 0xF), *_one_of((_SOCK_STREAM, _SOCK_SEQPACKET), EAFNOSUPPORT)])
        rule("connect", [_errno(EACCES)])
    rule("mmap", [_argument(3), (_AND, 0, 0, _SHARED_AND_OF_NO_FILE), *_not(_SHARED_AND_OF_NO_FILE, ENOMEM)])
    rule("setsid", [_errno(PRETEND)])  # each session would have a processor share of its own
    ioctls: tuple[int, ...] = ()
    if foreign:
        for name, (position, error) in _PID_IN_ARGUMENT.items():
            rule(name, _only(position, (0,), error))
        for name, kind in _MYSELF.items():
            rule(name, [_argument(0), (_JUMP_EQ, 1, 0, kind), _errno(EPERM), *_only(1, (0,), EPERM)])
        for name in _METADATA:
            rule(name, [_errno(PRETEND)])
        for name in _UNCONFINED:
            rule(name, [_errno(ENOTSUP if "xattr" in name else EPERM)])
        ioctls = _IOCTL_FILE_FLAGS
    if not truncation_confined:
        rule("truncate", [_errno(EACCES)])
        rule("openat2", [_errno(ENOSYS)])  # its flags cannot be read here
        for name, position in (("open", 1), ("openat", 2)):
            rule(name, [_argument(position), (_AND, 0, 0, _ACCESS_AND_TRUNCATE), *_not(_TRUNCATE_ONLY, EACCES)])
    if signals_to is not None:
        for name in ("kill", "tgkill"):
            rule(name, _only(0, (signals_to, 0), EPERM))
        for name in _SIGNAL_CALLS:
            rule(name, [_errno(EPERM)])
        rule("fcntl", _none_of(1, _FCNTL_OWNER, EPERM))
        ioctls += _IOCTL_OWNER
    if ioctls:
        rule("ioctl", _none_of(1, ioctls, EPERM))
    return [*instructions, _allow()]


def _errno(number: int) -> Instruction:
    return (_RETURN, 0, 0, _ERRNO | number)


def _allow() -> Instruction:
    return (_RETURN, 0, 0, ALLOW)


def _argument(position: int) -> Instruction:
    """Load the low half of an argument (little endian): all of an int, and all flags used here."""
    return (_LOAD, 0, 0, 16 + 8 * position)


def _one_of(values: tuple[int, ...], error: int) -> list[Instruction]:
    body: list[Instruction] = []
    for value in values:
        body += [(_JUMP_EQ, 0, 1, value), _allow()]
    return [*body, _errno(error)]


def _only(position: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    return [_argument(position), *_one_of(values, error)]


def _none_of(position: int, values: tuple[int, ...], error: int) -> list[Instruction]:
    body: list[Instruction] = [_argument(position)]
    for value in values:
        body += [(_JUMP_EQ, 0, 1, value), _errno(error)]
    return [*body, _allow()]


def _not(value: int, error: int) -> list[Instruction]:
    """Deny what was loaded if it is `value`."""
    return [(_JUMP_EQ, 0, 1, value), _errno(error), _allow()]


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def install(instructions: list[Instruction]) -> None:
    """Put the filter on all threads of this process, for ever. Needs no_new_privs. Raises OSError."""
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)
    buffer = ctypes.create_string_buffer(packed, len(packed))
    fprog = _Program(len(instructions), ctypes.cast(buffer, ctypes.c_void_p))
    number = {"x86_64": 317, "aarch64": 277}[platform.machine()]
    libc.syscall(number, 1, 1, ctypes.byref(fprog), what="seccomp")


def install_for(*, network: bool, own_namespaces: bool, landlock_abi: int) -> None:
    """The filter that fits this machine and confinement. Raises OSError on an unknown architecture."""
    machine = platform.machine()
    if machine not in AUDIT_ARCH:
        raise OSError(f"no seccomp filter for {machine}")
    instructions = program(
        machine,
        network=network,
        foreign=not own_namespaces,
        signals_to=None if own_namespaces or landlock_abi >= SIGNAL_SCOPE_ABI else os.getpid(),
        truncation_confined=own_namespaces or landlock_abi >= TRUNCATE_ABI,
    )
    install(instructions)
