"""Reviewing: which turns come first, what helps to label them, the page's server; and the page itself, by keyboard alone."""

import asyncio
import json
import os
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, AsyncIterator, List, Optional

import numpy as np
import pytest
import soundfile
from aiohttp.test_utils import TestClient, TestServer
from test_reviewed import ABOUT, SAMPLES, all_files, examples, recorded, turns

from chromium import Chromium, Page
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.cli import typed
from spoken_intents.errors import DataError
from spoken_intents.labels import OUT_OF_SCOPE, label_recording
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents.recordings import About, Label, recording_files
from spoken_intents_training import review as review_module
from spoken_intents_training.doubts import doubt
from spoken_intents_training.nearest import OF_AN_INTENT, Nearest
from spoken_intents_training.review import Review
from spoken_intents_training.review_server import ReviewServer

SURE = replace(ABOUT, confidence=1.0, ranking=[["balance", 1.0]], reference="live/1.wav")


class Ear:
    """Hears in a clip how loud it is: its logits are that, and the negative of it."""

    def __init__(self) -> None:
        self.heard = 0

    def logits(self, samples: np.ndarray) -> np.ndarray:
        self.heard += 1
        level = float(np.abs(samples).max())
        return np.array([level, 0.2 - level, 0.0])


def tone(level: float) -> np.ndarray:
    return SAMPLES / np.abs(SAMPLES).max() * np.float32(level)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three labelled clips, softer and louder, and two recorded calls."""
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("audio").mkdir()
    Path("domain.yml").write_text(
        'intents: [balance, freeze, affirm, deny]\nresponses: {utter_balance: [{text: "Your balance is {balance}."}]}'
    )
    (tmp_path / "data/nlu.yml").write_text(
        "nlu:\n- intent: balance\n  examples: |\n    - audio/0.wav\n    - audio/1.wav\n    - audio/gone.wav\n    - how much\n"
        "- intent: freeze\n  examples: |\n    - audio/2.wav\n"
    )
    (tmp_path / "data/rules.yml").write_text("rules: []")
    for number, level in enumerate((0.02, 0.04, 0.16)):
        soundfile.write(f"audio/{number}.wav", tone(level), SAMPLE_RATE)
    unsure = [["freeze", 0.4], ["balance", 0.35], ["deny", 0.1]]
    anna = turns("anna", "balance", "freeze", "balance")
    anna[1] = replace(anna[1], confidence=0.4, ranking=unsure)
    recorded(*anna, samples=tone(0.15))
    recorded(*turns("otto", "affirm"), samples=tone(0.03))
    return tmp_path


def reviewing(ear: Optional[Ear] = None, by: str = "rita") -> Review:
    return Review(Path(), Path("recordings"), by, ear)  # type: ignore[arg-type]


# ------------------------------------------------------------------ doubts


@pytest.mark.parametrize(
    ("about", "following", "score", "why"),
    [
        (SURE, None, 0.0, ()),
        (replace(SURE, confidence=0.6, ranking=[["balance", 0.6], ["freeze", 0.2]]), None, 0.5, ()),
        (replace(SURE, confidence=0.4, ranking=[["balance", 0.4], ["freeze", 0.3]]), None, 0.75, ("only 40% sure", "close to freeze")),
        (replace(SURE, confidence=0.4, ranking=[]), None, 0.6, ("only 40% sure",)),  # of an earlier version
        (replace(SURE, steps=[{"user": "live/1.wav", "intent": "nlu_fallback"}]), None, 0.25, ("Rasa asked back",)),
        (SURE, replace(SURE, intent="freeze", interrupted=True), 0.25, ("the caller broke off the answer",)),
        (replace(SURE, interrupted=True), replace(SURE, intent="freeze"), 0.0, ()),
        (SURE, SURE, 0.25, ("the caller said it again",)),
        (
            replace(SURE, confidence=0.6, ranking=[["balance", 0.6], ["freeze", 0.2]]), replace(SURE, intent="freeze"),
            0.75, ("the caller said it again",),
        ),
        (replace(SURE, non_speech=0.3), None, 0.0, ("30% that it was no speech",)),
    ],
)  # fmt: skip
def test_how_doubtful_a_turn_is(about: About, following: Optional[About], score: float, why: Any) -> None:
    found = doubt(about, following)
    assert (found.score, found.why) == (score, why)


def test_the_most_doubtful_turn_comes_first(project: Path) -> None:
    told = reviewing().turns()
    assert [(one["sender"], one["turn"], one["heard"]) for one in told][0] == ("anna", 2, "freeze")
    assert [one["doubt"] for one in told] == sorted((one["doubt"] for one in told), reverse=True) and len(told) == 4
    first = told[0]
    assert first["ranking"][1] == ["balance", 0.35] and first["label"] is None and first["id"].count("/") == 1
    assert told[-1]["ranking"] == [["balance", 0.98]] or told[-1]["ranking"] == [["affirm", 0.98]]


def test_of_more_turns_than_are_shown_those_without_a_label_come_first(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review_module, "MOST_TURNS", 3)
    reviewed = reviewing()
    first = reviewed.turns()[0]["id"]
    reviewed.label(first, "deny", None)
    shown = reviewed.turns()
    assert first not in [one["id"] for one in shown] and len(shown) == 3 and reviewed.not_shown == 1


def test_the_list_in_the_terminal(project: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    reviewed = reviewing()
    reviewed.label(reviewed.turns()[1]["id"], "deny", None)
    with pytest.raises(SystemExit) as ended:
        typed(["review", "--list"])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1.02  2026-05-12T14:25:01  freeze 40%") and lines[0].endswith(".flac")
    assert "anna, turn 2: the caller said it again; only 40% sure; close to balance" in lines[1]
    assert lines[-1] == "3 turns without a label."


# ------------------------------------------------------------------ what helps


def test_what_was_said_around_a_turn(project: Path) -> None:
    reviewed = reviewing()
    (turn,) = [one for one in reviewed.turns() if one["sender"] == "anna" and one["turn"] == 2]
    lines = reviewed.more_of(turn["id"])["lines"]
    assert [(line["by"], line["text"], line["is_this"]) for line in lines] == [
        ("caller", "balance", False), ("bot", "Your balance is {balance}.", False),
        ("caller", "freeze", True), ("action", "utter_freeze", False),
        ("caller", "balance", False), ("bot", "Your balance is {balance}.", False),
    ]  # fmt: skip


def test_typed_turns_and_turns_nobody_recorded_are_among_it(project: Path) -> None:
    about = turns("zoe", "balance")[0]
    steps = [{"user": "/greet", "intent": "greet"}, {"user": "live/0.wav", "intent": "deny"}, {"slot_was_set": []}, *about.steps]
    recorded(replace(about, steps=steps))
    reviewed = reviewing()
    (turn,) = [one for one in reviewed.turns() if one["sender"] == "zoe"]
    assert [line["text"] for line in reviewed.more_of(turn["id"])["lines"]][:3] == ["/greet", "deny (not recorded)", "balance"]


def test_the_labelled_clips_most_like_a_turn(project: Path) -> None:
    reviewed = reviewing(Ear())
    assert reviewed.nearest is not None
    loud = next(one for one in reviewed.turns() if one["sender"] == "anna" and one["turn"] == 2)
    assert reviewed.more_of(loud["id"])["nearest"] == [], "nothing has been listened to"
    clips = reviewed.listen()
    assert [Path(clip).name for clip in sorted(clips)] == ["0.wav", "1.wav", "2.wav"], "none that is gone"
    for clip in clips:
        reviewed.nearest.hear(clip)
    assert reviewed.listen() == [], "once is enough"
    near = reviewed.more_of(loud["id"])["nearest"]
    assert [(one["clip"], one["intent"]) for one in near][0] == ("audio/2.wav", "freeze") and near[0]["likeness"] > 0.9
    assert len(near) == 3 and near[-1]["likeness"] < 0
    reviewed.label(loud["id"], NON_SPEECH, None)
    third = next(one for one in reviewed.turns() if one["sender"] == "anna" and one["turn"] == 3)
    near = reviewed.more_of(third["id"])["nearest"]
    assert NON_SPEECH in [one["intent"] for one in near][:2], "what was just labelled is among them"
    assert NON_SPEECH not in [one["intent"] for one in reviewed.more_of(loud["id"])["nearest"]], "but not for itself"


def test_of_each_intent_the_newest_clips_are_compared_with() -> None:
    nearest = Nearest(Ear())  # type: ignore[arg-type]
    new = nearest.compare_with([(f"{number}.wav", "balance") for number in range(OF_AN_INTENT + 5)] + [("a.wav", "freeze")])
    assert sorted(new) == sorted([*(f"{number}.wav" for number in range(5, OF_AN_INTENT + 5)), "a.wav"])
    assert nearest.hear("gone.wav") is None and nearest.to("gone.wav", 3) == []


# ------------------------------------------------------------------ labels


def test_a_label_of_the_talking_page_that_was_not_taken_is_taken(project: Path) -> None:
    turn = recording_files(Path("recordings"))[0]
    label_recording(turn, Label("deny", "the talking page", "2026-05-13T09:00:00+00:00"), None)
    assert examples() == {}
    reviewed = reviewing()
    assert (reviewed.take_the_rest(), reviewed.take_the_rest()) == (1, 0)
    assert examples() == {turn.stem: "deny"}


def test_a_label_whose_intent_has_left_the_domain_is_left_alone(project: Path) -> None:
    turn = recording_files(Path("recordings"))[0]
    label_recording(turn, Label("cancel", "rita", "2026-05-13T09:00:00+00:00"), None)
    assert reviewing().take_the_rest() == 0 and examples() == {}


def test_two_who_review_at_once(project: Path) -> None:
    rita, otto = reviewing(by="rita"), reviewing(by="otto")
    name = rita.turns()[0]["id"]
    assert otto.turns()[0]["id"] == name
    rita.label(name, "deny", None)
    with pytest.raises(DataError, match="rita labelled this turn deny meanwhile"):
        otto.label(name, "balance", None)
    (seen,) = [one["label"] for one in otto.turns() if one["id"] == name]
    assert otto.label(name, "balance", Label(**seen))["turn"]["label"]["by"] == "otto"
    assert list(examples().values()) == ["balance"]


def test_recordings_that_are_damaged_are_counted_and_left_alone(project: Path) -> None:
    file = recording_files(Path("recordings"))[0]
    file.write_bytes(b"fLaC")
    reviewed = reviewing()
    assert len(reviewed.turns()) == 3 and reviewed.damaged == 1
    assert file.read_bytes() == b"fLaC"


@pytest.mark.parametrize(
    ("domain", "words"),
    [("intents: [", "not YAML"), ("intents: 3", "takes a list"), (None, "no domain.yml"), ("- a", "holds no settings")],
)
def test_without_a_domain_there_is_no_review(project: Path, domain: Optional[str], words: str) -> None:
    Path("domain.yml").unlink()
    if domain is not None:
        Path("domain.yml").write_text(domain)
    with pytest.raises(DataError, match=words):
        reviewing()


def test_a_domain_without_texts_is_one(project: Path) -> None:
    Path("domain.yml").write_text("intents: [balance]\nresponses: {utter_balance: [{custom: {}}, 3], utter_x: null}")
    reviewed = reviewing()
    assert reviewed.more_of(reviewed.turns()[0]["id"])["lines"][1]["text"] == "utter_balance"
    Path("domain.yml").write_text("intents: [balance]\nresponses: []")
    assert reviewing().turns()


def test_without_recordings_it_says_where_they_come_from(project: Path) -> None:
    with pytest.raises(DataError, match="nowhere: no such directory. Callers are recorded where the channel's settings"):
        Review(Path(), Path("nowhere"), "rita")


# ------------------------------------------------------------------ the server


@asynccontextmanager
async def served(review: Review) -> AsyncIterator["tuple[ReviewServer, Any]"]:
    server = ReviewServer(review)
    async with TestClient(TestServer(server.page.app), headers={"Authorization": f"Bearer {server.page.token}"}) as client:
        yield server, client


def test_what_the_page_asks(project: Path) -> None:
    async def body() -> None:
        async with served(reviewing(Ear())) as (server, client):
            server.listen()
            about = await (await client.get("/api/about")).json()
            assert about["by"] == "rita" and about["intents"] == ["balance", "freeze", "affirm", "deny"] and about["hears"]
            told = await (await client.get("/api/turns")).json()
            assert told["heard"] == [3, 3] and told["damaged"] == 0
            turn = told["turns"][0]
            clip = await (await client.get(f"/api/turns/{turn['id']}/audio")).read()
            assert clip == (Path("recordings") / turn["id"]).read_bytes()
            near = (await (await client.get(f"/api/turns/{turn['id']}")).json())["nearest"]
            answer = await client.get("/api/clip", params={"reference": near[0]["clip"]})
            assert await answer.read() == Path(near[0]["clip"]).read_bytes() and answer.content_type == "audio/flac"
            kept = await client.post("/api/label", json={"id": turn["id"], "intent": "deny", "before": None})
            told = await kept.json()
            assert told["turn"]["label"]["intent"] == "deny" and told["said"] == "Learnt as deny by the next rasa train."
            assert list(examples().values()) == ["deny"]

    asyncio.run(body())


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/api/turns/2026-05-12/..%2f..%2fdomain.yml/audio", "no recording is called so"),
        ("/api/turns/2026-05-12/120000000000-0000000000000000.flac", "is gone: somebody removed it"),
        ("/api/turns/2026-05-12/120000000000-0000000000000000.flac/audio", "is gone: somebody removed it"),
        ("/api/clip?reference=domain.yml", "no labelled clip"),
        ("/api/clip?reference=../../etc/passwd", "no labelled clip"),
        ("/api/clip?reference=%1b[2J", r"\x1b[2J: no labelled clip"),
    ],
)
def test_what_is_not_there_is_told(project: Path, path: str, words: str) -> None:
    async def body() -> None:
        async with served(reviewing()) as (_, client):
            answer = await client.get(path)
            assert answer.status == 400 and words in (await answer.json())["error"]

    asyncio.run(body())


@pytest.mark.parametrize(
    "asked",
    [b"", b"[", b"[" * 60_000, b"[]", {"id": "x"}, {"id": 1, "intent": "deny", "before": None},
     {"id": "x", "intent": "deny", "before": None, "more": 1}, {"id": "2026-05-12/x.flac", "intent": "deny", "before": None}],
    ids=range(8),
)  # fmt: skip
def test_what_is_no_label_changes_nothing(project: Path, asked: Any) -> None:
    async def body() -> None:
        async with served(reviewing()) as (_, client):
            before = all_files()
            answer = await client.post("/api/label", data=asked if isinstance(asked, bytes) else json.dumps(asked))
            assert answer.status == 400 and (await answer.json())["error"]
            assert all_files() == before

    asyncio.run(body())


# ------------------------------------------------------------------ the page


async def selected(page: Page) -> str:
    return await page.evaluate("document.querySelector('#turns [aria-selected=true]')?.id ?? ''")


@pytest.mark.browser
def test_turns_are_labelled_by_keyboard_alone(project: Path) -> None:
    """Every label on the page is one key; what was labelled is kept when the browser is closed in the middle."""

    async def body() -> None:
        server = ReviewServer(reviewing(Ear()))
        server.listen()
        async with TestServer(server.page.app, port=0) as serving, Chromium() as browser:
            url = f"http://127.0.0.1:{serving.port}/#token={server.page.token}"
            page = await browser.open(url)

            async def press(key: str) -> None:
                await page.press_key(key, {"Enter": 13, "Escape": 27}.get(key, 0))

            async def labelled(count: int) -> List[Optional[str]]:
                await page.until(f"document.querySelector('#count').textContent === '{count} of 4 labelled'")
                labels = {one["id"]: one["label"] and one["label"]["intent"] for one in reviewing().turns()}
                return [labels[turn] for turn in order]

            await page.until("document.querySelectorAll('#turns li').length === 4")
            await page.sees("#choices li:nth-child(2)", "balance")
            await page.sees("#nearest li", "freeze")
            await page.sees("#lines", "Your balance is {balance}.")
            order = [one["id"] for one in server.review.turns()]
            assert await selected(page) == order[0]
            await press(" ")
            await page.until("document.body.dataset.played")
            await press("j")
            assert await selected(page) == order[1]
            await press("k")
            await press("3")
            assert await labelled(1) == ["deny", None, None, None]
            await page.sees("#outcome", "Heard as freeze, labelled deny. Learnt as deny by the next rasa train.")
            await page.until(f"document.querySelector('#turns [aria-selected=true]').id === '{order[1]}'")
            await press("n")
            assert await labelled(2) == ["deny", NON_SPEECH, None, None]
            await press("o")
            assert await labelled(3) == ["deny", NON_SPEECH, OUT_OF_SCOPE, None]
            await press("u")
            assert await labelled(2) == ["deny", NON_SPEECH, None, None]
            await press("/")
            await page.until("document.activeElement.id === 'wanted'")
            await page.type("FFI")
            assert await labelled(3) == ["deny", NON_SPEECH, "affirm", None]
            await page.until(f"document.querySelector('#turns [aria-selected=true]').id === '{order[3]}'")
            await press("Enter")
            heard = {one["id"]: one["heard"] for one in server.review.turns()}
            assert (await labelled(4))[3] == heard[order[3]]
            await press("?")
            await page.until("document.querySelector('#keys').open")
            await press("Escape")
            await page.until("!document.querySelector('#keys').open")
            await press("c")
            await page.until("document.querySelectorAll('#turns li').length !== 4")
            assert page.problems == []
            again = await browser.open(url)
            await again.sees("#none", "Nothing that the filters let through is left.")
            assert await again.evaluate("document.querySelector('#count').textContent") == "4 of 4 labelled"

    asyncio.run(asyncio.wait_for(body(), 120))
    assert len(examples()) == 3


@pytest.mark.browser
def test_a_recording_that_is_deleted_under_the_reviewer(project: Path) -> None:
    async def body() -> None:
        server = ReviewServer(reviewing())
        async with TestServer(server.page.app, port=0) as serving, Chromium() as browser:
            page = await browser.open(f"http://127.0.0.1:{serving.port}/#token={server.page.token}")
            await page.until("document.querySelectorAll('#turns li').length === 4")
            gone = await selected(page)
            os.unlink(Path("recordings") / gone)
            await page.press_key("Enter", 13)
            await page.sees("#notice", "is gone: somebody removed it")
            await page.until("document.querySelectorAll('#turns li').length === 3")
            assert await selected(page) not in ("", gone) and examples() == {}
            await page.until("document.querySelectorAll('#lines li').length > 0")
            await page.sees("#notice", "is gone: somebody removed it")
            await page.press_key("j", 0)
            await page.until("document.querySelector('#notice').textContent === ''")

    asyncio.run(asyncio.wait_for(body(), 120))
