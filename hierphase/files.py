"""Files written whole or not at all, whatever becomes of the disk and of the process."""

import contextlib
import functools
import hashlib
import os
import time
import uuid
from pathlib import Path

import psutil

from hierphase.checks import utf8

# The processes that psutil knows are those of this machine; in a container, of its own ids.
_NAMESPACE = Path("/proc/self/ns/pid")
_HERE = f"{os.uname().nodename}-{_NAMESPACE.stat().st_ino if _NAMESPACE.exists() else 0}"


class WriteError(OSError):
    """A file cannot be written: disk or quota full, read-only, name too long ..."""


def write(content: bytes, path: Path, sealed: bool = False) -> None:
    """Write a file, atomically, also when several machines write it at once, and down to the disk.

    Its folder is made if missing. Temporary files there of processes that are gone are deleted.

    Args:
        content: of the file.
        path: of the file; what was there is replaced.
        sealed: add a checksum, for :func:`read_sealed`.

    Raises:
        WriteError: says the path and the reason; what was there before is still there.
    """
    temporary = path.with_name(f".hierphase-{_HERE}-{os.getpid()}-{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path.parent)
        with temporary.open("xb") as file:
            file.writelines([content, hashlib.sha256(content).digest() if sealed else b""])
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise WriteError(f"cannot write {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def read_sealed(path: Path) -> bytes:
    """What :func:`write` has written with ``sealed``.

    Raises:
        OSError: it cannot be read.
        ValueError: its bytes are not those that were written.
    """
    content = path.read_bytes()
    content, checksum = content[:-32], content[-32:]  # the bytes of a SHA-256
    if hashlib.sha256(content).digest() != checksum:
        raise ValueError(f"{path} is damaged: its checksum is not that of its content")
    return content


def output_directory(path: Path | str) -> Path:
    """Make a directory, if it is missing, and see that something can be written into it.

    Returns:
        Its absolute path.

    Raises:
        ValueError: the path is no text, as notebooks and results need it.
        WriteError: says the path and why it takes nothing.
    """
    path = Path(os.path.abspath(path))
    utf8("output directory", path)
    probe = path / ".writable"
    write(b"\n", probe)
    probe.unlink(missing_ok=True)  # another process may do the same
    return path


def check_holds_only(directory: Path, whose: str, names=()) -> None:
    """Raise a ValueError if ``directory`` holds more than ``names`` and hidden files.

    Args:
        directory: that is to be written into; it may be missing.
        whose: what has files of these names, in words.
        names: of files and folders there.
    """
    held = {path.name for path in directory.glob("*") if path.name[0] != "."} - {*names}
    if held:
        shown = ", ".join(sorted(held)[:5])
        raise ValueError(f"{directory} holds {shown}, not of {whose}: give an empty directory")


@functools.cache
def _remove_leftovers(directory: Path) -> None:
    """Delete temporary files in a directory whose writers are gone, once a process.

    A writer on this machine is gone when its process is; one elsewhere after a day, as its file
    takes seconds to write.
    """
    for path in directory.glob(".hierphase-*.tmp"):
        with contextlib.suppress(OSError, ValueError):  # others may do this as well
            where, pid, _ = path.name.removeprefix(".hierphase-").rsplit("-", 2)
            gone = where == _HERE and not psutil.pid_exists(int(pid))
            if gone or time.time() - path.stat().st_mtime > 86400:
                path.unlink()
