"""Recorded turns in the order in which they are worth looking at, and what helps to say what each was."""

import threading
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from spoken_intents.cli_recordings import shown_as
from spoken_intents.errors import AudioError, DataError
from spoken_intents.files import open_regular
from spoken_intents.recognizer import Recognizer
from spoken_intents.recordings import Label, Recording, read_recording, recording_file, recording_files
from spoken_intents_training.calls import calls_of, lines_around, read_responses
from spoken_intents_training.dataset import read_clips
from spoken_intents_training.doubts import doubt
from spoken_intents_training.examples import yaml_files
from spoken_intents_training.nearest import Nearest
from spoken_intents_training.reviewed import NAME, Reviewed

MOST_TURNS = 5_000  # that are shown at once: those without a label, the most doubtful first
NEIGHBOURS = 5
Labels = List[Tuple[str, str]]  # clips, as paths, and their labels


class Review:
    """The recordings of a project under review. Thread-safe.

    Args:
        directory: Of the recordings.
        by: Who reviews.
        recognizer: Hears clips, to find those that sound alike; None: none are found.

    Raises:
        DataError: There are no such directories, or no domain.
    """

    def __init__(self, project: Path, directory: Path, by: str, recognizer: Optional[Recognizer] = None) -> None:
        self.project = project.resolve()
        self.directory = directory.resolve()
        self.reviewed = Reviewed(self.project)
        self.reviewed.intents  # noqa: B018 (says so where this is no Rasa project)
        if not directory.is_dir():
            raise DataError(
                f"{directory}: no such directory. Callers are recorded where the channel's settings in credentials.yml name a "
                "directory (recordings: recordings); name it with --directory."
            )
        self.by = by
        self.damaged = self.not_shown = 0  # since they were last asked for
        self.nearest = Nearest(recognizer) if recognizer else None
        self._responses = read_responses(self.project)
        self._typed: Labels = []  # the project's own spoken examples
        self._read: Dict[Path, Tuple[Tuple[int, int], Optional[Recording]]] = {}
        self._lock = threading.Lock()

    # ------------------------------------------------ the turns

    def recordings(self) -> List[Recording]:
        """All that can be read, by time; those that are as they were are not read again."""
        with self._lock:
            known, self._read = self._read, {}
            for file in recording_files(self.directory):
                try:
                    stat = file.stat()
                    seen = (stat.st_mtime_ns, stat.st_size)
                    self._read[file] = known[file] if known.get(file, ((0, 0), None))[0] == seen else (seen, _readable(file))
                except FileNotFoundError:
                    continue
            found = [recording for _, recording in self._read.values()]
        self.damaged = found.count(None)
        return sorted((one for one in found if one), key=lambda one: one.about.time)

    def turns(self) -> List[Dict[str, Any]]:
        """The turns as the page shows them: those without a label, the most doubtful first, then the others."""
        calls = calls_of(self.recordings())
        told = []
        for turns in calls.values():
            for place, turn in enumerate(turns):
                following = turns[place + 1].about if place + 1 < len(turns) else None
                told.append(self._told(turn, following))
        shown = sorted(told, key=lambda one: (one["label"] is not None, -one["doubt"], one["time"]))[:MOST_TURNS]
        self.not_shown = len(told) - len(shown)
        return shown

    def _told(self, turn: Recording, following: Any) -> Dict[str, Any]:
        about, doubts = turn.about, doubt(turn.about, following)
        return {
            "id": self._name(turn.file),
            "time": about.time,
            "sender": shown_as(about.sender),
            "call": shown_as(about.call_id),
            "turn": about.turn,
            "channel": about.channel,
            "seconds": round(turn.seconds, 2),
            "heard": about.intent,
            "confidence": about.confidence,
            "ranking": about.ranking or [[about.intent, about.confidence]],
            "acted_on": about.acted_on,
            "doubt": doubts.score,
            "why": doubts.why,
            "label": asdict(about.label) if about.label else None,
        }

    def more_of(self, name: str) -> Dict[str, Any]:
        """What was said around a turn, and the labelled clips that sound most like it.

        Raises:
            AudioError: The recording is gone, or damaged.
        """
        turn = read_recording(self._file(name))
        lines = lines_around(self._call_of(turn), turn, self._responses)
        near = []
        if self.nearest is not None:
            own = self._own_clips(turn)
            near = [one for one in self.nearest.to(str(turn.file), NEIGHBOURS + len(own)) if one.clip not in own][:NEIGHBOURS]
        return {
            "lines": [{**asdict(line), "is_this": line.turn == turn.file.name} for line in lines],
            "nearest": [{**asdict(one), "clip": Path(one.clip).relative_to(self.project).as_posix()} for one in near],
        }

    def audio(self, name: str) -> bytes:
        """A recording, as FLAC. Raises AudioError: it is gone."""
        return _content(self._file(name))

    def clip(self, reference: str) -> bytes:
        """A labelled clip, one of those that `more_of` may name. Raises AudioError: it is none of them, or gone."""
        if (str(self.project / reference)) not in {clip for clip, _ in self._labelled()}:
            raise AudioError(f"{shown_as(reference[:200])}: no labelled clip.")
        return _content(self.project / reference)

    def label(self, name: str, intent: Optional[str], before: Optional[Label]) -> Dict[str, Any]:
        """Says what a turn was (see `Reviewed.label`); tells the turn as it is now, and what was done with it.

        Args:
            before: The label that its reviewer saw.
        """
        turn = read_recording(self._file(name))
        seen = replace(turn, about=replace(turn.about, label=before))
        call = self._call_of(turn)
        taken = self.reviewed.label(seen, intent, self.by, call)
        after = [one for one in call if one.about.turn > turn.about.turn]
        if self.nearest is not None:
            self.nearest.compare_with(self._labelled())
            for clip in self._own_clips(taken.turn):
                self.nearest.hear(clip)
        return {"turn": self._told(taken.turn, after[0].about if after else None), "said": taken.said}

    def take_the_rest(self) -> int:
        """Takes what was labelled and not taken, as something came in between; tells how many."""
        recordings = self.recordings()
        calls = calls_of(recordings)
        left = self.reviewed.not_taken(recordings)
        for turn in left:
            self.reviewed.take(turn, calls[turn.about.call_id])
        return len(left)

    # ------------------------------------------------ what sounds alike

    def listen(self) -> List[str]:
        """Looks what the project has labelled; the clips that are to be heard before they can be found."""
        reviewed = self.project / "data" / f"nlu_{NAME}.yml"
        typed = []
        for file in yaml_files(self.project / "data"):
            if file != reviewed:
                try:
                    typed += [(str(clip.path), clip.intent) for clip in read_clips(file, require=False) if clip.path.is_file()]
                except DataError:  # such as one without a clip
                    continue
        self._typed = [(clip, intent) for clip, intent in typed if self.project in Path(clip).parents]
        return self.nearest.compare_with(self._labelled()) if self.nearest else []

    def _labelled(self) -> Labels:
        """Every labelled clip of the project, the oldest first."""
        return self._typed + self.reviewed.labelled()

    def _own_clips(self, turn: Recording) -> List[str]:
        """What the project has kept of this very turn."""
        return [str(self.project / reference) for reference in self.reviewed.held(turn.file.stem)]

    # ------------------------------------------------ files

    def _call_of(self, turn: Recording) -> List[Recording]:
        return calls_of(one for one in self.recordings() if one.about.call_id == turn.about.call_id)[turn.about.call_id]

    def _name(self, file: Path) -> str:
        return file.relative_to(self.directory).as_posix()

    def _file(self, name: str) -> Path:
        file = recording_file(self.directory, name)
        if not file.exists():
            raise AudioError(f"{file}: is gone: somebody removed it, or it was too old, or there was no room.")
        return file


def _readable(file: Path) -> Optional[Recording]:
    try:
        return read_recording(file)
    except AudioError:
        return None


def _content(file: Path) -> bytes:
    try:
        with open_regular(file) as opened:
            return opened.read()
    except OSError as error:
        raise AudioError(f"{file}: is gone, or cannot be read ({error.strerror}).") from None
