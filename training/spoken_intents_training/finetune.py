"""Fine-tunes a Whisper encoder on spoken examples and writes the model artefact."""

import logging
import math
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, cast

import numpy as np
import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.data import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from spoken_intents.features import log_mel
from spoken_intents.recognizer import ENCODER, NON_SPEECH, softmax
from spoken_intents_training.dataset import Clip, FeatureSet, hold_out, intent_counts, read_features
from spoken_intents_training.export import export, load_weights
from spoken_intents_training.modeling import ShortContextClassifier, encode, load_base, pad_batch, statistics
from spoken_intents_training.nonspeech import non_speech_clips
from spoken_intents_training.recipe import Recipe
from spoken_intents_training.sources import files_fingerprint

logger = logging.getLogger(__name__)
console = Console(soft_wrap=True)


def train(
    clips: Sequence[Clip], base_model: str, recipe: Recipe, out: Path, continue_from: Optional[Path] = None
) -> Dict[str, Any]:
    """Fine-tunes on `clips`, writes the artefact to `out`, and returns its ``model.json``.

    Args:
        clips: Spoken examples; every file must be there.
        base_model: See `modeling.load_base`.
        out: Directory of the artefact; made when missing.
        continue_from: An artefact whose weights to start from instead of the base model's; same labels.

    Raises:
        DataError: Too few intents, or clips that cannot be used.
        ModelError: The base model cannot be loaded.
    """
    began = time.monotonic()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    transformers.set_seed(recipe.seed)
    counts = intent_counts(clips)
    lone = [intent for intent, count in counts.items() if count == 1]
    if lone:
        logger.warning("Intents with a single clip, too few to learn from: %s. Record more of them.", ", ".join(lone))
    labels = [*counts, NON_SPEECH]
    model = load_base(base_model, labels, recipe.pooling)
    if continue_from is not None:
        load_weights(model, continue_from / ENCODER)
    n_mels = model.config.num_mel_bins

    learnt, held_out = hold_out(clips, recipe.held_out_share, recipe.seed)
    with console.status(f"Reading {len(clips)} clips ..."):
        features = read_features([*learnt, *held_out], n_mels)
    train_set, test_set = _split(features, len(learnt))
    noises = non_speech_clips(max(12, round(len(clips) * recipe.non_speech_share)), recipe.seed)
    noise_spectrograms = [log_mel(noise, n_mels) for noise in noises]
    n_held_noises = max(2, round(len(noises) * recipe.held_out_share))

    console.print(
        f"Fine-tuning [bold]{base_model}[/] on {len(learnt)} clips of {len(counts)} intents "
        f"and {len(noises) - n_held_noises} noises; {len(held_out)} clips held out."
    )
    data = _Examples(
        recipe.augment,
        train_set.spectrograms + noise_spectrograms[n_held_noises:],
        [labels.index(clip.intent) for clip in learnt] + [labels.index(NON_SPEECH)] * (len(noises) - n_held_noises),
    )
    if recipe.pooling == "statistics" and continue_from is None:
        with console.status("Fitting the classifier on the frozen encoder ..."):
            fit_classifier(model, data)
    _run_trainer(model, data, recipe)

    fit = test_set if held_out else train_set
    spectrograms = fit.spectrograms + noise_spectrograms[:n_held_noises]
    truth = [labels.index(clip.intent) for clip in fit.clips] + [labels.index(NON_SPEECH)] * n_held_noises
    logits = predict(model, spectrograms)
    temperature = fit_temperature(logits, np.array(truth)) if held_out else 1.0
    speech = logits[: len(fit.clips)]
    right = int((speech.argmax(axis=1) == truth[: len(fit.clips)]).sum())
    metrics = {
        "held_out": bool(held_out),  # false: measured on what was learnt, because there were too few clips
        "n": len(fit.clips),
        "accuracy": right / len(fit.clips),
        "noises": n_held_noises,
        "noises_rejected": int((logits[len(fit.clips) :].argmax(axis=1) == labels.index(NON_SPEECH)).sum()),
        "seconds": round(time.monotonic() - began, 1),
    }
    described = export(
        model,
        out,
        {
            "labels": labels,
            "temperature": temperature,
            "base_model": base_model,
            "recipe": asdict(recipe),
            "data": {"clips": counts, "fingerprint": files_fingerprint([clip.path for clip in clips])},
            "metrics": metrics,
        },
        parity_on=fit.spectrograms[:32],
    )
    where = "held-out" if held_out else "learnt (too few to hold any out)"
    console.print(
        f"Heard [bold]{right} of {len(fit.clips)}[/] {where} clips right ({metrics['accuracy']:.1%}); rejected "
        f"{metrics['noises_rejected']} of {n_held_noises} held-out noises. Took {time.monotonic() - began:.0f} s."
    )
    return described


def _split(features: FeatureSet, size: int) -> Tuple[FeatureSet, FeatureSet]:
    return (
        FeatureSet(features.clips[:size], features.spectrograms[:size]),
        FeatureSet(features.clips[size:], features.spectrograms[size:]),
    )


class _Examples(Dataset):
    def __init__(self, augment: bool, spectrograms: List[np.ndarray], targets: List[int]) -> None:
        self._augment = augment
        self.spectrograms, self.targets = spectrograms, targets
        self.lengths = [spectrogram.shape[1] for spectrogram in spectrograms]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Dict[str, Any]:
        spectrogram = self.spectrograms[index]
        return {"input_features": blank_out(vary(spectrogram)) if self._augment else spectrogram, "labels": self.targets[index]}


def vary(spectrogram: np.ndarray) -> np.ndarray:
    """As somebody else would say it: up to 15 % faster or slower, by a vocal tract up to 10 % longer or shorter.

    Resamples the log-mel as a picture (vocal tract length perturbation, Jaitly and Hinton 2013).
    """
    bands, frames = spectrogram.shape
    picture = spectrogram
    for axis, places in (
        (0, np.clip(np.arange(bands) * np.random.uniform(0.9, 1.1), 0, bands - 1)),
        (1, np.arange(0, frames - 1, np.random.uniform(0.85, 1.15))),
    ):
        low = np.minimum(places.astype(int), picture.shape[axis] - 2)
        share = (places - low).astype(np.float32)
        share = share[:, None] if axis == 0 else share
        picture = np.take(picture, low, axis) * (1 - share) + np.take(picture, low + 1, axis) * share
    return picture


def blank_out(spectrogram: np.ndarray) -> np.ndarray:
    """A copy with two stretches of time (up to 250 ms) and two of frequency (up to 11 bands) at its lowest value.

    SpecAugment (Park et al. 2019). Draws from NumPy's global generator, which `transformers.set_seed` seeds.
    """
    blanked, lowest = spectrogram.copy(), spectrogram.min()
    bands, frames = blanked.shape
    for _ in range(2):
        blanked[:, _stretch(frames, min(25, frames // 6))] = lowest
        blanked[_stretch(bands, 11)] = lowest
    return blanked


def _stretch(size: int, longest: int) -> slice:
    length = np.random.randint(0, longest + 1)
    start = np.random.randint(0, size - length + 1)
    return slice(start, start + length)


def fit_classifier(model: ShortContextClassifier, data: _Examples) -> None:
    """Fits the classifier of pooled statistics by logistic regression, on the encoder as it is.

    Fine-tuning then starts from a classifier that knows where to pull (Kumar et al. 2022).
    """
    from sklearn.linear_model import LogisticRegression

    pooled = _in_batches(model, data.spectrograms, lambda features, frames: statistics(*encode(model.encoder, features, frames)))
    model.center.copy_(torch.from_numpy(pooled.mean(axis=0)))
    model.scale.copy_(torch.from_numpy(pooled.std(axis=0) + 1e-4))
    standardized = (pooled - model.center.numpy()) / model.scale.numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping early is fine: this is where training begins, not where it ends
        regression = LogisticRegression(C=0.003, max_iter=40).fit(standardized, data.targets)
    weights, bias = np.zeros(model.classifier.weight.shape), np.full(len(model.classifier.bias), -10.0)
    if len(regression.classes_) == 2:  # scikit-learn keeps one row for two classes
        weights[regression.classes_], bias[regression.classes_] = (
            np.outer([-0.5, 0.5], regression.coef_[0]),
            [-0.5, 0.5] * regression.intercept_,
        )
    else:
        weights[regression.classes_], bias[regression.classes_] = regression.coef_, regression.intercept_
    with torch.no_grad():
        model.classifier.weight.copy_(torch.from_numpy(weights))
        model.classifier.bias.copy_(torch.from_numpy(bias))


def _collate(examples: List[Dict[str, Any]]) -> Dict[str, torch.Tensor]:
    features, frames = pad_batch([example["input_features"] for example in examples])
    return {"input_features": features, "frames": frames, "labels": torch.tensor([example["labels"] for example in examples])}


def _run_trainer(model: ShortContextClassifier, data: _Examples, recipe: Recipe) -> None:
    steps = math.ceil(len(data) / recipe.batch_size) * recipe.epochs
    if recipe.frozen_layers:
        for part in (model.encoder.conv1, model.encoder.conv2, *model.encoder.layers[: recipe.frozen_layers]):
            part.requires_grad_(False)
    body = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": body, "lr": recipe.learning_rate},
            {"params": model.head, "lr": recipe.head_learning_rate or recipe.learning_rate},
        ],
        weight_decay=recipe.weight_decay,
    )
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, round(steps * recipe.warmup_share), steps)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=recipe.epochs,
            per_device_train_batch_size=recipe.batch_size,
            max_grad_norm=recipe.max_grad_norm,
            seed=recipe.seed,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            logging_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = _LengthGroupingTrainer(
            cast(Any, model),
            arguments,
            data_collator=_collate,
            train_dataset=data,
            optimizers=(optimizer, schedule),
            callbacks=[_Bar()],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
    cast(torch.nn.Module, model).to("cpu").eval()


class _LengthGroupingTrainer(Trainer):
    """Batches clips of about the same length, so that little of a batch is padding."""

    def _get_train_sampler(self, train_dataset: Optional[Dataset] = None) -> Any:
        return LengthGroupedSampler(self.args.train_batch_size, lengths=cast(_Examples, self.train_dataset).lengths)


class _Bar(TrainerCallback):
    """One line on a terminal, a line each epoch elsewhere: epoch, loss, rate, time left."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self._losses: List[float] = []
        self._hook = model.register_forward_hook(lambda module, inputs, output: self._losses.append(float(output.loss.detach())))
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("Fine-tuning"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[figures]}"),
            TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=state.max_steps, figures="")
        self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._bar.update(self._task, completed=state.global_step, figures=self._figures(state))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._bar.disable:
            left = (time.monotonic() - self._began) / state.global_step * (state.max_steps - state.global_step)
            console.print(f"Fine-tuning: {self._figures(state)}, {left:.0f} s left", highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._hook.remove()
        self._bar.stop()

    def _figures(self, state: Any) -> str:
        recent = self._losses[-50:]
        rate = state.global_step / (time.monotonic() - self._began)
        epochs = f"epoch {math.ceil(state.epoch)} of {state.num_train_epochs}"
        return f"{epochs}, loss {sum(recent) / max(1, len(recent)):.3f}, {rate:.1f} steps/s"


def predict(model: ShortContextClassifier, spectrograms: Sequence[np.ndarray]) -> np.ndarray:
    """Logits of every log-mel, in order, shape (clips, labels)."""
    return _in_batches(model, spectrograms, lambda features, frames: model(features, frames).logits)


def _in_batches(
    model: ShortContextClassifier, spectrograms: Sequence[np.ndarray], compute: Any, batch_size: int = 16
) -> np.ndarray:
    """`compute(features, frames)` of every log-mel, in order, in batches of about equal length."""
    order = sorted(range(len(spectrograms)), key=lambda index: spectrograms[index].shape[1])
    results: List[Any] = [None] * len(spectrograms)
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, result in zip(rows, compute(*pad_batch([spectrograms[row] for row in rows])).numpy()):
                results[row] = result
    return np.stack(results)


def fit_temperature(logits: np.ndarray, truth: np.ndarray) -> float:
    """The softmax temperature under which `truth` is likeliest (Guo et al. 2017), 0.25 to 8."""
    temperatures = np.geomspace(0.25, 8.0, 101)
    rows = np.arange(len(truth))
    losses = [-np.log(softmax(logits / t)[rows, truth] + 1e-12).mean() for t in temperatures]
    return float(temperatures[int(np.argmin(losses))])
