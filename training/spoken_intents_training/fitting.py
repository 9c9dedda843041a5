"""What a model gives of clips as they are, and the classifier that is fitted on the frozen encoder before training begins."""

import json
import os
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, cast

import numpy as np
import torch

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.errors import DivergedError, TrainingError
from spoken_intents.recognizer import NON_SPEECH
from spoken_intents_training.batches import Examples
from spoken_intents_training.heads import HEADS, choose, fitted_head
from spoken_intents_training.loop import console
from spoken_intents_training.modeling import ShortContextClassifier, encode, pad_batch
from spoken_intents_training.recipe import Recipe

CHOSEN_ON = 300  # clips at most, between poolings
# Bytes of the clips that the classifier is fitted on, at most: an hour, 280 MB of hidden states of tiny, twice.
FITTED_ON = 2 * SAMPLE_RATE * 3600


def begin_with_head(model: ShortContextClassifier, data: Examples, recipe: Recipe, checkpoint: Optional[Path]) -> None:
    """Gives the model the recipe's head, fitted on the frozen encoder; or one of the checkpoint's kind, to load it into.

    Raises:
        DivergedError: The frozen encoder gives what is no number.
        TrainingError: The checkpoint does not say which head it has.
    """
    labels = model.config.num_labels
    if checkpoint is not None:
        model.put_head(HEADS[_pooling_of(checkpoint)](model.config.d_model, labels))
        return
    if torch.cuda.is_available():
        cast(torch.nn.Module, model).to(torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))))
    pooling, why = recipe.pooling, ""
    with console.status("Fitting the classifier on the frozen encoder ..."):
        targets = np.array(data.targets)
        rows = some_of_each(targets, data.lengths, recipe.seed)
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


def _pooling_of(checkpoint: Path) -> str:
    try:
        pooling = json.loads((checkpoint / "config.json").read_text())["pooling"]
    except (OSError, ValueError, KeyError, TypeError):
        pooling = None
    if pooling not in HEADS:
        raise TrainingError(
            f"{checkpoint} is not whole: its config.json is missing or broken. Delete that directory and resume again, from the "
            "checkpoint before it where there is one."
        )
    return pooling


def some_of_each(targets: np.ndarray, lengths: Sequence[int], seed: int) -> np.ndarray:
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

    return in_batches(model, data, rows, compute)


def predict(model: Any, data: Examples, rows: Sequence[int]) -> np.ndarray:
    """Logits of these clips as they are, in order, shape (clips, labels)."""

    def compute(features: torch.Tensor, frames: torch.Tensor) -> np.ndarray:
        short = isinstance(model, ShortContextClassifier)
        return (model(features, frames) if short else model(features)).logits.cpu().numpy()

    return np.stack(in_batches(model, data, rows, compute))


def in_batches(model: Any, data: Examples, rows: Sequence[int], compute: Any, batch_size: int = 16) -> List[Any]:
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
