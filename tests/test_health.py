"""What /health says to a balancer: whether the recognizer truly answers, however many ask."""

import asyncio
import json
import threading
from types import SimpleNamespace
from typing import Any, Dict, Iterator, List, Optional, Tuple

import aiohttp
import numpy as np
import pytest
from sanic import Sanic

from in_process import PATIENCE_S, run, serving
from spoken_intents import health
from spoken_intents import recognizer as recognizers
from spoken_intents.channels.spoken import SpokenInput
from spoken_intents.channels.twilio import TwilioInput
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.recognizer import Recognition


class Ear:
    """A recognizer that answers, fails or hangs."""

    fingerprint = "scripted"
    remote: Any = None

    def __init__(self) -> None:
        self.heard: List[np.ndarray] = []
        self.error: Optional[Exception] = None
        self.answers = threading.Event()
        self.answers.set()

    def classify(self, samples: np.ndarray) -> Recognition:
        self.heard.append(samples)
        assert self.answers.wait(PATIENCE_S)
        if self.error:
            raise self.error
        return Recognition((("greet", 0.9),), 0.05, self.fingerprint, 1.0)


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ear]:
    monkeypatch.setattr(Sanic, "test_mode", True)
    ear = Ear()
    yield ear
    ear.answers.set()


async def rasa(message: Any) -> None: ...


async def ask(app: Sanic, channel: str = "voice") -> Tuple[int, Dict[str, Any]]:
    async with aiohttp.ClientSession() as http:
        async with http.get(f"http://127.0.0.1:{app.ctx.port}/webhooks/{channel}/health") as answer:
            return answer.status, await answer.json()


async def code(app: Sanic) -> str:
    """That of the error; with it, always the same status."""
    status, known = await ask(app)
    assert (status == 503) == ("error" in known)
    return known.get("error", {}).get("code", "")


@pytest.mark.parametrize("channel", [VoiceInput(), TwilioInput()], ids=lambda channel: channel.name())
def test_a_server_that_hears_is_well_on_every_channel(channel: SpokenInput, ear: Ear) -> None:
    async def main() -> Tuple[int, Dict[str, Any], str]:
        async with serving(channel, rasa=rasa, ear=ear) as app:
            return *await ask(app, channel.name()), app.ctx.agent.model_id

    status, known, model = run(main())
    assert status == 200 and known.pop("answered_ms") >= 0
    assert known == {"model": model, "calls": 0, "waiting": 0}


def test_any_number_of_questions_costs_one_answer(ear: Ear) -> None:
    async def main() -> None:
        async with serving(VoiceInput(), rasa=rasa, ear=ear) as app:
            ear.answers.clear()
            asking = [asyncio.create_task(ask(app)) for _ in range(50)]
            while not ear.heard:
                await asyncio.sleep(0.001)
            ear.answers.set()
            assert {status for status, _ in await asyncio.gather(*asking)} == {200}
            assert (await ask(app))[0] == 200

    run(main())
    assert len(ear.heard) == 1


def test_an_answer_is_old_after_a_while(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "KEPT_S", 0.0)

    async def main() -> None:
        async with serving(VoiceInput(), rasa=rasa, ear=ear) as app:
            assert [await code(app) for _ in range(3)] == ["", "", ""]

    run(main())
    assert len(ear.heard) == 3
    assert all(np.array_equal(sound, recognizers.known_sound()) for sound in ear.heard)


def test_a_recognizer_that_hangs_is_noticed_and_asked_once(
    ear: Ear, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(health, "KEPT_S", 0.0)
    monkeypatch.setattr(health, "DEADLINE_S", 0.2)

    async def main() -> List[str]:
        async with serving(VoiceInput(), rasa=rasa, ear=ear) as app:
            ear.answers.clear()
            found = [await code(app) for _ in range(3)]
            assert len(ear.heard) == 1, "a second question would take the second thread"
            monkeypatch.setattr(health, "DEADLINE_S", PATIENCE_S)
            ear.answers.set()
            return [*found, await code(app), await code(app)]

    assert run(main()) == ["recognizer_late"] * 3 + ["", ""]
    said = [record.getMessage() for record in caplog.records if "alls can be answered" in record.getMessage()]
    assert len(said) == 2 and "(recognizer_late)" in said[0] and said[1] == "Calls can be answered again."


def test_a_recognizer_that_fails_is_told_without_what_it_says(ear: Ear, caplog: pytest.LogCaptureFixture) -> None:
    ear.error = RuntimeError("cannot read /secret/model.onnx")

    async def main() -> Tuple[int, Dict[str, Any]]:
        async with serving(VoiceInput(), rasa=rasa, ear=ear) as app:
            await ask(app)
            return await ask(app)

    status, known = run(main())
    assert status == 503
    assert known["error"] == {"code": "recognizer_failed", "message": "The recognizer fails (RuntimeError)."}
    assert caplog.text.count("/secret/model.onnx") == 1, "to the operator, once"


def test_a_model_that_replaces_another_is_asked_at_once(ear: Ear, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DEADLINE_S", 0.2)
    newer = Ear()
    newer.fingerprint = "newer"

    async def main() -> List[str]:
        async with serving(VoiceInput(), rasa=rasa, ear=ear) as app:
            ear.answers.clear()
            found = [await code(app)]
            recognizers.register(app.ctx.agent.model_id, newer)
            return [*found, await code(app)]

    assert run(main()) == ["recognizer_late", ""]


def test_without_a_model_or_with_one_that_is_deaf_no_call_can_be_answered(ear: Ear) -> None:
    async def main() -> List[str]:
        async with serving(VoiceInput(), rasa=rasa, ear=ear, agent=False) as app:
            found = [await code(app)]
            app.ctx.agent = SimpleNamespace(model_id="deaf")
            return [*found, await code(app)]

    assert run(main()) == ["no_model", "no_recognizer"]
    assert not ear.heard


def test_a_server_that_was_told_to_end_is_not_well(ear: Ear) -> None:
    voice = VoiceInput()

    async def main() -> Tuple[str, str]:
        async with serving(voice, rasa=rasa, ear=ear) as app:
            before = await code(app)
            await app.dispatch("server.shutdown.before", context={"app": app, "loop": asyncio.get_running_loop()})
            return before, await code(app)

    assert run(main()) == ("", "ending")


def test_open_calls_and_inference_servers_are_told(ear: Ear) -> None:
    ear.remote = SimpleNamespace(servers=["http://secret-a", "http://secret-b"], in_use=["http://secret-b"])

    async def main() -> Dict[str, Any]:
        async with serving(VoiceInput(VoiceSettings(speech="none")), rasa=rasa, ear=ear) as app:
            async with aiohttp.ClientSession() as http:
                async with http.ws_connect(f"ws://127.0.0.1:{app.ctx.port}/webhooks/voice/websocket") as socket:
                    await socket.send_json({"text": "hello"})
                    await socket.receive()  # it is a call
                    return (await ask(app))[1]

    known = run(main())
    assert known["calls"] == 1
    assert known["servers"] == {"in_use": 1, "of": 2}
    assert "secret" not in json.dumps(known)
