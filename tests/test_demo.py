"""What the demo promises to show, and that it notices when a turn goes wrong."""

import pytest
import yaml
from demo import compare

from assistant import PROJECT
from spoken_intents.client import Answer

TURNS = yaml.safe_load((PROJECT / "demo.yml").read_text())


def test_the_conversation_shows_what_it_should() -> None:
    heard = [turn.get("intent", "anything") for turn in TURNS]
    assert len(TURNS) >= 8
    assert sum(bool(turn.get("short")) for turn in TURNS) < len(TURNS)
    assert {"latest_transactions", "balance", "goodbye"} <= set(heard)
    assert heard[heard.index("affirm") - 1] == "pay_bill", "a confirmation with yes"
    assert heard[heard.index("deny") - 1] == "freeze", "and one with no"
    assert None in heard, "noise, of which nothing comes"
    (foreign,) = [turn for turn in TURNS if "intent" not in turn]
    assert set(foreign["answer"]) == {"I can tell you your balance", "I did not catch that"}, "what the bank cannot help with"
    balances = [turn["answer"] for turn in TURNS if turn.get("intent") == "balance"]
    assert len(set(balances)) == 2, "a change and a later turn that shows it"
    for turn in TURNS:
        assert (PROJECT / f"audio/demo/{turn['clip']}.ogg").is_file()


def answer(intent: str, text: str) -> Answer:
    return Answer(heard={"intent": intent, "confidence": 0.9}, messages=[{"response": text}])


@pytest.mark.parametrize(
    ("got", "difference"),
    [
        (answer("balance", "Your balance is £1,240.50."), ""),
        (answer("freeze", "Your balance is £1,240.50."), "expected to hear balance, heard freeze"),
        (answer("balance", "Sorry?"), "expected the answer to hold '£1,240.50', got 'Sorry?'"),
        (None, "expected to hear balance, heard None"),
    ],
)
def test_a_turn_that_goes_wrong_is_a_difference(got: Answer, difference: str) -> None:
    assert difference in compare({"clip": "x", "intent": "balance", "answer": "£1,240.50"}, got)
    assert bool(difference) == bool(compare({"clip": "x", "intent": "balance", "answer": "£1,240.50"}, got))


def test_one_of_several_answers_is_enough() -> None:
    turn = {"clip": "cake", "answer": ["I can tell", "did not catch"]}
    assert compare(turn, answer("freeze", "Sorry, I did not catch that.")) == ""
    assert "expected the answer to hold" in compare(turn, answer("freeze", "Shall I freeze it?"))
    assert "expected the answer to hold" in compare(turn, None)


def test_noise_that_becomes_a_turn_is_a_difference() -> None:
    assert compare({"clip": "noise", "intent": None}, None) == ""
    assert "expected to hear None, heard greet" in compare({"clip": "noise", "intent": None}, answer("greet", "Hello"))
