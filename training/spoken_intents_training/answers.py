"""What a project's bot ought to do when it hears an intent out of the blue, by its own rules and stories."""

from collections import Counter
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from spoken_intents.errors import DataError
from spoken_intents_training.examples import read_yaml, yaml_files

Steps = List[Dict[str, Any]]
_OF_THE_BOT = {"action", "active_loop", "slot_was_set"}


def answer_to(project: Path, intent: str) -> Steps:
    """The steps that follow the intent in the one rule that begins with it, else most often in stories; none where neither says."""
    rules: List[Steps] = []
    stories: List[Steps] = []
    for file in yaml_files(project / "data"):
        try:
            content = read_yaml(file)
        except (DataError, OSError):  # `rasa train` says what is wrong with it
            continue
        for rule in _listed(content, "rules"):
            if not rule.get("condition") and _is_of(intent, rule["steps"][:1]):
                rules.append(_answer(rule["steps"][1:]))
        for story in _listed(content, "stories"):
            for place, step in enumerate(story["steps"]):
                if _is_of(intent, [step]):
                    stories.append(_answer(story["steps"][place + 1 :]))
    found = [rules[0]] if len(rules) == 1 else stories
    counted = Counter(map(str, filter(None, found)))
    return next((steps for steps in found if str(steps) in dict(counted.most_common(1))), [])


def in_a_form(steps: Steps) -> bool:
    """Whether a form asks at the end of these steps: then an intent means something else than out of the blue."""
    loops: List[Optional[str]] = [step["active_loop"] for step in steps if "active_loop" in step]
    return bool(loops and loops[-1])


def _listed(content: Dict[str, Any], name: str) -> Iterator[Dict[str, Any]]:
    for one in content.get(name) or []:
        if isinstance(one, dict) and isinstance(one.get("steps"), list) and all(isinstance(step, dict) for step in one["steps"]):
            yield one


def _is_of(intent: str, steps: Steps) -> bool:
    return bool(steps) and steps[0].get("intent") == intent and not steps[0].get("entities")


def _answer(steps: Steps) -> Steps:
    """What the bot does before anybody says something again."""
    told = []
    for step in steps:
        if not _OF_THE_BOT & set(step):
            break
        told.append(step)
    return told
