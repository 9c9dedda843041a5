"""Makes small copies of MInDS-14's two layouts out of any list of clips, to try `spoken-intents import minds14` on.

    python scripts/minds14_layout.py assistant_project/audio/manifest.csv --hub runs/hub --original runs/release --clips 4

Clips of an intent that MInDS-14 has keep it; where there is none, intents get MInDS-14's names in alphabetical order.
"""

import argparse
import csv
import hashlib
import io
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

import soundfile
import soxr

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents_training.dataset import Clip, read_clips
from spoken_intents_training.importers import INTENTS, LANGUAGES

MINDS_RATE = 8_000  # Hz: MInDS-14 was said over the phone
MAX_SECONDS = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips_csv", type=Path, help="path,intent (optional: speaker,transcript,split), or an nlu.yml")
    parser.add_argument("--hub", type=Path, help="where to make the hub's layout: <language>/train-*.parquet")
    parser.add_argument("--original", type=Path, help="where to make the first release's: MInDS-14/text/ and MInDS-14/audio/")
    parser.add_argument("--language", default="en-US", choices=LANGUAGES)
    parser.add_argument("--clips", type=int, default=8, help="of each intent")
    arguments = parser.parse_args()
    if not (arguments.hub or arguments.original):
        parser.error("name a folder by --hub, --original or both")
    rows = minds14_rows(read_clips(arguments.clips_csv), arguments.clips, arguments.language)
    if arguments.hub:
        write_hub(rows, arguments.hub, arguments.language)
    if arguments.original:
        write_original(rows, arguments.original, arguments.language)
    print(f"{len(rows)} clips of {len({row['intent_class'] for row in rows})} intents.")


def minds14_rows(clips: List[Clip], clips_per_intent: int, language: str) -> List[Dict[str, Any]]:
    """Rows with the hub's columns, the first `clips_per_intent` of each intent; the audio is 8 kHz WAV."""
    intents = sorted({clip.intent for clip in clips})
    names = {intent: intent for intent in intents if intent in INTENTS} or dict(zip(intents, INTENTS))
    taken: "Counter[str]" = Counter()
    rows = []
    for clip in clips:
        taken[clip.intent] += 1
        if clip.intent in names and taken[clip.intent] <= clips_per_intent:
            intent = names[clip.intent]
            file = f"{hashlib.sha256(clip.name.encode()).hexdigest()[:24]}.wav"  # as long as MInDS-14's
            rows.append(
                {
                    "path": f"{language}~{intent.upper()}/{file}",
                    "audio": {"bytes": phone_wav(clip.path), "path": file},
                    "transcription": clip.transcript,
                    "english_transcription": clip.transcript,
                    "intent_class": INTENTS.index(intent),
                    "lang_id": LANGUAGES.index(language),
                }
            )
    return rows


def phone_wav(file: Path) -> bytes:
    """The recording as WAV of 16 bits at 8 kHz."""
    samples = soxr.resample(read_audio(file, MAX_SECONDS), SAMPLE_RATE, MINDS_RATE)
    wav = io.BytesIO()
    soundfile.write(wav, samples, MINDS_RATE, format="WAV", subtype="PCM_16")
    return wav.getvalue()


def write_hub(rows: List[Dict[str, Any]], folder: Path, language: str) -> None:
    """The hub's layout: a parquet file for each language, and a card that says where they are."""
    import datasets
    import pyarrow.parquet

    text = datasets.Value("string")
    features = datasets.Features(
        path=text,
        audio=datasets.Audio(sampling_rate=MINDS_RATE),
        transcription=text,
        english_transcription=text,
        intent_class=datasets.ClassLabel(names=list(INTENTS)),
        lang_id=datasets.ClassLabel(names=list(LANGUAGES)),
    )
    (folder / language).mkdir(parents=True, exist_ok=True)
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    pyarrow.parquet.write_table(table, folder / language / "train-00000-of-00001.parquet")
    card = f"configs:\n- config_name: {language}\n  data_files:\n  - split: train\n    path: {language}/train-*\n"
    (folder / "README.md").write_text(f"---\n{card}---\n")


def write_original(rows: List[Dict[str, Any]], folder: Path, language: str) -> None:
    """The first release's layout, with its text.zip and audio.zip unpacked."""
    text = folder / "MInDS-14" / "text"
    text.mkdir(parents=True, exist_ok=True)
    with (text / f"{language}.csv").open("w", newline="", encoding="utf-8") as lines:
        table = csv.writer(lines)
        table.writerow(["filepath", "text_asr", "text_translated", "intent"])
        for row in rows:
            intent = INTENTS[row["intent_class"]].upper()
            table.writerow([row["path"], row["transcription"], row["english_transcription"], intent])
            wav = folder / "MInDS-14" / "audio" / row["path"]
            wav.parent.mkdir(parents=True, exist_ok=True)
            wav.write_bytes(row["audio"]["bytes"])


if __name__ == "__main__":
    main()
