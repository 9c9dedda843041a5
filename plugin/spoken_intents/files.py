"""Files that are written whole or not at all, whether they can be; and files that are nothing but files."""

import errno
import fcntl
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator, Optional, Union

from spoken_intents.errors import ConfigError

PART = ".part"  # what a file is called until it is whole; a process that is killed leaves some behind


def write_whole(file: Path, content: bytes, private: bool = False, durable: bool = False) -> None:
    """Replaces `file` at once when all of `content` is on the disk; when the disk is full, what was there stays.

    Args:
        private: Nobody but its owner may read it.
        durable: It shall survive the machine, not only the process.
    """
    part = file.with_name(f".{file.name}.{os.getpid()}{PART}")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with open(os.open(part, flags, 0o600 if private else 0o666), "wb") as written:
            written.write(content)
            if durable:
                written.flush()
                os.fsync(written.fileno())
        os.replace(part, file)
        if durable:
            _sync_directory(file.parent)
    finally:
        part.unlink(missing_ok=True)


def _sync_directory(directory: Path) -> None:
    """So that a file in it is found by its name, too, after the machine has failed."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(directory: Path, wait: bool = True) -> Iterator[None]:
    """Nobody else is inside for `directory`, no other process or thread; whoever is killed lets go.

    Raises:
        BlockingIOError: Somebody is, and `wait` is false.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def open_regular(path: Union[str, Path], directory: Optional[int] = None, links: bool = True) -> BinaryIO:
    """Opens a file for reading, without buffer. Never waits, as opening a pipe or a device may.

    Args:
        directory: Descriptor of the directory in which `path` begins; the working directory when left out.
        links: Whether `path` may be a symbolic link.

    Raises:
        OSError: No such file, or none that is regular.
    """
    refusal = OSError(errno.EINVAL, "Not a regular file", str(path))
    if not stat.S_ISREG(os.stat(path, dir_fd=directory, follow_symlinks=links).st_mode):
        raise refusal  # opening a device may already do something
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if links else os.O_NOFOLLOW)
    file = open(os.open(path, flags, dir_fd=directory), "rb", buffering=0)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):  # it was replaced in between
        file.close()
        raise refusal
    return file


def is_file(path: Path) -> bool:
    """Whether there is such a file; a name that none can have (300 characters) is no error."""
    try:
        return path.is_file()
    except OSError:
        return False


def require_file(option: str, file: Optional[Path]) -> None:
    """Raises ConfigError, naming the option, unless `file` can be written to; None: it is not wanted."""
    if file and (file.is_dir() or not os.access(file.parent, os.W_OK)):
        raise ConfigError(f"{option} {file}: takes a file's name in a directory that is there and can be written to.")


def require_directory(option: str, directory: Optional[Path]) -> None:
    """Raises ConfigError, naming the option, unless `directory` is one that can be written to, or made; None: it is not wanted."""
    if not directory:
        return
    existing = next(path for path in (directory, *directory.parents) if path.exists())
    if not (existing.is_dir() and os.access(existing, os.W_OK)):
        raise ConfigError(f"{option} {directory}: {existing} is no directory that can be written to. Name another.")
