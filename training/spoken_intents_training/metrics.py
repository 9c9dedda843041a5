"""Figures of merit, in NumPy: shares and their intervals, F1, calibration, separation, and a threshold to set.

Intents are strings; what was heard as "" was taken for no speech, which is wrong of any clip.
"""

import math
from typing import Any, Dict, Sequence, Tuple

import numpy as np
from numpy.typing import ArrayLike

from spoken_intents.recognizer import softmax

RESAMPLES = 1000  # of the bootstrap
THRESHOLDS = np.arange(20, 91) / 100  # what may be suggested
KEPT = 0.9  # share of what was heard right that a suggested threshold leaves alone
CLIPS_A_BIN = 5  # at least: the accuracy of two is no accuracy
HISTOGRAM_BINS = 20


def wilson_interval(right: int, n: int) -> Tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927); of no clip at all, everything is possible."""
    if n == 0:
        return 0.0, 1.0
    z, share = 1.96, right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return float(middle - half), float(middle + half)


def mcnemar(newly_right: int, newly_wrong: int) -> float:
    """How likely two equally good models differ at least so much on the clips on which they differ: McNemar's exact test.

    Two-sided. Clips that both hear right, or both wrong, say nothing of which is better.
    """
    n = newly_right + newly_wrong
    tail = sum(math.comb(n, k) for k in range(min(newly_right, newly_wrong) + 1))
    return min(1.0, 2 * tail / 2**n)


def by_intent(said: Sequence[str], heard: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """Precision, recall and its 95 % interval, F1 and clips of every intent that was said or heard, in order."""
    rows = {}
    for intent in sorted(set(said) | set(heard) - {""}):
        both = sum(s == h == intent for s, h in zip(said, heard))
        n, times_heard = said.count(intent), heard.count(intent)
        rows[intent] = {
            "precision": both / max(1, times_heard),
            "recall": both / max(1, n),
            "recall_95": list(wilson_interval(both, n)),
            "f1": 2 * both / (n + times_heard),
            "n": n,
        }
    return rows


def macro_f1(rows: Dict[str, Dict[str, Any]]) -> float:
    """The mean F1 of the intents that were said.

    An intent that was only heard has no F1 to speak of: its clips already count against the intents they belong to,
    and whether it is in the mean would depend on a single slip.
    """
    return float(np.mean([row["f1"] for row in rows.values() if row["n"]]))


def confusion(said: Sequence[str], heard: Sequence[str], no_speech: str) -> Dict[str, Any]:
    """{"said": rows, "heard": columns, "matrix": clips}.

    The columns begin with the rows' intents, so that the diagonal is what was heard right; then come intents that
    nobody said, and last `no_speech`.
    """
    rows = sorted(set(said))
    columns = [*rows, *sorted(set(heard) - set(rows) - {""}), ""]
    matrix = np.zeros((len(rows), len(columns)), dtype=int)
    np.add.at(matrix, ([rows.index(s) for s in said], [columns.index(h) for h in heard]), 1)
    return {"said": rows, "heard": [*columns[:-1], no_speech], "matrix": matrix.tolist()}


def calibration_error(confidences: ArrayLike, right: ArrayLike, bins: int = 10, seed: int = 0) -> Dict[str, Any]:
    """How far confidence is from accuracy, over bins of equally many clips (Nguyen and O'Connor 2015).

    Few clips alone make an error, and resampling them adds to it. The interval is therefore the basic bootstrap's
    (Davison and Hinkley 1997), which takes that off again, and it begins at 0 where perfect calibration would look
    no better (Bröcker and Smith 2007).

    Args:
        confidences: At least one.
        right: Whether each was right.
        bins: Fewer where there would be fewer than five clips in each.
        seed: Of the bootstrap.

    Returns:
        error: Expected calibration error, 0 to 1.
        error_95: Its 95 % interval.
        error_if_perfect: What it may be by chance, for these confidences, if they were perfectly calibrated: the
            97.5th percentile.
        confidence: Its mean.
        accuracy: The share that was right.
        bins: confidence, accuracy and n of each bin, ascending.
        histogram: Clips in each twentieth of 0 to 1.
        n: Clips.
    """
    order = np.argsort(confidences, kind="stable")
    sure, correct = np.asarray(confidences, dtype=float)[order], np.asarray(right, dtype=float)[order]
    n = len(sure)
    edges = np.linspace(0, n, min(bins, max(1, n // CLIPS_A_BIN)) + 1).astype(int)
    gaps = sure - correct

    def error(gaps: np.ndarray) -> np.ndarray:
        """Of each row of (n,)."""
        return np.abs(np.add.reduceat(gaps, edges[:-1], axis=-1)).sum(axis=-1) / n

    rng = np.random.default_rng(seed)
    at_once = max(1, 100_000 // n)  # resamples: few enough for the cache
    shapes = [(min(at_once, RESAMPLES - done), n) for done in range(0, RESAMPLES, at_once)]
    drawn = np.concatenate([error(gaps[np.sort(rng.integers(n, size=shape))]) for shape in shapes])
    by_chance = np.concatenate([error(sure - (rng.random(shape) < sure)) for shape in shapes])
    measured, if_perfect = float(error(gaps)), float(np.percentile(by_chance, 97.5))
    low, high = 2 * measured - np.percentile(drawn, [97.5, 2.5])
    bounds = list(zip(edges[:-1], edges[1:]))
    return {
        "error": measured,
        "error_95": [0.0 if measured <= if_perfect else float(np.clip(low, 0, measured)), float(np.clip(high, measured, 1))],
        "error_if_perfect": if_perfect,
        "confidence": float(sure.mean()),
        "accuracy": float(correct.mean()),
        "bins": [
            {"confidence": float(sure[a:b].mean()), "accuracy": float(correct[a:b].mean()), "n": int(b - a)} for a, b in bounds
        ],
        "histogram": np.histogram(sure, HISTOGRAM_BINS, (0, 1))[0].tolist(),
        "n": n,
    }


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


def auroc(positive_scores: ArrayLike, negative_scores: ArrayLike) -> float:
    """How often a positive's score is above a negative's, a tie counting half: the area under the ROC curve.

    Raises:
        ValueError: No scores of one kind.
    """
    positives, negatives = np.asarray(positive_scores), np.sort(negative_scores)
    if not len(positives) or not len(negatives):
        raise ValueError("AUROC compares scores of two kinds; one of them has none.")
    below, up_to = (np.searchsorted(negatives, positives, side) for side in ("left", "right"))
    return float((below + up_to).mean() / 2 / len(negatives))


def suggest_threshold(right: ArrayLike, wrong: ArrayLike, out_of_scope: ArrayLike = ()) -> float:
    """The `threshold` for Rasa's FallbackClassifier, which asks back below it; 0.20 to 0.90, two digits.

    Keeps at least nine in ten of what was heard right, because asking callers back who were understood costs most,
    and under that condition has the largest sum of two shares (Youden 1950): kept of what was heard right, and
    rejected of what was heard wrong or out of scope. Of equally good thresholds, the middle one. With nothing wrong and
    nothing out of scope to learn from, the 2nd percentile of what was heard right.

    Args:
        right: Confidences of what was heard right; at least one.
        wrong: Of what was heard as another intent.
        out_of_scope: Of what belongs to no intent.
    """
    sure, others = np.asarray(right, dtype=float), np.concatenate([np.ravel(wrong), np.ravel(out_of_scope)])
    if not len(others):
        return round(float(np.clip(np.percentile(sure, 2), THRESHOLDS[0], THRESHOLDS[-1])), 2)
    kept = np.array([np.mean(sure >= threshold) for threshold in THRESHOLDS])
    rejected = np.array([np.mean(others < threshold) for threshold in THRESHOLDS])
    allowed = kept >= KEPT
    allowed[0] = True
    separation = np.where(allowed, kept + rejected, -1)
    best = np.flatnonzero(separation == separation.max())
    return float(THRESHOLDS[best[len(best) // 2]])
