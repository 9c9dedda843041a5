"""What the assistant does and says when the answer lies in the bank's database.

Three forms ask before anything changes: freeze_form, pay_bill_form and limit_form. Each has an
action that asks (action_ask_<slot>), a validator, which also skips the question when there is
nothing to ask, and an action that runs when the form is done.
"""

from abc import ABC, abstractmethod
from typing import Any

from rasa_sdk import Action, FormValidationAction, Tracker
from rasa_sdk.events import ActiveLoop, FollowupAction, SlotSet
from rasa_sdk.executor import CollectingDispatcher

from . import bank
from .words import day, listing, parse_amount, pounds

MIN_ATM_LIMIT_PENCE = 50_00
MAX_ATM_LIMIT_PENCE = 1_000_00
ATM_LIMIT_STEP_PENCE = 250_00

TELEPHONE = "twilio_media_streams"  # where there are keys, and no buttons
YES_NO = [{"title": "Yes", "payload": "/affirm"}, {"title": "No", "payload": "/deny"}]

Events = list[dict[str, Any]]


class Answer(Action, ABC):
    """An action that reads the customer's data and says one thing."""

    @abstractmethod
    def answer(self, customer: bank.Customer) -> str: ...

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        with bank.customer(tracker.sender_id) as customer:
            dispatcher.utter_message(text=self.answer(customer))
        return []


class ActionBalance(Answer):
    def name(self) -> str:
        return "action_balance"

    def answer(self, customer: bank.Customer) -> str:
        return f"Your balance is {pounds(customer.balance_pence())}."


class ActionLatestTransactions(Answer):
    def name(self) -> str:
        return "action_latest_transactions"

    def answer(self, customer: bank.Customer) -> str:
        return f"Your last payments were {listing(customer.latest_transactions(3))}."


class ActionAddress(Answer):
    def name(self) -> str:
        return "action_address"

    def answer(self, customer: bank.Customer) -> str:
        return f"Your address with us is {customer.address()}. A colleague can change it for you."


class ActionAbroad(Answer):
    def name(self) -> str:
        return "action_abroad"

    def answer(self, customer: bank.Customer) -> str:
        card = customer.card()
        until = day(card.travel_until)
        return f"Your card works abroad. Your travel notice for {card.travel_country} ends on {until}."


class ActionHighValuePayment(Answer):
    def name(self) -> str:
        return "action_high_value_payment"

    def answer(self, customer: bank.Customer) -> str:
        limit = pounds(customer.transfer_limit_pence())
        return f"You can transfer up to {limit} a day. A colleague can help with more."


class ActionCardIssues(Action):
    def name(self) -> str:
        return "action_card_issues"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        with bank.customer(tracker.sender_id) as customer:
            card = customer.card()
        text = f"Your debit card ending {card.last4} is active."
        if card.frozen_since:
            text = f"Your card has been frozen since {day(card.frozen_since)}."
        elif not tracker.active_loop_name:  # a form asks its own question again right after this
            text += " Is it lost or stolen?"
        dispatcher.utter_message(text=text)
        return []


class ActionDirectDebit(Action):
    """Lists the direct debits, or cancels the one whose button was pressed."""

    def name(self) -> str:
        return "action_direct_debit"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        payee = next(tracker.get_latest_entity_values("payee"), None)
        with bank.customer(tracker.sender_id) as customer:
            cancelled = payee is not None and customer.cancel_direct_debit(payee)
            debits = customer.direct_debits()
        if cancelled:
            dispatcher.utter_message(text=f"Your direct debit to {payee} is cancelled.")
        elif debits:
            dispatcher.utter_message(
                text=f"Your direct debits are {listing(debits)}.",
                buttons=[self._cancel_button(debit.payee) for debit in debits],
            )
        else:
            dispatcher.utter_message(text="You have no direct debits.")
        return []

    @staticmethod
    def _cancel_button(payee: str) -> dict[str, str]:
        return {"title": f"Cancel {payee}", "payload": f'/direct_debit{{"payee": "{payee}"}}'}


class ActionAskFreezeConfirmed(Action):
    def name(self) -> str:
        return "action_ask_freeze_confirmed"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        with bank.customer(tracker.sender_id) as customer:
            last4 = customer.card().last4
        dispatcher.utter_message(text=f"Shall I freeze your debit card ending {last4} now?", buttons=YES_NO)
        return []


class ValidateFreezeForm(FormValidationAction):
    def name(self) -> str:
        return "validate_freeze_form"

    async def required_slots(self, domain_slots, dispatcher, tracker, domain) -> list[str]:
        with bank.customer(tracker.sender_id) as customer:
            return [] if customer.card().frozen_since else domain_slots

    def validate_freeze_confirmed(self, value, dispatcher, tracker, domain) -> dict[str, Any]:
        """Asking for it again is a yes: better a card frozen than one left open."""
        return {"freeze_confirmed": value in (True, "again")}


class ActionFreeze(Action):
    def name(self) -> str:
        return "action_freeze"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        with bank.customer(tracker.sender_id) as customer:
            card = customer.card()
            if card.frozen_since:
                text = f"Your card is already frozen, since {day(card.frozen_since)}."
            elif tracker.get_slot("freeze_confirmed"):
                customer.freeze_card()
                text = f"Done. Your debit card ending {card.last4} is frozen."
            else:
                text = "All right, I have not frozen your card."
        dispatcher.utter_message(text=text)
        return [SlotSet("freeze_confirmed", None)]


class ActionAskPaymentConfirmed(Action):
    def name(self) -> str:
        return "action_ask_payment_confirmed"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        with bank.customer(tracker.sender_id) as customer:
            bill = customer.open_bill()
        dispatcher.utter_message(
            text=f"Your {bill.service} bill of {pounds(bill.amount_pence)} is due on {day(bill.due)}. Shall I pay it?",
            buttons=YES_NO,
        )
        return []


class ValidatePayBillForm(FormValidationAction):
    def name(self) -> str:
        return "validate_pay_bill_form"

    async def required_slots(self, domain_slots, dispatcher, tracker, domain) -> list[str]:
        with bank.customer(tracker.sender_id) as customer:
            return domain_slots if customer.open_bill() else []

    def validate_payment_confirmed(self, value, dispatcher, tracker, domain) -> dict[str, Any]:
        """Money moves on a clear yes only, and asking for it again is none."""
        if value == "again":
            dispatcher.utter_message(text="Please say yes or no.")
            return {"payment_confirmed": None}
        return {"payment_confirmed": value}


class ActionPayBill(Action):
    def name(self) -> str:
        return "action_pay_bill"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        confirmed = tracker.get_slot("payment_confirmed")
        with bank.customer(tracker.sender_id) as customer:
            if not customer.open_bill():
                text = "You have no open bills."
            elif confirmed:
                text = self._pay(customer)
            else:
                text = "All right, I have not paid it."
        dispatcher.utter_message(text=text)
        return [SlotSet("payment_confirmed", None)]

    @staticmethod
    def _pay(customer: bank.Customer) -> str:
        try:
            bill = customer.pay_open_bill()
        except bank.InsufficientFunds:
            return "Your balance is too low to pay this bill."
        return f"Done. I have paid {pounds(bill.amount_pence)} to {bill.payee}."


def suggested_limit_pence(limit_pence: int) -> int:
    """One step above the limit, at most the maximum."""
    return min(limit_pence + ATM_LIMIT_STEP_PENCE, MAX_ATM_LIMIT_PENCE)


class ActionAskNewLimit(Action):
    def name(self) -> str:
        return "action_ask_new_limit"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        with bank.customer(tracker.sender_id) as customer:
            limit = customer.card().atm_limit_pence
        suggested = suggested_limit_pence(limit)
        offers = sorted({suggested, MAX_ATM_LIMIT_PENCE})
        keys = " Or key in another, and press hash." if tracker.get_latest_input_channel() == TELEPHONE else ""
        dispatcher.utter_message(
            text=f"Your cash machine limit is {pounds(limit)} a day. Shall I raise it to {pounds(suggested)}?{keys}",
            buttons=[{"title": pounds(offer), "payload": f'/inform{{"amount": "{offer // 100}"}}'} for offer in offers]
            + [{"title": f"Keep {pounds(limit)}", "payload": "/deny"}],
        )
        return []


class ValidateLimitForm(FormValidationAction):
    """Turns what was said into pence: yes is the suggested limit, no the present one."""

    def name(self) -> str:
        return "validate_limit_form"

    async def required_slots(self, domain_slots, dispatcher, tracker, domain) -> list[str]:
        with bank.customer(tracker.sender_id) as customer:
            limit = customer.card().atm_limit_pence
        return domain_slots if limit < MAX_ATM_LIMIT_PENCE else []

    def validate_new_limit(self, value, dispatcher, tracker, domain) -> dict[str, Any]:
        with bank.customer(tracker.sender_id) as customer:
            limit = customer.card().atm_limit_pence
        if value == "suggested":
            return {"new_limit": suggested_limit_pence(limit)}
        if value == "present":
            return {"new_limit": limit}
        wanted = None if value == "again" else parse_amount(str(value))
        if wanted is not None and MIN_ATM_LIMIT_PENCE <= wanted <= MAX_ATM_LIMIT_PENCE:
            return {"new_limit": wanted}
        lowest, highest = pounds(MIN_ATM_LIMIT_PENCE), pounds(MAX_ATM_LIMIT_PENCE)
        dispatcher.utter_message(text=f"I can set any limit from {lowest} to {highest}.")
        return {"new_limit": None}


class ActionSetLimit(Action):
    def name(self) -> str:
        return "action_set_limit"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        wanted = tracker.get_slot("new_limit")
        with bank.customer(tracker.sender_id) as customer:
            limit = customer.card().atm_limit_pence
            if wanted is None:
                text = f"Your cash machine limit is {pounds(limit)} a day, the highest there is."
            elif wanted == limit:
                text = f"All right, your limit stays at {pounds(limit)} a day."
            else:
                customer.set_atm_limit(wanted)
                text = f"Done. Your cash machine limit is now {pounds(wanted)} a day."
        dispatcher.utter_message(text=text)
        return [SlotSet("new_limit", None)]


class ActionRepeat(Action):
    """Says again what the assistant said last, buttons included."""

    def name(self) -> str:
        return "action_repeat"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        messages = last_bot_messages(tracker.events)
        if tracker.active_loop_name:
            messages = messages[:-1]  # the last one is the form's question; the form asks it again
        elif not messages:
            dispatcher.utter_message(response="utter_greet")
        for message in messages:
            buttons = (message.get("data") or {}).get("buttons")
            dispatcher.utter_message(text=message["text"], buttons=buttons)
        return []


def last_bot_messages(events: Events) -> Events:
    """The bot's messages in the latest turn that has any, oldest first."""
    messages: Events = []
    for event in reversed(events):
        if event["event"] == "bot":
            messages.insert(0, event)
        elif event["event"] == "user" and messages:
            break
    return messages


class ActionDefaultFallback(Action):
    """Asks to rephrase; the second time in a row it leaves the form, or says what it can do.

    Runs for nlu_fallback and for every turn that no rule or story continues.
    """

    def name(self) -> str:
        return "action_default_fallback"

    def run(self, dispatcher: CollectingDispatcher, tracker: Tracker, domain: dict) -> Events:
        form = tracker.active_loop_name
        if not missed_previous_turn(tracker.events):
            rephrase = "" if form else " Could you say it another way?"
            dispatcher.utter_message(text=f"Sorry, I did not catch that.{rephrase}")
            return [FollowupAction(form or "action_listen")]
        if form:
            dispatcher.utter_message(text="Let us leave that for now. What else can I do for you?")
        else:
            dispatcher.utter_message(response="utter_out_of_scope")
        return [ActiveLoop(None), SlotSet("requested_slot", None), FollowupAction("action_listen")]


def missed_previous_turn(events: Events) -> bool:
    """Whether the user's turn before the present one was not understood either."""
    turns_back = 0
    for event in reversed(events):
        if event["event"] == "user":
            turns_back += 1
        elif turns_back == 1 and event.get("name") == "action_default_fallback":
            return True
    return False
