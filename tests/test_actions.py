"""Rasa's own agent with an action server by script: down, broken, slow; callers are told, and the next turn works."""

import asyncio
import json
from typing import Any, Dict, List, Optional

import aiohttp
import pytest
import yaml
from aiohttp import web
from rasa.core.agent import Agent
from rasa.model_training import train
from rasa.utils.endpoints import EndpointConfig
from sanic import Sanic
from test_limits import QUICK, Caller
from test_session import LoudVad, ScriptedRecognizer

from assistant import free_port
from counted import Counted
from in_process import PATIENCE_S, run, serving
from spoken_intents import segmenter
from spoken_intents.channels.voice import VoiceInput, VoiceSettings

DOMAIN = """
version: "3.1"
intents: [fetch, fetch_politely, greet]
actions: [action_fetch]
responses:
  utter_greet: [{text: Hello.}]
  utter_wait: [{text: One moment.}]
rules:
- {rule: fetch, steps: [{intent: fetch}, {action: action_fetch}]}
- {rule: politely, steps: [{intent: fetch_politely}, {action: utter_wait}, {action: action_fetch}]}
- {rule: greet, steps: [{intent: greet}, {action: utter_greet}]}
nlu:
- {intent: greet, examples: "- hello\\n- hi\\n"}
- {intent: fetch, examples: "- fetch\\n- get\\n"}
- {intent: fetch_politely, examples: "- please\\n- kindly\\n"}
"""
CONFIG = {"recipe": "default.v1", "language": "en", "assistant_id": "x", "policies": [{"name": "RulePolicy"}]}
SORRY = VoiceSettings().sorry
FETCHED: Dict[str, Any] = {"events": [], "responses": [{"text": "Here it is."}]}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Rules only: what is typed as ``/fetch`` needs no classifier of texts."""
    folder = tmp_path_factory.mktemp("rules")
    content = yaml.safe_load(DOMAIN)
    data = {key: content.pop(key) for key in ("rules", "nlu")}
    (folder / "domain.yml").write_text(yaml.safe_dump(content))
    (folder / "data.yml").write_text(yaml.safe_dump({"version": "3.1", **data}))
    (folder / "config.yml").write_text(yaml.safe_dump({**CONFIG, "pipeline": [{"name": "KeywordIntentClassifier"}]}))
    paths = [str(folder / name) for name in ("domain.yml", "config.yml", "data.yml")]
    trained = train(paths[0], paths[1], paths[2], output=str(folder))
    trained = asyncio.run(trained) if asyncio.iscoroutine(trained) else trained
    assert trained.model is not None
    return trained.model


class ActionServer:
    """Answers by `answer`: a body to be sent as it is, a status, or an event that is waited for."""

    def __init__(self) -> None:
        self.answer: Any = FETCHED
        self.port = free_port()
        self._runner: Optional[web.AppRunner] = None

    async def start(self) -> None:
        app = web.Application()
        app.router.add_post("/webhook", self._act)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _act(self, request: web.Request) -> web.StreamResponse:
        if isinstance(self.answer, asyncio.Event):
            await self.answer.wait()
            return web.json_response(FETCHED)
        if self.answer == "hangs up":
            assert request.transport is not None
            request.transport.abort()
        if isinstance(self.answer, int):
            return web.Response(status=self.answer, text="<html>Oh dear.</html>")
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, content_type="application/json")
        return web.json_response(self.answer)


async def told(caller: Caller, text: str) -> Dict[str, Any]:
    """What comes for a typed turn: responses, errors."""
    await caller._socket.send_json({"text": text})
    responses: List[str] = []
    errors: List[str] = []
    async for frame in caller._socket:
        message = json.loads(frame.data)
        responses += [message["response"]] if "response" in message else []
        errors += [message["error"]["message"]] if "error" in message else []
        if message.get("final"):
            break
    return {"responses": responses, "errors": errors}


def calling(model: str, scenario: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs `scenario` with the action server and two callers of the agent."""
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)

    async def main() -> Any:
        actions = ActionServer()
        await actions.start()
        try:
            agent = Agent.load(model, action_endpoint=EndpointConfig(f"http://127.0.0.1:{actions.port}/webhook"))
            channel = VoiceInput(VoiceSettings(**QUICK))
            async with serving(channel, rasa=agent.handle_message, ear=ScriptedRecognizer()) as app:
                async with aiohttp.ClientSession() as http:
                    async with Caller(http, app.ctx.port) as caller, Caller(http, app.ctx.port) as other:
                        return await scenario(actions, caller, other)
        finally:
            await actions.stop()

    return run(main())


BROKEN = {
    "an error": 500,
    "not found": 404,
    "an error without reason": 400,
    "no JSON": "these are words",
    "not an answer": '["nothing"]',
    "another answer": '{"events": 3, "responses": "x"}',
    "an unknown event": '{"events": [{"event": "no such"}], "responses": []}',
    "hangs up": "hangs up",
}


def test_whatever_the_action_server_answers_the_caller_is_told(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counted()

    async def scenario(actions: ActionServer, caller: Caller, other: Caller) -> None:
        assert await told(caller, "/fetch") == {"responses": ["Here it is."], "errors": []}
        for name, answer in BROKEN.items():
            actions.answer = answer
            failed = await told(caller, "/fetch")
            assert failed["responses"] == [SORRY] and len(failed["errors"]) == 1, name
            assert failed["errors"][0] == "This turn could not be answered (ActionError)."
            assert await told(caller, "/greet") == {"responses": ["Hello."], "errors": []}, name
        assert await told(caller, "/fetch_politely") == {"responses": ["One moment."], "errors": []}, "it got an answer"
        await actions.stop()
        assert (await told(caller, "/fetch"))["responses"] == [SORRY]
        actions.answer = FETCHED
        await actions.start()
        assert await told(caller, "/fetch") == {"responses": ["Here it is."], "errors": []}

    calling(model, scenario, monkeypatch)
    assert counted("spoken_intents_turns_total", outcome="failed") == len(BROKEN) + 1


def test_a_slow_action_server_holds_up_its_own_caller_only(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(actions: ActionServer, caller: Caller, other: Caller) -> None:
        actions.answer = late = asyncio.Event()
        waiting = asyncio.create_task(told(caller, "/fetch"))
        for _ in range(3):
            assert await told(other, "/greet") == {"responses": ["Hello."], "errors": []}
        assert not waiting.done()
        late.set()
        assert await asyncio.wait_for(waiting, PATIENCE_S) == {"responses": ["Here it is."], "errors": []}
        assert await told(caller, "/greet") == {"responses": ["Hello."], "errors": []}

    calling(model, scenario, monkeypatch)


def test_a_rejected_action_is_no_failure(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An action says on purpose that another is to be taken (forms do)."""

    async def scenario(actions: ActionServer, caller: Caller, other: Caller) -> None:
        async def rejects(request: web.Request) -> web.StreamResponse:
            return web.json_response({"action_name": "action_fetch", "error": "not now"}, status=400)

        monkeypatch.setattr(actions, "_act", rejects)
        await actions.stop()
        await actions.start()
        assert (await told(caller, "/fetch"))["errors"] == []

    calling(model, scenario, monkeypatch)
