"""Changes to a project's files: shown before, made all or none, and taken back.

A record of what was added, `RECORD`, lies in the project, for ``--undo``: the added text and what it replaced, nothing else of
the files, so no secret of theirs.
"""

import difflib
import json
import os
import shutil
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, List, Optional, Sequence, Tuple

from rich.console import Console
from rich.markup import escape

from spoken_intents.errors import ConfigError, one_line
from spoken_intents.files import open_regular, write_whole
from spoken_intents.init.yaml_text import Edit, edited

RECORD = ".spoken-intents.json"
MAX_BYTES = 5_000_000  # of a file that is edited; Rasa itself would take minutes to read such a one


@dataclass(frozen=True)
class FileChange:
    """A file before and after.

    Attributes:
        name: Its path in the project.
        before: Its text; None: it is new.
        after: Its text to be; None: it goes.
        edits: What makes `after` of `before`; for a new file its whole text.
    """

    name: str
    before: Optional[str]
    after: Optional[str]
    edits: Tuple[Edit, ...] = ()

    @classmethod
    def of(cls, name: str, before: str, edits: Sequence[Edit]) -> "FileChange":
        """`edits` on a file that is there; their places are those in `unix(before)`."""
        text, end = unix(before)
        return cls(name, before, edited(text, edits).replace("\n", end), tuple(edits))

    @classmethod
    def new(cls, name: str, text: str, what: str) -> "FileChange":
        """A file that is not there."""
        return cls(name, None, text, (Edit(0, 0, text, what),))


@dataclass
class Changes:
    """What is to be done to a project.

    Attributes:
        files: In the order they are shown and made.
        directories: To be made, or with `gone` to be removed where they are empty.
        done: What is done, in words, each of one file.
        notes: What the user should know beside it.
        record: `RECORD`'s text to be; None: it goes.
    """

    folder: Path
    files: List[FileChange] = field(default_factory=list)
    directories: List[str] = field(default_factory=list)
    gone: bool = False
    done: List[str] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)
    record: Optional[str] = None

    def __bool__(self) -> bool:
        return bool(self.files or self.directories)

    def show(self, console: Console) -> None:
        """Prints a diff of each file, and what it comes to."""
        for change in self.files:
            for line in diff(change):
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[0], "dim")
                console.print(
                    escape(line), style="bold" if line[:3] in ("---", "+++") else style, highlight=False, soft_wrap=True
                )
            console.print()
        for line in self.done:
            console.print(f"[green]•[/] {escape(line)}", highlight=False, soft_wrap=True)
        self.show_notes(console)

    def show_notes(self, console: Console) -> None:
        """Prints what the user should know."""
        for line in self.notes:
            console.print(f"[yellow]![/] {escape(line)}", highlight=False, soft_wrap=True)

    def apply(self) -> None:
        """Makes all changes, or none.

        Every new text is on the disk before the first file is replaced.

        Raises:
            ConfigError: A file was changed meanwhile.
            OSError: The disk is full, or something cannot be written. The project is as it was.
        """
        for change in self.files:
            if read_text(self.folder, change.name) != change.before:
                raise ConfigError(f"{change.name} was changed meanwhile. Nothing was done: begin again.")
        record = FileChange(RECORD, read_text(self.folder, RECORD), self.record)
        changes = [record, *self.files] if self.record else [*self.files, record]  # whatever happens, what was added is known
        changes = [change for change in changes if change.before != change.after]
        with _Steps() as steps:
            for name in [] if self.gone else self.directories:
                (self.folder / name).mkdir(exist_ok=True)
                steps.back.append((self.folder / name).rmdir)  # unless something is in it
            places = [Path(os.path.realpath(self.folder / change.name)) for change in changes]  # a link stays one
            parts = [_stage(real, change, steps) for real, change in zip(places, changes)]
            for real, change, part in zip(places, changes, parts):
                _replace(real, change, part, steps)
        for name in self.directories if self.gone else []:
            with suppress(OSError):  # something is in it
                (self.folder / name).rmdir()


def diff(change: FileChange) -> List[str]:
    """A unified diff, a line each. Of credentials only what changes: the lines about it may be secrets."""
    about = 0 if "credentials" in Path(change.name).name else 3
    lines = difflib.unified_diff(
        (change.before or "").splitlines(),
        (change.after or "").splitlines(),
        change.name if change.before is not None else "/dev/null",
        change.name if change.after is not None else "/dev/null",
        lineterm="",
        n=about,
    )
    return ["".join(sign if sign.isprintable() or sign == "\t" else "?" for sign in line) for line in lines]


def read_text(folder: Path, name: str) -> Optional[str]:
    """A file's text, line ends as they are; None: there is none.

    Raises:
        ConfigError: No text in UTF-8, which Rasa reads; too large; or no file at all.
    """
    file = folder / name
    if not os.path.lexists(file):
        return None
    if file.is_dir():
        raise ConfigError(f"{name}: a folder, where a file was expected. Nothing was changed.")
    with open_regular(file) as opened:
        content = opened.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{name}: larger than {MAX_BYTES // 1_000_000} MB. Nothing was changed.")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: byte {error.start} is not UTF-8, which Rasa reads. Nothing was changed.") from None


def require_writable(folder: Path, names: Sequence[str]) -> None:
    """Raises ConfigError unless all of these files may be written: replacing one would not mind that it is read-only."""
    for name in names:
        file = folder / name
        if not os.path.lexists(file):
            file = next(parent for parent in file.parents if parent.exists())
        if not (file.stat().st_mode & 0o222 and os.access(file, os.W_OK)):
            raise ConfigError(f"{one_line(str(file))}: read-only. Nothing was changed: make it writable, or do it by hand.")


def unix(text: str) -> Tuple[str, str]:
    """`text` with the line ends that are worked with, and its own; where it mixes them it stays as it is."""
    if text.count("\r\n") == text.count("\n") > 0:
        return text.replace("\r\n", "\n"), "\r\n"
    return text, "\n"


# ---------------------------------------------------------------- the record


@dataclass
class Recorded:
    """What was added to a file: for each edit its `what`, and the text that was there and is there since."""

    created: bool
    edits: List[Tuple[str, str, str]]


@dataclass
class Record:
    """What ``spoken-intents init`` added to a project, of all its runs."""

    files: Dict[str, Recorded] = field(default_factory=dict)
    directories: List[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "Record":
        """The project's record; an empty one where there is none.

        Raises:
            ConfigError: It is damaged, or names files outside of the project.
        """
        text = read_text(folder, RECORD)
        if text is None:
            return cls()
        try:
            found = json.loads(text)
            files = {
                str(name): Recorded(bool(one["created"]), [(str(e["what"]), str(e["old"]), str(e["new"])) for e in one["edits"]])
                for name, one in found["files"].items()
            }
            record = cls(files, [str(name) for name in found["directories"]])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise ConfigError(f"{RECORD} is damaged. Bring it back from version control, or remove it.") from None
        for name in [*record.files, *record.directories]:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ConfigError(f"{RECORD} names {one_line(name)}, which is not of this project. Remove it.")
        return record

    def add(self, changes: Changes) -> None:
        """What `changes` add, too."""
        for change in changes.files:
            text = unix(change.before or "")[0]
            edits = [(edit.what, text[edit.start : edit.end], edit.new) for edit in change.edits]
            known = self.files.get(change.name, Recorded(False, []))
            gone = {edit.what for edit in change.edits}  # what is added again had been taken out by somebody
            kept = [edit for edit in known.edits if edit[0] not in gone]
            self.files[change.name] = Recorded(known.created or change.before is None, kept + edits)
        self.directories += [name for name in changes.directories if name not in self.directories]

    def text(self) -> str:
        """As it is written."""
        files = {
            name: {"created": one.created, "edits": [{"what": w, "old": old, "new": new} for w, old, new in one.edits]}
            for name, one in self.files.items()
        }
        about = "What `spoken-intents init` added. `spoken-intents init --undo` takes it back: keep this with the project."
        return json.dumps({"about": about, "files": files, "directories": self.directories}, indent=2, ensure_ascii=False) + "\n"


# ---------------------------------------------------------------- all or none


class _Steps:
    """Calls `back`, the last first, when something fails inside; then removes what is only of use meanwhile."""

    def __init__(self) -> None:
        self.back: List[Callable[[], object]] = []
        self.meanwhile: List[Path] = []

    def __enter__(self) -> "_Steps":
        return self

    def __exit__(self, kind: Optional[type], *rest: object) -> None:
        for step in reversed(self.back if kind else []):
            with suppress(OSError):
                step()
        for file in self.meanwhile:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def _stage(real: Path, change: FileChange, steps: _Steps) -> Path:
    """Writes the new text beside its file, as private as that is."""
    part = real.with_name(f".{real.name}.{os.getpid()}.new")
    steps.meanwhile.append(part)
    write_whole(part, (change.after or "").encode("utf-8"), private=change.before is not None)
    if change.before is not None:
        part.chmod(stat.S_IMODE(real.stat().st_mode))
    return part


def _replace(real: Path, change: FileChange, part: Path, steps: _Steps) -> None:
    """Puts the new text in its place. What was there has another name until all are done: to put it back takes no space."""
    if change.before is not None:
        old = real.with_name(f".{real.name}.{os.getpid()}.old")
        steps.meanwhile.append(old)
        try:
            os.link(real, old)
        except OSError:  # a file system without links
            shutil.copy2(real, old)
        steps.back.append(lambda: os.replace(old, real))
    else:
        steps.back.append(lambda: real.unlink(missing_ok=True))
    if change.after is None:
        real.unlink()
    else:
        os.replace(part, real)
