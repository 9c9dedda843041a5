"""What `adding` added, taken back: ``spoken-intents init --undo``.

By the record, text by text, wherever in its file it is now and however it is indented: Rasa itself writes config.yml anew
when it gives the project an id. The two components and the channel go in any case, without which Rasa would not start once
Spoken Intents is not installed; what else was changed since is its author's, and stays.
"""

import re
from pathlib import Path
from typing import List, Optional, Sequence

from ruamel.yaml.nodes import SequenceNode

from spoken_intents.errors import ConfigError
from spoken_intents.init.adding import CHANNEL, CONFIG, CREDENTIALS
from spoken_intents.init.changes import RECORD, Changes, FileChange, Record, Recorded, read_text, require_writable, unix
from spoken_intents.init.pipeline import CLASSIFIER, MESSAGES
from spoken_intents.init.project import spoken_data
from spoken_intents.init.yaml_text import Edit, YamlText, edited, read_yaml


def plan(folder: Path, config: str = CONFIG) -> Changes:
    """What takes back all that was added to the project in `folder`.

    Args:
        config: The file with the pipeline, where no record names it.

    Raises:
        ConfigError: A file cannot be read, or the record is damaged.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder. Name a Rasa project's.")
    changes = Changes(folder, gone=True)
    record = Record.read(folder)
    changes.directories = [name for name in record.directories if (folder / name).is_dir()]
    for name in dict.fromkeys([*record.files, config, CREDENTIALS]):
        before = read_text(folder, name)
        if before is None:
            continue
        text, end = unix(before)
        added = record.files.get(name, Recorded(False, []))
        after, left = _without(text, added)
        removed = [what for what, _, _ in added.edits if what not in left]
        if any(one in after for one in (MESSAGES, CLASSIFIER, CHANNEL)):
            after, components = _without_components(after, name)
            after, left = _without_lists(after, Recorded(added.created, [one for one in added.edits if one[0] in left]))
            removed += components + [what for what, _, _ in added.edits if what not in left]
            left = [what for what in left if what not in components]
        gone = added.created and not after.strip()
        if Path(name).suffix in (".yml", ".yaml"):
            read_yaml(after, name)  # refuses what would be broken, and what is
        if after != text or gone:
            changes.files.append(FileChange(name, before, None if gone else after.replace("\n", end)))
            changes.done.append(f"{name}: {'removed' if gone else 'takes out ' + ', '.join(dict.fromkeys(removed))}")
        changes.notes += [f"{name}: {what} stays, as it was changed since." for what in left]
    if changes and not record.files:
        changes.notes.append(f"There is no {RECORD}: what else `spoken-intents init` added is not known, and stays.")
    if changes:
        changes.notes += [
            f"{name} lists spoken examples: without Spoken Intents Rasa takes the clips' names for what people type. Move it out of data/."
            for name in spoken_data(folder)
        ]
    require_writable(folder, [change.name for change in changes.files])
    return changes


def _without(text: str, added: Recorded) -> "tuple[str, List[str]]":
    """`text` without what was added, and the names of what is not there as it was."""
    left = []
    for what, old, new in reversed(added.edits):
        edit = _found(text, old, new)
        if edit is None:
            left.append(what)
        else:
            text = edited(text, [edit])
    return text, left[::-1]


def _without_lists(text: str, added: Recorded) -> "tuple[str, List[str]]":
    """As `_without`, where a list that was written out has lost the components that were in it."""
    edits = [
        (what, old, _without_components(new, what)[0] if new.startswith("pipeline:") else new) for what, old, new in added.edits
    ]
    return _without(text, Recorded(added.created, edits))


def _found(text: str, old: str, new: str) -> Optional[Edit]:
    start = text.find(new)
    if start >= 0:
        return Edit(start, start + len(new), old)
    wanted = _bare(new.strip("\n").split("\n"))
    lines = text.splitlines(keepends=True)
    bare = _bare(lines)
    for first in range(len(lines) - len(wanted) + 1):
        if bare[first : first + len(wanted)] == wanted:
            start = len("".join(lines[:first]))
            end = start + len("".join(lines[first : first + len(wanted)]))
            return Edit(start, end, old.strip("\n") + "\n" if old.strip() else "")
    return None


def _bare(lines: Sequence[str]) -> List[str]:
    """Lines whatever their indentation, and however far apart their words."""
    return [re.sub(r"\s+", " ", line.strip()) for line in lines]


def _without_components(text: str, name: str) -> "tuple[str, List[str]]":
    """`text` without the two components and the channel, wherever they stand and whatever their settings."""
    removed: List[str] = []
    while True:
        edit = _one_component(YamlText(text, name))
        if edit is None:
            return text, removed
        text = edited(text, [edit])
        removed.append(edit.what)


def _one_component(file: YamlText) -> Optional[Edit]:
    pipeline = file.node("pipeline")
    if isinstance(pipeline, SequenceNode):
        for index, one in enumerate(file.data["pipeline"]):
            if isinstance(one, dict) and one.get("name") in (MESSAGES, CLASSIFIER):
                return file.remove(pipeline, index, one["name"].rpartition(".")[2])
    for index, key in enumerate(file.data):
        if key == CHANNEL and file.root is not None:
            return file.remove(file.root, index, "the voice channel")
    return None
