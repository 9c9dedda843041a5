"""The soak, for seconds: benchmarks/soak.py with fewer hours; and that it would find what is lost or left behind."""

import asyncio
import copy
from typing import Any, Dict

import pytest
import soak
from sanic import Sanic

from spoken_intents import segmenter


@pytest.fixture(scope="module")
def figures() -> Dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "make_vad", lambda *_: soak.Loud())
        patch.setattr(Sanic, "test_mode", True)
        return asyncio.run(soak.soak(0.3, seed=1))


def test_an_hours_third_of_calls_adds_up(figures: Dict[str, Any]) -> None:
    assert soak.problems(figures) == []
    assert figures["calls"] > 20 and figures["rasa"]["answered"] > 50
    assert figures["metrics"]["failed"] > 0 < figures["metrics"]["non_speech"]
    assert len(figures["ends"]) >= 4


@pytest.mark.parametrize(
    ("where", "name", "change", "found"),
    [
        ("rasa", "given", 1, "Rasa answered another number"),
        ("metrics", "answered", -1, "answers are not turns"),
        ("metrics", "failed", 1, "failures are not turns"),
        ("metrics", "calls_open", 1, "calls or utterances stay"),
        ("metrics", "non_speech", 10_000, "cough: more were said than counted"),
        ("said", "spoken", 10_000, "turns were lost"),
        ("said", "spoken", -10_000, "there are more turns than were said"),
        ("refusals", "bad_json", 1, "{"),
        ("after", "tasks", 1, "tasks: "),
        ("after", "threads", 5, "threads: "),
        ("after", "file_handles", 1, "file_handles: "),
        ("after", "hand_off", 1, "hand_off: "),
        ("after", "objects", 20_000, "objects: "),
        ("after", "memory_mb", 1000, "memory: "),
    ],
)
def test_what_does_not_add_up_is_found(figures: Dict[str, Any], where: str, name: str, change: int, found: str) -> None:
    changed = copy.deepcopy(figures)
    changed[where][name] += change
    assert any(problem.startswith(found) for problem in soak.problems(changed))
