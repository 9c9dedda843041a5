"""Files that are written whole or not at all."""

import os
from pathlib import Path


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
