"""A process that the system gives no lock on any file, as on network file systems that have none."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct

# linux/seccomp.h, linux/filter.h, asm/unistd.h
_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_FAIL, _ALLOW = 0x00050000, 0x7FFF0000
_NUMBER, _SECOND_ARGUMENT = 0, 24  # bytes into struct seccomp_data
_CALLS = {"x86_64": (73, 72), "aarch64": (32, 25)}  # flock and fcntl
_COMMANDS = (6, 7, 37, 38)  # of fcntl: F_SETLK, F_SETLKW, F_OFD_SETLK, F_OFD_SETLKW

CAN = platform.system() == "Linux" and platform.machine() in _CALLS


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def take_no_locks() -> None:
    """From here on flock, lockf and fcntl locks of this process, and of all that it starts, fail by ENOLCK.

    It is the kernel that refuses them, whoever asks: Python, a C library, or a program of another language.
    """
    flock, fcntl = _CALLS[platform.machine()]
    commands = [(_IF_EQUAL, len(_COMMANDS) - place, 0, command) for place, command in enumerate(_COMMANDS)]
    steps = [
        (_LOAD, 0, 0, _NUMBER),
        (_IF_EQUAL, len(commands) + 3, 0, flock),
        (_IF_EQUAL, 0, len(commands) + 1, fcntl),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        *commands,
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.ENOLCK),
    ]
    program = b"".join(struct.pack("HBBI", *step) for step in steps)
    system = ctypes.CDLL(None, use_errno=True)
    for call in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SECCOMP, _FILTER, ctypes.byref(_Program(len(steps), program)))):
        if system.prctl(*call):
            raise OSError(ctypes.get_errno(), "the system takes no filter of its calls")
