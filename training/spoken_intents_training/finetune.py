"""Fine-tuning from clips to model artefact: read, hold out, fit the classifier, train, calibrate, export."""

import json
import logging
import os
import shutil
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, cast

import numpy as np
import torch
import transformers
from rich.markup import escape

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import DivergedError, TrainingError
from spoken_intents.recognizer import NON_SPEECH, read_model_json, softmax
from spoken_intents_training.batches import Examples
from spoken_intents_training.card import CARD, CURVES, model_card, threshold_advice
from spoken_intents_training.dataset import Clip, hold_out, intent_counts, read_all_samples
from spoken_intents_training.export import Files, export, load_weights
from spoken_intents_training.heads import HEADS, choose, fitted_head
from spoken_intents_training.loop import clips_a_process, console, last_checkpoint, run
from spoken_intents_training.metrics import suggest_threshold
from spoken_intents_training.modeling import ShortContextClassifier, encode, load_base, pad_batch
from spoken_intents_training.nonspeech import non_speech_clips
from spoken_intents_training.recipe import Recipe
from spoken_intents_training.sources import files_fingerprint

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"  # in the model's directory, until it is complete
CHOSEN_ON = 300  # clips at most, between poolings
# Bytes of the clips that the classifier is fitted on, at most: an hour, 280 MB of hidden states of tiny, twice.
FITTED_ON = 2 * SAMPLE_RATE * 3600
PARITY_CLIPS = 32


def train(
    clips: Sequence[Clip],
    base_model: str,
    recipe: Recipe,
    out: Path,
    continue_from: Optional[Path] = None,
    checkpoints: Optional[Path] = None,
    tensorboard: Optional[Path] = None,
) -> Dict[str, Any]:
    """Fine-tunes on `clips`, writes the artefact to `out`, and returns its ``model.json``.

    Under ``accelerate launch`` every process calls this with the same arguments; the first one writes, the others
    return an empty dictionary.

    Args:
        clips: Spoken examples; every file must be there.
        base_model: See `modeling.load_base`.
        out: Directory of the artefact; made when missing.
        continue_from: An artefact whose weights to start from instead of the base model's; same labels.
        checkpoints: Directory for checkpoints; training goes on from the last one there. None: none are written.
        tensorboard: Directory for TensorBoard's event file.

    Raises:
        DataError: Too few intents, or clips that cannot be used.
        ModelError: The base model, or the one to continue from, cannot be loaded or does not fit.
        TrainingError: The recipe's batch cannot be shared out among the processes, the loss is no number any more, or the
            artefact cannot be exported or written.
    """
    began = time.monotonic()
    clips_a_process(recipe)  # refuses before anything slow begins
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(recipe.seed)
    counts = intent_counts(clips)
    lone = [intent for intent, count in counts.items() if count == 1]
    if lone and is_first_process():
        logger.warning("Intents with a single clip, too few to learn from: %s. Record more of them.", ", ".join(lone))
    labels = [*counts, NON_SPEECH] if recipe.non_speech_share else [*counts]
    model = load_base(base_model, labels, recipe.context)
    if continue_from is not None:
        load_weights(model, continue_from, labels, base_model, recipe.pooling)
    freeze(model, recipe.frozen_layers)
    learnt, held_out = read_examples(clips, labels, recipe, model.config.num_mel_bins)
    speech, held_speech = (sum(labels[target] != NON_SPEECH for target in part.targets) for part in (learnt, held_out))
    console.print(
        f"Fine-tuning [bold]{escape(base_model)}[/] on {speech} clips of {len(counts)} intents"
        f"{f' and {len(learnt) - speech} noises' if NON_SPEECH in labels else ''}; {held_speech} clips held out."
    )
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoints or Path(temporary)
        if recipe.pooling != "mean" and continue_from is None:
            begin_with_head(cast(ShortContextClassifier, model), learnt, recipe, last_checkpoint(folder))
        log = run(model, learnt, recipe, folder, checkpoints is not None, tensorboard)
    if not is_first_process():
        return {}
    measured_on = held_out or learnt
    logits, truth = predict(model, measured_on, range(len(measured_on))), np.array(measured_on.targets)
    if not np.isfinite(logits).all():
        raise DivergedError("The trained model answers with what is no number. Nothing was written. Lower the learning_rate.")
    metrics = {**_metrics(logits, truth, labels, bool(held_out)), "seconds": round(time.monotonic() - began, 1)}
    temperature = fit_temperature(logits, truth) if held_out else 1.0
    description = {
        "labels": labels,
        "temperature": temperature,
        "suggested_threshold": _threshold(logits / temperature, truth, len(counts)) if held_out else None,
        "base_model": base_model,
        "recipe": asdict(recipe),
        "data": {"clips": counts, "fingerprint": files_fingerprint([clip.path for clip in clips])},
        "metrics": metrics,
        "log": log,
    }
    parity_on = [measured_on.log_mel(row) for row in range(min(PARITY_CLIPS, len(measured_on)))]
    described = export(model, out, description, parity_on, explain)
    where = "held-out" if held_out else "learnt (none held out)"
    console.print(
        f"Heard [bold]{metrics['right']} of {metrics['n']}[/] {where} clips right ({metrics['accuracy']:.1%})"
        f"{_noises_rejected(metrics, where.split()[0])}. Took {time.monotonic() - began:.0f} s."
    )
    console.print(threshold_advice(described))
    return described


def explain(described: Dict[str, Any]) -> Files:
    """What lies beside ``model.json`` for people: the card, and the picture of the training that it shows."""
    from spoken_intents_training.plots import png, training_curves  # matplotlib takes seconds to load

    return {CARD: model_card(described).encode(), CURVES: png(training_curves(described["log"]))}


def checkpoint_directory(out: Path, clips: Sequence[Clip], base_model: str, recipe: Recipe, resume: bool) -> Path:
    """Where this training's checkpoints go, inside `out`: what lies there is gone on from with `resume`, else it is new.

    Raises:
        TrainingError: An interrupted training lies there and `resume` was not asked for, or it was another one.
    """
    folder = out / CHECKPOINTS
    started_from = folder / "started_from.json"
    now = {
        "another base model": base_model,
        "another recipe": asdict(recipe),
        "other clips": [files_fingerprint([clip.path for clip in clips]), *map(_as_listed, clips)],
    }
    if not is_first_process():
        return folder
    if last_checkpoint(folder) and not resume:
        raise TrainingError(
            f"{folder} holds an interrupted training. Go on with --resume, or delete that directory to begin anew."
        )
    if resume and last_checkpoint(folder):
        changed = _changed(json.loads(started_from.read_text()), now)
        if changed:
            raise TrainingError(
                f"The training in {folder} began with {changed}. Resume it with what it began "
                "with, or delete that directory to begin anew."
            )
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started_from.write_text(json.dumps(now))
    return folder


def require_same_training(model: Path, clips: Sequence[Clip], base_model: str, recipe: Recipe) -> None:
    """Refuses to take a complete model for the end of another training.

    Raises:
        TrainingError: It was made from another base model, by another recipe, or of other clips.
    """
    made = read_model_json(model)
    before = {
        "another base model": made.get("base_model"),
        "another recipe": made.get("recipe"),
        "other clips": made.get("data", {}).get("fingerprint"),
    }
    wanted = (base_model, asdict(recipe), files_fingerprint([clip.path for clip in clips]))
    changed = _changed(before, dict(zip(before, wanted)))
    if changed:
        raise TrainingError(
            f"{model} holds a complete model, made with {changed}: there is nothing to resume. Train without --resume."
        )


def _changed(before: Dict[str, Any], now: Dict[str, Any]) -> str:
    """The names of what differs, for a message; empty where nothing does."""
    return " and ".join(name for name in now if before[name] != now[name])


def _as_listed(clip: Clip) -> List[str]:
    return [clip.name, clip.intent, clip.speaker, clip.transcript]


def is_first_process() -> bool:
    """Whether this is the process that prints and writes; the only one but under ``accelerate launch``."""
    return int(os.environ.get("RANK", "0")) == 0


def read_examples(clips: Sequence[Clip], labels: Sequence[str], recipe: Recipe, n_mels: int) -> Tuple[Examples, Examples]:
    """Examples to learn from and examples held out, made-up noises among both.

    Raises:
        DataError: Clips that cannot be used.
    """
    learnt, held_out = hold_out(clips, recipe.held_out_share, recipe.seed)
    with console.status(f"Reading {len(clips)} clips ..."):
        samples = read_all_samples([*learnt, *held_out])
    noises: List[np.ndarray] = []
    if NON_SPEECH in labels:
        noises = non_speech_clips(max(12, round(len(clips) * recipe.non_speech_share)), recipe.seed)
    held_noises = max(2, round(len(noises) * recipe.held_out_share)) if noises and held_out else 0

    def examples(clips: Sequence[Clip], samples: List[np.ndarray], noises: List[np.ndarray]) -> Examples:
        targets = [labels.index(clip.intent) for clip in clips] + [labels.index(NON_SPEECH) for _ in noises]
        names = [clip.name for clip in clips] + ["a made-up noise" for _ in noises]
        return Examples(samples + noises, targets, names, recipe, n_mels)

    return (
        examples(learnt, samples[: len(learnt)], noises[held_noises:]),
        examples(held_out, samples[len(learnt) :], noises[:held_noises]),
    )


def _metrics(logits: np.ndarray, truth: np.ndarray, labels: Sequence[str], held_out: bool) -> Dict[str, Any]:
    heard, speech = logits.argmax(axis=1), np.array([labels[target] != NON_SPEECH for target in truth])
    right = heard == truth
    return {
        "held_out": held_out,  # false: measured on what was learnt, because none were held out
        "n": int(speech.sum()),
        "right": int(right[speech].sum()),
        "accuracy": float(right[speech].mean()),
        "noises": int((~speech).sum()),
        "noises_rejected": int(right[~speech].sum()),
    }


def _noises_rejected(metrics: Dict[str, Any], which: str) -> str:
    return f"; rejected {metrics['noises_rejected']} of {metrics['noises']} {which} noises" if metrics["noises"] else ""


def _threshold(logits: np.ndarray, truth: np.ndarray, n_intents: int) -> Optional[float]:
    """The FallbackClassifier's threshold that the held-out clips suggest; None when none was heard right."""
    confidences = softmax(logits)[:, :n_intents].max(axis=1)
    heard, speech = logits.argmax(axis=1), truth < n_intents
    right, wrong = speech & (heard == truth), speech & (heard != truth) & (heard < n_intents)
    return suggest_threshold(confidences[right].tolist(), confidences[wrong].tolist()) if right.any() else None


def freeze(model: Any, layers: int) -> None:
    """Keeps the convolutions and the first `layers` layers as they are; 0: nothing."""
    if layers:
        for part in (model.encoder.conv1, model.encoder.conv2, *model.encoder.layers[:layers]):
            part.requires_grad_(False)


def begin_with_head(model: ShortContextClassifier, data: Examples, recipe: Recipe, checkpoint: Optional[Path]) -> None:
    """Gives the model the recipe's head, fitted on the frozen encoder; or one of the checkpoint's kind, to load it into."""
    labels = model.config.num_labels
    if checkpoint is not None:
        pooling = json.loads((checkpoint / "config.json").read_text())["pooling"]
        model.put_head(HEADS[pooling](model.config.d_model, labels))
        return
    if torch.cuda.is_available():
        cast(torch.nn.Module, model).to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    pooling, why = recipe.pooling, ""
    with console.status("Fitting the classifier on the frozen encoder ..."):
        targets = np.array(data.targets)
        rows = _some_of_each(targets, data.lengths, recipe.seed)
        hidden, targets = frozen_hidden(model, data, rows.tolist()), targets[rows]
        broken = [data.names[row] for row, clip in zip(rows, hidden) if not torch.isfinite(clip).all()]
        if broken:
            raise DivergedError(
                f"The base model answers with what is no number, on {len(broken)} of {len(rows)} clips such as {broken[0]}. "
                "Nothing was written. Its weights are broken: download or copy them again."
            )
        if pooling == "auto":
            names = cast(Dict[int, str], model.config.id2label)
            speech = [row for row, target in enumerate(targets) if names[target] != NON_SPEECH][:CHOSEN_ON]
            pooling, shares = choose([hidden[row] for row in speech], targets[speech], labels, recipe.seed)
            why = ", ".join(f"{name} {share:.0%}" for name, share in shares.items())
        model.put_head(fitted_head(pooling, hidden, targets, labels, recipe.seed))
    heard = f" (of clips it was not fitted on it hears: {why})" if why else ""
    console.print(f"Fitted the classifier on the frozen encoder, pooling: {pooling}{heard}.", highlight=False)


def _some_of_each(targets: np.ndarray, lengths: Sequence[int], seed: int) -> np.ndarray:
    """Rows in random order, one of each label, then a second of each and so on, about an hour of speech at most."""
    order = np.random.default_rng(seed).permutation(len(targets))
    taken: Dict[int, int] = {}
    turn = []
    for row in order:
        turn.append(taken.get(targets[row], 0))
        taken[targets[row]] = turn[-1] + 1
    order = order[np.argsort(turn, kind="stable")]
    return order[: int(np.searchsorted(np.cumsum(np.array(lengths)[order]), FITTED_ON)) + 1]


def frozen_hidden(model: Any, data: Examples, rows: Sequence[int]) -> List[torch.Tensor]:
    """What the encoder gives of these clips as they are, in order, each (positions, width)."""

    def compute(features: torch.Tensor, frames: torch.Tensor) -> List[torch.Tensor]:
        hidden, mask = encode(model.encoder, features, frames)
        return [row[real].cpu() for row, real in zip(hidden, cast(torch.Tensor, mask))]

    return _in_batches(model, data, rows, compute)


def predict(model: Any, data: Examples, rows: Sequence[int]) -> np.ndarray:
    """Logits of these clips as they are, in order, shape (clips, labels)."""

    def compute(features: torch.Tensor, frames: torch.Tensor) -> np.ndarray:
        short = isinstance(model, ShortContextClassifier)
        return (model(features, frames) if short else model(features)).logits.cpu().numpy()

    return np.stack(_in_batches(model, data, rows, compute))


def _in_batches(model: Any, data: Examples, rows: Sequence[int], compute: Any, batch_size: int = 16) -> List[Any]:
    """`compute(features, frames)` of every row, in order, in batches of about equal length."""
    lengths = data.lengths
    order = sorted(range(len(rows)), key=lambda index: lengths[rows[index]])
    results: List[Any] = [None] * len(rows)
    model.eval()
    with torch.no_grad():  # not inference_mode: heads are fitted on what comes out
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            features, frames = pad_batch([data.log_mel(rows[index]) for index in batch])
            for index, result in zip(batch, compute(features.to(model.device), frames.to(model.device))):
                results[index] = result
    return results


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The softmax temperature under which `truth` is likeliest (Guo et al. 2017), 0.25 to 8.

    As after n clips all of which were heard right the next one may still be wrong, each is taken for right with
    probability (n + 1) / (n + 2) only (Platt 1999): a few easy clips do not make a model sure of everything.
    """
    temperatures = np.geomspace(0.25, 8.0, 101)
    doubt = 1 / (len(truth) + 2)
    targets = np.full(logits.shape, doubt / (logits.shape[1] - 1))
    targets[np.arange(len(truth)), truth] = 1 - doubt
    losses = [-(targets * np.log(softmax(logits / t) + 1e-12)).sum(axis=1).mean() for t in temperatures]
    return float(temperatures[int(np.argmin(losses))])
