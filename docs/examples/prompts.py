"""A voice that is recorded: each sentence of the bot is a file, said by a person. What is not recorded is only written."""

import re
from pathlib import Path

import numpy as np

from spoken_intents.audio import SAMPLE_RATE, read_audio


class Prompts:
    """`voice`, a setting of every channel, is here the folder: ``prompts/shall-i-pay-it.wav`` is "Shall I pay it?"."""

    sample_rate = SAMPLE_RATE  # of what `synthesize` returns; any other is brought to ours
    language = "en"  # by which numbers and dates are made words before they come here

    def __init__(self, voice: str) -> None:
        self._folder = Path(voice)

    def synthesize(self, sentence: str) -> np.ndarray:
        """The sentence as float32 samples; one that is not there is an error, which the log names."""
        name = re.sub(r"[^a-z0-9]+", "-", sentence.lower()).strip("-")
        return read_audio(self._folder / f"{name}.wav", 30)
