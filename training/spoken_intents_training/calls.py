"""Recordings, call by call, and what was said in them as people read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, Iterator, List

from spoken_intents.recordings import Recording
from spoken_intents.utterances import LIVE
from spoken_intents_training.examples import domain_files, read_yaml

AROUND = 2  # recorded turns that are shown before and behind one


@dataclass(frozen=True)
class Line:
    """One thing that was said.

    Attributes:
        by: ``caller``, ``bot``, or ``action``: the bot did something of which only the name is known.
        text: What was typed, the intent that was heard, the bot's words or the action's name.
        turn: The file name of the turn's recording, where it is one.
    """

    by: str
    text: str
    turn: str = ""


def calls_of(recordings: Iterable[Recording]) -> Dict[str, List[Recording]]:
    """The calls by their ids, and of each its turns in the order in which they were answered."""
    calls: Dict[str, List[Recording]] = {}
    for one in recordings:
        calls.setdefault(one.about.call_id, []).append(one)
    for turns in calls.values():
        turns.sort(key=lambda one: (one.about.turn, one.about.time))
    return calls


def lines_around(call: List[Recording], turn: Recording, responses: Dict[str, str]) -> List[Line]:
    """What was said in a call about a turn, that turn included."""
    place = [one.file for one in call].index(turn.file)
    near = call[max(0, place - AROUND) : place + AROUND + 1]
    return [line for one in near for line in _lines(one, responses)]


def _lines(turn: Recording, responses: Dict[str, str]) -> Iterator[Line]:
    about = turn.about
    own = Line("caller", about.intent, turn.file.name)
    if not any(step.get("user") == about.reference for step in about.steps):
        yield own
    for step in about.steps:
        if "user" in step:
            said = str(step["user"])
            if said == about.reference:
                yield own
            elif said.startswith(LIVE):
                yield Line("caller", f"{step.get('intent', '')} (not recorded)")
            else:
                yield Line("caller", said)
        elif "action" in step:
            name = str(step["action"])
            yield Line("bot", responses[name]) if name in responses else Line("action", name)


def read_responses(project: Path) -> Dict[str, str]:
    """The first text of each of the domain's responses, placeholders and all: what was in their place is kept nowhere."""
    found: Dict[str, str] = {}
    for file in domain_files(project):
        responses = read_yaml(file).get("responses")
        for name, variations in responses.items() if isinstance(responses, dict) else ():
            texts = [one["text"] for one in variations or [] if isinstance(one, dict) and isinstance(one.get("text"), str)]
            found.update({str(name): text for text in texts[:1]})
    return found
