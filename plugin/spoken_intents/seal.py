"""A model's seal: which bytes each of its files had when it was written, kept in ``model.json``, which is sealed itself.

It tells damage, half a copy, files of two models in one directory, and figures that somebody changed. It is no signature:
whoever writes a model can seal it.
"""

import hashlib
import json
import mmap
from pathlib import Path
from typing import Any, Dict, Iterable

from spoken_intents.errors import ModelError
from spoken_intents.files import open_regular

SEAL = "sha256"  # in model.json: hexadecimal digits by file name, and of what model.json says beside
ITSELF = "model.json"
AGAIN = "Copy the model's directory again, or train the model again."


def sealed(described: Dict[str, Any], files: Iterable[Path]) -> Dict[str, Any]:
    """What ``model.json`` says, with the seal of that and of `files`."""
    content = {key: value for key, value in described.items() if key != SEAL}
    return {**content, SEAL: {ITSELF: _of_content(content), **{file.name: _of_bytes(file) for file in files}}}


def check_description(described: Dict[str, Any], file: Path) -> None:
    """Raises a ModelError unless ``model.json``, read from `file`, says what it said when it was written."""
    if _digits(described, ITSELF) != _of_content({key: value for key, value in described.items() if key != SEAL}):
        raise ModelError(f"{file}: says something else than when it was written. {AGAIN}")


def check_file(described: Dict[str, Any], file: Path) -> None:
    """Raises a ModelError unless `file` has the bytes that it had when the model was written."""
    try:
        found = _of_bytes(file)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror}). {AGAIN}") from None
    if found != _digits(described, file.name):
        raise ModelError(
            f"{file}: holds other bytes than when the model was written: cut off, damaged, or another model's. {AGAIN}"
        )


def _digits(described: Dict[str, Any], name: str) -> Any:
    seal = described.get(SEAL)
    return seal.get(name) if isinstance(seal, dict) else None


def _of_content(content: Dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _of_bytes(file: Path) -> str:
    with open_regular(file) as opened:
        if not file.stat().st_size:  # which cannot be mapped
            return hashlib.sha256().hexdigest()
        with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return hashlib.sha256(content).hexdigest()
