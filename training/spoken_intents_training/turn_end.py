"""The end-of-turn output: is this all the caller wants to say? A logistic regression on the fine-tuned encoder's output.

Fitted once the encoder is fine-tuned, and on it as it is, so that no intent is heard otherwise than without. Where
what is complete sounds like the beginning of something longer (numbers, spelling) it comes out uncertain by itself.
"""

import warnings
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import torch
from rich.markup import escape
from torch import nn

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents_training.augment import Elsewhere
from spoken_intents_training.batches import Examples
from spoken_intents_training.fitting import in_batches
from spoken_intents_training.loop import console
from spoken_intents_training.metrics import auroc, calibration_error, fit_temperature
from spoken_intents_training.modeling import encode
from spoken_intents_training.pauses import BEHIND, heard_at_pauses, stream
from spoken_intents_training.recipe import Recipe

LAST = (25, 50)  # positions that are averaged, 20 ms each: how the last word ended, and the words before
REGULARIZATION = 0.03  # of the logistic regression
ROUNDS = 4  # copies of a clip at most, each heard at every pause
PAUSES = 3  # put into a copy, at most
HEARD, HELD_OUT = 2000 * SAMPLE_RATE, 500 * SAMPLE_RATE  # samples of all that is heard at pauses, at most
FEW = 10  # complete or truncated copies, too few to fit, or to measure
WORTH_AUROC = 0.85  # on held-out copies; one that tells them apart less is so often unsure that a fixed silence is shorter


class TurnEnd(nn.Module):
    """Hidden states, shape (batch, positions, width), all of them real -> logit of being complete, shape (batch, 1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(len(LAST) * width, 1)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.classifier(ends(hidden))


def ends(hidden: torch.Tensor) -> torch.Tensor:
    """Means over the last `LAST` positions, as far as there are so many, shape (batch, len(LAST) * width)."""
    return torch.cat([hidden[:, -positions:].mean(dim=1) for positions in LAST], dim=-1)


def add_turn_end(
    model: Any, learnt: Sequence[np.ndarray], held_out: Sequence[np.ndarray], recipe: Recipe
) -> Optional[Dict[str, Any]]:
    """Gives the fine-tuned model its end-of-turn output, and returns what ``model.json`` says of it.

    Args:
        learnt: Clips to fit it on, float32, 16 kHz.
        held_out: Clips it is calibrated and measured on.

    Returns:
        None where there is no such output, and the log says why: too few clips have words that part, none are held
        out to calibrate it on, or it tells those hardly apart.
    """
    with console.status("Fitting the end-of-turn output ..."):
        made, kept_back = copies(learnt, HEARD, recipe.seed), copies(held_out, HELD_OUT, recipe.seed + 1)
        # Before they are encoded, which takes most of the time.
        if _too_few(made):
            return _none("too few clips have pauses between words, or background around them")
        if _too_few(kept_back):
            return _none("too few such clips are held out to calibrate it on")
        heard, complete = _pooled(model, made, recipe)
        head = _fitted(heard, complete, model.config.d_model)
        figures = _calibrated(head.classifier, *_pooled(model, kept_back, recipe))
    if figures["auroc"] < WORTH_AUROC:
        return _none(f"on held-out clips it tells too little (AUROC {figures['auroc']:.2f}, {WORTH_AUROC} needed)")
    model.turn_end = head
    console.print(
        escape(
            f"Fitted the end-of-turn output on {len(complete)} copies, held-out AUROC {figures['auroc']:.2f} on {figures['n']}."
        ),
        highlight=False,
    )
    return {"copies": len(complete), "complete": int(complete.sum()), "held_out": figures}


def _too_few(made: Sequence[Tuple[np.ndarray, bool]]) -> bool:
    whole = sum(complete for _, complete in made)
    return min(whole, len(made) - whole) < FEW


def _none(why: str) -> Optional[Dict[str, Any]]:
    console.print(escape(f"No end-of-turn output: {why}. Every turn ends by min_silence_duration_ms."), highlight=False)
    return None


def copies(clips: Sequence[np.ndarray], at_most: int, seed: int) -> List[Tuple[np.ndarray, bool]]:
    """What is heard at the pauses of copies of the clips, and whether it is complete; the same for the same seed.

    Every other copy is one from elsewhere (noise, telephone, a room) and softer.

    Args:
        at_most: Samples in all; the clips come in random order.
    """
    elsewhere, rng = Elsewhere(seed), np.random.default_rng(seed)
    made: List[Tuple[np.ndarray, bool]] = []
    left = at_most
    for place in np.concatenate([rng.permutation(len(clips)) for _ in range(ROUNDS)]):
        clean, end = stream(clips[place], int(rng.integers(PAUSES + 1)), BEHIND, rng)
        line = clean
        if rng.random() < 0.5:
            line = elsewhere.sampled(line, rng) * np.float32(10 ** (rng.uniform(-20, 0) / 20))
        heard = heard_at_pauses(line, end, clean)
        left -= sum(len(samples) for samples, _ in heard)
        if left < 0:
            break
        made += heard
    return made


def _pooled(model: Any, made: Sequence[Tuple[np.ndarray, bool]], recipe: Recipe) -> Tuple[np.ndarray, np.ndarray]:
    """What the classifier gets of each copy, and whether it is complete."""

    def compute(features: torch.Tensor, frames: torch.Tensor) -> List[np.ndarray]:
        hidden, mask = encode(model.encoder, features, frames)
        assert mask is not None
        return [ends(row[real][None])[0].cpu().numpy() for row, real in zip(hidden, mask)]

    data = Examples([heard for heard, _ in made], [0] * len(made), [""] * len(made), recipe, model.config.num_mel_bins)
    return np.stack(in_batches(model, data, range(len(made)), compute)), np.array([complete for _, complete in made])


def _fitted(heard: np.ndarray, complete: np.ndarray, width: int) -> TurnEnd:
    from sklearn.linear_model import LogisticRegression

    center, scale = heard.mean(axis=0), heard.std(axis=0) + 1e-4
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stopping a little early is fine
        regression = LogisticRegression(C=REGULARIZATION, max_iter=300).fit((heard - center) / scale, complete)
    weight = regression.coef_ / scale
    head = TurnEnd(width)
    with torch.no_grad():
        head.classifier.weight.copy_(torch.from_numpy(weight))
        head.classifier.bias.copy_(torch.from_numpy(regression.intercept_ - weight @ center))
    return head


def _calibrated(classifier: nn.Linear, heard: np.ndarray, complete: np.ndarray) -> Dict[str, Any]:
    """Divides the classifier by the temperature that held-out copies ask for, and says how well it does on them."""
    from sklearn.metrics import log_loss

    with torch.no_grad():
        logits = classifier(torch.from_numpy(heard).float()).numpy()[:, 0]
        temperature = fit_temperature(np.stack([0 * logits, logits], axis=1), complete.astype(int))
        for parameter in classifier.parameters():
            parameter.div_(temperature)
    probabilities = 1 / (1 + np.exp(-logits.astype(float) / temperature))
    return {
        "n": len(complete),
        "complete": int(complete.sum()),
        "auroc": auroc(logits[complete], logits[~complete]),
        "log_loss": float(log_loss(complete, probabilities)),
        "calibration_error": calibration_error(probabilities, complete)["error"],
        "temperature": temperature,
    }
