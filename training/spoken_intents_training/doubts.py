"""Which recorded turns are worth looking at first: how much there is against the bot having understood.

    doubt = 1 - (confidence + margin) / 2        0 where the model was sure, up to 1
            + 0.25 for each sign that the caller was not understood

The margin is by how much the best intent was ahead of the second. The signs: Rasa asked back (`nlu_fallback`), the caller
broke off the answer, the caller said the same again at once (what was best or second here was heard in the next turn).
"""

from dataclasses import dataclass
from typing import List, Optional, Tuple

from spoken_intents.recordings import About

FALLBACK = "nlu_fallback"  # what Rasa's FallbackClassifier makes of what is not sure enough
A_SIGN = 0.25
UNSURE, CLOSE, MAYBE_NOISE = 0.5, 0.2, 0.2  # from where it is said in words; the sum takes them as they are


@dataclass(frozen=True)
class Doubt:
    """How much there is against a turn having been understood, and what, in words."""

    score: float
    why: Tuple[str, ...]


def doubt(about: About, following: Optional[About]) -> Doubt:
    """About a turn, from what is known of it and of the next recorded turn of its call."""
    second = float(about.ranking[1][1]) if len(about.ranking) > 1 else 0.0
    margin = about.confidence - second
    signs = {
        "Rasa asked back": about.acted_on == FALLBACK,
        "the caller broke off the answer": following is not None and following.interrupted,
        "the caller said it again": following is not None and following.intent in {about.intent, *_best_two(about)},
    }
    found = [words for words, is_so in signs.items() if is_so]
    unsure = {
        f"only {about.confidence:.0%} sure": about.confidence < UNSURE,
        f"close to {about.ranking[1][0]}" if second else "": second > 0 and margin < CLOSE,
        f"{about.non_speech:.0%} that it was no speech": about.non_speech >= MAYBE_NOISE,
    }
    score = 1 - (about.confidence + margin) / 2 + A_SIGN * len(found)
    return Doubt(round(score, 4), (*found, *(words for words, is_so in unsure.items() if is_so)))


def _best_two(about: About) -> List[str]:
    return [str(intent) for intent, _ in about.ranking[:2]]
