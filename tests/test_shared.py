"""On real people and real Whisper weights; needs the folder of speech beside the checkout."""

import csv
from pathlib import Path
from typing import List

import numpy as np
import pytest
from conftest import SHARED

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.recognizer import NON_SPEECH, Recognizer
from spoken_intents.segmenter import SegmenterSettings, segment

pytestmark = pytest.mark.shared
TINY = SHARED / "models/whisper-tiny.en-encoder"


def clips(folder: str, count: int) -> List[Path]:
    """`count` test clips, evenly picked from the manifest."""
    with (SHARED / "speech" / folder / "manifest.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    return [SHARED / "speech" / folder / row["path"] for row in rows[:: max(1, len(rows) // count)]][:count]


def test_real_weights_at_real_lengths(tmp_path: Path) -> None:
    """whisper-tiny.en: a batch equals one by one, ONNX fp32 equals torch, int8 stays close; on people."""
    import torch

    from spoken_intents.features import log_mel
    from spoken_intents_training.export import export
    from spoken_intents_training.modeling import load_base, pad_batch

    model = load_base(str(TINY), ["a", "b", "c", NON_SPEECH]).eval()
    samples = [read_audio(clip, 30) for clip in clips("an4", 16)]
    spectrograms = [log_mel(clip) for clip in samples]
    with torch.inference_mode():
        together = model(*pad_batch(spectrograms)).logits.numpy()
        alone = np.concatenate([model(torch.from_numpy(spectrogram[None])).logits.numpy() for spectrogram in spectrograms])
    assert np.allclose(together, alone, atol=1e-4)
    described = export(
        model, tmp_path, {"labels": ["a", "b", "c", NON_SPEECH], "temperature": 1.0}, [(one, 0) for one in spectrograms]
    )
    assert described["parity"]["n"] == 16
    assert described["parity"]["fp32_max_difference"] < 1e-3
    served = np.stack([Recognizer(tmp_path, "fp32").logits(clip) for clip in samples])
    assert np.allclose(served, alone, atol=1e-3)


@pytest.mark.parametrize(("folder", "count"), [("an4", 60), ("keywords", 60)])
def test_people_are_segmented_whole(folder: str, count: int) -> None:
    """A recorded phrase, in quiet before and after, is one utterance or more that hold nearly all of its energy."""
    kept, total, missed = 0.0, 0.0, 0
    quiet = np.zeros(SAMPLE_RATE, dtype=np.float32)
    rng = np.random.default_rng(0)
    for clip in clips(folder, count):
        samples = read_audio(clip, 30)
        line = np.concatenate([quiet, samples, quiet])
        line = line + rng.standard_normal(len(line)).astype(np.float32) * 1e-4
        utterances = segment(line, SegmenterSettings())
        missed += not utterances
        kept += sum(float(np.sum(utterance.samples**2)) for utterance in utterances)
        total += float(np.sum(line**2))
    assert missed <= count // 30, f"{missed} of {count} recordings were not heard at all"
    assert kept / total > 0.97
