"""Two models on the same clips: what the newer one hears better and worse, clip by clip. Needs no torch.

Only clips that neither learnt say which is better. What a model learnt it knows again by the clips' bytes.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

import numpy as np

from spoken_intents.archives import Fallback
from spoken_intents.errors import DataError
from spoken_intents.recognizer import FP32, FP32_DATA, INT8, NON_SPEECH, Recognition, Recognizer
from spoken_intents_training.conditions import MADE_UP_SEED, NOISES
from spoken_intents_training.dataset import Clip, read_samples
from spoken_intents_training.evaluate import Evaluation, Progress
from spoken_intents_training.metrics import mcnemar, wilson_interval
from spoken_intents_training.nonspeech import non_speech_clips
from spoken_intents_training.sources import file_digest

CHANCE = 0.05  # a difference that equally good models make less often than this is called one
OUT_OF_SCOPE, FALLBACK = "out_of_scope", "nlu_fallback"  # what Rasa's documentation calls the intents for it
CHANGES = ("newly_wrong", "newly_right", "still_wrong", "still_right")
OUTCOMES = ("answered_right", "answered_wrong", "asked_back", "no_speech")


@dataclass(frozen=True)
class Ear:
    """One of the two models, ready to listen.

    Attributes:
        name: What the user calls it.
        fallback: When it asks back; None: never, or nobody knows when.
        bytes: Of what is loaded to hear with.
    """

    name: str
    recognizer: Recognizer
    fallback: Optional[Fallback]
    bytes: int

    @property
    def intents(self) -> List[str]:
        return [label for label in self.recognizer.labels if label != NON_SPEECH]

    @property
    def learnt(self) -> Optional[List[str]]:
        """Digests of the clips it learnt from; None from a model that does not say."""
        return self.recognizer.description.get("data", {}).get("learnt")

    def stops(self, heard: Recognition) -> bool:
        """Whether Rasa would not act on it: no speech, not sure enough, or out of scope by its own word."""
        return not heard.is_speech or heard.intent == OUT_OF_SCOPE or self.asks_back(heard)

    def asks_back(self, heard: Recognition) -> bool:
        return self.fallback is not None and self.fallback.asks_back(heard)


def served_bytes(directory: Path, precision: str) -> int:
    """The size of the graph that is loaded to hear with."""
    names = {"int8": [INT8], "fp32": [FP32, FP32_DATA]}[precision]
    return sum((directory / name).stat().st_size for name in names if (directory / name).exists())


@dataclass(frozen=True)
class Side:
    """What one of the two models heard.

    Attributes:
        counted: Of the clips that neither learnt, and whose intents both know, with what is out of scope.
        learnt: Of clips that at least one of them learnt.
        noises: Of noises, made up and recorded.
    """

    ear: Ear
    counted: Evaluation
    learnt: Evaluation
    noises: List[Recognition]

    def outcomes(self) -> List[str]:
        """What Rasa makes of each counted clip, one of `OUTCOMES`."""
        told = []
        for heard, right in zip(self.counted.heard, self.counted.right):
            if not heard.is_speech:
                told.append("no_speech")
            elif self.ear.asks_back(heard):
                told.append("asked_back")
            else:
                told.append("answered_right" if right else "answered_wrong")
        return told

    def as_json(self) -> Dict[str, Any]:
        """The model, and every figure that is its own."""
        outcomes, fallback, described = self.outcomes(), self.ear.fallback, self.ear.recognizer.description
        stopped = sum(map(self.ear.stops, self.counted.out_of_scope))
        return {
            "model": self.ear.name,
            "fingerprint": self.ear.recognizer.fingerprint,
            "base_model": described.get("base_model"),
            "intents": self.ear.intents,
            "clips": sum(described.get("data", {}).get("clips", {}).values()),
            "threshold": fallback.threshold if fallback else None,
            "ambiguity_threshold": fallback.ambiguity_threshold if fallback else None,
            "bytes": self.ear.bytes,
            "precision": self.ear.recognizer.precision,
            "heard": self.counted.as_json(),
            "outcomes": {outcome: outcomes.count(outcome) for outcome in OUTCOMES},
            "out_of_scope_stopped": stopped,
            "noises_stopped": sum(not heard.is_speech for heard in self.noises),
            "learnt_right": int(self.learnt.right.sum()) if self.learnt.clips else 0,
        }


@dataclass(frozen=True)
class Comparison:
    """Two models on the same clips.

    Attributes:
        warnings: What whoever reads the figures has to know, a sentence each.
    """

    old: Side
    new: Side
    warnings: List[str]

    @property
    def clips(self) -> List[Clip]:
        """Those that count."""
        return self.new.counted.clips

    def changes(self) -> List[str]:
        """What became of each clip, one of `CHANGES`."""
        names = {(True, False): "newly_wrong", (False, True): "newly_right", (False, False): "still_wrong"}
        pairs = zip(self.old.counted.right.tolist(), self.new.counted.right.tolist())
        return [names.get(pair, "still_right") for pair in pairs]

    def places(self, change: str) -> List[int]:
        """The clips of which that became, NEW's surest first."""
        changes = self.changes()
        return [int(i) for i in np.argsort(-self.new.counted.confidences, kind="stable") if changes[i] == change]

    def by_intent(self) -> Dict[str, Dict[str, Any]]:
        """What became of each intent's clips, the worst change first."""
        said, changes = [clip.intent for clip in self.clips], self.changes()
        rows = {intent: _paired([change for one, change in zip(said, changes) if one == intent]) for intent in sorted(set(said))}
        return dict(sorted(rows.items(), key=lambda item: item[1]["newly_right"] - item[1]["newly_wrong"]))

    def answered(self) -> Dict[str, Any]:
        """What became of each clip where heard right and not asked back counts as right."""
        pairs = zip(self.old.outcomes(), self.new.outcomes())
        names = {(True, False): "newly_wrong", (False, True): "newly_right", (False, False): "still_wrong"}
        return _paired([names.get((old == OUTCOMES[0], new == OUTCOMES[0]), "still_right") for old, new in pairs])

    def worse(self) -> List[str]:
        """Why NEW is worse: each reason a sentence; empty where it is not, as far as these clips can tell.

        It is where fewer clips are heard right, or heard right and answered, than by OLD, or fewer of one intent, and
        equally good models would differ so much in fewer than one of twenty comparisons. Of many intents one does so
        more often, so there p is multiplied by their number (Bonferroni).
        """
        rows = self.by_intent()
        checked = [("are heard right", _paired(self.changes()), 1), ("are heard right and answered", self.answered(), 1)]
        checked += [(f"of {intent} are heard right", row, len(rows)) for intent, row in rows.items()]
        return [
            f"Fewer clips {what}: {row['newly_wrong']} newly wrong, {row['newly_right']} newly right "
            f"(p = {row['p'] * tests:.3f})."
            for what, row, tests in checked
            if row["newly_wrong"] > row["newly_right"] and row["p"] * tests < CHANCE
        ]

    def verdict(self) -> str:
        """``worse``, ``better`` or ``same``, which is: no difference that chance would not make."""
        row = _paired(self.changes())
        if self.worse():
            return "worse"
        return "better" if row["newly_right"] > row["newly_wrong"] and row["p"] < CHANCE else "same"

    def told(self, index: int) -> Dict[str, Any]:
        """One clip: what was said, and what each model heard, how surely, and what Rasa makes of it."""
        clip = self.clips[index]
        sides = {}
        for name, side in (("old", self.old), ("new", self.new)):
            one = side.counted.told(index)
            sides[name] = {"heard": one["heard"], "confidence": one["confidence"], "outcome": side.outcomes()[index]}
        return {"clip": clip.name, "intent": clip.intent, "transcript": clip.transcript, **sides}

    def as_json(self) -> Dict[str, Any]:
        """Every figure, and every clip that was heard wrong by either, the surest mistakes first."""
        each = {change: [self.told(index) for index in self.places(change)] for change in CHANGES[:3]}
        old, new = self.old.as_json(), self.new.as_json()
        return {
            "verdict": self.verdict(),
            "worse": self.worse(),
            "warnings": self.warnings,
            "n": len(self.clips),
            "heard_right": _paired(self.changes()),
            "answered_right": self.answered(),
            "old": old,
            "new": new,
            "times_as_slow": new["heard"]["milliseconds_per_clip"] / old["heard"]["milliseconds_per_clip"],
            "times_as_large": new["bytes"] / old["bytes"],
            "intents": self.by_intent(),
            "out_of_scope": len(self.new.counted.out_of_scope),
            "noises": len(self.new.noises),
            "learnt": len(self.new.learnt.clips),
            **each,
        }


def _paired(changes: Sequence[str]) -> Dict[str, Any]:
    """Clips, how many each model has right, with their intervals, what changed, and whether that is more than chance."""
    n, counts = len(changes), {change: changes.count(change) for change in CHANGES}
    old, new = (counts["still_right"] + counts[change] for change in ("newly_wrong", "newly_right"))
    p = mcnemar(counts["newly_right"], counts["newly_wrong"])
    intervals = {"old_95": list(wilson_interval(old, n)), "new_95": list(wilson_interval(new, n))}
    return {"n": n, "old": old, "new": new, **intervals, **counts, "p": p}


def compare(
    old: Ear,
    new: Ear,
    clips: Sequence[Clip],
    out_of_scope: Sequence[Clip] = (),
    noises: Sequence[Clip] = (),
    progress: Progress = lambda clips: clips,
) -> Comparison:
    """Has both models hear every clip, in turn, so that their times can be compared too.

    Args:
        out_of_scope: Clips that belong to no intent, whatever theirs is called. Among `clips`, those whose intent means
            that, and is none of both models', belong here, too.
        noises: Recordings without speech, beside made-up ones.

    Raises:
        DataError: No clip is left that says which model is better.
        AudioError: A clip that cannot be used.
    """
    ears, warnings = (old, new), []
    digests = [set(ear.learnt or ()) for ear in ears]
    learnt_by = {clip.path: [file_digest(clip.path) in digest for digest in digests] for clip in (*clips, *out_of_scope, *noises)}

    def is_learnt(clip: Clip) -> bool:
        return any(learnt_by[clip.path])

    known, strange = _split(clips, lambda clip: all(clip.intent in ear.intents for ear in ears))
    outside, strange = _split(strange, lambda clip: clip.intent in (OUT_OF_SCOPE, FALLBACK))
    learnt, counted = _split(known, is_learnt)
    outside, recorded = ([clip for clip in part if not is_learnt(clip)] for part in ((*out_of_scope, *outside), noises))
    warnings += _of_intents(old, new, strange)
    if learnt:
        by_old, by_new = (sum(learnt_by[clip.path][side] for clip in learnt) for side in (0, 1))
        warnings.append(
            f"{len(learnt)} of {len(known)} clips do not count, as they were learnt (by OLD {by_old}, by NEW {by_new}): that a model "
            "hears what it learnt says nothing of others."
        )
    warnings += [
        f"{ear.name} does not say which clips it learnt; it may have learnt these." for ear in ears if ear.learnt is None
    ]
    if old.recognizer.fingerprint == new.recognizer.fingerprint:
        warnings.append("OLD and NEW hear by the same model.")
    if not counted:
        raise DataError(
            f"Of {len(clips)} clip(s) none says which model is better: {len(learnt)} were learnt by one of them, of {len(strange)} one "
            "does not know the intent. Name clips that neither learnt with --data, such as newly corrected turns."
        )
    made_up = non_speech_clips(NOISES, MADE_UP_SEED)
    heard = [_hear(ears, part, progress) for part in (counted, learnt, outside, recorded)]
    sides = [
        Side(
            ear,
            Evaluation(counted, heard[0][side], heard[2][side]),
            Evaluation(learnt, heard[1][side]),
            [*(ear.recognizer.classify(noise) for noise in made_up), *heard[3][side]],
        )
        for side, ear in enumerate(ears)
    ]
    return Comparison(sides[0], sides[1], warnings)


def _split(clips: Iterable[Clip], wanted: Any) -> Tuple[List[Clip], List[Clip]]:
    """Those that are wanted, and the others."""
    listed = list(clips)
    return [clip for clip in listed if wanted(clip)], [clip for clip in listed if not wanted(clip)]


def _hear(ears: Sequence[Ear], clips: Sequence[Clip], progress: Progress) -> List[List[Recognition]]:
    """What each hears of every clip; now the one begins, now the other."""
    heard: List[List[Recognition]] = [[] for _ in ears]
    for place, clip in enumerate(progress(clips) if clips else ()):
        samples = read_samples(clip)
        for side in (0, 1) if place % 2 == 0 else (1, 0):
            heard[side].append(ears[side].recognizer.classify(samples))
    return heard


def _of_intents(old: Ear, new: Ear, strange: Sequence[Clip]) -> List[str]:
    """What is to be said where the models do not know the same intents."""
    told = []
    for ear, other, name in ((old, new, "OLD"), (new, old, "NEW")):
        alone = sorted(set(ear.intents) - set(other.intents))
        if alone:
            clips = sum(clip.intent in alone for clip in strange)
            told.append(f"Only {name} knows {', '.join(alone)}: {clips} clip(s) of them do not count.")
    unknown = sorted({clip.intent for clip in strange} - set(old.intents) - set(new.intents))
    if unknown:
        clips = sum(clip.intent in unknown for clip in strange)
        told.append(
            f"Neither knows {', '.join(unknown)}: {clips} clip(s) do not count. Speech of no intent is for --out-of-scope."
        )
    return told
