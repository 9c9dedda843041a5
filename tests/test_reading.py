"""What is spoken of a written text."""

import pytest

from spoken_intents.reading import LONGEST_SENTENCE, sentences

pytestmark = pytest.mark.filterwarnings("error")


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Your balance is £1,204.50.", "Your balance is 1204 pounds 50."),
        ("That is £1.", "That is 1 pound."),
        ("It costs $0.99, or €20.00", "It costs 99 cents, or 20 euros"),
        ("GBP 84.05 and ¥500", "84 pounds 5 and 500 yen"),
        ("From £1,000 to £250,000", "From 1000 pounds to 250000 pounds"),
        ("£12345, EUR 123456 or $ 54321", "12345 pounds, 123456 euros or 54321 dollars"),
        ("2,500 people, 3.75 percent", "2500 people, 3.75 percent"),
        ("Due on 2026-05-12.", "Due on 12 May 2026."),
        ("Version 2026-13-40", "Version 2026-13-40"),
        ("To GB29 NWBK 6016 1331 9268 19 now", "To G B 2 9, N W B K, 6 0 1 6, 1 3 3 1, 9 2 6 8, 1 9 now"),
        ("To DE89370400440532013000", "To D E 8 9, 3 7 0 4, 0 0 4 4, 0 5 3 2, 0 1 3 0, 0 0"),
        ("Card 12345678", "Card 1 2 3, 4 5 6, 7 8"),
        ("In 2026 and 1999", "In 2026 and 1999"),
        ("Pi is 3.14159265", "Pi is 3.14159265"),
        ("**Well** done, `Anna` 🎉👍🏽", "Well done, Anna"),
        ("- see [our page](https://bank.example/a_b)", "see our page"),
        ("# Help\u200d", "Help"),
        ("5 * 3 * 2 and snake_case", "5 * 3 * 2 and snake_case"),
        ("See https://bank.example/x?y=1 for more", "See for more"),
        ("I <b>mean</b> it", "I mean it"),
    ],
)
def test_people_read_it_so(written: str, spoken: str) -> None:
    assert sentences(written) == [spoken]


def test_each_sentence_is_spoken_by_itself() -> None:
    text = 'Your bill is £84.20. Shall I pay it? He said "no." Then:\nWait... what!'
    assert sentences(text) == [
        "Your bill is 84 pounds 20.",
        "Shall I pay it?",
        'He said "no."',
        "Then:",
        "Wait...",
        "what!",
    ]


@pytest.mark.parametrize("text", ["", "   ", "🎉", "...", "https://bank.example", "- \n#\n"])
def test_what_cannot_be_spoken_makes_no_sentence(text: str) -> None:
    assert sentences(text) == []


def test_other_languages_keep_their_numbers() -> None:
    assert sentences("Es sind **1.204,50 €**. Gut? 🎉", "de") == ["Es sind 1.204,50 €.", "Gut?"]


def test_a_long_sentence_is_spoken_in_parts_and_whole() -> None:
    text = "one two three, " * 100 + "end"
    parts = sentences(text)
    assert max(map(len, parts)) <= LONGEST_SENTENCE
    assert " ".join(parts) == text
    unbroken = "x" * (3 * LONGEST_SENTENCE + 1)
    assert "".join(sentences(unbroken)) == unbroken
