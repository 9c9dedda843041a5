"""What docs/contributor.md shows is what lies in docs/examples/, is short, and works."""

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, List

import aiohttp
import numpy as np
import pytest
import soundfile
import yaml
from sanic import Sanic

import in_process
from assistant import ROOT
from spoken_intents.audio import SAMPLE_RATE, pcm16_to_float
from spoken_intents.config import settings_from
from spoken_intents.recognizer import Recognition
from spoken_intents.segmenter import Segmenter, SegmenterSettings, Utterance
from spoken_intents.speech import SpeechSettings, make_speech
from spoken_intents_training.dataset import read_clips

EXAMPLES = ROOT / "docs/examples"
PAGE = (ROOT / "docs/contributor.md").read_text()


@pytest.fixture(autouse=True)
def beside_the_config(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rasa's commands find the modules of the directory that they are run in."""
    monkeypatch.syspath_prepend(EXAMPLES)


def shown_settings(channel: str, setting: str) -> Any:
    """What the page's credentials.yml says for the example with that setting."""
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yml\n# credentials.yml\n(.*?)```", PAGE, re.S)]
    (found,) = [block[channel] for block in blocks if setting in block.get(channel, {})]
    return found


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(2 * np.pi * 440 * np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE)).astype(np.float32)


def test_the_page_shows_every_example_as_it_is() -> None:
    files = {file.name: file.read_text() for file in EXAMPLES.glob("*.py")}
    assert sorted(re.findall(r"```python\n(.*?)```", PAGE, re.S)) == sorted(files.values())
    assert {name for name, text in files.items() if len([line for line in text.splitlines() if line]) >= 40} == set()


def test_a_detector_of_ones_own_cuts_utterances() -> None:
    settings = settings_from(SegmenterSettings, shown_settings("spoken_intents.channels.voice.VoiceInput", "vad"), "the page")
    heard = np.concatenate([tone(1, 0.01), tone(1), tone(2, 0.01)])
    (utterance,) = [event for event in Segmenter(settings).push(heard) if isinstance(event, Utterance)]
    assert len(utterance.samples) / SAMPLE_RATE == pytest.approx(1.4, abs=0.1), "the loud second, and a little around it"


def test_a_voice_of_ones_own_says_what_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts").mkdir()
    soundfile.write("prompts/shall-i-pay-it.wav", tone(0.5), SAMPLE_RATE)
    shown = shown_settings("spoken_intents.channels.voice.VoiceInput", "speech")
    speech = make_speech(settings_from(SpeechSettings, {**shown, "speech_cache": "cache"}, "the page"))
    assert speech is not None

    async def said(text: str) -> List[np.ndarray]:
        assert speech is not None
        return [samples async for samples in speech.speak(text)]

    (samples,) = asyncio.run(said("Shall I pay it?"))
    assert np.allclose(samples, tone(0.5), atol=1e-3)
    assert asyncio.run(said("Nobody has recorded this.")) == []
    assert "prompts/nobody-has-recorded-this.wav" in caplog.text
    speech.close()


def test_an_importer_of_ones_own_fills_a_project(tmp_path: Path) -> None:
    (tmp_path / "recordings").mkdir()
    for name in ("anna-balance-1", "ben-balance-1", "anna-card_issues-3"):
        soundfile.write(tmp_path / f"recordings/{name}.wav", tone(0.5), SAMPLE_RATE)
    (command,) = re.findall(r"^python (docs/examples/import_names.py .*)$", PAGE, re.M)
    script, *arguments = command.split()
    call = [sys.executable, str(ROOT / script), *arguments]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    clips = read_clips(tmp_path / "my_bank/audio/manifest.csv")
    assert {(clip.intent, clip.speaker) for clip in clips} == {("balance", "anna"), ("balance", "ben"), ("card_issues", "anna")}
    soundfile.write(tmp_path / "recordings/cough.wav", tone(0.5), SAMPLE_RATE)
    refused = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True)
    assert refused.returncode == 1 and "cough.wav: expected a name such as anna-card_issues-3.wav." in refused.stderr


class Ear:
    """Hears one intent in everything."""

    fingerprint = "scripted"

    def classify(self, samples: np.ndarray) -> Recognition:
        return Recognition((("balance", 0.9), ("greet", 0.1)), 0.0, self.fingerprint, 1.0)


class Voice:
    """Says everything as two seconds of a tone."""

    async def speak(self, text: str) -> Any:
        yield tone(2)

    def close(self) -> None: ...


def test_a_channel_of_ones_own_answers_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    from pcm_channel import PcmInput

    monkeypatch.setattr(Sanic, "test_mode", True)
    channel = PcmInput.from_credentials({**shown_settings("pcm_channel.PcmInput", "initial_message"), "max_ahead_ms": 600_000})
    channel.speech = Voice()
    turns: List[Any] = []

    async def rasa(message: Any) -> None:
        turns.append(
            (message.text if message.text.startswith("/") else message.metadata["spoken"]["intent"], message.input_channel)
        )
        await message.output_channel.send_text_message(message.sender_id, "Your balance is £12.")

    async def call() -> None:
        domain = SimpleNamespace(intents=[], entities=[])
        async with in_process.serving(channel, rasa=rasa, ear=Ear(), domain=domain) as app, aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{app.ctx.port}/webhooks/pcm/websocket"
            async with http.ws_connect(url) as line:
                assert await heard(line, 2) == [pytest.approx(2, abs=0.05)], "the bot speaks first"
                said = np.concatenate([tone(1)[::2], np.zeros(16_000, np.float32)])
                await line.send_bytes((said * 32767).astype("<i2").tobytes())
                cleared, answer = await heard(line, 2)
                assert cleared == 0 and answer == pytest.approx(2, abs=0.05), "it is interrupted, and answers"
                await line.send_bytes(b"\0")
                while not line.closed:
                    await line.receive()
                assert (line.close_code, turns) == (4400, [("/greet", "pcm"), ("balance", "pcm")])

    in_process.run(call())


async def heard(line: aiohttp.ClientWebSocketResponse, seconds: float) -> List[float]:
    """How many seconds of sound come, none of it silence, and another number behind each "clear"; ends when one is `seconds`."""
    samples: List[np.ndarray] = [np.zeros(0, np.float32)]
    while len(samples[-1]) < (seconds - 0.01) * 8_000:  # a resampler holds some back
        message = await line.receive()
        if message.type is aiohttp.WSMsgType.BINARY:
            samples[-1] = np.concatenate([samples[-1], pcm16_to_float(message.data)])
        else:
            assert json.loads(message.data) == {"clear": True}
            samples.append(np.zeros(0, np.float32))
    assert np.abs(samples[-1]).max() > 0.4
    return [len(one) / 8_000 for one in samples]
