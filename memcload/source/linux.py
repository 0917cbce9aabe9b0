"""What Linux alone can tell about files: a help, never a need. Elsewhere each answer is that it is not known."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import signal

_REMOTE = re.compile("nfs|cifs|smb")  # file systems that refuse leases with the same error, but for other reasons


def is_open_for_writing(descriptor: int) -> bool:
    """Return True if some process has a file, open here for reading only, open for writing.

    A read lease is only given where none has. The caller closes the file, which gives the lease back.
    """
    try:
        # A process that opens the file while the lease is held makes the kernel signal: with one that is ignored,
        # since the usual one would end this process.
        fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except AttributeError:
        return False
    except OSError as error:
        return error.errno == errno.EAGAIN and not _REMOTE.match(_mount(descriptor)[1] or "nfs")
    return False


def lock_holder(descriptor: int) -> int | None:
    """Return the id of the process that holds the lock on an open file or directory, or None."""
    status = os.fstat(descriptor)
    device = _mount(descriptor)[0] or (os.major(status.st_dev), os.minor(status.st_dev))
    with contextlib.suppress(OSError, ValueError), open("/proc/locks") as locks:
        for line in locks:  # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK":
                major, minor, inode = fields[5].split(":")
                process = int(fields[4])
                if (int(major, 16), int(minor, 16)) == device and int(inode) == status.st_ino and process > 0:
                    return process
    return None


def _mount(descriptor: int) -> tuple[tuple[int, int] | None, str | None]:
    """Return the device and the type of the file system that an open file is on.

    The device is the one that the kernel itself knows; some file systems show another to `stat`.
    """
    with contextlib.suppress(OSError, ValueError, AttributeError):
        with open(f"/proc/self/fdinfo/{descriptor}") as information:
            mount = re.search(r"^mnt_id:\s*(\d+)", information.read(), re.MULTILINE)
        with open("/proc/self/mountinfo", "rb") as mounts:
            for line in mounts:  # 36 35 98:0 /root /where rw,noatime master:1 - ext4 /dev/sda1 rw
                fields = line.decode("ascii", "replace").split()
                if mount and fields[0] == mount[1]:
                    major, minor = fields[2].split(":")
                    return (int(major), int(minor)), fields[fields.index("-") + 1]
    return None, None
