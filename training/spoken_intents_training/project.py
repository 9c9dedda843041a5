"""Recordings become a project's spoken examples: ``audio/<intent>/``, ``audio/manifest.csv``, ``data/nlu_spoken.yml``.

All of it or nothing: files are made in a hidden directory beside their places and moved in at the end.
"""

import csv
import io
import logging
import os
import shutil
import unicodedata
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, Iterable, List, Mapping, Sequence, Tuple, Union

import soundfile
from rich.table import Table

from spoken_intents.audio import SAMPLE_RATE, SUFFIXES
from spoken_intents.errors import ConfigError, DataError
from spoken_intents.features import MAX_SAMPLES, MIN_SAMPLES
from spoken_intents_training.dataset import SHOWN, Clip
from spoken_intents_training.examples import Example, nlu_text, project_intents

MANIFEST, NLU = "audio/manifest.csv", "data/nlu_spoken.yml"
STAGE = ".importing-"
LONGEST_NAME = 72  # characters; of three bytes each and with a number, still a file's name
KINDS = f"Read are {', '.join(SUFFIXES)}."

logger = logging.getLogger(__name__)
Content = Union[Path, bytes]
Progress = Callable[[Sequence[Any]], Iterable[Any]]


@dataclass(frozen=True)
class Recording:
    """A clip that is not in the project yet. `name` is what its author calls it; its suffix tells the format."""

    name: str
    intent: str
    audio: Content
    speaker: str = ""
    transcript: str = ""
    split: str = ""


@dataclass(frozen=True)
class Imported:
    """What the project holds now."""

    clips: List[Clip]
    seconds: List[float]
    unlisted: List[str]  # intents that its domain.yml lacks
    written: bool  # false when everything was there before

    def table(self) -> Table:
        """By intent and in all, for a terminal."""
        table = Table("intent", box=None)
        for name in ("clips", "minutes", "speakers"):
            table.add_column(name, justify="right")
        for intent in [*sorted({clip.intent for clip in self.clips}), ""]:
            chosen = [index for index, clip in enumerate(self.clips) if intent in (clip.intent, "")]
            minutes = sum(self.seconds[index] for index in chosen) / 60
            speakers = {self.clips[index].speaker for index in chosen} - {""}
            table.add_row(intent or "in all", str(len(chosen)), f"{minutes:.1f}", str(len(speakers) or "unknown"))
        return table


def import_recordings(recordings: Sequence[Recording], out: Path, progress: Progress = lambda items: items) -> Imported:
    """Puts recordings into the project `out`, or finds that they are there already.

    Audio is copied as it is. The split test goes into the manifest only. An import that was killed at whatever moment
    is completed by the next one of the same recordings.

    Raises:
        ConfigError: `out` is a file.
        DataError: Some recordings cannot be used, or `out` holds others. Nothing was changed.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: a file. Name a Rasa project, or a directory to be made.")
    _require_files(recordings)
    usable, seconds = _measure(recordings, progress)
    clips = _name(usable, out)
    unlisted = _unlisted(sorted({clip.intent for clip in clips}), out / "domain.yml")
    files: Dict[str, Content] = {clip.name: recording.audio for clip, recording in zip(clips, usable)}
    files[MANIFEST] = _manifest(clips, seconds).encode()
    files[NLU] = _nlu([clip for clip in clips if clip.split != "test"]).encode()
    return Imported(clips, seconds, unlisted, _write(files, out, progress))


def listed(problems: Sequence[str]) -> str:
    """A line for each of the first problems, for the end of a message."""
    more = [f"and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
    return "".join(f"\n  {problem}" for problem in [*problems[:SHOWN], *more])


# ---------------------------------------------------------------- what can be used


def _require_files(recordings: Sequence[Recording]) -> None:
    missing = [one.name for one in recordings if isinstance(one.audio, Path) and not os.path.isfile(one.audio)]
    if missing:
        raise DataError(f"{len(missing)} recording(s) missing; nothing was imported:{listed(missing)}")
    others = [one.name for one in recordings if PurePosixPath(one.name).suffix.lower() not in SUFFIXES]
    if others:
        raise DataError(
            f"{len(others)} recording(s) of a kind that is not read; nothing was imported:{listed(others)}\n{KINDS} "
            "Convert the others, such as by: ffmpeg -i clip.m4a clip.wav"
        )


def _measure(recordings: Sequence[Recording], progress: Progress) -> Tuple[List[Recording], List[float]]:
    """The recordings a model can hear and their seconds. Only headers are read; decoding is for ``spoken-intents check``."""
    usable, seconds, unusable, unreadable = [], [], [], []
    for recording in progress(recordings):
        try:
            audio = recording.audio
            length = soundfile.info(io.BytesIO(audio) if isinstance(audio, bytes) else audio).duration
        except (soundfile.LibsndfileError, OSError) as error:
            unreadable.append(f"{recording.name} ({str(getattr(error, 'error_string', error)).rstrip('.')})")
            continue
        if MIN_SAMPLES / SAMPLE_RATE <= length <= MAX_SAMPLES / SAMPLE_RATE:
            usable.append(recording)
            seconds.append(length)
        else:
            unusable.append(f"{recording.name} ({length:.2f} s)")
    if unreadable:
        raise DataError(f"{len(unreadable)} recording(s) cannot be read as audio; nothing was imported:{listed(unreadable)}")
    if unusable:  # rasa train refuses them, and what cannot be cut by its owner (MInDS-14) must still be of use
        logger.warning("Left out %d recording(s) that do not last 20 ms to 30 s:%s", len(unusable), listed(unusable))
    if all(recording.split == "test" for recording in usable):
        raise DataError(f"None of {len(recordings)} recording(s) is left to learn from; nothing was imported.")
    return usable, seconds


# ---------------------------------------------------------------- names


def fit_intent(name: str) -> str:
    """An intent's name as Rasa and file systems take it: ``FAQ/Card issues`` is faq_card_issues. Letters of any script stay.

    Raises:
        DataError: No letter or digit in it.
    """
    words = "".join(f" {c}" if c.isupper() and before.islower() else c for before, c in zip(f" {name}", name))
    fit = safe_name(words.replace("-", " ")).lower()[:LONGEST_NAME].strip("_")
    if not fit:
        raise DataError(f"An intent is called {name!r}, without a letter or digit. Give it another name.")
    return fit


def safe_name(text: str) -> str:
    """Letters (of any script, with their marks), digits and -; a _ stands for whatever else was between them."""
    known = (
        c if c.isalnum() or c == "-" or unicodedata.category(c)[0] == "M" else " " for c in unicodedata.normalize("NFKC", text)
    )
    return "_".join("".join(known).split()).strip("-")


def _name(recordings: Sequence[Recording], out: Path) -> List[Clip]:
    """The clips that recordings become. Names stay different where a file system ignores case."""
    intents: Dict[str, str] = {}
    for written in sorted({recording.intent for recording in recordings}):
        fit = fit_intent(written)
        if fit in intents.values():
            other = next(other for other in intents if intents[other] == fit)
            raise DataError(
                f"The intents {other!r} and {written!r} would both be called {fit}. Rename one; nothing was imported."
            )
        intents[written] = fit
    uses: "Counter[str]" = Counter()
    clips = []
    for one in recordings:
        file = PurePosixPath(one.name)
        stem = f"audio/{intents[one.intent]}/{safe_name(file.stem)[:LONGEST_NAME] or 'clip'}"
        name = f"{stem}{file.suffix.lower()}"
        while uses[name.lower()]:
            uses[stem.lower()] += 1
            name = f"{stem}-{uses[stem.lower()] + 1}{file.suffix.lower()}"
        uses[name.lower()] += 1
        clips.append(Clip(out / name, intents[one.intent], name, one.speaker, one.transcript, one.split))
    return clips


def _unlisted(intents: Sequence[str], domain: Path) -> List[str]:
    """The intents that a domain lacks; none where there is no domain."""
    if not domain.is_file():
        return []
    try:
        known = project_intents(domain.parent)
    except DataError as error:
        raise DataError(f"{domain}: no domain that can be read ({error}); nothing was imported.") from None
    return [intent for intent in intents if intent not in known]


# ---------------------------------------------------------------- what is written


def _manifest(clips: Sequence[Clip], seconds: Sequence[float]) -> str:
    """A CSV for ``dataset.read_clips``; its paths start at its folder."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "intent", "speaker", "transcript", "split", "seconds"])
    for clip, length in zip(clips, seconds):
        path = PurePosixPath(clip.name).relative_to("audio")
        writer.writerow([path, clip.intent, clip.speaker, clip.transcript, clip.split, f"{length:.3f}"])
    return text.getvalue()


def _nlu(clips: Sequence[Clip]) -> str:
    examples = [Example(clip.name, clip.intent, clip.transcript, clip.speaker) for clip in clips]
    return nlu_text(examples, "Written by `spoken-intents import`")


def _write(files: Mapping[str, Content], out: Path, progress: Progress) -> bool:
    """Puts `files` in place, all or none; false when they are all there. What else is in ``audio/`` is of no concern."""
    folders = sorted({PurePosixPath(name).parent.as_posix() for name in files if name not in (MANIFEST, NLU)})
    order = (*folders, MANIFEST, NLU)  # as they are moved in: before the last one, Rasa sees no spoken example
    parts = {part: {name: files[name] for name in files if PurePosixPath(name).is_relative_to(part)} for part in order}
    missing = [part for part in order if not _is_there(out / part, parts[part], out, progress)]
    for leftover in out.glob(f"{STAGE}*"):
        shutil.rmtree(leftover)
    if missing:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=STAGE, dir=out) as stage:
            for name in progress([name for part in missing for name in parts[part]]):
                file = Path(stage, name)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(_bytes(files[name]))
            for part in missing:
                (out / part).parent.mkdir(exist_ok=True)
                os.replace(Path(stage, part), out / part)
    return bool(missing)


def _is_there(place: Path, files: Mapping[str, Content], out: Path, progress: Progress) -> bool:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return False
    found = {path.relative_to(out).as_posix() for path in (place, *place.rglob("*")) if path.is_file()}
    if found != set(files) or any((out / name).read_bytes() != _bytes(files[name]) for name in progress(sorted(found))):
        raise DataError(
            f"{place} holds something else; nothing was changed. Choose another --out, or first move what was imported before "
            f"out of the way (delete it, if nobody needs it): {NLU}, {MANIFEST} and the clips that it lists."
        )
    return True


def _bytes(content: Content) -> bytes:
    return content if isinstance(content, bytes) else content.read_bytes()
