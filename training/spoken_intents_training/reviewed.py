"""What a project learns of its recorded calls: each labelled turn is a training example, a noise, or a test story.

    data/nlu_reviewed.yml, audio/reviewed/        turns to learn from
    audio/reviewed/__non_speech__/                noises, learnt as no speech
    audio/reviewed/__out_of_scope__/              speech of no intent, where the project has no intent out_of_scope
    tests/test_reviewed_stories.yml,              turns that went wrong, to test with;
    audio/reviewed/__tested__/                    never learnt from

All turns of a caller are on one side: whoever is tested with has nothing in the training. Callers are called here as
`recordings list` shows them: not every name that a client may choose can be written into a file. The clips are copies:
recordings are removed when they are old. The label in the recording comes first, and everything here follows from it, so that what was
interrupted is made up for by taking the turn again.
"""

from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.scalarstring import LiteralScalarString

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.cli_recordings import REVIEWED as FOLDER
from spoken_intents.cli_recordings import shown_as, steps_of
from spoken_intents.errors import AudioError, DataError
from spoken_intents.features import MAX_SAMPLES
from spoken_intents.files import locked, write_whole
from spoken_intents.labels import OUT_OF_SCOPE, label_recording
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents.recordings import Label, Recording, read_recording
from spoken_intents_training.answers import answer_to, in_a_form
from spoken_intents_training.doubts import FALLBACK
from spoken_intents_training.examples import ExampleFile, project_intents

NAME = "reviewed"
TESTED = "__tested__"
STORIES = f"tests/test_{NAME}_stories.yml"
SCOPE_INTENT = "out_of_scope"  # as Rasa's documentation calls it
LEARNT_A_TESTED = 3  # callers who are learnt from, for each who is tested with
HEAD = "# Turns that went wrong – each story ends with one, and what the bot ought to do then. What you change stays.\n"
_COPIES = (NON_SPEECH, OUT_OF_SCOPE, TESTED)


@dataclass(frozen=True)
class Taken:
    """A turn as it is now labelled, and what was done with it, in a sentence."""

    turn: Recording
    said: str


class Reviewed:
    """The reviewed turns of one project. Several processes may label at the same time.

    Raises:
        DataError: By every method: a file of the project cannot be read, or be written.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self._examples = ExampleFile(project, NAME)
        self._folder = project / FOLDER
        self._stories = project / STORIES

    @property
    def intents(self) -> List[str]:
        """Those of the domain, as it is now.

        Raises:
            DataError: There is none.
        """
        return project_intents(self.project)

    def label(self, turn: Recording, name: Optional[str], by: str, call: Sequence[Recording] = ()) -> "Taken":
        """Writes a label into the recording, and takes the turn; None takes both away.

        Args:
            turn: As it was when its reviewer looked at it.
            call: The recordings of its call, in order; a test story begins with them.

        Raises:
            AudioError: The recording is gone, or damaged.
            DataError: There is no such label, or somebody else has labelled the turn meanwhile.
        """
        intents = self.intents
        if name is not None and name not in (*intents, NON_SPEECH, OUT_OF_SCOPE):
            raise DataError(
                f"{name!r:.80} is no intent of the domain. Take one of: {', '.join(intents)}; {NON_SPEECH} for what is no "
                f"speech, {OUT_OF_SCOPE} for speech of no intent."
            )
        label = None if name is None else Label(name, by, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        labelled = label_recording(turn.file, label, turn.about.label)
        try:
            return Taken(labelled, self.take(labelled, call))
        except OSError as error:
            raise DataError(
                f"The label is in the recording, but {error.filename or 'a file'} of the project could not be written "
                f"({error.strerror}). Nothing else was changed. `spoken-intents review` takes the turn when it is started again."
            ) from None

    def take(self, turn: Recording, call: Sequence[Recording] = ()) -> str:
        """Makes the project hold of a turn what its label says, and nothing else; says what that is.

        Raises:
            AudioError: The recording cannot be read.
            OSError: The disk is full, or not to be written to. What the project held before, it still holds.
        """
        with self._locked():
            before = self.held(turn.file.stem)
            kept, said = self._keep(turn, call)
            for reference in before:
                if reference != kept:
                    self._drop(reference)
            return said

    def not_taken(self, turns: Iterable[Recording]) -> List[Recording]:
        """Those of which the project does not hold what their label says: somebody, or a full disk, came in between.

        Known by when the turn was labelled: what people have moved in the file since stays where they put it.
        """
        held = {str(one.more.get("recording")): one.more.get("labelled") for one in self._examples.examples()}
        held.update({file.stem: _labelled_at(file) for folder in _COPIES for file in self._copies(folder)})
        tested = self._tested_senders()
        known = {*self.intents, NON_SPEECH, OUT_OF_SCOPE}
        left = []
        for turn in turns:
            label = turn.about.label
            if shown_as(turn.about.sender) in tested:
                continue
            as_labelled = held.get(turn.file.stem) == (label.time if label else None)
            if not as_labelled and (label is None or label.intent in known):
                left.append(turn)
        return left

    def forget(self, sender: str) -> List[str]:
        """Removes everything of a caller, as `recordings list` shows the name; returns the clips that are gone."""
        with self._locked():
            gone = [one.reference for one in self._examples.examples() if one.speaker == sender]
            for folder in _COPIES:
                gone += [self._reference(file) for file in self._copies(folder) if _sender(file) == sender]
            for reference in gone:
                self._drop(reference)
            return gone

    # ------------------------------------------------ what the project holds

    def held(self, stem: str) -> List[str]:
        """The references of what is kept of the recording whose file is called so."""
        held = [one.reference for one in self._examples.examples() if one.more.get("recording") == stem]
        copies = (self._folder / folder / f"{stem}.flac" for folder in _COPIES)
        about = {_own_clip(story) for story in self._read_stories().get("stories", [])}
        references = [self._reference(file) for file in copies if file.is_file()]
        return held + [one for one in references if TESTED not in one or one in about]

    def labelled(self) -> List[Tuple[str, str]]:
        """The clips that are learnt from, or kept as noise or out of scope, as paths, and their labels; the oldest first."""
        learnt = [(str(self.project / one.reference), one.intent) for one in self._examples.examples()]
        return learnt + [(str(file), folder) for folder in (NON_SPEECH, OUT_OF_SCOPE) for file in self._copies(folder)]

    def _is_tested(self, turn: Recording) -> bool:
        """Whether the turns of this caller are to test with. New callers are learnt from, but each fourth whose turn went wrong."""
        sender = shown_as(turn.about.sender)
        tested = self._tested_senders()
        learnt = {one.speaker for one in self._examples.examples()}
        if sender in tested | learnt:
            return sender in tested
        return went_wrong(turn) and len(learnt) >= LEARNT_A_TESTED * (len(tested) + 1)

    def _tested_senders(self) -> Set[Optional[str]]:
        return {_sender(file) for file in self._copies(TESTED)}

    def _copies(self, folder: str) -> List[Path]:
        return sorted((self._folder / folder).glob("*.flac"))

    def _reference(self, file: Path) -> str:
        return file.relative_to(self.project).as_posix()

    # ------------------------------------------------ taking

    def _keep(self, turn: Recording, call: Sequence[Recording]) -> Tuple[str, str]:
        """Keeps what the label says: the reference of it, and what was done, in a sentence."""
        label = turn.about.label
        if label is None:
            return "", "Nothing is learnt of it."
        intent = label.intent
        if intent == OUT_OF_SCOPE and SCOPE_INTENT in self.intents:
            intent = SCOPE_INTENT
        in_story = self._in_story(turn)
        if went_wrong(turn):
            self._cut(turn)
        if intent == NON_SPEECH:
            if in_story:
                return "", "A test story begins with it, so it is not learnt."
            return self._copy(turn, NON_SPEECH), "Learnt as a noise by the next rasa train."
        if self._is_tested(turn):
            if not went_wrong(turn):
                return "", "This caller is tested with, so nothing of theirs is learnt."
            return self._tell(turn, FALLBACK if intent == OUT_OF_SCOPE else intent, call)
        if intent == OUT_OF_SCOPE:
            return self._copy(turn, OUT_OF_SCOPE), f"Kept: the domain has no intent {SCOPE_INTENT} that could learn it."
        return self._learn(turn, intent, label.time), f"Learnt as {intent} by the next rasa train."

    def _learn(self, turn: Recording, intent: str, labelled: str) -> str:
        for one in self._examples.examples():
            if one.more.get("recording") == turn.file.stem:
                self._examples.move(one.reference, intent, labelled=labelled)
                return one.reference
        about = turn.about
        samples = read_audio(turn.file, MAX_SAMPLES / SAMPLE_RATE)
        more = {"date": about.time, "recording": turn.file.stem, "heard": about.intent, "labelled": labelled}
        return self._examples.add(intent, samples, speaker=shown_as(about.sender), **more).reference

    def _copy(self, turn: Recording, folder: str) -> str:
        """Copies a recording, with what is known of it."""
        file = self._folder / folder / turn.file.name
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            content = turn.file.read_bytes()
        except FileNotFoundError:
            raise AudioError(f"{turn.file}: is gone: somebody removed it meanwhile.") from None
        write_whole(file, content, private=True, durable=True)
        return self._reference(file)

    def _drop(self, reference: str) -> None:
        file = self.project / reference
        if file.parent == self._folder:
            self._examples.remove(reference)
        elif file.parent.name == TESTED:
            self._change_stories(lambda stories: [story for story in stories if reference != _own_clip(story)])
            self._change_stories(lambda stories: [_without(story, reference) for story in stories])
            file.unlink(missing_ok=True)
        else:
            file.unlink(missing_ok=True)

    # ------------------------------------------------ test stories

    def _tell(self, turn: Recording, intent: str, call: Sequence[Recording]) -> Tuple[str, str]:
        """Adds a story that ends with the turn, heard as `intent`, and its answer, and begins with the call where all was right
        before, and no form had asked, in which the answer would be another one."""
        before = [one for one in call if one.about.turn < turn.about.turn]
        steps = [step for one in [*before, turn] for step in steps_of(one)]
        own = max(number for number, step in enumerate(steps) if str(step.get("user", "")).strip() == turn.file.as_posix())
        steps = steps[: own + 1]
        users = [str(step["user"]).strip() for step in steps if "user" in step]
        whole = len(users) == turn.about.turn and not any(user.startswith("live/") for user in users)
        if not whole or any(went_wrong(one) for one in before) or in_a_form(steps):
            before, steps = [], steps[own:]
        places = {one.file.as_posix(): self._copy(one, TESTED) for one in [*before, turn]}
        reference = places[turn.file.as_posix()]
        answer = answer_to(self.project, intent)
        told = [_step(step, places) for step in steps]
        told[-1]["intent"] = intent
        story = {
            "story": f"call {turn.about.call_id}, turn {turn.about.turn}: {turn.about.acted_on} was {intent}",
            "metadata": {"recording": turn.file.stem},
            "steps": [*told, *answer],
        }
        story = _writable(story)
        self._change_stories(lambda stories: [*(one for one in stories if _own_clip(one) != reference), story])
        missing = "" if answer else " Add to it what the bot ought to do: neither a rule nor a story says."
        return reference, f"A test story in {STORIES}.{missing}"

    def _in_story(self, turn: Recording) -> bool:
        return (self._folder / TESTED / turn.file.name).is_file()

    def _cut(self, turn: Recording) -> None:
        """Stories that only begin with the turn begin behind it: what the bot did there was not right."""
        if self._in_story(turn):
            reference = self._reference(self._folder / TESTED / turn.file.name)
            self._change_stories(lambda stories: [_without(story, reference) for story in stories])

    def _read_stories(self) -> Any:
        if not self._stories.is_file():
            return {}
        try:
            content = _yaml().load(self._stories.read_text(encoding="utf-8"))
        except (YAMLError, ValueError) as error:
            raise DataError(f"{self._stories}: not YAML ({error}).") from None
        stories = content.get("stories") if isinstance(content, dict) else None
        if not isinstance(stories, list) or not all(isinstance(story, dict) and "steps" in story for story in stories):
            raise DataError(f"{self._stories}: takes `stories`, a list of stories with `steps`.")
        return content

    def _change_stories(self, change: Callable[[List[Any]], List[Any]]) -> None:
        """Writes the stories anew where they change, and removes the clips that none of them names any more."""
        content = self._read_stories() or {"version": "3.1", "stories": []}
        stories = content["stories"]
        changed = change(list(stories))
        if changed != list(stories):
            stories[:] = changed
            self._stories.parent.mkdir(exist_ok=True)
            held = StringIO()
            _yaml().dump(content, held)
            text = held.getvalue()
            write_whole(self._stories, (text if text.startswith("#") else HEAD + text).encode(), durable=True)
        named = {user for story in changed for user in _users(story)}
        for file in self._copies(TESTED):
            if self._reference(file) not in named:
                file.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        folder = self.project / "audio"
        folder.mkdir(exist_ok=True)
        with locked(folder):
            yield


def went_wrong(turn: Recording) -> bool:
    """Whether the bot went by something else than what the label says."""
    label = turn.about.label
    if label is None:
        return False
    right = (SCOPE_INTENT, FALLBACK) if label.intent == OUT_OF_SCOPE else (label.intent,)
    return turn.about.acted_on not in right


def _sender(file: Path) -> Optional[str]:
    """Whose recording it is a copy of; None where it is none."""
    try:
        return shown_as(read_recording(file).about.sender)
    except AudioError:
        return None


def _labelled_at(file: Path) -> Optional[str]:
    """When a copy of a recording was labelled."""
    try:
        label = read_recording(file).about.label
    except AudioError:
        return None
    return label.time if label else None


def _step(step: Dict[str, Any], places: Dict[str, str]) -> Dict[str, Any]:
    """A step as the file holds it, its clip named where the copy lies."""
    if "user" not in step:
        return dict(step)
    said = str(step["user"]).strip()
    return {**step, "user": LiteralScalarString(f"{places[said]}\n") if said in places else said}


def _writable(content: Any) -> Any:
    """The same without half characters, which callers may type and no file can hold."""
    if isinstance(content, dict):
        return {_writable(name): _writable(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_writable(one) for one in content]
    return type(content)(content.encode(errors="replace").decode()) if isinstance(content, str) else content


def _users(story: Any) -> List[str]:
    """What is said in a story, in order."""
    return [str(step["user"]).strip() for step in story["steps"] if isinstance(step, dict) and "user" in step]


def _own_clip(story: Any) -> str:
    """The clip that a story is about; empty where it is none of ours."""
    recording = (story.get("metadata") or {}).get("recording")
    return f"{FOLDER}/{TESTED}/{recording}.flac" if recording else ""


def _without(story: Any, reference: str) -> Any:
    """The story from its own clip on, where it begins with `reference`; else as it is."""
    own = _own_clip(story)
    said = _users(story)
    if own == reference or own not in said or reference not in said[: said.index(own)]:
        return story
    start = next(n for n, step in enumerate(story["steps"]) if str(step.get("user", "")).strip() == own)
    cut = copy(story)
    cut["steps"] = story["steps"][start:]
    return cut


def _yaml() -> YAML:
    """Keeps comments and order, as people may have edited the file."""
    yaml = YAML()
    yaml.width = 200  # type: ignore[assignment]
    yaml.allow_unicode = True
    return yaml
