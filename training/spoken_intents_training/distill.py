"""Makes a small Whisper encoder out of a larger one: feature regression on unlabelled speech.

    python -m spoken_intents_training.distill --teacher DIR --audio FOLDER --audio FOLDER --out DIR

The student keeps the teacher's width and convolutions, and of its layers and their feed-forward neurons as many as
are asked for; which neurons is decided by what they contribute. It learns to give what the teacher gives, layer by
layer (as DistilBERT, Sanh et al. 2019, and TinyBERT, Jiao et al. 2020, do), and to give it in noise, in a room and
over a telephone, too: the teacher always hears the clean clip. No label is read: the audio folders are searched for
clips, nothing else. A clip that cannot be used (no audio, under 20 ms, over 120 s) is skipped.
"""

import time
from pathlib import Path
from typing import Any, Iterator, List, Sequence, Tuple

import numpy as np
import torch
import transformers
import typer
from rich.progress import track
from safetensors.torch import save_file
from torch.nn.functional import cosine_similarity
from transformers import WhisperConfig, WhisperForAudioClassification
from transformers.models.whisper.modeling_whisper import sinusoids

from spoken_intents.audio import SAMPLE_RATE, SUFFIXES, float_to_pcm16, pcm16_to_float, read_audio
from spoken_intents.errors import AudioError, ConfigError, DataError
from spoken_intents.features import MIN_SAMPLES, log_mel
from spoken_intents_training.augment import Elsewhere, change_voice
from spoken_intents_training.loop import has_bf16
from spoken_intents_training.modeling import encode_layers, load_base

CROP_SECONDS = (1.0, 10.0)
BATCH_SECONDS = 50.0
MAX_SECONDS = 120  # of a clip
WEIGHED_ON = 4  # batches that decide which feed-forward neurons are kept


def student_of(teacher: Any, layers: List[int], neurons: int, features: Sequence[torch.Tensor]) -> WhisperForAudioClassification:
    """A copy of the teacher with only `layers` of its encoder, and `neurons` of each one's feed-forward neurons.

    Kept are the neurons that move the layer's output most on `features`; what the others give on average stays as
    a constant.

    Raises:
        ConfigError: A layer the teacher has not got, or more neurons.
    """
    has = len(teacher.encoder.layers), teacher.config.encoder_ffn_dim
    if not layers or not set(layers) <= set(range(has[0])):
        raise ConfigError(f"layers takes some of 0 to {has[0] - 1}, the teacher's, got {layers}.")
    if not 1 <= neurons <= has[1]:
        raise ConfigError(f"neurons takes 1 to {has[1]}, the teacher's, got {neurons}.")
    sizes = {"encoder_layers": len(layers), "num_hidden_layers": len(layers), "encoder_ffn_dim": neurons}
    student = type(teacher)(WhisperConfig(**{**teacher.config.to_dict(), **sizes}))
    for name in ("conv1", "conv2", "embed_positions", "layer_norm"):
        getattr(student.encoder, name).load_state_dict(getattr(teacher.encoder, name).state_dict())
    means, deviations = _activations(teacher, features)
    for place, layer in enumerate(layers):
        weights = teacher.encoder.layers[layer].state_dict()
        moved = deviations[layer] * weights["fc2.weight"].norm(dim=0)
        kept = moved.topk(neurons).indices.sort().values
        left = torch.ones(has[1], dtype=torch.bool)
        left[kept] = False
        weights["fc2.bias"] = weights["fc2.bias"] + weights["fc2.weight"][:, left] @ means[layer][left]
        weights["fc2.weight"] = weights["fc2.weight"][:, kept]
        weights["fc1.weight"], weights["fc1.bias"] = weights["fc1.weight"][kept], weights["fc1.bias"][kept]
        student.encoder.layers[place].load_state_dict(weights)
    return student


def _activations(teacher: Any, features: Sequence[torch.Tensor]) -> Tuple[List[torch.Tensor], List[torch.Tensor]]:
    """Mean and deviation of every feed-forward neuron of every layer."""
    seen: List[List[torch.Tensor]] = [[] for _ in teacher.encoder.layers]
    hooks = [
        layer.fc2.register_forward_pre_hook(lambda _, given, rows=rows: rows.append(given[0].flatten(0, -2)))
        for layer, rows in zip(teacher.encoder.layers, seen)
    ]
    with torch.inference_mode():
        for batch in features:
            encode_layers(teacher.encoder, batch)
    for hook in hooks:
        hook.remove()
    every = [torch.cat(rows) for rows in seen]
    return [rows.mean(dim=0) for rows in every], [rows.std(dim=0) for rows in every]


def distill(
    teacher: WhisperForAudioClassification,
    clips: Sequence[bytes],
    layers: List[int],
    neurons: int,
    steps: int,
    learning_rate: float = 5e-4,
    seconds: float = float("inf"),
    seed: int = 0,
) -> WhisperForAudioClassification:
    """The trained student. Stops after `steps` or `seconds`; the learning rate falls with whichever is nearer.

    Args:
        clips: 16-bit samples; at least one.

    Raises:
        ConfigError: See `student_of`.
    """
    torch.manual_seed(seed)
    teacher.requires_grad_(False)
    batches = _batches(clips, teacher.config.num_mel_bins, seed)
    student = student_of(teacher, layers, neurons, [next(batches)[0] for _ in range(WEIGHED_ON)])
    trained = [parameter for name, parameter in student.encoder.named_parameters() if "embed_positions" not in name]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    began, average, taken, in_bf16 = time.monotonic(), 0.0, 0, has_bf16("cpu")
    for step in track(range(steps), "Distilling"):
        done = max(step / steps, (time.monotonic() - began) / seconds)
        if done >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * min(1.0, (step + 1) / 100) * 0.5 * (1 + np.cos(np.pi * done))
        clean, heard = next(batches)
        with torch.autocast("cpu", torch.bfloat16, enabled=in_bf16):
            loss = _distance(teacher.encoder, student.encoder, layers, clean, heard)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        taken += 1
        average = loss.item() if not step else 0.98 * average + 0.02 * loss.item()
        if step % 200 == 0:
            print(f"step {step}: loss {average:.3f}, {time.monotonic() - began:.0f} s", flush=True)
    print(f"after {taken} steps: loss {average:.3f}", flush=True)
    return student


def _distance(teacher: Any, student: Any, layers: List[int], clean: torch.Tensor, heard: torch.Tensor) -> torch.Tensor:
    """How far the student is from the teacher: at its end, and (with less weight) behind each of its layers."""
    with torch.no_grad():
        of_teacher, _ = encode_layers(teacher, clean)
        wanted = [*(of_teacher[layer] for layer in layers), teacher.layer_norm(of_teacher[-1])]
    of_student, _ = encode_layers(student, heard)
    given = [*of_student, student.layer_norm(of_student[-1])]
    distances = []
    for got, aim in zip(given, wanted):
        got, aim = got.flatten(0, 1).float(), aim.flatten(0, 1).float()
        squared = (got - aim).pow(2).mean() / (aim - aim.mean(dim=0)).pow(2).mean()
        distances.append(squared + (1 - cosine_similarity(got, aim, dim=-1)).mean())
    return distances[-1] + 0.5 * torch.stack(distances[:-1]).mean()


def _batches(clips: Sequence[bytes], n_mels: int, seed: int) -> Iterator[Tuple[torch.Tensor, torch.Tensor]]:
    """Log-mels, clean and as heard, each (rows, n_mels, frames): rows of one length, so that nothing is padded."""
    rng = np.random.default_rng(seed)
    elsewhere = Elsewhere(seed)  # where the student alone is
    while True:
        seconds = float(np.exp(rng.uniform(*np.log(CROP_SECONDS))))
        rows: List[Tuple[np.ndarray, np.ndarray]] = []
        for _ in range(round(BATCH_SECONDS / seconds)):
            clean = _crop(clips, int(seconds * SAMPLE_RATE), rng)
            voice = int(rng.integers(2**32))  # the same for both
            pair = (log_mel(samples, n_mels) for samples in (clean, elsewhere.sampled(clean, rng)))
            rows.append(tuple(change_voice(picture, np.random.default_rng(voice)) for picture in pair))  # type: ignore[arg-type]
        frames = min(picture.shape[1] for picture, _ in rows)
        sides = [torch.from_numpy(np.stack([row[side][:, :frames] for row in rows])) for side in (0, 1)]
        yield sides[0], sides[1]


def _crop(clips: Sequence[bytes], wanted: int, rng: np.random.Generator) -> np.ndarray:
    """So many samples from a random place in clips that follow each other, louder or softer."""
    parts: List[np.ndarray] = []
    while sum(map(len, parts)) < wanted:
        clip = pcm16_to_float(clips[rng.integers(len(clips))])
        parts += [clip * np.float32(10 ** (rng.uniform(-15, 5) / 20)), np.zeros(int(rng.integers(SAMPLE_RATE // 2)), np.float32)]
    samples = np.concatenate(parts)
    start = int(rng.integers(len(samples) - wanted + 1))
    return samples[start : start + wanted]


def read_pcm(paths: Sequence[Path]) -> List[bytes]:
    """The audio of all clips that can be used, as 16-bit samples: 115 MB an hour.

    Raises:
        DataError: None can be used.
    """
    clips, problem = [], ""
    for path in track(paths, "Reading"):
        try:
            samples = read_audio(path, MAX_SECONDS)
        except AudioError as error:
            problem = str(error)
            continue
        if len(samples) < MIN_SAMPLES:
            problem = f"{path}: shorter than 20 ms."
            continue
        clips.append(float_to_pcm16(samples))
    if not clips:
        raise DataError(f"No clip can be used. The last one: {problem}")
    print(f"{len(paths) - len(clips)} unusable clips skipped", flush=True)
    return clips


def main(
    teacher: str = typer.Option(..., help="Directory or hub name of the larger Whisper."),
    audio: List[Path] = typer.Option(..., help="Folder with clips, or a text file naming one clip a line. May be given again."),
    out: Path = typer.Option(..., help="Where the small model goes."),
    layers: str = typer.Option("0,1,2,3", help="Which of the teacher's layers the student has."),
    neurons: int = typer.Option(640, min=1, help="How many feed-forward neurons of each layer."),
    steps: int = typer.Option(20_000, min=1, help="At most this many steps."),
    seconds: float = typer.Option(3600, min=1, help="At most this long."),
) -> None:
    """Distil a small Whisper encoder from a larger one, on speech without labels."""
    paths: List[Path] = []
    for source in audio:
        if source.is_file():
            paths += [Path(line) for line in source.read_text().splitlines() if line]
        else:
            paths += sorted(path for path in source.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise DataError(f"{', '.join(map(str, audio))}: no clip there. Clips end in {', '.join(SUFFIXES)}.")
    typer.echo(f"{len(paths)} clips.")
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    kept = [int(layer) for layer in layers.split(",")]
    student = distill(load_base(teacher, ["-"]), read_pcm(paths), kept, neurons, steps, seconds=seconds)
    save_base(student, out)


def save_base(model: WhisperForAudioClassification, out: Path) -> None:
    """Writes encoder weights (fp16, Hugging Face's names) and configuration; no head.

    Nor the position table, where it is Whisper's formula, which Hugging Face's class follows for a file that has none.
    """
    out.mkdir(parents=True, exist_ok=True)
    described = {name: value for name, value in model.config.to_dict().items() if name != "pooling"}  # the head's
    config = WhisperConfig(**{**described, "id2label": {0: "-"}, "label2id": {"-": 0}})
    table = model.encoder.embed_positions.weight
    known = torch.allclose(table, sinusoids(*table.shape), atol=1e-3)  # some that were fine-tuned have another
    encoder = {
        f"encoder.{name}": tensor.half().contiguous()
        for name, tensor in model.encoder.state_dict().items()
        if not (known and "embed_positions" in name)
    }
    save_file(encoder, out / "model.safetensors", metadata={"format": "pt"})
    config.save_pretrained(out)


if __name__ == "__main__":
    typer.run(main)
