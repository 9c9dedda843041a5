"""Files that are written whole or not at all, and whether they can be."""

import os
from pathlib import Path
from typing import Optional

from spoken_intents.errors import ConfigError


def write_whole(file: Path, content: bytes) -> None:
    """Replaces `file` at once when all of `content` is on the disk; when the disk is full, what was there stays."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


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
