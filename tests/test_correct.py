"""Turns that a developer corrects on the talking page: kept at once, and by nobody else."""

import json
import os
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import aiohttp
import jwt
import numpy as np
import pytest
import soundfile
from sanic import Sanic
from test_faults import until
from test_recordings import DOMAIN, QUICK, Rasa, speech
from test_session import LoudVad, ScriptedRecognizer

from assistant import PROJECT
from chromium import Chromium, microphone_flags
from in_process import run, serving
from spoken_intents import segmenter
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.channels import correct as module
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.errors import ConfigError
from spoken_intents.recognizer import Recognition
from spoken_intents.recordings import Recording, read_recording, recording_files
from spoken_intents.vad import make_vad
from spoken_intents_training.examples import read_examples

TOKEN = {"Authorization": "Bearer a-token"}
SECRET = "a secret of thirty-two bytes at least, as RFC 7518 wants"


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory, in which `rasa run` runs."""
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)
    monkeypatch.setattr(module, "WRITTEN_WITHIN_S", 20.0)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "domain.yml").write_text("intents: [intent_1, intent_2, intent_3]")
    yield tmp_path


def voice(**settings: Any) -> VoiceInput:
    return VoiceInput(VoiceSettings(**{**QUICK, "recordings": "recordings", "correct": True, **settings}))


def recorded() -> List[Recording]:
    return [read_recording(file) for file in recording_files(Path("recordings"))]


def examples() -> Dict[str, str]:
    file = Path("data/nlu_reviewed.yml")
    return {one.more["recording"]: one.intent for one in read_examples(file)} if file.exists() else {}


async def call(app: Any, *numbers: int, headers: Optional[Dict[str, str]] = None, **handshake: Any) -> List[Any]:
    """What the final markers of these turns say of their recordings."""
    found: List[Any] = []
    async with aiohttp.ClientSession() as http:
        url = f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket"
        async with http.ws_connect(url, headers=headers) as socket:
            await socket.send_json({"sender": "anna", **handshake})
            for number in numbers:
                await socket.send_bytes(speech(number))
                async for frame in socket:
                    message = json.loads(frame.data)
                    if message.get("final"):
                        found.append(message.get("recording"))
                        break
    return found


async def ask(app: Any, body: Any = None, host: str = "127.0.0.1", **headers: str) -> "tuple[int, Any]":
    """Status and answer of a POST to /correct, or of a GET without a body."""
    url = f"http://{host}:{app.ctx.port}/webhooks/voice/correct"
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    async with aiohttp.ClientSession() as http:
        async with http.request("GET" if data is None else "POST", url, data=data, headers=headers) as answer:
            return answer.status, await answer.json()


def scene(scenario: Any, channel: VoiceInput, ear: Any = None) -> None:
    rasa = Rasa()

    async def whole() -> None:
        async with serving(channel, rasa=rasa, ear=ear or ScriptedRecognizer(), domain=DOMAIN) as app:
            app.ctx.agent.tracker_store.retrieve = rasa.retrieve
            await scenario(app)

    run(whole())


# ------------------------------------------------------------------ what becomes of a label


def test_a_turn_is_corrected_confirmed_and_undone() -> None:
    async def scenario(app: Any) -> None:
        first, second = await call(app, 1, 2)
        assert first == {"call": second["call"], "turn": 1} and second["turn"] == 2
        assert await ask(app) == (
            200,
            {"intents": ["intent_1", "intent_2", "intent_3"], "noise": "__non_speech__", "out_of_scope": "__out_of_scope__"},
        )
        status, told = await ask(app, {**first, "intent": "intent_3", "before": None})
        assert status == 200 and told["said"] == "Learnt as intent_3 by the next rasa train."
        assert (told["label"]["intent"], told["label"]["by"]) == ("intent_3", "the talking page")
        turns = {one.about.turn: one for one in recorded()}
        assert turns[1].about.label and turns[1].about.label.intent == "intent_3" and turns[1].about.intent == "intent_1"
        assert examples() == {turns[1].file.stem: "intent_3"}
        await ask(app, {**second, "intent": "intent_2", "before": None})
        assert examples() == {turns[1].file.stem: "intent_3", turns[2].file.stem: "intent_2"}
        status, again = await ask(app, {**first, "intent": None, "before": told["label"]})
        assert (status, again["label"]) == (200, None) and examples() == {turns[2].file.stem: "intent_2"}

    scene(scenario, voice())


def test_what_cannot_be_corrected_is_told() -> None:
    async def scenario(app: Any) -> None:
        (turn,) = await call(app, 1)
        label = {**turn, "intent": "intent_2", "before": None}
        for wrong, status, words in (
            ({**label, "intent": "intnt_2"}, 409, "Take one of: intent_1, intent_2, intent_3"),
            ({**label, "before": {"intent": "intent_1", "by": "x", "time": "y"}}, 409, "Look again"),
            ({**label, "before": {"intent": 1}}, 409, "takes intent, by and time"),
            ({**label, "turn": True}, 400, "A label takes"),
            ({**turn}, 400, "A label takes"),
            (b"[" * 4000, 400, "A label takes"),
            (b" " * 5000, 413, "5000 bytes: at most 4096"),
        ):
            got, told = await ask(app, wrong)
            assert got == status and words in told["error"]["message"], wrong
        assert [one.about.label for one in recorded()] == [None]
        module.WRITTEN_WITHIN_S = 0.1
        got, told = await ask(app, {**label, "turn": 7})
        assert got == 404 and "is not recorded" in told["error"]["message"]
        recorded()[0].file.unlink()
        got, told = await ask(app, label)
        assert got == 409 and "is gone: somebody removed it" in told["error"]["message"] and recorded() == []

    scene(scenario, voice())


def test_callers_who_are_not_recorded_are_told_of_no_recording() -> None:
    async def scenario(app: Any) -> None:
        assert await call(app, 1, record=False) == [None]

    scene(scenario, voice())


def test_without_recordings_there_is_nothing_to_correct() -> None:
    with pytest.raises(ConfigError, match="correct takes recordings, too"):
        voice(recordings="")


# ------------------------------------------------------------------ who may


def test_it_is_off_where_nobody_asked_for_it() -> None:
    async def scenario(app: Any) -> None:
        assert await call(app, 1) == [None]
        url = f"http://127.0.0.1:{app.ctx.port}/webhooks/voice"
        async with aiohttp.ClientSession() as http:
            for method in ("GET", "POST"):
                async with http.request(method, f"{url}/correct") as answer:
                    assert answer.status in (404, 405)

    assert VoiceSettings().correct is False
    scene(scenario, voice(correct=False))


def test_without_tokens_only_this_computer_may() -> None:
    async def scenario(app: Any) -> None:
        (turn,) = await call(app, 1)
        label = {**turn, "intent": "intent_2", "before": None}
        for headers in (
            {"X-Forwarded-For": "203.0.113.7"}, {"Forwarded": "for=203.0.113.7"}, {"X-Real-IP": "127.0.0.1"}, {"Via": "1.1 proxy"},
            {"Host": "rebound.example"}, {"Host": "rebound.example:5005", "Origin": "http://rebound.example:5005"},
            {"Origin": "https://friend.example"}, {"Origin": "null"},
        ):  # fmt: skip
            for body in (None, label):
                status, told = await ask(app, body, **headers)
                assert status == 403, headers
        await until(recorded, "the recording, which is written behind the answer")
        assert examples() == {} and recorded()[0].about.label is None
        status, _ = await ask(app, label, Origin=f"http://127.0.0.1:{app.ctx.port}")
        assert status == 200

    scene(scenario, voice(allowed_origins=("*", "https://friend.example")))


def test_an_address_that_is_not_this_computers_may_not(monkeypatch: pytest.MonkeyPatch) -> None:
    for address, here in (
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("192.168.1.7", False),
        ("203.0.113.7", False),
        ("", False),
    ):
        request: Any = type("Request", (), {"ip": address, "headers": {}})
        assert module._is_here(request, "localhost:5005") is here
        assert not module._is_here(request, "bot.example") and not module._is_here(request, "[::1")


@pytest.mark.parametrize(("role", "status"), [("admin", 200), ("user", 403)])
def test_where_callers_show_tokens_operators_may(role: str, status: int) -> None:
    claims = {"user": {"username": "anna", "role": role}}
    headers = {"Authorization": f"Bearer {jwt.encode(claims, SECRET, algorithm='HS256')}"}

    async def scenario(app: Any) -> None:
        (turn,) = await call(app, 1, headers=headers)
        label = {**turn, "intent": "intent_2", "before": None}
        assert (await ask(app, label))[0] == 401
        assert (await ask(app, label, Authorization="Bearer wrong"))[0] == 401
        assert (await ask(app, label, **headers, Host="bot.example"))[0] == status, "from anywhere"

    scene(scenario, voice(jwt_secret=SECRET))
    assert bool(examples()) is (status == 200)


# ------------------------------------------------------------------ on the page


class Ear(ScriptedRecognizer):
    """Hears the same in everything: how loud a browser's microphone is, is not for us to say."""

    def classify(self, samples: np.ndarray) -> Recognition:
        return Recognition((("intent_1", 0.6), ("intent_2", 0.3)), 0.1, self.fingerprint, 1.0)


@pytest.mark.browser
def test_a_turn_is_corrected_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", make_vad)
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    clip = np.concatenate([quiet, read_audio(PROJECT / "audio/train/greet/0010.ogg", 30), quiet])
    soundfile.write(tmp_path / "microphone.wav", clip, SAMPLE_RATE, subtype="PCM_16")

    async def scenario(app: Any) -> None:
        async with Chromium(*microphone_flags(tmp_path / "microphone.wav")) as browser:
            page = await browser.open(f"http://127.0.0.1:{app.ctx.port}/webhooks/voice/")
            await page.until("document.body.dataset.state === 'ready'")
            await page.click("#talk")
            await page.until("document.querySelector('.correct') !== null")
            await page.evaluate(
                "(() => { const select = document.querySelector('.correct select');"
                "select.value = 'intent_3'; select.dispatchEvent(new Event('change')); })()"
            )
            await page.sees(".correct .note", "Learnt as intent_3 by the next rasa train.")
            assert list(examples().values()) == ["intent_3"]
            await page.click(".correct .undo")
            await page.sees(".correct .note", "Nothing is learnt of it.")
            assert examples() == {}
            await page.click(".correct [data-intent=__non_speech__]")
            await page.sees(".correct [aria-pressed=true]", "No speech")
            (turn,) = [one for one in recorded() if one.about.label]
            assert Path(f"audio/reviewed/__non_speech__/{turn.file.name}").exists()
            if os.environ.get("SHOTS"):
                await page.screenshot(Path(os.environ["SHOTS"]))
            turn.file.unlink()
            await page.click(".correct .undo")
            await page.sees(".correct .note.error", "is gone")
            assert page.problems == []

    scene(scenario, voice(), Ear())
