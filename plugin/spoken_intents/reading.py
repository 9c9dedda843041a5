"""Written text -> sentences to be spoken: what is only there for the eye goes, and figures are read as people read them.

English is read out; of other languages only the markup goes, as each reads its numbers differently.
"""

import re
import unicodedata
from typing import List, Match, Optional

LONGEST_SENTENCE = 400  # characters; a longer one is spoken in parts, so that its beginning need not wait for its end
CURRENCIES = {"£": ("pound", "pence"), "$": ("dollar", "cents"), "€": ("euro", "cents"), "¥": ("yen", "")}
CODES = {"GBP": "£", "USD": "$", "EUR": "€", "JPY": "¥"}
MONTHS = "January February March April May June July August September October November December".split()
# Figures are taken with all that may belong to them, then looked at: no text is gone through again and again.
_AMOUNT = re.compile(r"(?:([£$€¥])\s?|\b(GBP|USD|EUR|JPY)\s)(\d[\d.,]*)")
_MONEY = re.compile(r"(\d{1,3}(?:,\d{3})+|\d+)(?:\.(\d\d))?")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_DATE = re.compile(r"\b(\d{4})-(\d{2})-(\d{2})\b")
_FIGURES = re.compile(r"(?<![\d.,£$€¥])(?<![£$€¥] )(?<!GBP |USD |EUR |JPY )\d[\d.,]*")
_DIGITS = re.compile(r"\d{5,}")
_ENDS = re.compile(r"(?:(?<=[.!?…])|(?<=[.!?…][\"')\]]))\s+")
_GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def sentences(text: str, language: str = "en") -> List[str]:
    """What to speak of `text`, sentence by sentence; none when there is nothing to speak.

    Args:
        language: Of the voice; begins with ``en`` for English.
    """
    plain = without_markup(text)
    if language.lower().startswith("en"):
        plain = read_out(plain)
    parts = [" ".join(part.split()) for line in plain.splitlines() for part in _ENDS.split(line)]
    return [piece for part in parts if any(map(str.isalnum, part)) for piece in _pieces(part)]


def without_markup(text: str) -> str:
    """`text` without Markdown's signs, addresses of links, emoji and control characters."""
    text = re.sub(r"!?\[([^\[\]]*)\]\([^()]*\)", r"\1", text)  # [words](address)
    text = re.sub(r"<[^<>]{0,200}>", " ", text)
    text = re.sub(r"\bhttps?://\S+", " ", text)
    text = re.sub(r"^[^\S\n]*(?:#+|[-*+•]|>)[^\S\n]+", "", text, flags=re.M)
    text = re.sub(r"(\*\*|__|\*|`{1,3}|~~)(?=\S)(.{1,200}?)(?<=\S)\1", r"\2", text)
    # Symbols, other than those of currencies and arithmetic, are pictures: So, Sk, and what joins them.
    return "".join(
        " " if unicodedata.category(sign) in ("So", "Sk", "Cf", "Cc", "Co", "Cs") and sign != "\n" else sign for sign in text
    )


def read_out(text: str) -> str:
    """Amounts, dates, IBANs and long numbers of an English text in the words that people use for them."""
    text = _IBAN.sub(_iban, text)
    text = _DATE.sub(_date, text)
    text = _FIGURES.sub(_one_by_one, text)
    return _GROUPED.sub("", _AMOUNT.sub(_amount, text))


def _iban(found: Match[str]) -> str:
    letters = found[0].replace(" ", "")
    return ", ".join(" ".join(letters[start : start + 4]) for start in range(0, len(letters), 4))


def _date(found: Match[str]) -> str:
    year, month, day = (int(part) for part in found.groups())
    return f"{day} {MONTHS[month - 1]} {year}" if 1 <= month <= 12 and 1 <= day <= 31 else found[0]


def _amount(found: Match[str]) -> str:
    sign, code, figures = found.groups()
    money = _MONEY.fullmatch(figures.rstrip(".,"))
    if money is None:
        return found[0]
    whole, hundredths = money.groups()
    return _worth(sign or CODES[code], whole, hundredths) + figures[money.end() :]


def _worth(sign: str, whole: str, hundredths: Optional[str]) -> str:
    name, small = CURRENCIES[sign]
    number = whole.replace(",", "")
    words = f"{number} {name}" if number == "1" or name == "yen" else f"{number} {name}s"
    if not hundredths or hundredths == "00" or not small:
        return words
    return f"{int(hundredths)} {small}" if number == "0" else f"{words} {int(hundredths)}"


def _one_by_one(found: Match[str]) -> str:
    """Long ones in threes, as telephone and account numbers are said."""
    digits = found[0].rstrip(".,")
    if not _DIGITS.fullmatch(digits):
        return found[0]
    return ", ".join(" ".join(digits[start : start + 3]) for start in range(0, len(digits), 3)) + found[0][len(digits) :]


def _pieces(sentence: str) -> List[str]:
    pieces = []
    while len(sentence) > LONGEST_SENTENCE:
        # At the last comma, else the last blank, else anywhere; rfind's -1 means none.
        at = sentence.rfind(", ", 1, LONGEST_SENTENCE) + 1 or sentence.rfind(" ", 1, LONGEST_SENTENCE) + 1 or LONGEST_SENTENCE
        pieces.append(sentence[:at].strip())
        sentence = sentence[at:].strip()
    return [*pieces, sentence]
