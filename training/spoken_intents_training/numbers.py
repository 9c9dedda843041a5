"""Figures -> English words: what somebody says who reads them. Several ways where there are several, drawn by `rng`."""

import re
from typing import Callable, List, Match, Optional, Sequence, Tuple

import numpy as np

from spoken_intents.reading import CODES, MONTHS

SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
LARGE = ((10**9, "billion"), (10**6, "million"), (1_000, "thousand"), (100, "hundred"))
ORDINALS = {
    **{"one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth"},
    "twelve": "twelfth",
}
CURRENCIES = {  # of one, of several, of a hundredth, of several of these, by the way
    "£": ("pound", "pounds", "penny", "pence", "quid"),
    "$": ("dollar", "dollars", "cent", "cents", "bucks"),
    "€": ("euro", "euros", "cent", "cents", "euros"),
    "¥": ("yen", "yen", "", "", "yen"),
    "₹": ("rupee", "rupees", "paisa", "paise", "rupees"),
}
MULTIPLES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion"}
UNITS = {
    **{"%": ("percent",), "kg": ("kilos", "kilograms"), "km": ("kilometres",), "cm": ("centimetres",), "mm": ("millimetres",)},
    **{"g": ("grams",), "mg": ("milligrams",), "l": ("litres",), "ml": ("millilitres",), "m": ("metres",), "ft": ("feet",)},
    **{"lb": ("pounds",), "lbs": ("pounds",), "oz": ("ounces",), "mph": ("miles an hour",), "kmh": ("kilometres an hour",)},
    **{"gb": ("gigabytes", "gigs"), "mb": ("megabytes",), "tb": ("terabytes",), "kb": ("kilobytes",), "x": ("times",)},
    **{"h": ("hours",), "hr": ("hours",), "hrs": ("hours",), "min": ("minutes",), "mins": ("minutes",)},
    **{"sec": ("seconds",), "secs": ("seconds",), "k": ("thousand",), "yr": ("years",), "yrs": ("years",)},
}
LONG = 15  # digits; more of them nobody says as a number
_MONTH = "|".join(f"{month}|{month[:3]}" for month in MONTHS) + "|Sept"
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"
_SIGNS = "".join(CURRENCIES)
Say = Callable[[Match[str], np.random.Generator], str]


def cardinal(number: int) -> str:
    """``342`` is three hundred and forty two."""
    if number < 20:
        return SMALL[number]
    if number < 100:
        tens = TENS[number // 10 - 2]
        return f"{tens} {SMALL[number % 10]}" if number % 10 else tens
    for size, name in LARGE:
        if number >= size:
            many, rest = divmod(number, size)
            behind = f" {'and ' if rest < 100 else ''}{cardinal(rest)}" if rest else ""
            return f"{cardinal(many)} {name}{behind}"
    raise AssertionError


def ordinal(number: int) -> str:
    """``42`` is forty second."""
    before, _, last = cardinal(number).rpartition(" ")
    named = ORDINALS.get(last) or (f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return f"{before} {named}".strip()


def digits(figures: str, rng: np.random.Generator) -> str:
    """One by one, as telephone and account numbers are said: oh or zero, two alike perhaps as a double."""
    zero, doubled = ("zero" if rng.random() < 0.5 else "oh"), rng.random() < 0.3
    said: List[str] = []
    for run in re.findall(r"(\d)(\1?)", figures):
        name = zero if run[0] == "0" else SMALL[int(run[0])]
        said += [name] if not run[1] else [f"double {name}"] if doubled else [name, name]
    return " ".join(said)


def year(figures: str, rng: np.random.Generator) -> str:
    """``2024`` is twenty twenty four or two thousand and twenty four, ``1905`` nineteen oh five."""
    number, (century, rest) = int(figures), divmod(int(figures), 100)
    if 2000 <= number < 2010 or number % 1000 == 0 or (number > 2000 and rng.random() < 0.3):
        return cardinal(number)
    return f"{cardinal(century)} {cardinal(rest) if rest > 9 else f'oh {SMALL[rest]}' if rest else 'hundred'}"


def plain(figures: str, rng: np.random.Generator) -> str:
    """A number that may have a fraction: ``1,240.5``. What begins with a nought or is very long is said digit by digit."""
    whole, _, fraction = figures.replace(",", "").partition(".")
    grouped = "," in figures
    if len(whole) > LONG or (len(whole) > 1 and whole[0] == "0") or (len(whole) > 4 and not grouped and not fraction):
        said = digits(whole, rng)
    elif len(whole) == 4 and not grouped and not fraction and whole[:2] in ("19", "20"):
        said = [year(whole, rng), year(whole, rng), cardinal(int(whole)), digits(whole, rng)][rng.integers(4)]  # or a PIN
    elif len(whole) == 4 and not grouped and not fraction and whole[1] != "0" and whole[2:] != "00":
        said = [cardinal(int(whole)), year(whole, rng), digits(whole, rng)][rng.integers(3)]
    else:
        said = cardinal(int(whole))
    return f"{said} point {' '.join(SMALL[int(digit)] for digit in fraction)}" if fraction else said


def amount(sign: str, figures: str, multiple: str, rng: np.random.Generator) -> str:
    """``£23.10`` is twenty three pounds ten, or ten pence, or twenty three ten."""
    one, several, penny, pence, slang = CURRENCIES[sign]
    whole, _, fraction = figures.replace(",", "").partition(".")
    if multiple or len(fraction) not in (0, 2) or len(whole) > LONG:
        return " ".join(filter(None, (plain(figures, rng), MULTIPLES.get(multiple.lower(), ""), several)))
    number, hundredths = int(whole), int(fraction or 0)
    small = f"{cardinal(hundredths)} {penny if hundredths == 1 else pence}".strip()
    if hundredths and not number:
        return small
    if not hundredths:
        return f"{cardinal(number)} {one if number == 1 else slang if rng.random() < 0.15 and number > 1 else several}"
    unit = one if number == 1 else several
    ways = [f"{cardinal(number)} {unit} and {small}", f"{cardinal(number)} {unit} {small}"]
    if hundredths > 9:
        ways += [f"{cardinal(number)} {unit} {cardinal(hundredths)}", f"{cardinal(number)} {cardinal(hundredths)}"]
    return ways[rng.integers(len(ways))]


def date(day: int, month: int, written_year: Optional[str], rng: np.random.Generator) -> str:
    """The third of May, May third, May the third; its year may be left out, as people do."""
    name, nth = MONTHS[month - 1], ordinal(day)
    said = [f"the {nth} of {name}", f"{name} {nth}", f"{name} the {nth}"][rng.integers(3)]
    if not written_year:
        return said
    full = f"20{written_year}" if len(written_year) == 2 else written_year
    return f"{said} {year(full, rng)}"


def time(hour: int, minute: int, half: str, rng: np.random.Generator) -> str:
    """``14:30`` is fourteen thirty, two thirty, half past two. `half` is am, pm or nothing."""
    twelve = hour % 12 or 12
    named = half.lower() and f" {half[0].lower()} m"
    if not minute:
        ways = [f"{cardinal(twelve)}{named or (' o clock')}", f"{cardinal(twelve)}{named}"]
    else:
        past = {15: "quarter past", 30: "half past", 45: "quarter to"}.get(minute)
        ways = [f"{cardinal(twelve)} {cardinal(minute) if minute > 9 else f'oh {SMALL[minute]}'}{named}"]
        if hour > 12 and not half:
            ways.append(f"{cardinal(hour)} {cardinal(minute) if minute > 9 else f'oh {SMALL[minute]}'}")
        if past:
            ways.append(f"{past} {cardinal(twelve % 12 + 1 if minute == 45 else twelve)}")
    return ways[rng.integers(len(ways))]


def in_words(text: str, rng: np.random.Generator) -> str:
    """An English text with all its figures as words."""
    for pattern, say in _KINDS:
        text = pattern.sub(lambda found, say=say: f" {say(found, rng)} ", text)  # type: ignore[misc]
    return " ".join(text.split())


def _amount_before(found: Match[str], rng: np.random.Generator) -> str:
    return amount(CODES.get(found[1].upper(), found[1]), found[2], found[3] or "", rng)


def _amount_behind(found: Match[str], rng: np.random.Generator) -> str:
    return amount(CODES.get(found[3].upper(), found[3]), found[1], found[2] or "", rng)


def _iso_date(found: Match[str], rng: np.random.Generator) -> str:
    return _date_or(found, int(found[3]), int(found[2]), found[1], rng)


def _slash_date(found: Match[str], rng: np.random.Generator) -> str:
    """Day first or month first: whichever it can be, else either."""
    one, other = int(found[1]), int(found[2])
    day_first = one > 12 or (other <= 12 and rng.random() < 0.5)
    return _date_or(found, one if day_first else other, other if day_first else one, found[3], rng)


def _day_month(found: Match[str], rng: np.random.Generator) -> str:
    return _date_or(found, int(found[1]), _month(found[2]), found[3], rng)


def _month_day(found: Match[str], rng: np.random.Generator) -> str:
    return _date_or(found, int(found[2]), _month(found[1]), found[3], rng)


def _month(name: str) -> int:
    return [month[:3].lower() for month in MONTHS].index(name[:3].lower()) + 1


def _date_or(found: Match[str], day: int, month: int, written_year: Optional[str], rng: np.random.Generator) -> str:
    if 1 <= month <= 12 and 1 <= day <= 31:
        return date(day, month, written_year, rng)
    return " ".join(plain(figures, rng) for figures in re.findall(r"\d+", found[0]))


def _clock(found: Match[str], rng: np.random.Generator) -> str:
    hour, minute = int(found[1]), int(found[2] or 0)
    if hour > 24 or minute > 59:
        return " ".join(plain(figures, rng) for figures in re.findall(r"\d+", found[0]))
    return time(hour, minute, (found[3] or "").replace(".", ""), rng)


def _phone(found: Match[str], rng: np.random.Generator) -> str:
    return ("plus " if "+" in found[0] else "") + digits(re.sub(r"\D", "", found[0]), rng)


def _unit(found: Match[str], rng: np.random.Generator) -> str:
    names = UNITS[found[2].lower()]
    said = names[rng.integers(len(names))]
    single = said[:-1] if found[1] == "1" and said.endswith("s") else said
    return f"{plain(found[1], rng)} {single}"


def _range(found: Match[str], rng: np.random.Generator) -> str:
    return f"{plain(found[1], rng)} to"


def _decade(found: Match[str], rng: np.random.Generator) -> str:
    """``1990s`` are the nineteen nineties."""
    century = f"{cardinal(int(found[1]))} " if found[1] else ""
    return f"{century}{TENS[int(found[2]) - 2][:-1]}ies"


def _fraction(found: Match[str], rng: np.random.Generator) -> str:
    return {
        "24/7": "twenty four seven",
        "1/2": "half",
        "1/4": "a quarter",
        "3/4": "three quarters",
        "1/3": "a third",
        "2/3": "two thirds",
    }[found[0]]


def _kinds(*kinds: Tuple[str, Say]) -> Sequence[Tuple["re.Pattern[str]", Say]]:
    return [(re.compile(pattern, re.I), say) for pattern, say in kinds]


_UNIT_NAMES = "|".join(sorted(map(re.escape, UNITS), key=len, reverse=True))

_KINDS = _kinds(
    (r"(?<=\d[ap]m)\s?[-–]\s?(?=\d)", lambda found, rng: "to"),
    (r"/\s?(?=(?:month|day|week|year|hour|night|person|user)\b)", lambda found, rng: "per"),
    (rf"([{_SIGNS}]|\b(?:{'|'.join(CODES)})\b)\s?({_NUMBER})(?:\s?(k|m|bn|b)\b)?", _amount_before),
    (rf"(?<![\d.,])({_NUMBER})\s?(k|m|bn|b)?\s?([{_SIGNS}]|(?:{'|'.join(CODES)})\b)", _amount_behind),
    (r"(?<!\d)(\d{4})-(\d{1,2})-(\d{1,2})(?!\d)", _iso_date),
    (r"(?<![\d/])(\d{1,2})[/.](\d{1,2})[/.](\d{4}|\d{2})(?![\d/])", _slash_date),
    (rf"\b(?:the\s)?(\d{{1,2}})(?:st|nd|rd|th)?\s(?:of\s)?({_MONTH})\b\.?(?:,?\s(\d{{4}}))?", _day_month),
    (rf"\b({_MONTH})\b\.?\s(?:the\s)?(\d{{1,2}})(?:st|nd|rd|th)?\b(?![:.]\d)(?:,?\s(\d{{4}}))?", _month_day),
    (r"(?<![\d:.,])(\d{1,2}):(\d{2})(?::\d{2})?(?:\s?([ap]\.?m)\b\.?)?", _clock),
    (r"(?<![\d:.,])(\d{1,2})(?:\.(\d{2}))?\s?([ap]\.?m)\b\.?", _clock),
    (r"(?<![\w.,])\+?\(?\d{2,}\)?(?:[ -]\(?\d{2,}\)?)+(?![\w.,]\d)", _phone),
    (r"\+\d{5,}", _phone),
    (r"(?<=[a-z])-(?=\d)", lambda found, rng: ""),  # covid-19
    (r"(?<![\w.,)])(?<![\w.,)]\s)-(?=\d)", lambda found, rng: "minus"),  # 3 -5 is none
    (r"\b(\d)(?-i:G)\b", lambda found, rng: f"{SMALL[int(found[1])]} G"),  # of a mobile network
    (r"\bno\.\s?(?=\d)", lambda found, rng: "number"),
    (r"(?<![\d/])(?:24/7|1/2|1/4|3/4|1/3|2/3)(?![\d/])", _fraction),
    (r"\b(\d{1,6})(?:st|nd|rd|th)\b", lambda found, rng: ordinal(int(found[1]))),
    (r"(?<![\d.,])(\d\d)?([2-9])0s\b", _decade),
    (rf"({_NUMBER})\s?[-–]\s?(?={_NUMBER})", _range),
    (rf"(?<![\d.,])({_NUMBER})\s?({_UNIT_NAMES})(?![\w])", _unit),
    (_NUMBER, lambda found, rng: plain(found[0], rng)),
)
