"""A Rasa project as its files: whether it is one, its domain, its data. Read as Rasa Open Source 3.6 reads them.

Rasa is not imported, which takes many seconds; the tests hold what is known of it here against Rasa itself.
"""

import os
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from spoken_intents.audio import SUFFIXES
from spoken_intents.errors import ConfigError, one_line
from spoken_intents.init.changes import read_text, unix
from spoken_intents.init.yaml_text import YamlText, read_yaml

_KEYS = ("recipe", "pipeline", "policies", "language", "assistant_id", "importers")  # one of them, and it is Rasa's config


def require_project(folder: Path, config: str) -> None:
    """Raises ConfigError unless `folder` is there and has the file `config`; it names others that may be meant."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder. Name a Rasa project's.")
    file = folder / config
    if Path(config).is_absolute() or ".." in Path(config).parts:
        raise ConfigError(f"--config {config}: name a file of the project, by its path in it.")
    if file.is_file():
        return
    other = sorted(
        {str(found.relative_to(folder)) for place in ("*", "*/*") for found in folder.glob(f"{place}.y*ml") if _is_config(found)}
    )
    if other:
        raise ConfigError(
            f"{file}: {'a folder' if file.is_dir() else 'no such file'}. Name the one that `rasa train` is given: "
            + " or ".join(f"--config {name}" for name in other[:5])
        )
    raise ConfigError(f"{folder} is no Rasa project: there is no {config}. Name a project's folder; `rasa init` makes one.")


def _is_config(file: Path) -> bool:
    try:
        with file.open(encoding="utf-8") as opened:
            return any(re.match(r"(pipeline|policies)\s*:", line) for line, _ in zip(opened, range(10_000)))
    except (OSError, ValueError):
        return False


def read_mapping(folder: Path, name: str) -> Tuple[Optional[YamlText], Optional[str]]:
    """A YAML file and its text, line ends as they are; None where there is none."""
    raw = read_text(folder, name)
    return (None, None) if raw is None else (YamlText(unix(raw)[0], name), raw)


def require_recipe(config: YamlText) -> None:
    """Raises ConfigError unless it is a config of Rasa 3 in which a pipeline is a list."""
    if not any(key in config.data for key in _KEYS):
        raise ConfigError(f"{config.name} is not Rasa's: it has none of {', '.join(_KEYS)}. Nothing was changed.")
    recipe = config.data.get("recipe") or "default.v1"
    if recipe != "default.v1":
        raise ConfigError(
            f"{config.name}: recipe {one_line(str(recipe))}. Only default.v1 has a pipeline to add to; in a graph, put SpokenMessages before "
            "the tokenizer and SpokenIntentClassifier behind the classifiers by hand. Nothing was changed."
        )
    for key in ("pipeline", "policies"):
        items = config.data.get(key)
        if items is not None and not (
            isinstance(items, list) and all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in items)
        ):
            raise ConfigError(
                f"{config.name}: {key} is no list of components, each with a name, as Rasa 3 takes. Nothing was changed."
            )


def rasas_choice(key: str) -> List[Dict[str, Any]]:
    """The pipeline, or the policies, that Rasa takes for a config without."""
    spec = find_spec("rasa")
    assert spec and spec.submodule_search_locations
    file = Path(spec.submodule_search_locations[0]) / "engine/recipes/config_files/default_config.yml"
    return read_yaml(file.read_text(encoding="utf-8"), str(file))[key]


# ---------------------------------------------------------------- domain and data


@dataclass(frozen=True)
class Domain:
    """What matters here of a domain, which is one file or many.

    Attributes:
        files: Their paths in the project; none: it is a project without dialogue.
        folder: Where they are many.
        answers: Whether ``action_default_fallback`` says something.
    """

    files: List[str]
    folder: str
    answers: bool
    entities: bool

    @classmethod
    def read(cls, folder: Path) -> "Domain":
        if (folder / "domain.yml").is_file():
            place, files = "", ["domain.yml"]
        else:
            place = next((name for name in ("domain", "domain.yml") if (folder / name).is_dir()), "")
            files = _files(folder, place, (".yml", ".yaml")) if place else []
        parts = [read_yaml(unix(read_text(folder, name) or "")[0], name) for name in files]
        parts = [part for part in parts if isinstance(part, dict)]
        answers = any(
            "utter_default" in (part.get("responses") or {}) or "action_default_fallback" in (part.get("actions") or [])
            for part in parts
        )
        return cls(files, place, answers, any(part.get("entities") for part in parts))


def answered_at(folder: Path) -> str:
    """Where a rule or a story answers ``nlu_fallback``, as ``file:line``; empty: nowhere."""
    wanted = re.compile(r"""["']?intent["']?\s*:\s*["']?nlu_fallback\b""")
    for name, lines in _data_lines(folder):
        if name.endswith(".json"):
            continue
        for number, line in enumerate(lines, 1):
            if not line.lstrip().startswith("#") and wanted.search(line):
                return f"{name}:{number}"
    return ""


def _data_lines(folder: Path) -> Iterator[Tuple[str, Iterator[str]]]:
    """The files of ``data/``, line by line: tens of thousands of examples are no burden."""
    for name in _files(folder, "data", (".yml", ".yaml", ".json")):
        with (folder / name).open(encoding="utf-8", errors="replace") as lines:
            yield name, lines


def _files(folder: Path, place: str, suffixes: Sequence[str]) -> List[str]:
    found = []
    for base, directories, files in os.walk(folder / place, followlinks=True):
        directories.sort()
        found += [Path(base) / name for name in sorted(files) if Path(name).suffix in suffixes and not name.startswith(".")]
        if len(found) > 100_000:  # links that lead round in circles
            raise ConfigError(f"{folder / place}: more than 100,000 files. Nothing was changed.")
    return [str(file.relative_to(folder)) for file in found if file.is_file()]


def imports_data(config: Dict[str, Any]) -> bool:
    """Whether the data come from elsewhere than ``data/``."""
    return any(isinstance(one, dict) and one.get("name") != "RasaFileImporter" for one in config.get("importers") or [])


def nlu_files(folder: Path) -> List[str]:
    """Where the typed examples are: the data files with an ``nlu`` part, and JSON."""
    return [
        name for name, lines in _data_lines(folder) if name.endswith(".json") or any(re.match(r"nlu\s*:", one) for one in lines)
    ]


def spoken_data(folder: Path) -> List[str]:
    """The data files that list clips."""
    clip = re.compile(rf"\s*-\s+(text:\s*)?[\"']?[\w/ .-]+({'|'.join(re.escape(suffix) for suffix in SUFFIXES)})\b")
    return [name for name, lines in _data_lines(folder) if any(clip.match(line) for line in lines)]
