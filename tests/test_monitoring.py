"""What a server says of itself at /metrics, and that the dashboard asks for nothing else."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, AsyncIterator, Dict, Iterator, List, Tuple

import aiohttp
import numpy as np
import pytest
from sanic import Sanic
from telephone import Telephone
from test_session import LoudVad
from test_twilio import Ear

from assistant import ROOT
from counted import Counted, samples
from in_process import PATIENCE_S, run, serving
from spoken_intents import metrics, segmenter
from spoken_intents.audio import SAMPLE_RATE, float_to_pcm16
from spoken_intents.channels.twilio import TwilioInput, TwilioSettings
from spoken_intents.channels.voice import VoiceInput, VoiceSettings
from spoken_intents.recognizer import Recognition
from spoken_intents.turns import Backchannel
from spoken_intents.utterances import hand_off, is_audio_reference

QUICK = {
    "start_window_ms": 60, "min_speech_duration_ms": 60, "pause_ms": 60, "min_silence_duration_ms": 100, "speech_pad_ms": 0,
    "turn_end": "fixed", "silence_timeout_ms": 0, "speech": "none", "max_speech_duration_ms": 1000,
}  # fmt: skip
DASHBOARD = ROOT / "monitoring/grafana-dashboard.json"
LATENCIES = ("endpoint_delay", "intent_latency", "rasa_processing", "first_response_latency", "classification")


@pytest.fixture(autouse=True)
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
    monkeypatch.setattr(Sanic, "test_mode", True)


async def rasa(message: Any) -> None:
    """Says what it heard, and fails at `intent_7`."""
    text = hand_off.take(message.text).recognition.intent if is_audio_reference(message.text) else message.text
    if text == "intent_7":
        raise ValueError("a failing action")
    await message.output_channel.send_text_message(message.sender_id, text)


class Tone:
    """Speaks every text as a tone of 100 ms."""

    async def speak(self, text: str) -> AsyncIterator[np.ndarray]:
        yield np.full(SAMPLE_RATE // 10, 0.1, dtype=np.float32)

    def close(self) -> None: ...


def said(level: float, seconds: float = 0.1) -> np.ndarray:
    return np.concatenate([np.full(int(SAMPLE_RATE * seconds), level), np.zeros(SAMPLE_RATE // 5)])


async def talk(http: aiohttp.ClientSession, port: int, *messages: Any, finals: int = 0) -> None:
    """Sends, and reads until so many turns are over, or the server closes."""
    async with http.ws_connect(f"ws://127.0.0.1:{port}/webhooks/voice/websocket") as socket:
        for message in messages:
            await (socket.send_bytes(message) if isinstance(message, bytes) else socket.send_json(message))
        async for frame in socket:
            finals -= json.loads(frame.data).get("final", False)
            if finals == 0:
                break


async def scrape(http: aiohttp.ClientSession, port: int, channel: str) -> Tuple[str, str]:
    async with http.get(f"http://127.0.0.1:{port}/webhooks/{channel}/metrics") as answer:
        assert answer.status == 200
        return answer.headers["Content-Type"], await answer.text()


async def both_channels_at_work() -> Tuple[str, str]:
    """A bit of everything; then what both channels' routes say."""
    voice, twilio = VoiceInput(VoiceSettings(**QUICK)), TwilioInput(TwilioSettings(**QUICK))
    twilio.speech = Tone()  # type: ignore[assignment]
    async with serving(voice, twilio, rasa=rasa, ear=Ear()) as app, aiohttp.ClientSession() as http:
        port = app.ctx.port
        speech = float_to_pcm16(np.concatenate([said(0.6), said(0.95), said(0.7), said(0.6, 1.2)]))
        await talk(http, port, speech, {"text": "typed"}, finals=5)  # the longest is cut into two
        await talk(http, port, {"colour": "blue"})
        async with http.post(f"http://127.0.0.1:{port}/webhooks/voice/webhook", data=b"no audio") as answer:
            assert answer.status == 400
        async with Telephone(port) as phone:
            await phone.connect()
            await phone.say(np.concatenate([np.full(800, 0.8), np.zeros(1600)]))
            await phone.until(lambda: phone.events("media"))
            await phone.stop()
            await phone.until(lambda: phone.closed)
        await asyncio.gather(*voice._ending, *twilio._ending)  # the last turns' playback is over
        assert sum("watch_event_loop" in repr(task) for task in asyncio.all_tasks()) == 1, "one server, one loop"
        kind, text = await scrape(http, port, "voice")
        assert kind.startswith("text/plain; version=0.0.4")
        return text, (await scrape(http, port, "twilio_media_streams"))[1]


voice_counted = Counted()


@pytest.fixture(scope="module")
def counted(request: pytest.FixtureRequest) -> Iterator[Counted]:
    """What both channels' work has added."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmenter, "make_vad", lambda *_: LoudVad())
        patch.setattr(Sanic, "test_mode", True)
        found = Counted()
        voice, twilio = run(both_channels_at_work())
    for text in (voice, twilio):
        assert 'spoken_intents_turns_total{channel="voice",intent="intent_6",outcome="answered"}' in text
    metrics.count("voice", Backchannel(Recognition((("intent_1", 0.9),), 0.1, "m", 1.0)))
    metrics.RECOGNITIONS.labels("server").inc()  # by inference servers, in test_remote.py
    metrics.RECORDINGS.labels("written").inc()  # in test_recordings.py
    yield found


def test_turns_are_counted_by_intent_and_outcome_on_every_channel(counted: Counted) -> None:
    turns = "spoken_intents_turns_total"
    assert counted(turns, channel="voice", intent="intent_6", outcome="answered") == 3
    assert counted(turns, channel="voice", intent="intent_7", outcome="failed") == 1
    assert counted(turns, channel="voice", intent="", outcome="non_speech") == 1
    assert counted(turns, channel="voice", intent="", outcome="answered") == 1, "typed"
    assert counted(turns, channel="voice", intent="intent_1", outcome="backchannel") == 1
    assert counted(turns, channel="twilio_media_streams", intent="intent_8", outcome="answered") == 1
    assert counted(turns) == 8


def test_utterances_are_counted_by_what_ended_them(counted: Counted) -> None:
    ends = "spoken_intents_utterances_total"
    assert counted(ends, channel="voice", reason="max_duration") == 1
    assert counted(ends, channel="voice", reason="silence") == 4
    assert counted(ends, channel="twilio_media_streams", reason="silence") == 1


def test_each_latency_is_a_histogram_in_seconds(counted: Counted) -> None:
    """Of answered turns; of typed ones what they have."""
    for name in LATENCIES:
        typed = name in ("rasa_processing", "first_response_latency")
        failed = name == "classification"  # the model has heard it
        assert counted(f"spoken_intents_{name}_seconds_count", channel="voice") == 3 + typed + failed, name
        assert counted(f"spoken_intents_{name}_seconds_count", channel="twilio_media_streams") == 1, name
    for name in ("first_audio_latency", "last_audio_latency"):
        assert counted(f"spoken_intents_{name}_seconds_count", channel="twilio_media_streams") == 1, name
        assert counted(f"spoken_intents_{name}_seconds_count", channel="voice") == 0, "nothing was spoken"
    # 40 ms of speech behind the last whole window, and 100 ms of silence
    assert counted("spoken_intents_endpoint_delay_seconds_sum", channel="twilio_media_streams") == pytest.approx(0.1, abs=0.021)


def test_refusals_are_counted_by_reason(counted: Counted) -> None:
    assert counted("spoken_intents_refusals_total", channel="voice", code="unknown_field") == 1
    assert counted("spoken_intents_refusals_total", channel="recording", code="bad_audio") == 1
    assert counted("spoken_intents_refusals_total") == 2


def test_a_stalled_event_loop_shows() -> None:
    counted = Counted()

    async def main() -> None:
        watching = asyncio.create_task(metrics.watch_event_loop())
        await asyncio.sleep(0)
        time.sleep(metrics.LAG_EVERY_S + 0.3)
        while not counted("spoken_intents_event_loop_lag_seconds_count"):
            await asyncio.sleep(0)
        watching.cancel()

    run(main())
    assert counted("spoken_intents_event_loop_lag_seconds_sum") >= 0.3


# ---------------------------------------------------------------- several processes

WORKER = """
import sys
from spoken_intents import metrics
metrics.CALLS_OPEN.labels("voice").inc(2)
metrics.refused("voice", "idle")
metrics.LAG.observe(0.02)
print("counted", flush=True)
sys.stdin.read()
"""


def test_several_processes_count_together_and_a_killed_ones_calls_are_over(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}

    def scraped() -> Dict[str, float]:
        program = "from spoken_intents import metrics; print(metrics.exposition().decode())"
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in lines}

    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None and worker.stdout.readline() == b"counted\n"
        both = scraped()
        workers[0].send_signal(signal.SIGKILL)
        workers[0].wait(PATIENCE_S)
        one = scraped()
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    open_calls, refusals = (
        'spoken_intents_calls_open{channel="voice"}',
        'spoken_intents_refusals_total{channel="voice",code="idle"}',
    )
    assert (both[open_calls], both[refusals]) == (4, 2)
    assert both["spoken_intents_event_loop_lag_seconds_count"] == 2
    assert (one[open_calls], one[refusals]) == (2, 2)


def test_a_file_of_nobody_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    for name in ("gauge_livesum_copy.db", "gauge_live.db"):
        (tmp_path / name).write_bytes(bytes(8))
    assert metrics.exposition() == b""
    assert len(list(tmp_path.iterdir())) == 2


# ---------------------------------------------------------------- the dashboard

FUNCTIONS = {"sum", "rate", "histogram_quantile", "topk"}
FROM_PROMETHEUS = {"instance"}  # a label that a scrape adds
SELECTOR = re.compile(r"([a-z_][a-z0-9_]*)\s*(?:\{([^}]*)\})?")
MATCHER = re.compile(r'\s*(\w+)\s*(=~|!=|=)\s*"([^"]*)"\s*')


def queries() -> List[Any]:
    dashboard = json.loads(DASHBOARD.read_text())
    return [
        pytest.param(target["expr"], target["legendFormat"], id=f"{panel['title']}-{target['refId']}")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    ]


def selected(name: str, matchers: str) -> List[Any]:
    """The samples that a PromQL selector finds."""
    found = [sample for sample in samples() if sample.name == name]
    for matcher in filter(str.strip, matchers.replace("$channel", ".*").split(",")):
        label, operator, value = MATCHER.fullmatch(matcher).groups()  # type: ignore[union-attr]
        assert all(label in sample.labels for sample in found), f"{name} has no label {label}"
        judge = {
            "=": lambda is_: is_ == value,  # noqa: B023
            "!=": lambda is_: is_ != value,  # noqa: B023
            "=~": lambda is_: re.fullmatch(value, is_) is not None,  # noqa: B023
        }[operator]
        found = [sample for sample in found if judge(sample.labels[label])]
    return found


@pytest.mark.parametrize(("expr", "legend"), queries())
def test_each_query_of_the_dashboard_finds_what_is_counted(counted: Counted, expr: str, legend: str) -> None:
    """Every name in it is a metric, every label one of its labels, and with every value it finds something."""
    grouped = [label.strip() for by in re.findall(r"\bby\s*\(([^)]*)\)", expr) for label in by.split(",")]
    rest = re.sub(r"\[[^]]*\]", "", re.sub(r"\bby\s*\([^)]*\)", "", expr))
    names = [(name, matchers) for name, matchers in SELECTOR.findall(rest) if name not in FUNCTIONS]
    assert names, "it asks for something"
    for name, matchers in names:
        found = selected(name, matchers)
        assert found, f"{name}{{{matchers}}} finds nothing"
        for label in {*grouped, *re.findall(r"\{\{(\w+)\}\}", legend)} - FROM_PROMETHEUS:
            assert all(label in sample.labels for sample in found), f"{name} has no label {label}"
        if name.endswith("_total") or name.endswith("_bucket"):
            assert re.search(rf"rate\({name}\b[^)]*\[\$__rate_interval\]\)", expr), f"{name} only grows: rate() of it"
    assert expr.count("(") == expr.count(")")
    for label in re.findall(r"\{\{(\w+)\}\}", legend):
        assert label in grouped or label in FROM_PROMETHEUS, f"the legend asks for {label}, which is summed away"


def test_the_dashboard_shows_all_that_is_counted() -> None:
    """What nobody looks at need not be counted."""
    text = DASHBOARD.read_text()
    ours = {family.name for family in metrics.REGISTRY.collect() if family.name.startswith("spoken_intents_")}
    assert len(ours) >= 15
    assert {name for name in ours if name not in text} == set()
    assert "label_values(spoken_intents_calls_open, channel)" in text


def test_every_metric_is_in_the_documents() -> None:
    documented = (ROOT / "docs/operations.md").read_text()
    described = set(re.findall(r"`(spoken_intents_\w+)`", documented))
    ours = set()
    for family in metrics.REGISTRY.collect():
        if family.name.startswith("spoken_intents_"):
            ours.add(family.name + ("_total" if family.type == "counter" else ""))
    assert described == ours
