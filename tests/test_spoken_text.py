"""What is typed, as people say it: every reading that some seed gives is one that somebody would give."""

from typing import Set

import numpy as np
import pytest

from spoken_intents_training.numbers import cardinal, ordinal
from spoken_intents_training.spoken_text import Reader

pytestmark = pytest.mark.filterwarnings("error")


def readings(text: str, reader: Reader = Reader()) -> Set[str]:
    return {reader.words(text, np.random.default_rng(seed)) for seed in range(60)}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (19, "nineteen"),
        (80, "eighty"),
        (342, "three hundred and forty two"),
        (1_007, "one thousand and seven"),
        (1_240, "one thousand two hundred and forty"),
        (2_000_000, "two million"),
        (3_000_000_015, "three billion and fifteen"),
    ],
)
def test_numbers(number: int, words: str) -> None:
    assert cardinal(number) == words


def test_ordinals() -> None:
    assert [ordinal(number) for number in (1, 2, 3, 5, 12, 20, 42, 100)] == [
        *("first", "second", "third", "fifth", "twelfth", "twentieth", "forty second", "one hundredth")
    ]


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("pay £23.10", {"pay twenty three pounds ten", "pay twenty three pounds and ten pence", "pay twenty three ten"}),
        ("pay £0.05", {"pay five pence"}),
        ("£10/month", {"ten pounds per month", "ten quid per month"}),
        ("in 2024", {"in twenty twenty four", "in two thousand and twenty four"}),
        ("music of the 1990s, or 80s", {"music of the nineteen nineties, or eighties"}),
        ("9am–5pm", {"nine a m to five p m"}),
        ("€1.01", {"one euro and one cent"}),
        ("send $5", {"send five dollars", "send five bucks"}),
        ("$5k", {"five thousand dollars"}),
        ("GBP 1,250", {"one thousand two hundred and fifty pounds"}),
        ("50 EUR or 3€", {"fifty euros or three euros"}),
        ("12% or 3.5 %", {"twelve percent or three point five percent"}),
        ("on the 3rd of May", {"on the third of May", "on May third", "on May the third"}),
        ("2024-05-03", {"the third of May twenty twenty four", "May third two thousand and twenty four"}),
        ("31/12/1999", {"the thirty first of December nineteen ninety nine"}),
        ("03/05/24", {"the third of May twenty twenty four", "the fifth of March twenty twenty four"}),
        ("at 14:30", {"at fourteen thirty", "at two thirty", "at half past two"}),
        ("at 9.05 a.m.", {"at nine oh five a m"}),
        ("at 10am", {"at ten a m"}),
        ("the 22nd time", {"the twenty second time"}),
        ("call 020 7946 0958", {"call oh two oh seven nine four six oh nine five eight"}),
        ("call +44 20 7946 0958", {"call plus four four two zero seven nine four six zero nine five eight"}),
        ("account 12345678", {"account one two three four five six seven eight"}),
        ("pin 0042", {"pin zero zero four two", "pin double oh four two"}),
        ("in 1999", {"in nineteen ninety nine", "in one nine nine nine"}),
        ("1,240.50", {"one thousand two hundred and forty point five zero"}),
        ("5-10 kg", {"five to ten kilos", "five to ten kilograms"}),
        ("1kg", {"one kilo"}),
        ("1/2 a pint 24/7", {"half a pint twenty four seven"}),
        ("20°C", {"twenty degrees C"}),
        ("pls call asap, thx", {"please call as soon as possible, thanks"}),
        ("fish & chips w/o salt", {"fish and chips without salt"}),
        ("mail a.b@example.com", {"mail a dot b at example dot com"}),
        ("don't, I'm 25!", {"don't, I'm twenty five!"}),
        ("hello 👋 :-) **now**", {"hello now"}),
        ("see https://example.com/a?b=1 please", {"see please"}),
        ("U.S. or R&B, r u ok", {"U.S. or R and B, are you okay"}),
        ("near St Paul's, 12 Main St.", {"near Saint Paul's, twelve Main street"}),
        ("open 8-3 for 8p 8-) <3", {"open eight to three for eight p"}),
        ("-5 degrees by 5G, no. 7", {"minus five degrees by five G, number seven"}),
        ("👍", {""}),
        ("?!", {""}),
    ],
)
def test_what_is_typed_is_said(typed: str, said: Set[str]) -> None:
    found = readings(typed)
    assert said <= found
    assert not any(sign in reading for reading in found for sign in "0123456789£$€%@/*_#")


def test_what_no_date_or_time_can_be_is_read_all_the_same() -> None:
    for typed in (
        "2024-19-99",
        "99/99/2024",
        "at 31:77",
        "May 77",
        "£" + "9" * 40,
        "7" * 40,
        "1.2.3.4",
        "1st2nd",
        "$.5",
        "5--3",
        "0/0",
    ):
        for said in readings(typed):
            assert any(map(str.isalpha, said)) and not any(map(str.isdigit, said))


def test_entities_are_said_by_their_words_or_by_others_of_their_kind() -> None:
    reader = Reader("en", values={"city": ["Paris", "Rome"]}, synonyms={"NYC": ["the big apple"]})
    assert readings("to [London](city)", reader) == {"to London", "to Paris", "to Rome"}
    typed = 'to [nyc]{"entity": "city", "value": "NYC"} by [train](by)'
    assert readings(typed, reader) == {f"to {city} by train" for city in ("nyc", "Paris", "Rome", "the big apple")}
    assert readings('[A](a) to [B][{"entity": "b"}, {"entity": "c"}]', reader) == {"A to B"}
    assert readings('[A]{"entity": nonsense}', reader) == {"A"}
    assert {reader.words("to [London](city)", np.random.default_rng(seed), True) for seed in range(20)} == {"to London"}


def test_other_languages_keep_their_figures_for_the_engine() -> None:
    reader = Reader("de", values={"stadt": ["Köln"]})
    assert readings("am 3. Mai nach [Bonn](stadt) für 23,10 € 👍", reader) == {
        *("am 3. Mai nach Bonn für 23,10 €", "am 3. Mai nach Köln für 23,10 €")
    }


def test_a_seed_gives_one_reading() -> None:
    text = "pay £23.10 on 3 May at 14:30"
    assert len({Reader().words(text, np.random.default_rng(7)) for _ in range(5)}) == 1
