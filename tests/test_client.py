"""Where speech ends in a recording, by the client's own measure; the client itself is tested on a running server."""

import asyncio
import socket

import numpy as np
import pytest

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.client import VoiceClient, end_of_speech
from spoken_intents.errors import SpokenIntentsError

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize("peak", [0.9, 0.01])
def test_speech_ends_with_the_last_loud_10_ms(peak: float) -> None:
    speech = peak * np.sin(np.arange(SAMPLE_RATE) / 5)
    hiss = 0.001 * peak * np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE)
    line = hiss.astype(np.float32)
    line[4_000 : 4_000 + SAMPLE_RATE] += speech.astype(np.float32)
    assert end_of_speech(line) == 4_000 + SAMPLE_RATE


@pytest.mark.parametrize("samples", [0, 100, 1_000])
def test_without_any_sound_it_is_the_end(samples: int) -> None:
    assert end_of_speech(np.zeros(samples, dtype=np.float32)) == samples


def test_nobody_listens() -> None:
    async def call() -> None:
        async with VoiceClient(url):
            pass

    with socket.socket() as taken:  # bound and not listening: nobody else can answer there meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"ws://127.0.0.1:{taken.getsockname()[1]}/webhooks/voice/websocket"
        with pytest.raises(SpokenIntentsError, match=f"Nobody answers at {url} .*Is `rasa run` up, with the voice channel"):
            asyncio.run(call())
