"""Typed examples -> the words that somebody says: no annotations, no figures, no abbreviations; several ways, drawn by `rng`.

Numbers are read in English; of other languages only what is for the eye goes, and the engine reads the figures.
"""

import json
import re
from typing import List, Mapping, Match, Sequence

import numpy as np

from spoken_intents.reading import without_markup
from spoken_intents_training.examples import ANNOTATED
from spoken_intents_training.numbers import in_words

OTHER_VALUE = 0.5  # how often another value of an entity is said, where there are others
ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "dr": "doctor", "prof": "professor", "st": "street", "rd": "road", "ave": "avenue",
    "approx": "approximately", "appt": "appointment", "apt": "apartment", "dept": "department", "acct": "account",
    "acc": "account", "amt": "amount", "etc": "et cetera", "vs": "versus", "tel": "telephone", "incl": "including",
    "govt": "government", "msg": "message", "txn": "transaction", "asap": "as soon as possible", "pls": "please",
    "plz": "please", "thx": "thanks", "ty": "thank you", "tnx": "thanks", "u": "you", "ur": "your", "r": "are",
    "b4": "before", "gr8": "great", "l8r": "later", "btw": "by the way", "idk": "I don't know", "imo": "in my opinion",
    "fyi": "for your information", "np": "no problem", "ok": "okay", "k": "okay", "tmrw": "tomorrow", "tmr": "tomorrow",
    "cya": "see you", "ppl": "people", "bc": "because", "w/o": "without", "w/": "with", "e.g": "for example",
    "i.e": "that is", "a.m": "a m", "p.m": "p m", "dont": "don't", "cant": "can't", "whats": "what's", "im": "I'm",
    "ive": "I've", "didnt": "didn't", "doesnt": "doesn't", "isnt": "isn't", "wont": "won't", "thats": "that's",
}  # fmt: skip
SIGNS = {"&": " and ", "@": " at ", "+": " plus ", "=": " equals ", "#": " number ", "/": " or ", "_": " ", "|": " ", "\\": " "}
_WORD = re.compile(
    r"(?<![\w'])(" + "|".join(sorted(map(re.escape, ABBREVIATIONS), key=len, reverse=True)) + r")(?![\w'])\.?", re.I
)
_SAINT = re.compile(r"(?<!\w)(?<![A-Z][a-z]{3} )St\.?\s(?=[A-Z][a-z])")  # St Paul's; in 12 Main St London a street
_ADDRESS = re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+\b")


class Reader:
    """Says typed examples.

    Args:
        language: Of the texts; begins with ``en`` for English.
        values: What else an entity may be, by its name: from lookup tables.
        synonyms: How else a value is called, by the value.
    """

    def __init__(
        self, language: str = "en", values: Mapping[str, Sequence[str]] = {}, synonyms: Mapping[str, Sequence[str]] = {}
    ) -> None:
        self._english = language.lower().startswith("en")
        self._values, self._synonyms = values, synonyms

    def words(self, text: str, rng: np.random.Generator, as_typed: bool = False) -> str:
        """`text` as somebody says it; empty when there is nothing to say.

        Args:
            as_typed: With the entities' values that are in it, and none from a lookup table.
        """
        said = ANNOTATED.sub(lambda found: self._entity(found, rng, as_typed), text)
        said = said.replace("\\n", " ")
        if self._english:
            said = _ADDRESS.sub(lambda found: found[0].replace("@", " at ").replace(".", " dot "), said)
            said = in_words(_without_pictures(said.replace("°", " degrees ")), rng)
            said = _SAINT.sub("Saint ", said)
            said = _WORD.sub(_long_form, said)
            said = "".join(SIGNS.get(sign, sign) for sign in said)
        else:
            said = _without_pictures(said)
        said = re.sub(r"[\[\]{}<>*~^\"“”„`]+", " ", said)
        said = re.sub(r"\s+([,.?!;:])", r"\1", " ".join(said.split()))
        return said if any(map(str.isalnum, said)) else ""

    def _entity(self, found: Match[str], rng: np.random.Generator, as_typed: bool) -> str:
        typed, entity, value = _annotation(found)
        others: List[str] = [*self._values.get(entity, ()), *self._synonyms.get(value, ())]
        if as_typed or not others or rng.random() >= OTHER_VALUE:
            return typed
        return _drawn(others, rng)


def _long_form(found: Match[str]) -> str:
    """Of a capital alone itself: it is spelt out, as in U.S. and R&B."""
    return found[0] if found[1] in ("U", "R", "K") else ABBREVIATIONS[found[1].lower()]


def _annotation(found: Match[str]) -> "tuple[str, str, str]":
    """What is said, its entity (the first of several), and the value that stands for."""
    typed, behind = found[1], found[0][len(found[1]) + 2 :]
    if behind.startswith("("):
        entity, _, value = behind[1:-1].partition(":")
        return typed, entity.strip(), value.strip() or typed
    try:
        said = json.loads(behind)
    except ValueError:  # Rasa says what is wrong with it
        return typed, "", typed
    first = (said[0] if isinstance(said, list) and said else said) or {}
    first = first if isinstance(first, dict) else {}
    return typed, str(first.get("entity", "")), str(first.get("value", typed))


def _without_pictures(text: str) -> str:
    text = re.sub(r"(?<![\w(])(?:[:;=][-o*']?[)(\]\[dDpP/\\|3<>]|8-?[)D]|<3)(?!\w)", " ", text)  # :-)
    return without_markup(text)


def _drawn(ways: Sequence[str], rng: np.random.Generator) -> str:
    return ways[int(rng.integers(len(ways)))]
