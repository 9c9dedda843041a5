"""Models of Whisper's sizes with random weights, which take as much time as any others; and the sums they compute."""

from pathlib import Path
from typing import Dict, Tuple

import numpy as np
import torch
from transformers import WhisperConfig, WhisperForAudioClassification

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import HOP_SAMPLES, log_mel
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.export import export
from spoken_intents_training.heads import HEADS
from spoken_intents_training.modeling import ShortContextClassifier
from spoken_intents_training.turn_end import TurnEnd

SHAPES: Dict[str, Tuple[int, int, int]] = {  # width, layers, heads
    "whisper-tiny.en": (384, 4, 6),
    "whisper-base.en": (512, 6, 8),
    "whisper-small.en": (768, 12, 12),
}
LABELS = [*(f"intent_{number}" for number in range(14)), NON_SPEECH]  # as many as MInDS-14 has


def config_of(shape: Tuple[int, int, int]) -> WhisperConfig:
    """Of a classifier with `LABELS` on an encoder of that width, that many layers and heads."""
    width, layers, heads = shape
    return WhisperConfig(
        d_model=width,
        encoder_layers=layers,
        num_hidden_layers=layers,
        encoder_attention_heads=heads,
        encoder_ffn_dim=4 * width,
        num_labels=len(LABELS),
        id2label=dict(enumerate(LABELS)),
        label2id={label: number for number, label in enumerate(LABELS)},
    )


def speech_like(seconds: float, seed: int = 0) -> np.ndarray:
    """Noise, float32 at 16 kHz: nothing here takes longer or shorter for what is said."""
    return (0.1 * np.random.default_rng(seed).standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)


def stock_model(config: WhisperConfig) -> WhisperForAudioClassification:
    """Hugging Face's class, which takes windows of 30 s only."""
    torch.manual_seed(0)
    return WhisperForAudioClassification(config).eval()


def sliced(stock: WhisperForAudioClassification, samples: int) -> WhisperForAudioClassification:
    """The same with its position table cut: it takes windows of just so many samples."""
    config = WhisperConfig(**{**stock.config.to_dict(), "max_source_positions": positions_of(samples)})
    model = WhisperForAudioClassification(config).eval()
    table = "encoder.embed_positions.weight"
    weights = stock.state_dict()
    model.load_state_dict({**weights, table: weights[table][: config.max_source_positions]})
    return model


def write_artefact(config: WhisperConfig, out: Path) -> None:
    """What training on the default recipe leaves: a head on statistics over time and the end-of-turn output."""
    torch.manual_seed(0)
    model = ShortContextClassifier(config)
    model.put_head(HEADS["statistics"](config.d_model, len(LABELS)))
    model.turn_end = TurnEnd(config.d_model)
    clips = [(log_mel(speech_like(2, seed), config.num_mel_bins), 0) for seed in range(2)]
    export(model, out, {"labels": LABELS, "temperature": 1.0, "base_model": "random weights"}, clips)


def positions_of(samples: int) -> int:
    """How many positions the encoder has for so many samples, 20 ms each."""
    return -(-samples // (2 * HOP_SAMPLES))


def multiply_adds(config: WhisperConfig, samples: int) -> int:
    """Of the encoder: convolutions, the layers' matrices, attention. The head's are a thousandth of them."""
    width, positions = config.d_model, positions_of(samples)
    convolutions = 3 * width * (2 * positions * config.num_mel_bins + positions * width)
    matrices = positions * width * (4 * width + 2 * config.encoder_ffn_dim)
    attention = 2 * positions**2 * width
    return convolutions + config.encoder_layers * (matrices + attention)
