"""Rasa checks each answer of the action server by a JSON schema, and before that, each time, the schema itself.

The second takes some 40 ms of the event loop for every custom action, in which no caller is heard; a form makes several.
The schema is always the same, so it is judged once.
"""

import json
from functools import lru_cache
from typing import Any, Dict

from jsonschema import Draft202012Validator  # what `jsonschema.validate` takes for a schema that names no draft

SCHEMAS = 32  # remembered; Rasa has one for these answers, other libraries may have some


def judge_schemas_once() -> None:
    """Has ``jsonschema.validate`` remember which schemas are valid. What fits a schema is judged as before; once is enough."""
    judge = Draft202012Validator.check_schema
    if hasattr(judge, "remembers"):
        return

    @lru_cache(SCHEMAS)  # which keeps no errors: a wrong schema is refused each time
    def judge_once(schema: str) -> None:
        judge(json.loads(schema))

    def check_schema(schema: Dict[str, Any], *arguments: Any, **options: Any) -> None:
        if arguments or options:  # by which the answer might change
            judge(schema, *arguments, **options)
            return
        try:
            as_text = json.dumps(schema, sort_keys=True)
        except TypeError:  # JSON cannot hold it; Python's validator may well take it
            judge(schema)
        else:
            judge_once(as_text)

    check_schema.remembers = True  # type: ignore[attr-defined]
    Draft202012Validator.check_schema = staticmethod(check_schema)
