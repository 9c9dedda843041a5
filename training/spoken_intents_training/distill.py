"""Makes a small Whisper encoder out of a larger one: feature regression on unlabelled speech.

    python -m spoken_intents_training.distill --teacher DIR --audio FOLDER [FOLDER ...] --out DIR

The student keeps the teacher's width, convolutions and some of its layers, and learns to give the teacher's
last hidden states with fewer of them (as DistilBERT, Sanh et al. 2019, and distil-whisper do). No label is
read: the audio folders are searched for clips, nothing else. A clip that cannot be used (no audio, under 20 ms,
over 120 s) is skipped.
"""

import random
import time
from pathlib import Path
from typing import List

import numpy as np
import torch
import transformers
import typer
from rich.progress import track
from transformers import WhisperConfig, WhisperForAudioClassification

from spoken_intents.audio import SAMPLE_RATE, SUFFIXES, read_audio
from spoken_intents.errors import AudioError, ConfigError, DataError
from spoken_intents.features import log_mel
from spoken_intents_training.modeling import encode, load_base, pad_batch

CROP_SECONDS = 6.0
MAX_SECONDS = 120  # of a clip: each is decoded whole to take a crop


def student_of(teacher: WhisperForAudioClassification, layers: List[int]) -> WhisperForAudioClassification:
    """A copy of the teacher with only `layers` of its encoder."""
    config = WhisperConfig(**{**teacher.config.to_dict(), "encoder_layers": len(layers), "num_hidden_layers": len(layers)})
    student = type(teacher)(config)
    for name in ("conv1", "conv2", "embed_positions", "layer_norm"):
        getattr(student.encoder, name).load_state_dict(getattr(teacher.encoder, name).state_dict())
    for place, layer in enumerate(layers):
        student.encoder.layers[place].load_state_dict(teacher.encoder.layers[layer].state_dict())
    return student


def distill(
    teacher: WhisperForAudioClassification,
    clips: List[Path],
    layers: List[int],
    steps: int,
    batch: int = 8,
    learning_rate: float = 5e-4,
    seconds: float = float("inf"),
    seed: int = 0,
) -> WhisperForAudioClassification:
    """The trained student. Stops after `steps` or `seconds`; the learning rate falls with whichever is nearer.

    Raises:
        ConfigError: A layer the teacher has not got.
        DataError: No clip can be used.
    """
    if not layers or not set(layers) <= set(range(len(teacher.encoder.layers))):
        raise ConfigError(f"layers takes some of 0 to {len(teacher.encoder.layers) - 1}, the teacher's, got {layers}.")
    torch.manual_seed(seed)
    rng = random.Random(seed)
    usable = list(clips)
    student = student_of(teacher, layers)
    teacher.requires_grad_(False)
    trained = [parameter for name, parameter in student.encoder.named_parameters() if "embed_positions" not in name]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    began, average = time.monotonic(), None
    for step in track(range(steps), "Distilling"):
        done = max(step / steps, (time.monotonic() - began) / seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * done))
        features, frames = pad_batch([_draw(usable, rng, teacher.config.num_mel_bins) for _ in range(batch)])
        with torch.no_grad():
            wanted, mask = encode(teacher.encoder, features, frames)
        given, _ = encode(student.encoder, features, frames)
        difference = (given - wanted)[mask]
        cosine = torch.nn.functional.cosine_similarity(given[mask], wanted[mask], dim=-1)
        loss = difference.pow(2).mean() / wanted[mask].var() + (1 - cosine).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        average = loss.item() if average is None else 0.98 * average + 0.02 * loss.item()
        if step % 200 == 0:
            print(f"step {step}: loss {average:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"after {step + 1} steps: loss {average:.3f}; {len(clips) - len(usable)} unusable clips skipped", flush=True)
    return student


def _draw(clips: List[Path], rng: random.Random, n_mels: int) -> np.ndarray:
    """Log-mel of a crop of one of `clips`; those that turn out to be unusable are taken off that list."""
    while clips:
        place = rng.randrange(len(clips))
        try:
            return _crop(clips[place], rng, n_mels)
        except AudioError as error:
            del clips[place]
            if not clips:
                raise DataError(f"No clip can be used. The last one: {error}") from None
    raise DataError("No clip to distil on.")


def _crop(clip: Path, rng: random.Random, n_mels: int) -> np.ndarray:
    """Log-mel of at most `CROP_SECONDS` from a random place, louder or softer, sometimes with noise."""
    samples = read_audio(clip, MAX_SECONDS)
    wanted = int(CROP_SECONDS * SAMPLE_RATE)
    if len(samples) > wanted:
        start = rng.randrange(len(samples) - wanted)
        samples = samples[start : start + wanted]
    if rng.random() < 0.4:
        noise = np.random.default_rng(rng.getrandbits(32)).standard_normal(len(samples)).astype(np.float32)
        samples = samples + noise * float(samples.std()) * 10 ** (-rng.uniform(8, 35) / 20)
    return log_mel(samples * 10 ** (rng.uniform(-15, 5) / 20), n_mels)


def main(
    teacher: str = typer.Option(..., help="Directory or hub name of the larger Whisper."),
    audio: List[Path] = typer.Option(..., help="Folder with clips, or a text file naming one clip a line. May be given again."),
    out: Path = typer.Option(..., help="Where the small model goes."),
    layers: str = typer.Option("0,3", help="Which of the teacher's layers the student starts from."),
    steps: int = typer.Option(20_000, min=1, help="At most this many steps."),
    seconds: float = typer.Option(3600, min=1, help="At most this long."),
) -> None:
    """Distil a small Whisper encoder from a larger one, on speech without labels."""
    clips: List[Path] = []
    for source in audio:
        if source.is_file():
            clips += [Path(line) for line in source.read_text().splitlines() if line]
        else:
            clips += sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not clips:
        raise DataError(f"{', '.join(map(str, audio))}: no clip there. Clips end in {', '.join(SUFFIXES)}.")
    typer.echo(f"{len(clips)} clips.")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    student = distill(load_base(teacher, ["-"]), clips, [int(layer) for layer in layers.split(",")], steps, seconds=seconds)
    save_base(student, out)


def save_base(model: WhisperForAudioClassification, out: Path) -> None:
    """Writes encoder weights (fp16, Hugging Face's names) and configuration; no head."""
    out.mkdir(parents=True, exist_ok=True)
    config = WhisperConfig(**{**model.config.to_dict(), "id2label": {0: "-"}, "label2id": {"-": 0}})
    encoder = {f"encoder.{name}": tensor.half().contiguous() for name, tensor in model.encoder.state_dict().items()}
    from safetensors.torch import save_file

    save_file(encoder, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)


if __name__ == "__main__":
    typer.run(main)
