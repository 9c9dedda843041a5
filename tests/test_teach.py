"""Teaching by voice: whose turn which sentence is, what is kept of what was said, on a page and in a terminal."""

import asyncio
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import termios
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, AsyncIterator, Awaitable, Callable, Dict, List, Optional

import aiohttp
import numpy as np
import pytest
import soundfile
import soxr
from aiohttp.test_utils import TestClient, TestServer
from rich.console import Console

from assistant import BIN, PROJECT
from chromium import Chromium, microphone_flags
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16, read_audio
from spoken_intents.errors import ConfigError, DataError
from spoken_intents.segmenter import SpeechStarted, segment
from spoken_intents_training import examples as examples_module
from spoken_intents_training import teach, teach_server, teach_terminal
from spoken_intents_training.dataset import read_clips
from spoken_intents_training.takes import CUT_START
from spoken_intents_training.teach import SENTENCES, SETTINGS, Lesson, Take, Teaching, speaker_name
from spoken_intents_training.teach_server import TeachServer

DOMAIN = "intents: [greet, goodbye, {balance: {use_entities: []}}, faq, button_only]\n"
NLU = """
nlu:
- intent: greet
  examples: |
    - hello
    - Hello
    - good morning
    - /greet
- intent: goodbye
  examples: |
    - bye
- intent: balance
  examples: |
    - how much is in my [checking](account) account
    - 👍
- intent: faq/hours
  examples: |
    - when are you open
- intent: typo
  examples: |
    - nobody asks for this
- synonym: account
  examples: |
    - checking
"""
RNG = np.random.default_rng(0)


def quiet(seconds: float) -> np.ndarray:
    return RNG.normal(0, 1e-4, int(seconds * SAMPLE_RATE)).astype(np.float32)


def clip(name: str) -> np.ndarray:
    """A short sentence, with time before and after it."""
    return np.concatenate([quiet(0.6), read_audio(PROJECT / f"audio/train/{name}.ogg", 30), quiet(1.2)])


@pytest.fixture(scope="module")
def hello() -> np.ndarray:
    return clip("greet/0010")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "domain.yml").write_text(DOMAIN)
    (tmp_path / "data/nlu.yml").write_text(NLU)
    return tmp_path


def say(lesson: Lesson, samples: np.ndarray) -> Optional[Take]:
    """Listens to samples; the take that came of them."""
    lesson.listen()
    takes = [news for news in lesson.hear(samples) if isinstance(news, Take)]
    return takes[0] if takes else None


def all_files(project: Path) -> List[str]:
    return sorted(path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file())


def fill_disk(monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """No file of this kind can be written any more."""
    whole = examples_module.write_whole

    def full(file: Path, *arguments: Any, **options: Any) -> None:
        if file.suffix == suffix:
            raise OSError(28, "No space left on device", str(file))
        whole(file, *arguments, **options)

    monkeypatch.setattr(examples_module, "write_whole", full)


# ------------------------------------------------------------------ whose turn which sentence is


def test_the_intent_with_the_fewest_recordings_comes_next(project: Path, hello: np.ndarray) -> None:
    taught = Teaching(project)
    assert taught.asked == ["greet", "goodbye", "balance", "faq/hours"] and taught.intents == [*taught.asked, "button_only"]
    anna = Lesson(taught, "Anna")
    asked = []
    for _ in range(4):
        asked.append(anna.prompt.key)
        assert say(anna, hello) and anna.keep()
    assert asked[1:] == [
        ("goodbye", "bye"), ("balance", "how much is in my checking account"), ("faq/hours", "when are you open")
    ]  # fmt: skip
    assert asked[0] in [("greet", "hello"), ("greet", "good morning")], "not /greet, and hello once"
    anna.end()
    ben = Lesson(taught, "Ben")  # has said nothing, and of greet the other sentence is less known
    assert ben.prompt.intent == "greet" and ben.prompt.sentence != asked[0][1]
    assert say(anna, hello) and anna.keep()
    carla = Lesson(taught, "Carla")  # greet has most in all by now
    assert carla.prompt.intent == "goodbye"
    assert [(one.intent, one.own, one.total) for one in taught.progress("Anna")] == [
        ("greet", 2, 2), ("goodbye", 1, 1), ("balance", 1, 1), ("faq/hours", 1, 1), ("button_only", 0, 0)
    ]  # fmt: skip


def test_what_has_reached_the_goal_comes_last(project: Path, hello: np.ndarray) -> None:
    taught = Teaching(project, goal=1)
    anna = Lesson(taught, "Anna")
    assert anna.prompt.intent == "greet" and say(anna, hello) and anna.keep()
    anna.end()
    assert Lesson(taught, "Ben").prompt.intent == "goodbye"


def test_two_people_never_read_the_same_at_the_same_time(project: Path) -> None:
    taught = Teaching(project)
    people = [Lesson(taught, name) for name in ("Anna", "Ben", "Carla", "Dora", "Emil", "Fritz")]
    read = [person.prompt.key for person in people]
    assert len(set(read)) == len(read)
    assert read[-1] == ("greet", "") and all(sentence for _, sentence in read[:-1]), "freely, when all sentences are being read"
    for person in people:
        person.end()
    assert Lesson(taught, "Hugo").prompt.key == read[0]


def test_who_has_read_all_says_it_freely(project: Path, hello: np.ndarray) -> None:
    anna = Lesson(Teaching(project), "Anna")
    anna.choose("greet")
    sentences = []
    for _ in range(3):
        sentences.append(anna.prompt.sentence)
        assert say(anna, hello) and anna.keep()
    assert sorted(sentences) == ["", "good morning", "hello"] and sentences[-1] == ""
    assert set(anna.prompt.examples) == {"hello", "good morning"}


def test_skipped_sentences_come_again_when_all_are_skipped(project: Path) -> None:
    anna = Lesson(Teaching(project), "Anna")
    anna.choose("greet")
    seen = []
    for _ in range(4):
        seen.append(anna.prompt.sentence)
        anna.skip()
    assert len(set(seen[:3])) == 3 and seen[2] == "" and seen[3] in seen[:2]


def test_own_words_are_asked_for_with_the_sentence_as_example(project: Path, hello: np.ndarray) -> None:
    anna = Lesson(Teaching(project), "Anna")
    sentence = anna.prompt.sentence
    anna.own_words()
    assert anna.prompt.key == ("greet", "") and anna.prompt.examples[0] == sentence
    assert say(anna, hello)
    kept = anna.keep()
    assert kept and (kept.intent, kept.transcript) == ("greet", "")


def test_an_intent_without_sentences_is_said_freely_by_who_chooses_it(project: Path) -> None:
    anna = Lesson(Teaching(project), "Anna")
    anna.choose("button_only")
    assert anna.prompt == teach.Prompt("button_only")
    with pytest.raises(DataError, match="'typo' is not in the domain"):
        anna.choose("typo")
    anna.choose("")
    assert anna.prompt.intent == "greet"


def test_labels_that_the_domain_lacks_are_told(project: Path) -> None:
    (notice,) = Teaching(project).notices
    assert notice.startswith("Typed examples of typo are not asked for: add the intent to the domain")


def test_a_project_that_cannot_hear_yet_is_told(project: Path) -> None:
    (project / "config.yml").write_text("pipeline: [{name: WhitespaceTokenizer}]")
    assert Teaching(project).notices[0].startswith("This project cannot hear yet: run `spoken-intents init`")
    assert not any("cannot hear" in notice for notice in Teaching(PROJECT).notices)


def test_a_project_without_typed_sentences(project: Path) -> None:
    (project / "data/nlu.yml").write_text("nlu: [{intent: goodbye, examples: '- audio/goodbye/1.wav'}]")
    assert Teaching(project).asked == ["goodbye"] and Lesson(Teaching(project), "Anna").prompt == teach.Prompt("goodbye")
    (project / "data/nlu.yml").unlink()
    assert Teaching(project).asked == ["greet", "goodbye", "balance", "faq", "button_only"]


def test_what_is_no_project_says_so(project: Path) -> None:
    (project / "domain.yml").write_text("slots: {}")
    with pytest.raises(DataError, match="its domain lists no intents"):
        Teaching(project)
    (project / "domain.yml").unlink()
    with pytest.raises(DataError, match="no domain.yml, so no Rasa project"):
        Teaching(project)


def test_of_many_sentences_a_part_is_kept_by_chance(project: Path) -> None:
    lines = "".join(f"    - this is sentence number {number}\n" for number in range(50_000))
    (project / "data/nlu.yml").write_text(f"nlu:\n- intent: greet\n  examples: |\n{lines}")
    anna = Lesson(Teaching(project), "Anna")
    anna.choose("greet")
    numbers = []
    while anna.prompt.sentence:
        numbers.append(int(anna.prompt.sentence.split()[-1]))
        anna.skip()
    assert len(numbers) == SENTENCES and 20_000 < np.mean(numbers) < 30_000


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "a\x1b[31m", "a\u202eb"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ConfigError, match="A name takes 1 to 60 letters"):
        speaker_name(name)


def test_names_are_one_however_they_are_written() -> None:
    assert speaker_name("  Jose\u0301  Garc\u00eda ") == "Jos\u00e9 Garc\u00eda"


# ------------------------------------------------------------------ what becomes of what is said


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_a_take_is_what_the_channel_would_hear(project: Path, hello: np.ndarray, rate: int) -> None:
    samples = soxr.resample(hello, SAMPLE_RATE, rate)
    lesson = Lesson(Teaching(project), "Anna", rate)
    lesson.listen()
    chunks = np.split(samples, range(0, len(samples), 882)[1:])
    news = [one for chunk in chunks for one in lesson.hear(chunk)]
    assert isinstance(news[0], SpeechStarted) and isinstance(news[-1], Take)
    (utterance,) = segment(hello, SETTINGS)
    assert len(news[-1].samples) == pytest.approx(len(utterance.samples), abs=1000)
    if rate == SAMPLE_RATE:
        np.testing.assert_array_equal(news[-1].samples, utterance.samples)
    assert news[-1].faults == [] and lesson.take is news[-1] and not lesson.listening


def test_what_is_kept_is_on_the_disk_and_learnt_from(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    lesson.choose("balance")
    take = say(lesson, hello)
    assert take is not None
    kept = lesson.keep()
    assert kept is not None and lesson.take is None and lesson.keep() is None, "once"
    (listed,) = read_clips(project / "data/nlu_taught.yml")
    assert (listed.intent, listed.speaker, listed.transcript) == ("balance", "Anna", "how much is in my checking account")
    np.testing.assert_allclose(read_audio(listed.path, 30), take.samples, atol=1e-4)
    again = Teaching(project)
    assert again.people() == ["Anna"] and [one.reference for one in again.clips("Anna")] == [kept.reference]


def test_speech_that_nobody_listens_to_is_nothing(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    assert lesson.hear(hello) == [] and lesson.finish() == [] and lesson.keep() is None
    lesson.listen()
    lesson.stop()
    assert lesson.hear(hello) == []


def test_who_speaks_when_it_begins_to_listen_has_no_beginning(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    middle = len(hello) // 2
    lesson.hear(hello[:middle])
    take = say(lesson, hello[middle:])
    assert take is not None and CUT_START in take.faults
    take = say(lesson, hello)
    assert take is not None and take.faults == [], "the next one is whole"


def test_finish_ends_it_at_once(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    assert say(lesson, hello[: len(hello) * 2 // 3]) is None
    (take,) = lesson.finish()
    assert isinstance(take, Take) and lesson.take is take


def test_undo_takes_away_the_last_and_asks_for_it_again(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    asked = []
    for _ in range(2):
        asked.append(lesson.prompt)
        assert say(lesson, hello) and lesson.keep()
    for prompt in reversed(asked):
        assert lesson.undo() is not None
        assert lesson.prompt == prompt
    assert lesson.undo() is None
    assert read_files(project) == []
    assert say(lesson, hello) and lesson.keep()
    reference = lesson.teaching.clips("Anna")[0].reference
    assert lesson.teaching.remove(reference, "Ben") is None, "Ben removes none of hers"
    assert lesson.teaching.remove(reference, "Anna") is not None
    assert lesson.undo() is None, "it is gone already"


def read_files(project: Path) -> List[str]:
    return [name for name in all_files(project) if name.startswith("audio/")]


@pytest.mark.parametrize("suffix", [".flac", ".yml"])
def test_a_full_disk_loses_nothing(project: Path, hello: np.ndarray, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    assert say(lesson, hello) and lesson.keep()
    before, prompt = all_files(project), lesson.prompt
    take = say(lesson, hello)
    with monkeypatch.context() as patch:
        fill_disk(patch, suffix)
        with pytest.raises(OSError, match="No space left"):
            lesson.keep()
    assert all_files(project) == before and lesson.take is take and lesson.prompt is prompt
    assert lesson.keep() is not None and len(read_clips(project / "data/nlu_taught.yml")) == 2


def test_what_another_process_keeps_counts_for_the_next_lesson(project: Path, hello: np.ndarray) -> None:
    here, there = Teaching(project), Teaching(project)
    lesson = Lesson(there, "Anna")
    assert say(lesson, hello) and lesson.keep()
    assert Lesson(here, "Anna").prompt.intent == "goodbye" and len(here.clips("Anna")) == 1


# ------------------------------------------------------------------ the server


class Person:
    """Somebody's page, by script."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, rate: int) -> None:
        self.socket, self._rate = socket, rate
        self.prompt: Dict[str, Any] = {}
        self.state: Dict[str, Any] = {}

    async def until(self, *names: str) -> Dict[str, Any]:
        """The next message that has one of these fields."""
        while True:
            message = await self.socket.receive()
            if message.type is aiohttp.WSMsgType.BINARY:
                told: Dict[str, Any] = {"samples": np.frombuffer(message.data, "<i2")}
            else:
                assert message.type is aiohttp.WSMsgType.TEXT, f"{message} while waiting for {names}"
                told = json.loads(message.data)
            self.prompt = told.get("prompt", self.prompt)
            self.state = told if "progress" in told else self.state
            if any(name in told for name in names):
                return told

    async def do(self, what: str, **more: Any) -> None:
        await self.socket.send_json({"do": what, **more})

    async def say(self, samples: np.ndarray) -> np.ndarray:
        """Says it; the take."""
        await self.do("listen")
        pcm = float_to_pcm16(soxr.resample(samples, SAMPLE_RATE, self._rate))
        for start in range(0, len(pcm), 1920):
            await self.socket.send_bytes(pcm[start : start + 1920])
        await self.until("take")
        return (await self.until("samples"))["samples"]

    async def keep(self) -> str:
        await self.do("keep")
        kept = (await self.until("kept"))["kept"]
        await self.until("prompt")
        return kept


@asynccontextmanager
async def served(project: Path) -> AsyncIterator["tuple[TeachServer, TestClient]"]:
    server = TeachServer(Teaching(project))
    async with TestClient(TestServer(server.page.app)) as client:
        yield server, client


@asynccontextmanager
async def person(server: TeachServer, client: TestClient, name: str = "Anna", rate: int = 48_000) -> AsyncIterator[Person]:
    async with client.ws_connect("/api/lesson", protocols=("bearer", server.page.token)) as socket:
        await socket.send_json({"speaker": name, "sample_rate": rate})
        somebody = Person(socket, rate)
        await somebody.until("prompt")
        yield somebody


def run(body: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def bearer(server: TeachServer) -> Dict[str, str]:
    return {"Authorization": f"Bearer {server.page.token}"}


def test_a_lesson_over_the_websocket(project: Path, hello: np.ndarray) -> None:
    async def body() -> None:
        async with served(project) as (server, client):
            about = await (await client.get("/api/about", headers=bearer(server))).json()
            assert (about["folder"], about["nlu"], about["people"]) == ("audio/taught", "data/nlu_taught.yml", [])
            async with person(server, client) as anna:
                assert anna.prompt["intent"] == "greet" and anna.prompt["sentence"]
                take = await anna.say(hello)
                reference = await anna.keep()
                assert anna.prompt["intent"] == "goodbye"
                stored = read_audio(project / reference, 30)
                np.testing.assert_array_equal(np.rint(stored * 32768), take)
                assert anna.state["clips"][0]["reference"] == reference and anna.state["progress"][0]["own"] == 1
                answer = await client.get(f"/api/clip/{Path(reference).name}", headers=bearer(server))
                assert (answer.content_type, soundfile.read(io.BytesIO(await answer.read()))[1]) == ("audio/flac", SAMPLE_RATE)
                for name in ("nothing.flac", "..%2f..%2fdomain.yml", "%2e%2e"):
                    assert (await client.get(f"/api/clip/{name}", headers=bearer(server))).status in (400, 404)
                await anna.do("finish")
                await anna.do("own_words")
                assert (await anna.until("prompt"))["prompt"]["sentence"] == ""
                await anna.do("choose", intent="nothing")
                assert "'nothing' is not in the domain" in (await anna.until("error"))["error"]
                await anna.do("undo")
                assert (await anna.until("removed"))["removed"] == reference
                await anna.until("prompt")
                await anna.do("undo")
                assert (await anna.until("removed"))["removed"] is None
                assert read_files(project) == []

    run(body)


def test_two_people_at_once_each_keep_their_own(project: Path, hello: np.ndarray) -> None:
    async def teaches(somebody: Person) -> "list[tuple[str, str]]":
        said = []
        for _ in range(4):
            said.append((somebody.prompt["intent"], somebody.prompt["sentence"]))
            await somebody.say(hello)
            await somebody.keep()
        return said

    async def body() -> None:
        async with served(project) as (server, client):
            async with person(server, client) as anna, person(server, client, "Ben", 16_000) as ben:
                assert anna.prompt != ben.prompt
                said = dict(zip(("Anna", "Ben"), await asyncio.gather(teaches(anna), teaches(ben))))
                listed = read_clips(project / "data/nlu_taught.yml")
                for name, sentences in said.items():
                    assert sorted((one.intent, one.transcript) for one in listed if one.speaker == name) == sorted(sentences)
                await anna.do("remove", reference=ben.state["clips"][0]["reference"])
                assert (await anna.until("removed"))["removed"] is None
            assert len(read_files(project)) == 8

    run(body)


def test_a_browser_that_is_closed_loses_nothing_that_was_kept(project: Path, hello: np.ndarray) -> None:
    async def gone(server: TeachServer) -> None:
        while server._people:
            await asyncio.sleep(0.01)

    async def body() -> None:
        async with served(project) as (server, client):
            async with person(server, client) as anna:
                await anna.say(hello)
                await anna.do("keep")
                await anna.socket.close()  # and nobody waits whether it was kept
            await gone(server)
            assert len(read_files(project)) == 1
            async with person(server, client) as anna:
                assert anna.prompt["intent"] == "goodbye"
                await anna.say(hello)
                anna.socket._response.connection.transport.abort()
            await gone(server)
            async with person(server, client) as anna:
                assert anna.prompt["intent"] == "goodbye", "what was not kept is asked for again"
            assert len(read_clips(project / "data/nlu_taught.yml")) == len(read_files(project)) == 1

    run(body)


def test_a_full_disk_is_told_and_keeping_can_be_tried_again(
    project: Path, hello: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with served(project) as (server, client), person(server, client) as anna:
            await anna.say(hello)
            with monkeypatch.context() as patch:
                fill_disk(patch, ".flac")
                await anna.do("keep")
                why = (await anna.until("error", "kept"))["error"]
            assert "nothing was changed" in why and "No space left on device" in why
            assert read_files(project) == []
            await anna.keep()
            assert len(read_files(project)) == 1

    run(body)


@pytest.mark.parametrize(
    "first, why",
    [
        ({"speaker": "", "sample_rate": 16_000}, "A name takes"),
        ({"speaker": "Anna", "sample_rate": 11_025}, "a sample_rate of"),
        ({"speaker": "Anna", "sample_rate": True}, "a sample_rate of"),
        ({"speaker": 5, "sample_rate": 16_000}, "takes a speaker"),
        ([], "a JSON object"),
        ("[" * 5000, "a JSON object"),
        (b"sound", "says who speaks"),
    ],
)
def test_who_does_not_say_who_speaks_is_refused(project: Path, first: Any, why: str) -> None:
    async def body() -> None:
        async with served(project) as (server, client):
            async with client.ws_connect("/api/lesson", protocols=("bearer", server.page.token)) as socket:
                if isinstance(first, bytes):
                    await socket.send_bytes(first)
                else:
                    await socket.send_str(first if isinstance(first, str) else json.dumps(first))
                told = await socket.receive_json()
                assert why in told["error"] and told["over"]
                assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE

    run(body)


def test_floods_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refusal(somebody: Person) -> str:
        return (await somebody.until("error"))["error"]

    async def body() -> None:
        async with served(project) as (server, client):
            async with person(server, client, rate=8_000) as anna:
                for _ in range(teach_server.AHEAD_S + 2):
                    await anna.socket.send_bytes(bytes(16_000))
                assert "faster than anybody speaks" in await refusal(anna)
            async with person(server, client) as anna:
                for _ in range(teach_server.MESSAGES_AT_ONCE + 20):
                    await anna.do("stop")
                assert "Too many messages" in await refusal(anna)
            async with person(server, client) as anna:
                await anna.socket.send_bytes(b"odd")
                assert "half a sample is missing" in await refusal(anna)
            async with person(server, client) as anna:
                await anna.do("__init__")
                assert "says what to do" in await refusal(anna)
            while server._people:
                await asyncio.sleep(0.01)
            monkeypatch.setattr(teach_server, "MOST_PEOPLE", 1)
            async with (
                person(server, client),
                client.ws_connect("/api/lesson", protocols=("bearer", server.page.token)) as socket,
            ):
                await socket.send_json({"speaker": "Ben", "sample_rate": 16_000})
                assert "no more can" in (await socket.receive_json())["error"]

    run(body)


# ------------------------------------------------------------------ in a terminal


class Mic:
    """A microphone that hears samples in blocks of 20 ms, and types a key when it comes to one."""

    def __init__(self, keyboard: Any, *heard: Any) -> None:
        self._keyboard = keyboard
        self._heard: List[Any] = []
        for one in heard:
            self._heard += [one] if isinstance(one, str) else list(one[: len(one) // 320 * 320].reshape(-1, 320))

    async def block(self) -> np.ndarray:
        while isinstance(self._heard[0], str):
            self._keyboard.keys.append(self._heard.pop(0))
        return self._heard.pop(0)


class Speaker:
    """A loudspeaker on which everything is over at once."""

    playing = False

    def __init__(self) -> None:
        self.played: List[np.ndarray] = []

    def play(self, samples: np.ndarray) -> None:
        self.played.append(samples)

    def clear(self) -> None:
        pass


def in_terminal(lesson: Lesson, *heard: Any) -> "tuple[str, Speaker]":
    """What is shown while a microphone hears and keys are pressed; and what was played."""
    console, loudspeaker = Console(file=io.StringIO(), width=200), Speaker()
    keyboard = teach_terminal.Keyboard(-1)
    microphone = Mic(keyboard, *heard, "q", quiet(0.1))
    asyncio.run(teach_terminal.Desk(lesson, console, loudspeaker).work(microphone, keyboard, lambda line: None))
    return console.file.getvalue(), loudspeaker


def test_hands_free_in_a_terminal(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    first = lesson.prompt.sentence
    shown, loudspeaker = in_terminal(lesson, hello, quiet(1.6), hello, "\n", hello, " ", quiet(5), "r", hello, "s", quiet(0.1))
    kept = read_clips(project / "data/nlu_taught.yml")
    assert sorted((one.intent, one.transcript) for one in kept) == [("goodbye", "bye"), ("greet", first)]
    assert shown.count("Kept.") == 2 and first in shown and "Read aloud · goodbye, 0 of 10" in shown
    assert len(loudspeaker.played) == 4, "each is played back, the one held and the one skipped, too"


def test_what_is_spoilt_is_asked_for_again_in_a_terminal(project: Path, hello: np.ndarray) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    lesson.choose("faq/hours")
    long = teach.Prompt(
        "faq/hours", "when are you open, and are you open on every single holiday of the year as well, even on Sundays"
    )
    lesson.prompt = long
    again = [hello, quiet(4.2)] * 4
    shown, loudspeaker = in_terminal(lesson, *again, quiet(5))
    assert shown.count("Too short for this sentence") == 3 == len(loudspeaker.played), "then somebody has to decide"
    assert "Kept." not in shown


def test_undo_own_words_and_a_full_disk_in_a_terminal(project: Path, hello: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    lesson = Lesson(Teaching(project), "Anna")
    shown, _ = in_terminal(
        lesson, "u", quiet(0.1), hello, "\n", quiet(0.1), "u", quiet(0.1), "o", quiet(0.1), hello, "p", quiet(3)
    )
    assert "Nothing of this visit is left to undo." in shown and "Removed audio/taught/" in shown
    assert "Say it in your own words · greet" in shown and "such as:" in shown
    assert read_files(project) == []
    with monkeypatch.context() as patch:
        fill_disk(patch, ".yml")
        shown, _ = in_terminal(lesson, hello, quiet(5))
    assert shown.count("Not done, and nothing was changed:") == 1 and "No space left" in shown
    assert read_files(project) == []


def test_keys_come_from_a_pipe_and_its_end_is_q() -> None:
    reading, writing = os.pipe()
    with teach_terminal.Keyboard(reading) as keyboard:
        os.write(writing, b"rs")
        os.close(writing)
        while "q" not in keyboard.keys:
            pass
    assert list(keyboard.keys) == ["r", "s", "q"]
    os.close(reading)


def test_keys_of_a_terminal_need_no_enter_and_it_is_left_as_it_was() -> None:
    ours, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    with teach_terminal.Keyboard(terminal) as keyboard:
        os.write(ours, b"r")
        while not keyboard.keys:
            pass
        assert keyboard.keys.pop() == "r" and not termios.tcgetattr(terminal)[3] & termios.ECHO
    assert termios.tcgetattr(terminal) == before
    os.close(ours)  # and with it the thread's reading ends
    while not keyboard.keys:
        pass
    os.close(terminal)


# ------------------------------------------------------------------ the command, and the page


def test_the_command_in_a_terminal(project: Path, hello: np.ndarray) -> None:
    """With a sound card by script, in a process of its own: keys are read from its standard input."""
    soundfile.write(project / "hello.wav", np.concatenate([hello, quiet(2.5)]), SAMPLE_RATE)
    script = """
import sys, threading, time, types
import numpy as np, soundfile
heard, _ = soundfile.read("hello.wav", dtype="float32")
class Stream:
    def __init__(self, rate, count, channels, dtype, callback):
        self.callback, self.count = callback, count
    def __exit__(self, *error):
        pass
class Input(Stream):
    def __enter__(self):
        threading.Thread(target=self.record, daemon=True).start()
    def record(self):
        for start in range(0, len(heard) - self.count, self.count):
            self.callback(heard[start:start + self.count, None], self.count, None, None)
            time.sleep(0.001)
        while True:
            self.callback(np.zeros((self.count, 1), "float32"), self.count, None, None)
            time.sleep(0.001)
class Output(Stream):
    def __enter__(self):
        threading.Thread(target=self.play, daemon=True).start()
    def play(self):
        while True:
            self.callback(np.zeros((self.count, 1), "float32"), self.count, None, None)
            time.sleep(0.0005)
fine = lambda **settings: None
sys.modules["sounddevice"] = types.SimpleNamespace(
    InputStream=Input, OutputStream=Output, PortAudioError=RuntimeError, check_input_settings=fine, check_output_settings=fine
)
sys.argv = ["spoken-intents", "teach", ".", "--cli", "--name", "Anna"]
from spoken_intents.cli import app
app()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=project, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stdout
    shown = ""
    while "Kept." not in shown:
        line = process.stdout.readline()
        assert line, shown
        shown += line
    process.stdin.write("q")
    process.stdin.close()
    shown += process.stdout.read()
    assert process.wait(30) == 0
    assert "Typed examples of typo" in shown and "audio/taught" in shown and "1 recordings by Anna" in shown
    assert len(read_clips(project / "data/nlu_taught.yml")) == 1


@pytest.mark.browser
def test_a_sentence_is_recorded_hands_free(project: Path, hello: np.ndarray, tmp_path: Path) -> None:
    microphone = tmp_path / "microphone.wav"
    soundfile.write(microphone, np.concatenate([quiet(1.5), hello, quiet(1)]), SAMPLE_RATE, subtype="PCM_16")
    process = subprocess.Popen(
        [str(BIN / "spoken-intents"), "teach", str(project), "--no-browser", "--port", "0"], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    try:
        address = ""
        while not address:
            line = process.stdout.readline()
            assert line, "it ended"
            address = "".join(re.findall(r"http://\S+", line))

        async def body() -> None:
            async with Chromium(*microphone_flags(microphone)) as browser:
                page = await browser.open(address)
                await page.until("!document.querySelector('#door').hidden")
                await page.sees("#kept-what", "audio/taught")
                await page.evaluate("document.querySelector('#name').focus()")
                await page.evaluate(
                    "window.phases = []; new MutationObserver(() => phases.push(document.body.dataset.phase))"
                    ".observe(document.body, {attributes: true})"
                )
                await page.type("Anna")
                await page.sees("#intent", "greet")
                sentence = await page.evaluate("document.querySelector('#sentence').textContent")
                await page.sees("#intent", "goodbye")  # kept by itself
                told = await page.evaluate("phases.filter((one, i) => one !== phases[i - 1]).join(' ')")
                assert "listening speaking playing deciding waiting listening" in told
                (kept,) = read_clips(project / "data/nlu_taught.yml")
                assert (kept.intent, kept.speaker, kept.transcript) == ("greet", "Anna", sentence)
                await page.sees("#clips li", sentence)
                await page.sees("#sum", "1 of 40")
                # By keys: another sentence, pause, take back.
                await page.press_key("o", 79)
                await page.sees("#how", "Say it in your own words")
                await page.press_key(" ", 32)
                await page.until("document.body.dataset.phase === 'paused'")
                await page.press_key("u", 85)
                await page.sees("#sentence", sentence)
                await page.until("document.querySelectorAll('#clips li').length === 0")
                assert read_files(project) == [] and page.problems == []
                other = await browser.open(address.split("#")[0])
                await other.sees("#notice", "open the address that the terminal shows")

        asyncio.run(asyncio.wait_for(body(), 120))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
