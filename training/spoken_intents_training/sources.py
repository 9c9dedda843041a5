"""What a model is made from, and how to notice that it changed. Imports neither torch nor transformers."""

import hashlib
from pathlib import Path
from typing import Any, Iterable, List, Mapping, Union

from spoken_intents import __version__
from spoken_intents.audio import SUFFIXES
from spoken_intents.recognizer import FORMAT
from spoken_intents_training.recipe import recipe_values

BASE_MODELS = Path(__file__).parent / "base_models"


def base_model_source(base_model: str) -> str:
    """What ``from_pretrained`` takes: the bundled model's directory, or `base_model` itself."""
    bundled = BASE_MODELS / base_model
    return str(bundled) if (bundled / "config.json").exists() else base_model


def bundled_base_models() -> List[str]:
    """Names of the base models that come with the package."""
    return sorted(path.parent.name for path in BASE_MODELS.glob("*/config.json"))


def training_fingerprint(base_model: str, recipe: Union[str, Mapping[str, Any]], audio_directories: Iterable[str]) -> str:
    """Changes when a clip's bytes, the recipe's content, a local base model's files, or this project's version change.

    Rasa gives a component's fingerprint no training data, so every clip in the directories counts, listed or not.
    """
    weights = [path for path in Path(base_model_source(base_model)).glob("*") if path.suffix in (".json", ".safetensors", ".bin")]
    clips = [path for directory in audio_directories for path in Path(directory).rglob("*") if path.suffix.lower() in SUFFIXES]
    parts = [
        __version__,
        str(FORMAT),
        repr(sorted(recipe_values(recipe)[0].items())),
        files_fingerprint(weights),
        files_fingerprint(clips),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Changes when a file's bytes or name do."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:16]
