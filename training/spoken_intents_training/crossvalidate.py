"""k-fold cross-validation: every clip is heard once, by a model that has learnt from other speakers' clips."""

import tempfile
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

from spoken_intents.errors import ConfigError, DataError
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents_training.dataset import Clip, mostly_known, read_samples
from spoken_intents_training.recipe import Recipe

GROUPINGS = ("auto", "speaker", "transcript", "both", "none")


def folds(clips: Sequence[Clip], k: int, group_by: str = "auto", seed: int = 0) -> Tuple[List[List[int]], str]:
    """The test clips of each of `k` folds, as indices, and what was grouped by.

    Folds are stratified by intent as far as whole groups allow (scikit-learn's StratifiedGroupKFold).

    Args:
        group_by: ``speaker`` or ``transcript``: clips with the same one are in the same fold; ``both``: with either;
            ``none``; ``auto``: speaker where at least half have one, else transcript likewise, else none; a clip
            without one is a group of its own.

    Raises:
        ConfigError: `group_by` is none of these.
        DataError: Fewer groups, or fewer clips of every intent, than folds; or clips without what they are to be grouped by.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    if group_by not in GROUPINGS:
        raise ConfigError(f"--group-by {group_by}: takes {', '.join(GROUPINGS)}.")
    if group_by == "auto":
        known = [name for name in ("speaker", "transcript") if mostly_known([getattr(clip, name) for clip in clips])]
        group_by = known[0] if known else "none"
        if known:
            clips = [clip if getattr(clip, group_by) else _alone(clip, group_by) for clip in clips]
    groups = _groups(clips, group_by)
    intent, most = Counter(clip.intent for clip in clips).most_common(1)[0]
    largest = Counter(groups).most_common(1)[0][1]
    if len(set(groups)) < k:
        raise DataError(f"{k} folds need {k} groups by {group_by}; the clips make {len(set(groups))}. Take fewer folds.")
    if most < k:
        raise DataError(f"{k} folds need {k} clips of some intent; {intent} has the most, {most}. Take fewer folds.")
    if largest > 2 * len(clips) / k:
        raise DataError(
            f"Grouped by {group_by}, {largest} of {len(clips)} clips belong together: no {k} folds of about the same size "
            "can be made. Group by something else."
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an intent with fewer clips than folds: some folds do without
        splits = StratifiedGroupKFold(k, shuffle=True, random_state=seed).split(clips, [clip.intent for clip in clips], groups)
        return [[int(i) for i in tested] for _, tested in splits], group_by


def _alone(clip: Clip, name: str) -> Clip:
    """The clip as the only one with its speaker or transcript."""
    own = str(clip.path)
    return replace(clip, speaker=own) if name == "speaker" else replace(clip, transcript=own)


def _groups(clips: Sequence[Clip], group_by: str) -> List[str]:
    if group_by == "none":
        return [str(index) for index in range(len(clips))]
    keys = {"speaker": lambda clip: clip.speaker, "transcript": lambda clip: clip.transcript.strip().lower()}
    wanted = ("speaker", "transcript") if group_by == "both" else (group_by,)
    for name in wanted:
        without = [clip.name for clip in clips if not keys[name](clip)]
        if without:
            raise DataError(f"{len(without)} clip(s) have no {name} to group by, such as {without[0]}.")
    # Clips and what they share are nodes of a graph; a group is what hangs together.
    parent: Dict[str, str] = {}

    def root(node: str) -> str:
        while parent.setdefault(node, node) != node:
            node = parent[node]
        return node

    for clip in clips:
        nodes = [f"{name} {keys[name](clip)}" for name in wanted]
        parent[root(nodes[0])] = root(nodes[-1])
    return [root(f"{wanted[0]} {keys[wanted[0]](clip)}") for clip in clips]


def cross_validate(
    clips: Sequence[Clip],
    base_model: str,
    recipe: Recipe,
    tested: Sequence[Sequence[int]],
    also: Callable[[Recognizer, List[Clip]], Any] = lambda recognizer, clips: None,
) -> Iterator[Dict[int, Recognition]]:
    """After each fold, what its model heard of the fold's clips: {index: recognition}.

    Args:
        tested: The test clips of each fold; see `folds`.
        also: Is called with each fold's model and test clips, to measure what else is wanted while the model is there.

    Raises:
        DataError: A fold leaves fewer than two intents to learn from.
    """
    from spoken_intents_training.finetune import train

    for part in tested:
        left_out = set(part)
        with tempfile.TemporaryDirectory() as folder:
            train([clip for index, clip in enumerate(clips) if index not in left_out], base_model, recipe, Path(folder))
            recognizer = Recognizer(Path(folder))
            also(recognizer, [clips[index] for index in part])
            yield {index: recognizer.classify(read_samples(clips[index])) for index in part}
