"""What a model is made from, and how to notice that it changed. Imports neither torch nor transformers."""

import hashlib
import logging
from pathlib import Path
from typing import Any, Iterable, List, Mapping, Union

from spoken_intents import __version__
from spoken_intents.audio import SUFFIXES
from spoken_intents.recognizer import FORMAT
from spoken_intents_training.recipe import load_recipe

BASE_MODELS = Path(__file__).parent / "base_models"
HUB_TIMEOUT_S = 10


def base_model_source(base_model: str) -> str:
    """What ``from_pretrained`` takes: the bundled model's directory, or `base_model` itself."""
    bundled = BASE_MODELS / base_model
    return str(bundled) if (bundled / "config.json").exists() else base_model


def same_base_model(one: str, other: str) -> bool:
    """Whether two names lead to the same base model, such as a bundled one's and its directory's."""

    def place(base_model: str) -> str:
        source = base_model_source(base_model)
        return str(Path(source).resolve()) if Path(source).is_dir() else source

    return place(one) == place(other)


def may_be_on_hub(name: str) -> bool:
    """Whether it has the form ``owner/name``, and not that of a path."""
    owner, _, rest = name.partition("/")
    return bool(owner.strip(".~")) and bool(rest) and "/" not in rest


def hub_refusal(name: str, kind: str = "model") -> str:
    """Why the hub does not give the model (or `kind`: ``dataset``) `name`, in a line; empty when it does.

    Empty, too, when it is not to be asked (HF_HUB_OFFLINE). It is asked once: the hub's libraries ask six times for every
    file, seconds apart, with a warning each time.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return ""
    log = logging.getLogger("huggingface_hub")
    level = log.level
    log.setLevel(logging.CRITICAL)  # what it would warn of is what is returned
    try:
        HfApi().repo_info(name, repo_type=kind, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the hub's and httpx's have no root of their own
        return first_line(error)
    finally:
        log.setLevel(level)
    return ""


def first_line(error: Exception) -> str:
    """What another library's error says, for a message of ours: its first line, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def bundled_base_models() -> List[str]:
    """Names of the base models that come with the package."""
    return sorted(path.parent.name for path in BASE_MODELS.glob("*/config.json"))


def training_fingerprint(base_model: str, recipe: Union[str, Mapping[str, Any]], audio_directories: Iterable[str]) -> str:
    """Changes when a clip's bytes, the recipe's content, a local base model's files, or this project's version change.

    Rasa gives a component's fingerprint no training data, so every clip in the directories counts, listed or not.
    """
    weights = [path for path in Path(base_model_source(base_model)).glob("*") if path.suffix in (".json", ".safetensors")]
    clips = [path for directory in audio_directories for path in Path(directory).rglob("*") if path.suffix.lower() in SUFFIXES]
    parts = [
        __version__,
        str(FORMAT),
        repr(load_recipe(recipe)),
        files_fingerprint(weights),
        files_fingerprint(clips),
    ]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """12 hexadecimal digits that tell a file's bytes from others'."""
    return _sha256(path)[:12]


def files_fingerprint(paths: Iterable[Path]) -> str:
    """Changes when a file's bytes or name do."""
    digest = hashlib.sha256()
    for path in sorted(set(paths)):
        digest.update(f"{path.name} {_sha256(path)}\n".encode())
    return digest.hexdigest()[:16]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
