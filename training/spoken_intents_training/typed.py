"""The typed examples that a project has: what may be spoken, intent by intent."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence

from spoken_intents.errors import DataError
from spoken_intents.utterances import is_audio_reference
from spoken_intents_training.dataset import each_example
from spoken_intents_training.examples import nlu_blocks, yaml_files

RASA_JSON = b'"rasa_nlu_data"'


@dataclass
class Typed:
    """What NLU files hold.

    Attributes:
        sentences: The different examples of each intent, as they were typed; of some there may be none.
        values: Of each entity: what its lookup tables list.
        synonyms: Of each value: what else it is called.
    """

    sentences: Dict[str, List[str]] = field(default_factory=dict)
    values: Dict[str, List[str]] = field(default_factory=dict)
    synonyms: Dict[str, List[str]] = field(default_factory=dict)


def read_typed(paths: Sequence[Path]) -> Typed:
    """The typed examples of NLU files, and of all in folders. Spoken ones are left out, intents in several places put together.

    Raises:
        DataError: One cannot be read, is of a form other than Rasa's YAML, or there is nothing typed in any.
    """
    typed = Typed()
    seen: Dict[str, Dict[str, None]] = {}
    for file in (file for path in paths for file in _files(path)):
        for block in nlu_blocks(file):
            if block.get("intent") is not None:
                said = seen.setdefault(str(block["intent"]), {})
                said.update({text: None for text in _texts(block, file, "intent") if not is_audio_reference(text)})
            for kind, into in (("lookup", typed.values), ("synonym", typed.synonyms)):
                if block.get(kind) is not None:
                    into.setdefault(str(block[kind]), []).extend(_texts(block, file, kind))
    typed.sentences = {intent: list(said) for intent, said in seen.items()}
    if not any(typed.sentences.values()):
        raise DataError(
            f"{', '.join(map(str, paths))}: no typed examples. They are the lines under `examples:` of an `- intent:` in nlu.yml."
        )
    return typed


def _texts(block: Dict[str, Any], file: Path, kind: str) -> Iterator[str]:
    return (text for text, _ in each_example(block.get("examples") or [], f"{file}, {kind} {block[kind]}") if text)


def _files(path: Path) -> List[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file. Name the files or folders with the typed examples, such as data/nlu.yml.")
    if path.is_dir():
        for file in sorted(path.rglob("*.json")):
            if file.is_file() and RASA_JSON in file.read_bytes()[:1_000]:
                raise _not_yaml(file)
        return list(yaml_files(path))
    if path.suffix.lower() not in (".yml", ".yaml"):
        raise _not_yaml(path)
    return [path]


def _not_yaml(file: Path) -> DataError:
    out = file.with_suffix(".yml")
    return DataError(
        f"{file}: read are examples in YAML. From Rasa's JSON: rasa data convert nlu -f yaml --data {file} --out {out}, "
        f"then take {file.name} out of the data, or everything is there twice."
    )
