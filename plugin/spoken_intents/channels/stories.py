"""What happened in a conversation, as the steps of a Rasa test story."""

from typing import Any, Dict, List, Tuple

from rasa.shared.core.domain import Domain
from rasa.shared.core.events import SlotSet
from rasa.shared.core.trackers import DialogueStateTracker
from rasa.shared.core.training_data.story_writer.yaml_story_writer import YAMLStoryWriter
from rasa.shared.core.training_data.structures import StoryStep


def steps_since(tracker: DialogueStateTracker, since: float, domain: Domain) -> Tuple[List[Dict[str, Any]], float]:
    """The steps after `since` (seconds since the epoch), and the time of the last.

    Of slots only those that a conversation depends on: others may hold what a caller said.
    """
    decisive = {slot.name for slot in domain.slots if slot.influence_conversation}
    events = [event for event in tracker.applied_events() if event.timestamp > since]
    told = [event for event in events if not isinstance(event, SlotSet) or event.key in decisive]
    (story,) = YAMLStoryWriter().stories_to_yaml([StoryStep("", events=told)], is_test_story=True)["stories"]
    return [dict(step) for step in story["steps"]], max([since, *(event.timestamp for event in events)])
