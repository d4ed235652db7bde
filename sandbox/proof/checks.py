"""Attempts to get out, for the self-check and the tests: each is code that prints HELD or ESCAPED.

`P` is the dictionary of things planted outside for the attempt to find, see `sandbox.proof.planted`. Every attempt is
harmless when it succeeds.
"""

from __future__ import annotations

from dataclasses import dataclass

_ATTEMPT = """
import contextlib, ctypes, errno, json, os, signal, socket, subprocess, sys
P = json.loads({planted!r})
def attempt(function):
    "ESCAPED if `function` returns something true, HELD if it raises or returns something false."
    try:
        value = function()
    except Exception as error:
        print("HELD", type(error).__name__, error)
    else:
        print("ESCAPED" if value else "HELD", repr(value)[:200])
def syscall(number, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    value = libc.syscall(ctypes.c_long(number), *arguments)
    if value < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return True
def in_child(function):
    "Whether `function` works in a process with one thread."
    pid = os.fork()
    if pid == 0:
        try:
            function()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] == 0
"""


@dataclass(frozen=True)
class Check:
    """One attempt."""

    name: str
    code: str
    open_without: bool = True
    """Whether it succeeds against no isolation at all: the negative control demands it."""

    def source(self, planted_json: str) -> str:
        """What to execute."""
        return _ATTEMPT.format(planted=planted_json) + self.code


def _call(name: str, x86_64: int, *arguments: str, open_without: bool = True) -> Check:
    """A bare system call by its x86_64 number; those on which aarch64 agrees are above 424."""
    code = f"attempt(lambda: in_child(lambda: syscall({', '.join([str(x86_64), *arguments])})))"
    return Check(f"syscall-{name}", code, open_without)


_LOOK = """
import glob
def look():
    for path in glob.glob('/proc/[0-9]*/{name}'):
        with contextlib.suppress(OSError):
            if P['marker'].encode() in open(path, 'rb').read(): return path
attempt(look)
"""

FILES = (
    Check("secret-environment", "attempt(lambda: P['marker'] in repr(dict(os.environ)))", open_without=False),
    Check("secret-environment-of-others", _LOOK.format(name="environ")),
    Check("processes-of-others", _LOOK.format(name="cmdline")),
    Check("secret-file", "attempt(lambda: open(P['secret']).read())"),
    Check("secret-folder-listing", "attempt(lambda: os.listdir(P['folder']))"),
    Check("secret-through-symlink", "os.symlink(P['secret'], 's')\nattempt(lambda: open('s').read())"),
    Check("secret-through-hardlink", "attempt(lambda: os.link(P['secret'], 'h') or open('h').read())", False),
    Check(
        "secret-through-subprocess",
        "attempt(lambda: subprocess.run(['cat', P['secret']], capture_output=True).stdout)",
    ),
    Check("secret-through-proc-root", "attempt(lambda: open('/proc/self/root' + P['secret']).read())"),
    Check("home-of-trainer", "attempt(lambda: set(os.listdir(P['home'])) & set(P['home_names']))", open_without=False),
    Check("write-outside", "attempt(lambda: open(P['open_folder'] + '/new', 'w').write('x'))"),
    Check("delete-outside", "attempt(lambda: os.unlink(P['open_folder'] + '/old') or True)"),
    Check("rename-outside", "attempt(lambda: os.rename(P['open_folder'], P['open_folder'] + '2') or True)", False),
    Check("tamper-with-python", "attempt(lambda: open(os.__file__, 'r+'))", open_without=False),
    Check("tamper-with-ipykernel", "import ipykernel\nattempt(lambda: open(ipykernel.__file__, 'r+'))", False),
    Check("kernel-memory-and-log", "attempt(lambda: open('/dev/kmsg') or open('/dev/mem'))", open_without=False),
    Check("sysctl", "attempt(lambda: open('/proc/sys/kernel/core_pattern', 'w'))", open_without=False),
    Check("device-node", "attempt(lambda: os.mknod('d', 0o20666, os.makedev(1, 1)) or True)", open_without=False),
    Check("mode-of-others", "def go():\n os.chmod(P['cut'], 0o640)\n return os.stat(P['cut']).st_mode & 7 != 6\n"
          "attempt(go)", open_without=False),
    Check("times-of-others", "def go():\n os.utime(P['cut'], (7, 7))\n return os.stat(P['cut']).st_mtime == 7\n"
          "attempt(go)", open_without=False),
    Check("attributes-of-others", "attempt(lambda: os.setxattr(P['cut'], 'user.x', b'1') or True)", open_without=False),
    Check("truncation", "attempt(lambda: os.truncate(P['cut'], 1) or True)"),
    Check("truncation-by-opening", "attempt(lambda: os.open(P['cut'], os.O_RDONLY | os.O_TRUNC))"),
    Check("shared-memory-file", "attempt(lambda: open(P['shared_file']).read())"),
    Check("shared-memory-segment", "libc = ctypes.CDLL(None)\nlibc.shmat.restype = ctypes.c_void_p\n"
          "attempt(lambda: libc.shmat(P['segment'], None, 0o10000) not in (None, ctypes.c_void_p(-1).value))"),
    Check("watching-a-folder", "libc = ctypes.CDLL(None)\n"
          "attempt(lambda: libc.inotify_add_watch(libc.inotify_init(), P['folder'].encode(), 0xFFF) >= 0)"),
    Check("control-group", "def go():\n"
          " for name in ('cgroup.freeze', '../cgroup.procs', '../../cgroup.procs'):\n"
          "  with contextlib.suppress(OSError): return os.open(P['group'] + '/' + name, os.O_WRONLY) > 0\n"
          "attempt(go)", open_without=False),
    Check("other-kernels-files", "attempt(lambda: os.listdir(P['other_workspace']))", open_without=False),
)  # fmt: skip

_UDP = """
def ask():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.settimeout(0.5)
        s.sendto(b'?', ('127.0.0.1', P['udp_port']))
        return s.recv(10)
attempt(ask)
"""
_DATAGRAM_PAIR = """
def send():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    return a.sendto(b'?', P['datagram_socket'])
attempt(send)
"""
_CONNECT = "attempt(lambda: socket.socket(socket.AF_UNIX).connect({address}) or True)"

NETWORK = (
    Check("tcp", "attempt(lambda: socket.create_connection(('127.0.0.1', P['tcp_port']), 2))"),
    Check("udp", _UDP),
    Check("dns", "attempt(lambda: socket.getaddrinfo('example.com', 80))", open_without=False),
    Check("abstract-socket", _CONNECT.format(address="'\\0' + P['abstract_socket']")),
    Check("path-socket", _CONNECT.format(address="P['path_socket']")),
    Check("datagram-through-socketpair", _DATAGRAM_PAIR),
    Check("other-kernels-socket", _CONNECT.format(address="P['other_socket']"), open_without=False),
    Check("raw-socket", "attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))", open_without=False),
    Check("packet-socket", "attempt(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))", open_without=False),
    Check("vsock", "attempt(lambda: socket.socket(40, socket.SOCK_STREAM))"),
)

_STILL_THERE = "attempt(lambda: {action} or True)"

PROCESSES = (
    Check("signal-another-process", _STILL_THERE.format(action="os.kill(P['victim'], signal.SIGCONT)")),
    Check(
        "signal-through-pidfd",
        _STILL_THERE.format(action="signal.pidfd_send_signal(os.pidfd_open(P['victim']), signal.SIGCONT)"),
    ),
    Check("signal-the-trainer", _STILL_THERE.format(action="os.kill(P['trainer'], 0)"), open_without=False),
    Check("renice-another-process", _STILL_THERE.format(action="os.setpriority(os.PRIO_PROCESS, P['victim'], 19)")),
    Check(
        "renice-a-user",
        "def go():\n"
        " try: os.setpriority(os.PRIO_USER, 3_999_999, 19)\n"
        " except ProcessLookupError: return not P['alone']  # nobody was there, but it may"
        "\n"
        "attempt(go)",
    ),
    Check(
        "limit-another-process",
        "import resource\n"
        "attempt(lambda: resource.prlimit(P['victim'], resource.RLIMIT_NOFILE, (64, 64)) or True)",
    ),
    Check(
        "memory-of-another-process",
        "attempt(lambda: open(f\"/proc/{P['victim']}/mem\", 'rb'))",
    ),
    Check("parent-memory", "attempt(lambda: open(f'/proc/{os.getppid()}/mem', 'r+b'))", open_without=False),
    Check("gain-privileges", "attempt(lambda: ctypes.CDLL(None).prctl(39, 0, 0, 0, 0) != 1)", open_without=False),
    Check(
        "setuid-program",
        "attempt(lambda: b'uid=0' in subprocess.run([P['setuid_id'], '-u'], capture_output=True).stdout)",
        open_without=False,
    ),
    Check("become-root", "attempt(lambda: os.setuid(0) or os.getuid() == 0)", open_without=False),
    Check("capabilities", "attempt(lambda: any(int(l.split()[1], 16) & ~4 for l in open('/proc/self/status')"
          " if l.startswith(('CapEff', 'CapPrm', 'CapInh', 'CapAmb'))))", open_without=False),
)  # fmt: skip

_NULLS = ("0", "0", "0", "0")
SYSCALLS = (
    _call("unshare-user", 272, "0x10000000"),
    _call("unshare-mount", 272, "0x00020000", open_without=False),
    _call("setns", 308, "0", "0", open_without=False),
    _call("mount", 165, "b'none'", "b'/tmp'", "b'tmpfs'", "0", "0", open_without=False),
    _call("chroot", 161, "b'.'", open_without=False),
    _call("ptrace-traceme", 101, "0", "0", "0", "0"),
    _call("process-vm-readv", 310, "os.getpid()", *_NULLS, "0"),
    _call("keyring", 250, "1", "0"),
    _call("add-key", 248, "b'user'", "b'k'", "b'x'", "1", "-3"),
    _call("bpf", 321, "0", "0", "0", open_without=False),
    _call("io-uring", 425, "4", "ctypes.create_string_buffer(256)"),
    _call("perf", 298, "ctypes.create_string_buffer(128)", "0", "-1", "-1", "0", open_without=False),
    _call("userfaultfd", 323, "1", open_without=False),
    _call("memfd", 319, "b'm'", "0"),
    _call("shm", 29, "0", "4096", "0o1600"),
    _call("name-to-handle", 303, "-100", "b'/tmp'", *_NULLS[:3], open_without=False),
    _call("kexec", 246, *_NULLS, open_without=False),
    _call("set-clock", 227, "0", "ctypes.create_string_buffer(16)", open_without=False),
)

EXISTENCE = Check("existence-of-files", "attempt(lambda: os.stat(P['secret']))")
"""Level `namespace` alone hides it."""
CHECKS: tuple[Check, ...] = (*FILES, *NETWORK, *PROCESSES, *SYSCALLS)
