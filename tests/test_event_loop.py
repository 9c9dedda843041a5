"""The event loop never waits for a model: measured with a real recognizer of whisper-base.en's shape."""

import asyncio
import time
from pathlib import Path
from typing import List

import numpy as np
import pytest

from spoken_intents.recognizer import NON_SPEECH, Recognizer
from spoken_intents.segmenter import Segmenter
from spoken_intents.session import SessionSettings, SpokenSession
from spoken_intents.turns import Happening, NotSpeech, Turn, TurnFailed
from spoken_intents.workers import Workers


class Quiet:
    """The caller's side and Rasa, which only count."""

    turns = 0

    def __init__(self, recognizer: Recognizer) -> None:
        self._recognizer = recognizer

    def recognizer(self) -> Recognizer:
        return self._recognizer

    async def converse(self, turn: Turn) -> None: ...

    async def tell(self, happening: Happening) -> None:
        assert not isinstance(happening, TurnFailed)
        self.turns += isinstance(happening, NotSpeech)

    async def turn_ended(self, turn: Turn) -> None:
        self.turns += 1


class Flags:
    """3.4 s of speech, 0.6 s of silence, again and again."""

    window_samples = 320

    def __init__(self) -> None:
        self._windows = 0

    def is_speech(self, window: np.ndarray) -> bool:
        self._windows += 1
        return self._windows % 200 < 170


@pytest.fixture(scope="module")
def base_en(tmp_path_factory: pytest.TempPathFactory) -> Recognizer:
    """whisper-base.en's encoder with random weights: what it hears is nonsense, what it costs is real."""
    from transformers import WhisperConfig

    from spoken_intents_training.export import export
    from spoken_intents_training.modeling import ShortContextClassifier

    config = WhisperConfig(
        d_model=512, encoder_layers=6, encoder_attention_heads=8, encoder_ffn_dim=2048, num_hidden_layers=6, num_labels=3
    )  # fmt: skip
    out = tmp_path_factory.mktemp("base_en")
    export(ShortContextClassifier(config), out, {"labels": ["a", "b", NON_SPEECH], "temperature": 1.0}, parity_on=[])
    return Recognizer(Path(out))


def test_the_loop_goes_on_while_base_en_classifies(base_en: Recognizer) -> None:
    samples = np.random.default_rng(0).standard_normal(16_000 * 40).astype(np.float32) * 0.1
    base_en.classify(samples[: 16_000 * 4])  # warm-up
    classified = float(np.median([base_en.classify(samples[: 16_000 * 4]).milliseconds for _ in range(3)]))
    quiet, stalls = Quiet(base_en), []

    async def tick(stalls: List[float]) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            stalls.append((time.perf_counter() - before) * 1000)

    async def main() -> None:
        with Workers(1) as workers:
            settings = SessionSettings()
            session = SpokenSession(settings, quiet, quiet, workers, segmenter=Segmenter(settings, Flags()))
            ticking = asyncio.create_task(tick(stalls))
            for start in range(0, len(samples), 320):
                await session.hear(samples[start : start + 320])
                await asyncio.sleep(0)
            await session.finish()
            ticking.cancel()

    asyncio.run(main())
    assert quiet.turns == 10
    # Were the model on the loop, the loop would stand still for ten classifications, more than this by far.
    blocked = sum(stall for stall in stalls if stall > classified / 3)
    assert blocked < 5 * classified, f"the loop stood still for {blocked:.0f} ms; one classification takes {classified:.0f} ms"
