"""The pictures of the documents: which there are, what they may hold, and what the timeline says of a turn."""

import re
from typing import Any, Dict, List
from xml.etree import ElementTree

import numpy as np
import pictures
import pytest

from assistant import ROOT
from spoken_intents.audio import SAMPLE_RATE

FILES = sorted([*ROOT.glob("docs/*.svg"), *ROOT.glob("docs/*.png")])
BY_HAND = {"path"}
LATENCY = {
    "endpoint_delay_ms": 300.0,
    "asr_latency_ms": 1.0,
    "rasa_processing_latency_ms": 50.0,
    "first_response_latency_ms": 40.0,
    "tts_first_byte_latency_ms": 60.0,
}
TURN = {"start_ms": 0, "speech_end_ms": 1000, "end_ms": 1300, "intent": "pay_<bill>"}
TOLD: List[Dict[str, Any]] = [
    {"trace_event": "partial", "at_ms": 700, "intent_ranking": [{"name": "greet", "confidence": 0.5}]},
    {"trace_event": "partial", "at_ms": 1120, "intent_ranking": [{"name": "pay_<bill>", "confidence": 0.97}]},
    {"final": True, "turn": TURN, "latency": LATENCY},
]


def test_all_but_the_path_are_made_by_the_script_and_shown() -> None:
    assert {file.stem for file in FILES} == {*pictures.PICTURES, *BY_HAND}
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    assert [file.name for file in FILES if not re.search(rf"!\[[^\]]{{20,}}\]\((docs/)?{file.name}\)", pages)] == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_picture_is_small_and_asks_nobody_for_anything(file: Any) -> None:
    assert file.stat().st_size < 300_000
    if file.suffix == ".svg":
        text = file.read_text()
        ElementTree.fromstring(text)
        assert not re.search(r"(href|src|url)\W{1,3}(https?:|//)", text) and "@import" not in text


def test_the_timeline_says_what_the_server_said() -> None:
    drawing = ElementTree.fromstring(pictures.turn_svg(np.full(SAMPLE_RATE, 0.5, np.float32), TOLD, 4.8))
    svg = "{http://www.w3.org/2000/svg}"
    texts = [text.text for text in drawing.iter(f"{svg}text")]
    assert "pay_<bill> 97%, asked for in the pause" in texts
    assert "300 ms waited until the turn is over" in texts
    assert "first sound after 60 ms, 4.8 s in all" in texts
    _, *bars = drawing.iter(f"{svg}rect")
    waited, rasa, bot = [(float(bar.get("x", 0)), float(bar.get("width", 0))) for bar in bars]
    scale = waited[1] / 300
    assert rasa[0] == pytest.approx(sum(waited) + scale, abs=0.2), "a millisecond behind the turn's end"
    assert rasa[1] == pytest.approx(50 * scale, abs=0.2)
    assert bot[0] == pytest.approx(sum(waited) + 60 * scale, abs=0.2)
