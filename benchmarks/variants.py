"""What can be tried beside the recipe's settings; it comes into the package when it earns its place in the ablation.

Each is a function that trains as `loop.run` does, with something more; `tried` puts it in that one's place.
"""

from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Dict, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization, remove_parametrizations
from torch.optim.optimizer import register_optimizer_step_post_hook

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.features import MAX_SAMPLES, MIN_SAMPLES, log_mel
from spoken_intents_training import finetune, loop
from spoken_intents_training.augment import Elsewhere, change_voice
from spoken_intents_training.batches import Examples
from spoken_intents_training.heads import statistics

AVERAGED_OVER = 30  # steps
RANK = 8


def averaged(model: Any, *arguments: Any) -> Any:
    """The weights at the end are a running average over the last steps (Polyak and Juditsky 1992)."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    average = [parameter.detach().clone() for parameter in trained]  # on the processor, as what is trained here
    count = [0]

    def follow(*_: Any) -> None:
        count[0] += 1
        share = max(1 / count[0], 1 / AVERAGED_OVER)
        for kept, parameter in zip(average, trained):
            kept.lerp_(parameter.detach(), share)

    hook = register_optimizer_step_post_hook(follow)
    try:
        log = loop.run(model, *arguments)
    finally:
        hook.remove()
    with torch.no_grad():
        for kept, parameter in zip(average, trained):
            parameter.copy_(kept)
    return log


def layer_wise(model: Any, *arguments: Any) -> Any:
    """Each layer of the encoder learns at 0.7 of the rate of the one above it (Howard and Ruder 2018)."""
    depth = len(model.encoder.layers)

    def create_optimizer(trainer: Any, *_: Any) -> torch.optim.Optimizer:
        recipe, groups = trainer._recipe, []
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad:
                rate = recipe.head_learning_rate
                if name.startswith("encoder."):
                    layer = int(name.split(".")[2]) if name.startswith("encoder.layers.") else depth - 1
                    rate = recipe.learning_rate * 0.7 ** (depth - 1 - layer)
                groups.append({"params": [parameter], "lr": rate})
        trainer.optimizer = torch.optim.AdamW(groups, weight_decay=recipe.weight_decay)
        return trainer.optimizer

    before, loop._Trainer.create_optimizer = loop._Trainer.create_optimizer, create_optimizer  # type: ignore[method-assign]
    try:
        return loop.run(model, *arguments)
    finally:
        loop._Trainer.create_optimizer = before  # type: ignore[method-assign]


def low_rank(model: Any, *arguments: Any) -> Any:
    """Of the encoder only corrections of rank 8 to the matrices of its layers are learnt (LoRA, Hu et al. 2022)."""
    model.encoder.requires_grad_(False)
    matrices = [module for module in model.encoder.layers.modules() if isinstance(module, nn.Linear)]
    for matrix in matrices:
        register_parametrization(matrix, "weight", _Corrected(*matrix.weight.shape))
    log = loop.run(model, *arguments)
    for matrix in matrices:
        remove_parametrizations(matrix, "weight")
    return log


class _Corrected(nn.Module):
    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(RANK, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + 2.0 * self.up @ self.down


def norms_and_biases(model: Any, *arguments: Any) -> Any:
    """Of the encoder only biases and normalizations are learnt (BitFit, Ben Zaken et al. 2022)."""
    for name, parameter in model.encoder.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and (name.endswith("bias") or "norm" in name))
    return loop.run(model, *arguments)


def smoothed(model: Any, *arguments: Any) -> Any:
    """A tenth of each target is spread over all labels (Szegedy et al. 2016)."""
    before = nn.functional.cross_entropy
    nn.functional.cross_entropy = partial(before, label_smoothing=0.1)
    try:
        return loop.run(model, *arguments)
    finally:
        nn.functional.cross_entropy = before


@contextmanager
def tried(run: Callable[..., Any]) -> Iterator[None]:
    """Trains by `run` instead of `loop.run`."""
    finetune.run = run  # type: ignore[assignment]
    try:
        yield
    finally:
        finetune.run = loop.run


# ---------------------------------------------------------------- varied clips

VARIATIONS = ("gain", "shift", "room", "noise", "telephone", "voice", "blank")


def varied(*names: str) -> Callable[..., Any]:
    """Every clip is varied anew in every epoch."""

    def run(model: Any, data: Any, recipe: Any, *arguments: Any) -> Any:
        return loop.run(model, _Varied(data, names, recipe.seed), recipe, *arguments)

    return run


class _Varied(Examples):
    def __init__(self, data: Examples, names: Sequence[str], seed: int) -> None:
        vars(self).update(vars(data))
        self._variations, self._seed, self._times, self._elsewhere = names, seed, [0] * len(data), Elsewhere(seed)

    def __getitem__(self, row: int) -> Dict[str, Any]:
        rng = np.random.default_rng((self._seed, self._times[row], row))
        self._times[row] += 1
        samples = self.samples(row)
        for name in VARIATIONS[:5]:
            if name in self._variations:
                samples = getattr(self if name in ("gain", "shift") else self._elsewhere, name)(samples, rng)
        picture = log_mel(samples.astype(np.float32, copy=False), self.n_mels)
        if "voice" in self._variations:
            picture = change_voice(picture, rng)
        if "blank" in self._variations:
            picture = blank_out(picture, rng)
        return {**super().__getitem__(row), "input_features": picture}

    def gain(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """12 dB softer to 6 dB louder."""
        return samples * np.float32(10 ** (rng.uniform(-12, 6) / 20))

    def shift(self, samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Up to 300 ms of near silence more, or up to 60 ms of the clip less, at either end."""
        before, behind = (rng.uniform(-0.06, 0.3, 2) * SAMPLE_RATE).astype(int)
        kept = samples[max(0, -before) : len(samples) - max(0, -behind)]
        if len(kept) < len(samples) // 2 or len(kept) < MIN_SAMPLES:
            kept = samples
        hum = rng.standard_normal(max(0, before) + len(kept) + max(0, behind), np.float32) * np.float32(1e-4)
        hum[max(0, before) : max(0, before) + len(kept)] += kept
        return hum[:MAX_SAMPLES]


def blank_out(spectrogram: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With two stretches of time (up to 250 ms) and two of frequency (up to 11 bands) at its lowest value.

    SpecAugment (Park et al. 2019).
    """
    blanked, lowest = spectrogram.copy(), spectrogram.min()
    bands, frames = blanked.shape
    for _ in range(2):
        blanked[:, _stretch(frames, min(25, frames // 6), rng)] = lowest
        blanked[_stretch(bands, 11, rng)] = lowest
    return blanked


def _stretch(size: int, longest: int, rng: np.random.Generator) -> slice:
    length = int(rng.integers(longest + 1))
    start = int(rng.integers(size - length + 1))
    return slice(start, start + length)


# ---------------------------------------------------------------- on the frozen encoder


def poolings(layers: Sequence[torch.Tensor], normalize: Any) -> Dict[str, torch.Tensor]:
    """What a classifier could get of one clip's hidden states (each layer's, shape (1, positions, width))."""
    last = normalize(layers[-1])
    given = {"mean": last.mean(dim=1), "mean and deviation": statistics(last, None)[:, : 2 * last.shape[-1]]}
    given["statistics"] = statistics(last, None)
    for number, layer in enumerate(layers[:-1], 1):
        given[f"statistics of layer {number}"] = statistics(nn.functional.layer_norm(layer, layer.shape[-1:]), None)
    given["statistics of the last two layers"] = torch.cat(
        [given[f"statistics of layer {len(layers) - 1}"], given["statistics"]], -1
    )
    return given


VARIANTS: Dict[str, Callable[..., Any]] = {
    "weights averaged over the last 30 steps": averaged,
    "lower rates for lower layers": layer_wise,
    "corrections of rank 8 (LoRA)": low_rank,
    "biases and normalizations only": norms_and_biases,
    "labels smoothed by 0.1": smoothed,
    "every variation": varied(*VARIATIONS),
    **{f"every variation but {name}": varied(*(other for other in VARIATIONS if other != name)) for name in VARIATIONS},
}
