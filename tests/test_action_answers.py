"""What the action server answers is checked as before, and the schema that it is checked by once."""

import sys
from decimal import Decimal
from typing import Any, List

import jsonschema
import pytest
from rasa.core.actions.action import RemoteAction

from spoken_intents.action_answers import judge_schemas_once

GOOD = {"events": [{"event": "slot", "name": "city", "value": "Leeds", "timestamp": None}], "responses": [{"text": "Hello"}]}
BAD = {"events": [{"event": "no such event"}], "responses": []}


@pytest.fixture(autouse=True)
def once() -> None:
    judge_schemas_once()
    judge_schemas_once()  # each channel does it


def calls(name: str, function: Any) -> int:
    """How often functions of that name were called while `function` ran."""
    seen: List[str] = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, _: seen.append(frame.f_code.co_name) if event == "call" else None)
    try:
        function()
    finally:
        sys.setprofile(before)
    return seen.count(name)


def test_rasa_still_refuses_what_is_no_answer() -> None:
    action = RemoteAction("action_balance", None)
    for _ in range(2):
        assert action._validate_action_result(GOOD)
        with pytest.raises(jsonschema.ValidationError, match="no such event"):
            action._validate_action_result(BAD)


def test_its_schema_is_judged_once() -> None:
    action = RemoteAction("action_balance", None)
    action._validate_action_result(GOOD)
    again = calls("iter_errors", lambda: action._validate_action_result(GOOD))
    assert 0 < again < 500  # those of the answer itself; the schema's own are two thousand more


def test_a_wrong_schema_is_refused_each_time() -> None:
    for _ in range(2):
        with pytest.raises(jsonschema.SchemaError):
            jsonschema.validate({}, {"type": "no such type"})
    jsonschema.validate({}, {"type": "object"})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate([], {"type": "object"})


def test_a_schema_that_json_cannot_hold_is_judged_all_the_same() -> None:
    jsonschema.validate(Decimal(1), {"enum": [Decimal(1)]})
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(Decimal(2), {"enum": [Decimal(1)]})
    for _ in range(2):
        with pytest.raises(jsonschema.SchemaError):
            jsonschema.validate(Decimal(1), {"enum": [Decimal(1)], "type": "no such type"})


def test_a_validator_of_ones_own_judges_as_well() -> None:
    validator = jsonschema.Draft202012Validator({})
    validator.check_schema({"type": "object"})
    with pytest.raises(jsonschema.SchemaError):
        validator.check_schema({"type": "no such type"})
