"""The example assistant's bank and actions, without a Rasa server."""

import asyncio
import re
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest
import yaml
from rasa.core.actions.action import ActionExtractSlots
from rasa.core.channels.channel import CollectingOutputChannel
from rasa.core.nlg.response import TemplatedNaturalLanguageGenerator
from rasa.shared.core.domain import Domain
from rasa.shared.core.events import ActiveLoop, SlotSet, UserUttered
from rasa.shared.core.trackers import DialogueStateTracker
from rasa_sdk import Tracker
from rasa_sdk.executor import ActionExecutor, CollectingDispatcher

from actions import actions, bank, words
from assistant import PROJECT, ROOT

DOMAIN = yaml.safe_load((PROJECT / "domain.yml").read_text(encoding="utf-8"))


@pytest.fixture(autouse=True)
def database(tmp_path, monkeypatch):
    path = tmp_path / "bank.db"
    monkeypatch.setenv("BANK_DB", str(path))
    return path


class Conversation:
    """One sender_id whose actions run as the action server runs them."""

    def __init__(self, sender_id="caller"):
        self.sender_id = sender_id

    def run(self, action, slots=None, events=(), entities=(), form=None):
        """The bot's messages and the events the action returned."""
        dispatcher = CollectingDispatcher()
        tracker = Tracker(
            self.sender_id,
            dict(slots or {}),
            {"entities": list(entities)},
            list(events),
            False,
            None,
            {"name": form} if form else {},
            None,
        )
        result = action.run(dispatcher, tracker, DOMAIN)
        returned = asyncio.run(result) if asyncio.iscoroutine(result) else result
        return dispatcher.messages, returned

    def say(self, action, **situation):
        """The one text the action says."""
        [message] = self.run(action, **situation)[0]
        return message["text"]

    def validate(self, form_action, slot, value):
        """The bot's messages and what the form's validator makes of a slot candidate."""
        event = {"event": "slot", "name": slot, "value": value, "timestamp": None}
        messages, returned = self.run(form_action, slots={slot: value}, events=[event], form=form_action.form_name())
        return messages, {e["name"]: e["value"] for e in returned}


def user(intent):
    return {"event": "user", "parse_data": {"intent": {"name": intent}}}


def bot(text, buttons=None):
    return {"event": "bot", "text": text, "data": {"buttons": buttons}}


def ran(action):
    return {"event": "action", "name": action}


# The bank


def test_customers_are_seeded_alike_and_live_apart():
    with bank.customer("a") as a:
        a.freeze_card()
        a.pay_open_bill()
        a.set_atm_limit(75_000)
        a.cancel_direct_debit("City Gym")
    with bank.customer("b") as b:
        assert b.balance_pence() == 124_050
        assert b.card().frozen_since is None
        assert b.card().atm_limit_pence == 50_000
        assert b.open_bill().amount_pence == 8_420
        assert len(b.direct_debits()) == 3
    with bank.customer("a") as a:
        assert a.balance_pence() == 124_050 - 8_420
        assert a.card().frozen_since == date.today()
        assert a.card().atm_limit_pence == 75_000
        assert len(a.direct_debits()) == 2


def test_a_bill_is_paid_once():
    with bank.customer("a") as a:
        bill = a.open_bill()
        assert a.pay_open_bill() == bill
        assert a.pay_open_bill() is None
        assert a.open_bill() is None
        assert a.balance_pence() == 124_050 - bill.amount_pence
        assert a.latest_transactions(1) == [bank.Payment(bill.payee, bill.amount_pence)]


def test_a_bill_above_the_balance_is_not_paid(database):
    with bank.customer("a"):
        pass
    poor(database)
    with bank.customer("a") as a:
        with pytest.raises(bank.InsufficientFunds, match="the bill is 8420, the balance 8419"):
            a.pay_open_bill()
        assert a.balance_pence() == 8_419
        assert a.open_bill() is not None


def poor(database):
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE accounts SET balance_pence = 8419")
    connection.close()


def test_latest_transactions_are_newest_first_and_counted():
    with bank.customer("a") as a:
        payees = [payment.payee for payment in a.latest_transactions(10)]
        assert payees == ["Corner Market", "Blue Door Cafe", "Northline Trains"]
        assert [payment.payee for payment in a.latest_transactions(2)] == payees[:2]


def test_cancelling_tells_whether_there_was_a_direct_debit():
    with bank.customer("a") as a:
        assert a.cancel_direct_debit("City Gym")
        assert not a.cancel_direct_debit("City Gym")
        assert not a.cancel_direct_debit("' OR 1=1 --")
        assert len(a.direct_debits()) == 2


def test_an_error_undoes_the_block():
    with bank.customer("a"):
        pass
    with pytest.raises(RuntimeError, match="line dropped"), bank.customer("a") as a:
        a.pay_open_bill()
        raise RuntimeError("line dropped")
    with bank.customer("a") as a:
        assert a.balance_pence() == 124_050
        assert a.open_bill() is not None


def test_concurrent_callers_seed_once_and_pay_once():
    def pay(_):
        with bank.customer("a") as a:
            return a.pay_open_bill()

    with ThreadPoolExecutor(8) as pool:
        paid = [bill for bill in pool.map(pay, range(32)) if bill]
    assert len(paid) == 1
    with bank.customer("a") as a:
        assert a.balance_pence() == 124_050 - 8_420


def test_customers_longest_unseen_are_forgotten_with_all_their_rows(database, monkeypatch):
    monkeypatch.setattr(bank, "MAX_CUSTOMERS", 3)
    monkeypatch.setattr(bank, "SEEN_EVERY_S", 0)
    for conversation in ("a", "b", "c", "a", "d", "e"):  # a is seen again before d comes
        with bank.customer(conversation):
            pass
    connection = sqlite3.connect(database)
    rows = connection.execute("SELECT conversation FROM customers ORDER BY conversation").fetchall()
    assert rows == [("a",), ("d",), ("e",)]
    for table, each in {
        "accounts": 1,
        "cards": 1,
        "bills": 1,
        "direct_debits": 3,
        "transactions": 3,
    }.items():
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (3 * each,)
    connection.close()


def test_an_answer_that_changes_nothing_writes_nothing(database):
    with bank.customer("a"):
        pass
    before = database.read_bytes()
    with bank.customer("a") as customer:
        customer.balance_pence()
    assert database.read_bytes() == before


def test_the_default_path_is_beside_the_project(monkeypatch):
    monkeypatch.delenv("BANK_DB")
    assert bank.default_path() == PROJECT / "bank.db"


# Words


@pytest.mark.parametrize("pence, text", [(50_000, "£500"), (8_420, "£84.20"), (124_050, "£1,240.50"), (5, "£0.05")])
def test_pounds(pence, text):
    assert words.pounds(pence) == text


@pytest.mark.parametrize(
    "text, pence",
    [
        ("750", 75_000),
        ("£1,000.50", 100_050),
        ("make it 600 please", 60_000),
        ("19.99", 1_999),
        ("Five hundred pounds", 50_000),
        ("two hundred and fifty", 25_000),
        ("a thousand", 100_000),
        ("two hundred and thirty pounds", 23_000),
        ("twenty five hundred", 250_000),
        ("Twenty-five hundred quid.", 250_000),
        ("one thousand five hundred", 150_000),
        ("a thousand and fifty", 105_000),
        ("nine hundred and ninety nine", 99_900),
        ("I'd like a hundred pounds a day, please", 10_000),
        ("Yes, raise it to £ 1,000", 100_000),
        ("£7.5", 750),
        ("zero", 0),
    ],
)
def test_parse_amount(text, pence):
    assert words.parse_amount(text) == pence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/inform",
        "as much as possible",
        "a pound",
        "-500",
        "minus five hundred",
        "not 500",
        "500 or 600",
        "five to six hundred",
        "raise it by 200",
        "200 more",
        "500 pence",
        "500 dollars",
        "2k",
        "1,00",
        "1.000",
        "10,00.00",
        "half a thousand",
        "two fifty",
        "one thousand five",  # 1,005 or 1,500
        "five hundred and",
        "five hundred pounds fifty",
        "twenty eleven",
        "hundred",
        "zero hundred",
        "ten thousand",
        "one hundred thousand",
        "one hundred two hundred",
        "five thousand six thousand",
        "five hundred and zero",
        "9" * 5000,
        "to " * 50_000,
    ],
)
def test_never_a_wrong_amount(text):
    """What is not surely one amount is none: the form asks again."""
    assert words.parse_amount(text) is None


def spelt(number):
    """The number as a British speaker says it."""
    if number < 20:
        return words.NUMBERS[number]
    if number < 100:
        tens = words.TENS[number // 10 - 2]
        return f"{tens} {words.NUMBERS[number % 10]}" if number % 10 else tens
    size, unit = (1000, "thousand") if number >= 1000 else (100, "hundred")
    many, rest = divmod(number, size)
    joint = " and " if rest < 100 else " "
    return f"{words.NUMBERS[many]} {unit}{joint + spelt(rest) if rest else ''}"


def test_every_number_in_words_is_itself():
    assert [words.parse_amount(spelt(number) + " pounds") for number in range(10_000)] == [100 * n for n in range(10_000)]
    assert spelt(2_345) == "two thousand three hundred and forty five"


# The actions


def test_every_action_of_the_domain_is_served_and_the_other_way_round():
    executor = ActionExecutor()
    executor.register_package("actions")
    assert set(executor.actions) == set(DOMAIN["actions"])


@pytest.mark.parametrize(
    "action, text",
    [
        (actions.ActionBalance(), "Your balance is £1,240.50."),
        (actions.ActionAddress(), "Your address with us is 12 Mill Lane, Bristol."),
        (actions.ActionHighValuePayment(), "You can transfer up to £10,000 a day."),
        (actions.ActionLatestTransactions(), "Your last payments were Corner Market £23.10, "),
    ],
)
def test_answers(action, text):
    assert Conversation().say(action).startswith(text)


def test_abroad_names_the_travel_notice():
    with bank.customer("caller") as customer:
        until = customer.card().travel_until
    assert Conversation().say(actions.ActionAbroad()) == (
        f"Your card works abroad. Your travel notice for Spain ends on {words.day(until)}."
    )


def test_freezing_after_a_yes():
    caller = Conversation()
    question = "Shall I freeze your debit card ending 4471 now?"
    assert caller.say(actions.ActionAskFreezeConfirmed()) == question
    for answer in (True, "again"):
        messages, slots = caller.validate(actions.ValidateFreezeForm(), "freeze_confirmed", answer)
        assert (messages, slots) == ([], {"freeze_confirmed": True})
    messages, events = caller.run(actions.ActionFreeze(), slots={"freeze_confirmed": True})
    assert messages[0]["text"] == "Done. Your debit card ending 4471 is frozen."
    assert events == [actions.SlotSet("freeze_confirmed", None)]

    today = words.day(date.today())
    assert caller.say(actions.ActionCardIssues()) == f"Your card has been frozen since {today}."
    _, events = caller.run(actions.ValidateFreezeForm(), form="freeze_form")
    assert events == [actions.SlotSet("requested_slot", None)]  # nothing left to ask
    assert caller.say(actions.ActionFreeze()) == f"Your card is already frozen, since {today}."


def test_not_freezing_after_a_no():
    caller = Conversation()
    _, slots = caller.validate(actions.ValidateFreezeForm(), "freeze_confirmed", False)
    assert slots == {"freeze_confirmed": False}
    text = caller.say(actions.ActionFreeze(), slots={"freeze_confirmed": False})
    assert text == "All right, I have not frozen your card."
    assert caller.say(actions.ActionCardIssues()) == ("Your debit card ending 4471 is active. Is it lost or stolen?")


def test_card_issues_asks_nothing_inside_a_form():
    text = Conversation().say(actions.ActionCardIssues(), form="pay_bill_form")
    assert text == "Your debit card ending 4471 is active."


def test_paying_the_bill_shows_in_the_balance_and_the_transactions():
    caller = Conversation()
    with bank.customer("caller") as customer:
        due = words.day(customer.open_bill().due)
    question = f"Your electricity bill of £84.20 is due on {due}. Shall I pay it?"
    assert caller.say(actions.ActionAskPaymentConfirmed()) == question
    _, slots = caller.validate(actions.ValidatePayBillForm(), "payment_confirmed", True)
    assert slots == {"payment_confirmed": True}
    messages, events = caller.run(actions.ActionPayBill(), slots=slots)
    assert messages[0]["text"] == "Done. I have paid £84.20 to Brightside Energy."
    assert events == [actions.SlotSet("payment_confirmed", None)]
    assert caller.say(actions.ActionBalance()) == "Your balance is £1,156.30."
    assert "Brightside Energy £84.20," in caller.say(actions.ActionLatestTransactions())

    _, events = caller.run(actions.ValidatePayBillForm(), form="pay_bill_form")
    assert events == [actions.SlotSet("requested_slot", None)]
    assert caller.say(actions.ActionPayBill()) == "You have no open bills."


def test_money_moves_on_a_clear_yes_only(database):
    caller = Conversation()
    messages, slots = caller.validate(actions.ValidatePayBillForm(), "payment_confirmed", "again")
    assert messages[0]["text"] == "Please say yes or no."
    assert slots == {"payment_confirmed": None}
    for unconfirmed in (False, None):
        text = caller.say(actions.ActionPayBill(), slots={"payment_confirmed": unconfirmed})
        assert text == "All right, I have not paid it."
    assert caller.say(actions.ActionBalance()) == "Your balance is £1,240.50."

    poor(database)
    text = caller.say(actions.ActionPayBill(), slots={"payment_confirmed": True})
    assert text == "Your balance is too low to pay this bill."


@pytest.mark.parametrize(
    "said, pence",
    [("suggested", 75_000), ("present", 50_000), ("50", 5_000), ("a thousand pounds", 100_000)],
)
def test_a_new_limit_is_understood(said, pence):
    messages, slots = Conversation().validate(actions.ValidateLimitForm(), "new_limit", said)
    assert (messages, slots) == ([], {"new_limit": pence})


@pytest.mark.parametrize("said", ["again", "49.99", "1000.01", "9" * 400, "lots"])
def test_an_impossible_limit_is_explained(said):
    messages, slots = Conversation().validate(actions.ValidateLimitForm(), "new_limit", said)
    assert messages[0]["text"] == "I can set any limit from £50 to £1,000."
    assert slots == {"new_limit": None}


def test_the_limit_rises_to_the_maximum_and_no_further():
    caller = Conversation()
    messages, _ = caller.run(actions.ActionAskNewLimit())
    assert messages[0]["text"] == ("Your cash machine limit is £500 a day. Shall I raise it to £750?")
    assert [button["payload"] for button in messages[0]["buttons"]] == [
        '/inform{"amount": "750"}',
        '/inform{"amount": "1000"}',
        "/deny",
    ]
    for wanted, text in (
        (50_000, "All right, your limit stays at £500 a day."),
        (90_000, "Done. Your cash machine limit is now £900 a day."),
    ):
        assert caller.say(actions.ActionSetLimit(), slots={"new_limit": wanted}) == text
    messages, _ = caller.run(actions.ActionAskNewLimit())
    assert messages[0]["text"].endswith("£900 a day. Shall I raise it to £1,000?")
    assert len(messages[0]["buttons"]) == 2
    caller.say(actions.ActionSetLimit(), slots={"new_limit": 100_000})
    _, events = caller.run(actions.ValidateLimitForm(), form="limit_form")
    assert events == [actions.SlotSet("requested_slot", None)]
    text = caller.say(actions.ActionSetLimit())
    assert text == "Your cash machine limit is £1,000 a day, the highest there is."


def test_keys_are_asked_for_where_there_are_keys():
    typed, called = ({**user("atm_limit"), "input_channel": channel} for channel in ("voice", "twilio_media_streams"))
    assert "press hash" not in Conversation().say(actions.ActionAskNewLimit(), events=[typed])
    assert Conversation().say(actions.ActionAskNewLimit(), events=[called]).endswith("Or key in another, and press hash.")


@pytest.mark.parametrize(
    "slot, intent, entities, value",
    [
        ("topic", "business_loan", {}, "a business loan"),
        ("topic", "balance", {}, None),
        ("freeze_confirmed", "affirm", {}, True),
        ("freeze_confirmed", "deny", {}, False),
        ("payment_confirmed", "affirm", {}, True),
        ("new_limit", "affirm", {}, "suggested"),
        ("new_limit", "deny", {}, "present"),
        ("new_limit", "dtmf", {"digits": "600"}, "600"),
        ("new_limit", "inform", {"amount": "750"}, "750"),
        ("new_limit", "greet", {}, None),
    ],
)
def test_slots_are_filled_without_a_slot_head(slot, intent, entities, value):
    """By Rasa itself, from the domain, while the form asks for the slot."""
    form = next((name for name, form in DOMAIN["forms"].items() if slot in form["required_slots"]), None)
    assert filled(slot, intent, entities, form).get(slot) == value
    if form:
        assert slot not in filled(slot, intent, entities, None), "said when nothing was asked"


def filled(slot, intent, entities, form):
    """What Rasa makes of a turn: the slots that it fills."""
    domain = Domain.load(str(PROJECT / "domain.yml"))
    found = [{"entity": name, "value": text} for name, text in entities.items()]
    asked = [ActiveLoop(form), SlotSet("requested_slot", slot)] if form else []
    said = UserUttered("said", {"name": intent}, found)
    tracker = DialogueStateTracker.from_events("caller", [*asked, said], slots=domain.slots, domain=domain)
    extraction = ActionExtractSlots(None).run(CollectingOutputChannel(), TemplatedNaturalLanguageGenerator({}), tracker, domain)
    return {event.key: event.value for event in asyncio.run(extraction) if isinstance(event, SlotSet)}


@pytest.mark.parametrize("block", re.findall(r"```yml\n(.*?)```", (ROOT / "docs/slots.md").read_text(), re.S))
def test_the_page_on_slots_shows_the_assistant(block):
    shown = yaml.safe_load(block)
    for part in ("intents", "entities"):
        assert [one for one in shown.get(part, []) if one not in DOMAIN[part]] == []
    for name, slot in shown["slots"].items():
        assert [mapping for mapping in slot.pop("mappings") if mapping not in DOMAIN["slots"][name]["mappings"]] == []
        assert slot.items() <= DOMAIN["slots"][name].items()


def test_a_colleague_is_told_what_it_is_about():
    domain = Domain.load(str(PROJECT / "domain.yml"))
    for events, topic in (([], "your question"), ([SlotSet("topic", "a large payment")], "a large payment")):
        tracker = DialogueStateTracker.from_events("caller", events, slots=domain.slots, domain=domain)
        said = TemplatedNaturalLanguageGenerator(domain.responses).generate("utter_agent", tracker, "voice")
        assert asyncio.run(said)["text"] == f"I am connecting you to a colleague about {topic}. One moment, please."


def test_direct_debits_are_listed_and_cancelled_by_button():
    caller = Conversation()
    messages, _ = caller.run(actions.ActionDirectDebit())
    assert messages[0]["text"] == ("Your direct debits are City Gym £29.99, Clearwater £38.50 and Talk Mobile £18.")
    assert messages[0]["buttons"][0]["payload"] == '/direct_debit{"payee": "City Gym"}'
    for payee in ("City Gym", "Clearwater", "Talk Mobile"):
        entity = {"entity": "payee", "value": payee}
        text = caller.say(actions.ActionDirectDebit(), entities=[entity])
        assert text == f"Your direct debit to {payee} is cancelled."
    assert caller.say(actions.ActionDirectDebit()) == "You have no direct debits."


def test_repeat_says_the_last_turn_again_with_its_buttons():
    events = [
        user("greet"),
        bot("Hello."),
        user("balance"),
        bot("One."),
        bot("Two?", actions.YES_NO),
        user("repeat"),
    ]
    messages, _ = Conversation().run(actions.ActionRepeat(), events=events)
    assert [message["text"] for message in messages] == ["One.", "Two?"]
    assert messages[1]["buttons"] == actions.YES_NO


def test_repeat_leaves_a_forms_question_to_the_form():
    events = [user("balance"), bot("One."), bot("Shall I?"), user("repeat")]
    messages, _ = Conversation().run(actions.ActionRepeat(), events=events, form="freeze_form")
    assert [message["text"] for message in messages] == ["One."]


def test_repeat_before_anything_was_said_greets():
    messages, _ = Conversation().run(actions.ActionRepeat(), events=[user("repeat")])
    assert messages[0]["response"] == "utter_greet"


def test_not_understood_once_asks_to_rephrase():
    events = [user("balance"), ran("action_balance"), user("nlu_fallback")]
    messages, returned = Conversation().run(actions.ActionDefaultFallback(), events=events)
    assert messages[0]["text"] == "Sorry, I did not catch that. Could you say it another way?"
    assert returned == [actions.FollowupAction("action_listen")]


def test_not_understood_once_in_a_form_lets_the_form_ask_again():
    events = [user("freeze"), user("nlu_fallback")]
    messages, returned = Conversation().run(actions.ActionDefaultFallback(), events=events, form="freeze_form")
    assert messages[0]["text"] == "Sorry, I did not catch that."
    assert returned == [actions.FollowupAction("freeze_form")]


@pytest.mark.parametrize("form", [None, "freeze_form"])
def test_not_understood_twice_in_a_row(form):
    missed = [user("nlu_fallback"), ran("action_default_fallback"), bot("Sorry.")]
    action = actions.ActionDefaultFallback()
    messages, returned = Conversation().run(action, events=[*missed, user("nlu_fallback")], form=form)
    if form:
        assert messages[0]["text"] == "Let us leave that for now. What else can I do for you?"
    else:
        assert messages[0]["response"] == "utter_out_of_scope"
    assert actions.ActiveLoop(None) in returned

    understood = [user("balance"), ran("action_balance"), bot("Your balance.")]
    messages, returned = Conversation().run(action, events=[*missed, *understood, user("nlu_fallback")], form=form)
    assert messages[0]["text"].startswith("Sorry, I did not catch that.")
