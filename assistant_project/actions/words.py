"""Amounts and dates as the assistant says them, and amounts as people type them."""

import re
from datetime import date

from .bank import Payment

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

# A whole sentence about one amount. Whatever else is in it ("not", "by", "or", "pence") may change the amount.
_SENTENCE = re.compile(
    r"(?:(?:yes|ok|okay|please|just|i want|i['’]d like|i would like|make it|to|(?:set|raise|change) (?:it|my limit|the limit) to),? )*"
    r"(?:£ ?)?(?P<amount>[a-z -]+?|(?P<whole>[0-9]{1,9}|[0-9]{1,3}(?:,[0-9]{3}){1,2})(?:\.(?P<pence>[0-9]{1,2}))?)"
    r"(?: ?(?:pounds?|quid))?(?: (?:a|per) day)?(?:,? please)?[.!]?"
)


def pounds(pence: int) -> str:
    """The amount as the assistant says it: £500, £84.20 or £1,240.50."""
    whole, rest = divmod(pence, 100)
    return f"£{whole:,}.{rest:02d}" if rest else f"£{whole:,}"


def day(when: date) -> str:
    return f"{when.day} {when:%B}"


def listing(payments: list[Payment]) -> str:
    """The payments as a sentence lists them: "A £1, B £2 and C £3". At least one."""
    *most, last = [f"{p.payee} {pounds(p.amount_pence)}" for p in payments]
    return f"{', '.join(most)} and {last}" if most else last


def parse_amount(text: str) -> int | None:
    """The pence in "750", "£1,000.50" or "five hundred pounds"; None when the text says anything else as well."""
    said = _SENTENCE.fullmatch(" ".join(text.lower().split())) if len(text) <= 200 else None
    if not said:
        return None
    if said["whole"]:
        return int(said["whole"].replace(",", "")) * 100 + int((said["pence"] or "").ljust(2, "0"))
    whole = _number(re.sub(r"(?<=[a-z])-(?=[a-z])", " ", said["amount"]).split(" "))
    return None if whole is None else whole * 100


def _number(words: list[str]) -> int | None:
    """0 to 9,999 as English says it ("a thousand and fifty", "twenty five hundred"); None for all else."""
    for unit, size, most in (("thousand", 1000, 9), ("hundred", 100, 99)):
        if unit in words:
            before, after = words[: words.index(unit)], words[words.index(unit) + 1 :]
            many = 1 if before == ["a"] else _below_hundred(before)
            if many is None or not 1 <= many <= most:
                return None
            return many * size if not after else _added(many * size, size, after)
    return _below_hundred(words)


def _added(large: int, size: int, words: list[str]) -> int | None:
    """`large` and what is said after it; "one thousand five" is nothing, as it may be 1,005 or 1,500."""
    joined = words[0] == "and"
    small = _number(words[1:] if joined else words)
    if small is None or not 0 < small < size or (size == 1000 and small < 100 and not joined):
        return None
    return large + small


def _below_hundred(words: list[str]) -> int | None:
    if len(words) == 1 and words[0] in NUMBERS:
        return NUMBERS.index(words[0])
    if words and words[0] in TENS:
        tens = 20 + 10 * TENS.index(words[0])
        if len(words) == 1:
            return tens
        if len(words) == 2 and words[1] in NUMBERS[1:10]:
            return tens + NUMBERS.index(words[1])
    return None
