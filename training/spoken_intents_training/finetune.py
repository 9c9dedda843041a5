"""Fine-tuning from clips to model artefact: read, hold out, fit the classifier, train, calibrate, export."""

import logging
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, cast

import numpy as np
import transformers
from rich.markup import escape

from spoken_intents.errors import ConfigError, DivergedError
from spoken_intents.recognizer import NON_SPEECH, softmax
from spoken_intents_training.batches import Examples
from spoken_intents_training.card import CARD, CURVES, model_card, of_whom, threshold_advice
from spoken_intents_training.dataset import Clip, held_out_by, hold_out, intent_counts, of_calls_again, read_all_samples
from spoken_intents_training.export import Files, export, load_weights
from spoken_intents_training.fitting import begin_with_head, predict, some_of_each
from spoken_intents_training.loop import clips_a_process, console, is_first_process, last_checkpoint, run
from spoken_intents_training.metrics import fit_temperature, suggest_threshold
from spoken_intents_training.modeling import ShortContextClassifier, load_base
from spoken_intents_training.nonspeech import non_speech_clips
from spoken_intents_training.recipe import Recipe
from spoken_intents_training.sources import file_digest, files_fingerprint
from spoken_intents_training.turn_end import add_turn_end

logger = logging.getLogger(__name__)

MADE_UP_NOISE = "a made-up noise"  # its name among clips
PARITY_CLIPS = 64  # at most; each is heard three times


def train(
    clips: Sequence[Clip],
    base_model: str,
    recipe: Recipe,
    out: Path,
    continue_from: Optional[Path] = None,
    checkpoints: Optional[Path] = None,
    tensorboard: Optional[Path] = None,
    noises: Sequence[Clip] = (),
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
        noises: Recordings of what is no speech, which the non-speech output learns beside made-up ones.

    Raises:
        ConfigError: The recipe freezes more layers than the base model has.
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
    _warn_of_lone(counts)
    labels = [*counts, NON_SPEECH] if recipe.non_speech_share else [*counts]
    noises = noises if NON_SPEECH in labels else ()
    model = load_base(base_model, labels, recipe.context)
    if continue_from is not None:
        load_weights(model, continue_from, labels, base_model, recipe.pooling)
    freeze(model, recipe.frozen_layers)
    learnt_clips, held_clips = hold_out(clips, recipe.held_out_share, recipe.seed)
    held_noises = round(len(noises) * recipe.held_out_share) if held_clips else 0
    again = of_calls_again(learnt_clips, recipe.calls_share)
    learnt_files, held_files = [*learnt_clips, *again, *noises[held_noises:]], [*held_clips, *noises[:held_noises]]
    learnt, held_out = read_examples(learnt_files, held_files, labels, recipe, model.config.num_mel_bins)
    shared_out = {
        "held_out": len(held_clips),
        "held_out_by": held_out_by(learnt_clips, held_clips),
        "without_speaker": sum(not clip.speaker for clip in clips),
        "of_calls_again": len(again),
    }
    _tell_what_begins(base_model, labels, learnt, shared_out)
    log = _fit(model, learnt, recipe, continue_from is None, checkpoints, tensorboard)
    if not is_first_process():
        return {}
    measured_on = held_out or learnt
    measured = _measure(model, measured_on, labels, bool(held_out))
    described_end = _add_turn_end(model, learnt, held_out, labels, recipe)
    measured["metrics"]["seconds"] = round(time.monotonic() - began, 1)
    description = {
        "labels": labels,
        **measured,
        "turn_end": described_end,
        "base_model": base_model,
        "recipe": asdict(recipe),
        "data": {
            "clips": counts,
            "fingerprint": files_fingerprint([clip.path for clip in (*clips, *noises)]),
            "learnt": [file_digest(clip.path) for clip in (*learnt_clips, *noises[held_noises:])],
            **shared_out,
        },
        "log": log,
    }
    rows = some_of_each(np.array(measured_on.targets), measured_on.lengths, recipe.seed)[:PARITY_CLIPS]
    parity_on = [(measured_on.log_mel(row), measured_on.targets[row]) for row in rows]
    described = export(model, out, description, parity_on, explain)
    _tell_what_was_heard(described, time.monotonic() - began)
    return described


def _warn_of_lone(counts: Dict[str, int]) -> None:
    lone = [intent for intent, count in counts.items() if count == 1]
    if lone and is_first_process():
        logger.warning("Intents with a single clip, too few to learn from: %s. Record more of them.", ", ".join(lone))


def _tell_what_begins(base_model: str, labels: Sequence[str], learnt: Examples, data: Dict[str, Any]) -> None:
    heard = sum(labels[target] != NON_SPEECH for target in learnt.targets)
    noises = f" and {len(learnt) - heard} noises" if NON_SPEECH in labels else ""
    speech = heard - data["of_calls_again"]
    calls = ", those of reviewed calls several times" if data["of_calls_again"] else ""
    console.print(
        f"Fine-tuning [bold]{escape(base_model)}[/] on {speech} clips of {len(set(labels) - {NON_SPEECH})} intents{noises}{calls}; "
        f"{data['held_out']} clips held out{of_whom(data)}."
    )


def _fit(
    model: Any, learnt: Examples, recipe: Recipe, anew: bool, checkpoints: Optional[Path], tensorboard: Optional[Path]
) -> List[Dict[str, Any]]:
    """Fits the head where the model begins `anew`, trains, and returns the log."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = checkpoints or Path(temporary)
        if recipe.pooling != "mean" and anew:
            begin_with_head(cast(ShortContextClassifier, model), learnt, recipe, last_checkpoint(folder))
        return run(model, learnt, recipe, folder, checkpoints is not None, tensorboard)


def _add_turn_end(
    model: Any, learnt: Examples, held_out: Examples, labels: Sequence[str], recipe: Recipe
) -> Optional[Dict[str, Any]]:
    if not recipe.turn_end:
        return None
    fitted_on, measured_on = (
        [data.samples(row) for row, target in enumerate(data.targets) if labels[target] != NON_SPEECH]
        for data in (learnt, held_out)
    )
    return add_turn_end(model, fitted_on, measured_on, recipe)


def _measure(model: Any, data: Examples, labels: Sequence[str], held_out: bool) -> Dict[str, Any]:
    """What ``model.json`` says of how the model hears `data`, and what follows where it was `held_out`."""
    logits, truth = predict(model, data, range(len(data))), np.array(data.targets)
    if not np.isfinite(logits).all():
        raise DivergedError("The trained model answers with what is no number. Nothing was written. Lower the learning_rate.")
    temperature = fit_temperature(logits, truth) if held_out else 1.0
    intents = len(set(labels) - {NON_SPEECH})
    return {
        "temperature": temperature,
        "suggested_threshold": _threshold(logits / temperature, truth, intents) if held_out else None,
        "metrics": _metrics(logits, truth, labels, held_out),
    }


def _tell_what_was_heard(described: Dict[str, Any], seconds: float) -> None:
    metrics = described["metrics"]
    where = "held-out" if metrics["held_out"] else "learnt (none held out)"
    console.print(
        f"Heard [bold]{metrics['right']} of {metrics['n']}[/] {where} clips right ({metrics['accuracy']:.1%})"
        f"{_noises_rejected(metrics, where.split()[0])}. Took {seconds:.0f} s."
    )
    console.print(threshold_advice(described))


def explain(described: Dict[str, Any]) -> Files:
    """What lies beside ``model.json`` for people: the card, and the picture of the training that it shows."""
    from spoken_intents_training.plots import png, training_curves  # matplotlib takes seconds to load

    return {CARD: model_card(described).encode(), CURVES: png(training_curves(described["log"]))}


def read_examples(
    learnt: Sequence[Clip], held_out: Sequence[Clip], labels: Sequence[str], recipe: Recipe, n_mels: int
) -> Tuple[Examples, Examples]:
    """Examples to learn from and examples held out, made-up noises among both. `NON_SPEECH` is the intent of recorded ones.

    Raises:
        DataError: Clips that cannot be used.
    """
    count = len(learnt) + len(held_out)
    with console.status(f"Reading {count} clips ..."):
        samples = read_all_samples([*learnt, *held_out])
    noises: List[np.ndarray] = []
    if NON_SPEECH in labels:
        noises = non_speech_clips(max(12, round(count * recipe.non_speech_share)), recipe.seed)
    held_noises = max(2, round(len(noises) * recipe.held_out_share)) if noises and held_out else 0

    def examples(clips: Sequence[Clip], samples: List[np.ndarray], noises: List[np.ndarray]) -> Examples:
        targets = [labels.index(clip.intent) for clip in clips] + [labels.index(NON_SPEECH) for _ in noises]
        names = [clip.name for clip in clips] + [MADE_UP_NOISE for _ in noises]
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
    """Keeps the convolutions and the first `layers` layers as they are; 0: nothing.

    Raises:
        ConfigError: The model has fewer.
    """
    depth = len(model.encoder.layers)
    if layers > depth:
        raise ConfigError(f"frozen_layers takes 0 to {depth}, the layers of this base model, got {layers}.")
    if layers:
        for part in (model.encoder.conv1, model.encoder.conv2, *model.encoder.layers[:layers]):
            part.requires_grad_(False)
