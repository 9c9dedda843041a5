"""Amounts and dates as the assistant says them, and amounts as people type them."""

import re
from datetime import date
from decimal import Decimal

from .bank import Payment

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]


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
    """The pence in "750", "£1,000.50" or "five hundred pounds"; None when there is no amount."""
    digits = re.search(r"\d[\d,]*(\.\d{1,2})?", text)
    if digits:
        return int(Decimal(digits.group().replace(",", "")) * 100)
    words = re.search(rf"\b(a|{'|'.join(NUMBERS)}) (hundred|thousand)( and fifty)?", text.lower())
    if not words:
        return None
    number, unit, fifty = words.groups()
    many = 1 if number == "a" else NUMBERS.index(number) + 1
    whole = many * {"hundred": 100, "thousand": 1000}[unit] + (50 if fifty else 0)
    return whole * 100
