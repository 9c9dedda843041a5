"""A model by its place on the disk: its directory, a Rasa model's archive that holds one, or the newest archive in a folder."""

import json
import shutil
import tarfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Dict, Iterator, Optional

from spoken_intents.errors import ModelError
from spoken_intents.recognizer import FP32, FP32_DATA, INT8, MODEL_JSON, Recognition

SUFFIX = ".tar.gz"  # of what `rasa train` writes
METADATA = "metadata.json"  # what it says of the pipeline
NEEDED = (MODEL_JSON, INT8, FP32, FP32_DATA)  # of a model, to hear with it
COMPONENT = "SpokenIntentClassifier"
FILE_BYTES = 2**33  # at most, of one file in an archive; whisper-large's weights are 2.5 GB
METADATA_BYTES = 2**26


@dataclass(frozen=True)
class Fallback:
    """When Rasa's FallbackClassifier asks back, instead of believing what was heard. The defaults are its own."""

    threshold: float = 0.3
    ambiguity_threshold: float = 0.1

    def asks_back(self, heard: Recognition) -> bool:
        """Whether the best intent is not sure enough, or not surer enough than the second."""
        confidences = [confidence for _, confidence in heard.ranking[:2]]
        return confidences[0] < self.threshold or (
            len(confidences) == 2 and confidences[0] - confidences[1] < self.ambiguity_threshold
        )


@contextmanager
def model_directory(model: Path) -> Iterator[Path]:
    """The directory with ``model.json``; of an archive, a temporary one, in which Rasa's metadata is, too.

    Args:
        model: What ``spoken-intents train --out`` wrote, what ``rasa train`` wrote, or a folder such as ``models``, of
            which the newest archive is taken, as Rasa does.

    Raises:
        ModelError: No such archive, or one that cannot be read, or is without a spoken model.
    """
    if model.name.endswith(SUFFIX) and not model.exists():
        raise ModelError(f"{model}: no such file. `rasa train` writes archives to models/.")
    archive = newest_archive(model) if model.is_dir() and not (model / MODEL_JSON).exists() else model
    if archive is None or not archive.is_file():
        yield model
        return
    with TemporaryDirectory(prefix="spoken-intents-") as temporary:
        try:
            _unpack(archive, Path(temporary))
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise ModelError(f"{archive}: no model's directory, and no archive of `rasa train` ({error}).") from None
        if not (Path(temporary) / MODEL_JSON).exists():
            raise ModelError(f"{archive}: holds no {COMPONENT} that was trained. Is it in the pipeline, and were there clips?")
        yield Path(temporary)


def newest_archive(folder: Path) -> Optional[Path]:
    """The archive in `folder` that was written last; None where there is none."""
    archives = [path for path in folder.glob(f"*{SUFFIX}") if path.is_file()]
    return max(archives, key=lambda path: path.stat().st_mtime, default=None)


def _unpack(archive: Path, into: Path) -> None:
    """Writes a model's files, and Rasa's metadata, straight into `into`, whatever paths the archive has for them."""
    with tarfile.open(archive, "r|gz") as members:
        for member in members:
            name = PurePosixPath(member.name)
            wanted = name.name == METADATA and len(name.parts) <= 2 or name.name in NEEDED and COMPONENT in name.parent.name
            if not (wanted and member.isfile()) or (into / name.name).exists():
                continue
            if member.size > FILE_BYTES:
                raise ModelError(f"{archive}: {member.name} has {member.size} bytes, more than any model's.")
            content = members.extractfile(member)
            assert content is not None  # it is a file
            with content, (into / name.name).open("wb") as file:
                shutil.copyfileobj(content, file)


def read_fallback(directory: Path) -> Optional[Fallback]:
    """The FallbackClassifier's thresholds in a Rasa model that `model_directory` opened; None without one.

    Raises:
        ModelError: Its metadata is not what Rasa writes.
    """
    file = directory / METADATA
    if not file.exists():
        return None
    try:
        with file.open("rb") as opened:
            nodes: Dict[str, Any] = json.loads(opened.read(METADATA_BYTES))["predict_schema"]["nodes"]
        configs = [node["config"] for node in nodes.values() if str(node["uses"]).endswith("FallbackClassifier")]
        known = [{name: float(config[name]) for name in Fallback.__annotations__ if name in config} for config in configs]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{METADATA}: not as Rasa writes it ({error!r}). Train the model again.") from None
    return Fallback(**known[0]) if known else None
