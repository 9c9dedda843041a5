"""Spoken examples in a Rasa project: ``data/nlu_<name>.yml`` and its clips in ``audio/<name>/``, each file one command's own.

A clip is there before it is listed and is listed no more before it is gone, and each file is written whole: whatever is
killed in between leaves at most a clip that nobody lists.
"""

import io
import re
import secrets
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import numpy as np
import soundfile
import yaml

from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.errors import DataError
from spoken_intents.files import locked, write_whole
from spoken_intents.utterances import is_audio_reference
from spoken_intents_training.dataset import each_example

KNOWN = ("transcript", "speaker", "date")  # of an example's metadata; others are kept as they are
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML was built with it
_DumperBase = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
# [Berlin](city), [the capital]{"entity": "city", "value": "Berlin"}, and lists of such in [...] behind the text
ANNOTATED = re.compile(r"\[([^\[\]]+)\](?:\([^()]*\)|\{[^{}]*\}|\[\{[^\[\]]*\}\])")


@dataclass(frozen=True)
class Example:
    """One spoken example of a project.

    Attributes:
        reference: Its clip, as Rasa is told: ``audio/taught/1f0c.flac``.
        date: When it was said: ISO 8601, UTC.
        more: What else its metadata holds.
    """

    reference: str
    intent: str
    transcript: str = ""
    speaker: str = ""
    date: str = ""
    more: Dict[str, Any] = field(default_factory=dict)

    @property
    def metadata(self) -> Dict[str, Any]:
        """As nlu.yml holds it."""
        return {**{name: getattr(self, name) for name in KNOWN if getattr(self, name)}, **self.more}


class ExampleFile:
    """The spoken examples that one command adds to a project. Several processes may add to it at the same time.

    Args:
        name: Of the file and the folder of clips; the command's, such as taught.

    Raises:
        DataError: By every method: the file cannot be read, or holds something else than spoken examples.
        OSError: By every method: the disk is full, or not to be written to. Nothing was changed.
    """

    def __init__(self, project: Path, name: str) -> None:
        self._project = project
        self.nlu = project / "data" / f"nlu_{name}.yml"
        self._folder = f"audio/{name}"
        self._name = name

    def examples(self) -> List[Example]:
        """All of them, as they are listed; none where there is no such file."""
        return read_examples(self.nlu) if self.nlu.exists() else []

    def add(self, intent: str, samples: np.ndarray, transcript: str = "", speaker: str = "", **more: Any) -> Example:
        """Keeps a clip (float32, 16 kHz) as an example of `intent`; `more` goes into its metadata."""
        return self.add_all([(intent, samples, {"transcript": transcript, "speaker": speaker, **more})])[0]

    def add_all(self, clips: Sequence[Tuple[str, np.ndarray, Dict[str, Any]]]) -> List[Example]:
        """Keeps several clips, all or none: intent, samples, metadata of each."""
        now = datetime.now(timezone.utc)
        added = []
        with self._locked():
            examples = self.examples()
            try:
                for intent, samples, metadata in clips:
                    reference = f"{self._folder}/{now:%Y%m%d-%H%M%S}-{secrets.token_hex(4)}.flac"
                    known = {"date": now.isoformat(timespec="seconds"), **metadata}
                    added.append(_example(reference, intent, known))
                    write_whole(self._project / reference, _flac(samples), private=True, durable=True)
                self._write([*examples, *added])
            except BaseException:  # also Ctrl-C: what is not listed shall not lie there
                for one in added:
                    (self._project / one.reference).unlink(missing_ok=True)
                raise
        return added

    def remove(self, reference: str) -> bool:
        """Takes an example and its clip away; false where it is there no more."""
        with self._locked():
            examples = self.examples()
            left = [one for one in examples if one.reference != reference]
            if len(left) == len(examples):
                return False
            self._write(left)
            (self._project / reference).unlink(missing_ok=True)
        return True

    def move(self, reference: str, intent: str, **more: Any) -> bool:
        """Makes an example one of another intent, and changes `more` of its metadata; false where it is there no more."""
        with self._locked():
            examples = self.examples()
            if all(one.reference != reference for one in examples):
                return False
            moved = [replace(one, intent=intent, more={**one.more, **more}) for one in examples if one.reference == reference]
            self._write([moved[0] if one.reference == reference else one for one in examples])
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self._project / self._folder
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder):
            yield

    def _write(self, examples: Sequence[Example]) -> None:
        self.nlu.parent.mkdir(parents=True, exist_ok=True)
        head = f"Written by Spoken Intents ({self._name}): move examples to other intents as you like; other lines are not kept"
        write_whole(self.nlu, nlu_text(examples, head).encode(), durable=True)


def read_examples(file: Path) -> List[Example]:
    """The spoken examples of an nlu.yml that holds nothing else.

    Raises:
        DataError: It cannot be read, or something else is in it.
    """
    found = []
    for block in nlu_blocks(file):
        intent = block.get("intent")
        if intent is None:
            raise DataError(f"{file}: holds a block without an intent ({', '.join(map(str, block))}); move it to another file.")
        for text, metadata in each_example(block.get("examples") or [], f"{file}, intent {intent}"):
            if not is_audio_reference(text):
                raise DataError(f"{file}: {text!r:.80} is no clip; move what is typed to another file.")
            found.append(_example(text, str(intent), metadata))
    return found


def nlu_text(examples: Sequence[Example], head: str) -> str:
    """An nlu.yml of these examples, intent by intent. Where none of an intent has metadata, it gets Rasa's short form."""
    blocks: List[Dict[str, Any]] = []
    by_intent: Dict[str, List[Example]] = {}
    for one in examples:
        by_intent.setdefault(one.intent, []).append(one)
    for intent in sorted(by_intent):
        texts = [f"{one.reference}\n" for one in by_intent[intent]]
        known = [one.metadata for one in by_intent[intent]]
        if any(known):
            listed = [{"text": text, **({"metadata": metadata} if metadata else {})} for text, metadata in zip(texts, known)]
            blocks.append({"intent": intent, "examples": listed})
        else:
            blocks.append({"intent": intent, "examples": "".join(f"- {text}" for text in texts)})
    # In a file of ASCII only, Rasa takes a transcript's backslashes for escapes: hence the dash.
    body = yaml.dump({"version": "3.1", "nlu": blocks}, Dumper=_Dumper, sort_keys=False, width=200, allow_unicode=True)
    return f"# {head} – the text of a spoken example is its clip.\n{body}"


def project_intents(project: Path) -> List[str]:
    """The intents of the project's domain (a file, or a folder of them), in its order.

    Raises:
        DataError: There is no domain, or it cannot be read.
    """
    files = domain_files(project)
    if not files:
        raise DataError(f"{project}: no domain.yml, so no Rasa project. Name the folder that `rasa init` made.")
    found: Dict[str, None] = {}
    for file in files:
        listed = read_yaml(file).get("intents") or []
        if not isinstance(listed, list):
            raise DataError(f"{file}: `intents` takes a list, got {listed!r:.80}.")
        found.update({str(next(iter(one), "") if isinstance(one, dict) else one): None for one in listed})
    return list(found)


def domain_files(project: Path) -> List[Path]:
    """The project's domain: a file, or all in a folder of them; none where there is none."""
    domain = project / "domain.yml"
    return [domain] if domain.is_file() else list(yaml_files(project / "domain"))


def listed_examples(project: Path) -> Iterator[Tuple[str, str]]:
    """Every example in the project's ``data/``, typed and spoken: intent, and text as it stands there.

    Raises:
        DataError: A file cannot be read.
    """
    for file in yaml_files(project / "data"):
        for block in nlu_blocks(file):
            if block.get("intent") is not None:
                for text, _ in each_example(block.get("examples") or [], f"{file}, intent {block['intent']}"):
                    yield str(block["intent"]), text


def without_annotations(text: str) -> str:
    """An example's words: ``to [Berlin](city)`` is ``to Berlin``."""
    return ANNOTATED.sub(r"\1", text)


def yaml_files(folder: Path) -> Iterator[Path]:
    """Everything in a folder, and in those below, that Rasa takes for YAML: no hidden file."""
    files = (file for file in sorted(folder.rglob("*")) if file.suffix in (".yml", ".yaml") and file.is_file())
    return (file for file in files if not file.name.startswith("."))


def read_yaml(file: Path) -> Dict[str, Any]:
    """What a YAML file of a Rasa project holds, by name; nothing of an empty one.

    Raises:
        DataError: It is no YAML, or something else than settings by name.
    """
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # not UTF-8; a date such as 2024-99-99
        raise DataError(f"{file}: not YAML ({error}).") from None
    if not isinstance(content, (dict, type(None))):
        raise DataError(f"{file}: holds no settings by name, but {content!r:.80}.")
    return content or {}


def nlu_blocks(file: Path) -> List[Dict[str, Any]]:
    """The blocks under `nlu` of a YAML file, such as `- intent:` with `examples:`; none of a file about something else.

    Raises:
        DataError: It cannot be read.
    """
    blocks = read_yaml(file).get("nlu") or []
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise DataError(f"{file}: `nlu` takes a list of `- intent:` with `examples:`, got {blocks!r:.80}.")
    return blocks


def _example(reference: str, intent: str, metadata: Dict[str, Any]) -> Example:
    known = {name: str(metadata[name]) for name in KNOWN if metadata.get(name)}
    return Example(reference, intent, more={name: value for name, value in metadata.items() if name not in KNOWN}, **known)


def _flac(samples: np.ndarray) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, np.frombuffer(float_to_pcm16(samples), dtype="<i2"), SAMPLE_RATE, format="FLAC", subtype="PCM_16")
    return held.getvalue()


class _Dumper(_DumperBase):  # type: ignore[misc, valid-type]
    """Lines as a | block, as Rasa writes them; in quotes, what Rasa would take for an environment variable."""


def _represent(dumper: Any, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else '"' if "${" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent)
