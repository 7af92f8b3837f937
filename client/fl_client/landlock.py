"""The fallback sandbox: Landlock (files, TCP, signals, abstract sockets) and seccomp (other sockets, ptrace).

``python -m fl_client.landlock --read=PATH … --write=PATH … --list=PATH … -- COMMAND`` confines itself and becomes
COMMAND. Both are irrevocable for the process and its children and need no privilege. What it leaves open, unlike
bubblewrap: UNIX sockets named by a path that this user may reach, and the list of processes.

Sources: Linux ``Documentation/userspace-api/landlock.rst``, ``seccomp_filter.rst``.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

MIN_ABI = 6  # 4 brought TCP, 6 signals and abstract sockets
CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446  # the same number on every architecture
PATH_BENEATH, VERSION_FLAG = 1, 1
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
ALL_FILES = (1 << 16) - 1  # every right up to ABI 5
FILE_ONLY = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # the rights that fit a file
READ, WRITE = EXECUTE | READ_FILE | READ_DIR, ALL_FILES & ~(1 << 6 | 1 << 11)  # never device nodes
TCP, SCOPES = 0b11, 0b11

# machine -> audit architecture, and the numbers of socket, ptrace, process_vm_readv, process_vm_writev, io_uring_setup
ARCHITECTURES = {"x86_64": (0xC000003E, (41, 101, 310, 311, 425)), "aarch64": (0xC00000B7, (198, 117, 270, 271, 425))}
AF_UNIX, EPERM = 1, 1
ALLOW, DENY, KILL = 0x7FFF0000, 0x00050000 | EPERM, 0x80000000
LOAD, EQUAL, GREATER_EQUAL, RETURN = 0x20, 0x15, 0x35, 0x06  # classic BPF


def abi() -> int:
    """The kernel's Landlock version; 0 where there is none or seccomp numbers are unknown."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return 0
    found: int = _libc().syscall(CREATE_RULESET, None, ctypes.c_size_t(0), VERSION_FLAG)
    return max(found, 0)


def confine(*, read: Sequence[Path], write: Sequence[Path], listed: Sequence[Path]) -> None:
    """Restrict this process for good: these paths, UNIX sockets only, no other process's memory.

    ``listed`` folders may be listed, not read: Python looks for packages that way.

    Raises:
        OSError: the kernel refused a step; nothing may run then.
    """
    libc = _libc()
    _check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    ruleset = struct.pack("QQQ", ALL_FILES, TCP, SCOPES)
    handle = _check(libc.syscall(CREATE_RULESET, ruleset, ctypes.c_size_t(len(ruleset)), 0), "landlock ruleset")
    devices = ((Path("/dev/null"), READ | WRITE_FILE), (Path("/dev/urandom"), READ))
    folders = ((p, READ_DIR) for p in listed)
    for path, rights in (*((p, READ) for p in read), *((p, WRITE) for p in write), *folders, *devices):
        _allow(libc, handle, path, rights if path.is_dir() else rights & FILE_ONLY)
    _check(libc.syscall(RESTRICT_SELF, handle, 0), "landlock restrict")
    os.close(handle)
    _deny_sockets(libc)


def _allow(libc: ctypes.CDLL, handle: int, path: Path, rights: int) -> None:
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = struct.pack("=Qi", rights, place)
        _check(libc.syscall(ADD_RULE, handle, PATH_BENEATH, rule, 0), f"landlock rule for {path}")
    finally:
        os.close(place)


def _deny_sockets(libc: ctypes.CDLL) -> None:
    """seccomp: ``socket`` for AF_UNIX only; ptrace, process_vm_* and io_uring (it opens sockets too) never."""
    architecture, (socket, *never) = ARCHITECTURES[platform.machine()]
    n = len(never)
    program = [
        (LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, KILL),  # another architecture's numbers: kill
        (LOAD, 0, 0, 0),
        (GREATER_EQUAL, n + 4, 0, 0x40000000),  # x32 numbers
        *((EQUAL, n + 3 - i, 0, number) for i, number in enumerate(never)),
        (EQUAL, 0, 3, socket),
        (LOAD, 0, 0, 16), (EQUAL, 1, 0, AF_UNIX), (RETURN, 0, 0, DENY),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    filter_ = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    _check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, filter_, 0, 0), "seccomp")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, step: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{step}: {os.strerror(number)}")
    return result


def main() -> None:
    """Confine and exec."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", type=Path, action="append", default=[])
    parser.add_argument("--write", type=Path, action="append", default=[])
    parser.add_argument("--list", type=Path, action="append", default=[])
    parser.add_argument("command", nargs="+")
    args = parser.parse_args()
    confine(read=args.read, write=args.write, listed=args.list)
    os.execv(args.command[0], args.command)


if __name__ == "__main__":
    main()
