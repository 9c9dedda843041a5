"""faster-whisper on CTranslate2, int8, greedy, in an environment of its own; asked by `peers.Worker`, a line each time.

The weights are random, so no text ends by itself in a sensible place: each is kept from ending, and stopped after TOKENS, as many
as a short sentence has. Timestamps, the detector of speech, and trying again at other temperatures are switched off: all would take longer.
"""

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

import ctranslate2
import faster_whisper
import numpy as np
import tokenizers
from ctranslate2.specs import whisper_spec

SAMPLE_RATE = 16_000
VOCABULARY = 51_864  # of the English models
SPECIAL = ("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>",
           "<|nocaptions|>", "<|notimestamps|>")  # fmt: skip
END_OF_TEXT = 50_256  # where they begin
TOKENS = 12


def vocabulary() -> Dict[str, int]:
    """As many tokens as Whisper has, with the special ones in their places."""
    names = {END_OF_TEXT + place: name for place, name in enumerate(SPECIAL)}
    return {names.get(token, f"w{token}"): token for token in range(VOCABULARY)}


def write_model(folder: Path, width: int, layers: int, heads: int) -> None:
    """A model of that size, int8."""
    rng = np.random.default_rng(0)

    def drawn(*size: int) -> np.ndarray:
        return (0.02 * rng.standard_normal(size)).astype(np.float32)

    def norm(spec: Any) -> None:
        spec.gamma, spec.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    def linear(spec: Any, rows: int, columns: int) -> None:
        spec.weight, spec.bias = drawn(rows, columns), np.zeros(rows, np.float32)

    def attention(spec: Any) -> None:
        norm(spec.layer_norm)
        for part, times in zip(spec.linear, (3, 1) if len(spec.linear) == 2 else (1, 2, 1)):
            linear(part, times * width, width)

    spec = whisper_spec.WhisperSpec(layers, heads, layers, heads)
    for convolution, channels in ((spec.encoder.conv1, 80), (spec.encoder.conv2, width)):
        convolution.weight, convolution.bias = drawn(width, channels, 3), np.zeros(width, np.float32)
    for side, positions in ((spec.encoder, 1500), (spec.decoder, 448)):
        side.position_encodings.encodings = drawn(positions, width)
        norm(side.layer_norm)
        for layer in side.layer:
            attention(layer.self_attention)
            norm(layer.ffn.layer_norm)
            linear(layer.ffn.linear_0, 4 * width, width)
            linear(layer.ffn.linear_1, width, 4 * width)
            if side is spec.decoder:
                attention(layer.attention)
    spec.decoder.embeddings.weight = drawn(VOCABULARY, width)
    spec.decoder.projection.weight = spec.decoder.embeddings.weight
    spec.register_vocabulary(list(vocabulary()))
    spec.config.suppress_ids = spec.config.suppress_ids_begin = []
    spec.config.lang_ids, spec.config.alignment_heads = [END_OF_TEXT + 2], [(layers - 1, 0)]
    spec.validate()
    spec.optimize(quantization="int8")
    folder.mkdir()
    spec.save(str(folder))
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary(), unk_token="w0"))
    tokenizer.save(str(folder / "tokenizer.json"))


def transcribe(model: faster_whisper.WhisperModel, samples: np.ndarray) -> int:
    """How many tokens the transcription has."""
    segments, _ = model.transcribe(
        samples,
        language="en",
        beam_size=1,
        best_of=1,
        temperature=0.0,
        compression_ratio_threshold=None,
        log_prob_threshold=None,
        no_speech_threshold=None,
        condition_on_previous_text=False,
        without_timestamps=True,
        max_new_tokens=TOKENS,
        suppress_tokens=[*range(END_OF_TEXT, VOCABULARY)],
    )
    return sum(len(segment.tokens) for segment in segments)


def main() -> None:
    """Answers [shape, seconds] with milliseconds and tokens."""
    shapes, threads = json.loads(sys.argv[1]), int(sys.argv[2])
    rng = np.random.default_rng(0)
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, shape in shapes.items():
            write_model(Path(folder) / name, *shape)
            models[name] = faster_whisper.WhisperModel(
                str(Path(folder) / name), device="cpu", compute_type="int8", cpu_threads=threads
            )
    print(json.dumps({"faster_whisper": faster_whisper.__version__, "ctranslate2": ctranslate2.__version__}), flush=True)
    for line in sys.stdin:
        name, seconds = json.loads(line)
        samples = (0.1 * rng.standard_normal(int(seconds * SAMPLE_RATE))).astype(np.float32)
        began = time.perf_counter()
        tokens = transcribe(models[name], samples)
        print(json.dumps({"ms": (time.perf_counter() - began) * 1000, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
