"""What happened in a call, as the steps of a Rasa test story, and turns that are recorded with it."""

import asyncio
import logging
from dataclasses import replace
from typing import Any, Awaitable, Callable, Dict, List, Set

import numpy as np
from rasa.shared.core.domain import Domain
from rasa.shared.core.events import SlotSet, UserUttered
from rasa.shared.core.trackers import DialogueStateTracker
from rasa.shared.core.training_data.story_writer.yaml_story_writer import YAMLStoryWriter
from rasa.shared.core.training_data.structures import StoryStep

from spoken_intents.recordings import WAITING, About, Recorder

logger = logging.getLogger(__name__)

Steps = List[Dict[str, Any]]
MOST_EVENTS = 1_000  # that are looked at, from the end of a conversation
STEPS_S = 2  # how long the tracker store may take: a server that ends waits for it, too


def steps_between(tracker: DialogueStateTracker, call_id: str, since: float, until: float, domain: Domain) -> Steps:
    """The steps of one call, later than `since` and no later than `until` (seconds since the epoch).

    A conversation may have several calls, at the same time, too, and some of them not want to be recorded: of this call are what
    the user said in it, and what followed each, up to what a user says next. Of slots only those count that a conversation
    depends on: others may hold what a caller said.
    """
    is_ours, of_call = False, []
    for event in list(tracker.events)[-MOST_EVENTS:]:
        if isinstance(event, UserUttered):
            is_ours = (event.metadata or {}).get("call_id") == call_id
        if is_ours and event.timestamp <= until:
            of_call.append(event)
    applied = DialogueStateTracker.from_events(tracker.sender_id, of_call, domain.slots).applied_events()
    decisive = {slot.name for slot in domain.slots if slot.influence_conversation}
    told = [event for event in applied if event.timestamp > since and (not isinstance(event, SlotSet) or event.key in decisive)]
    (story,) = YAMLStoryWriter().stories_to_yaml([StoryStep("", events=told)], is_test_story=True)["stories"]
    return [dict(step) for step in story["steps"]]


class StoryRecorder:
    """Has turns recorded, each with its steps, which are asked for behind the turn's end: nobody waits for them."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._asking: "Set[asyncio.Task[None]]" = set()

    def start(self) -> None:
        """See `Recorder.start`."""
        self.recorder.start()

    def record(self, samples: np.ndarray, about: About, steps: Callable[[], Awaitable[Steps]]) -> None:
        """Has the samples (float32, 16 kHz) written, with what `steps` gives; without, where that fails, takes longer than
        `STEPS_S`, or too many are asked for already."""
        if len(self._asking) >= WAITING:
            self.recorder.record(samples, about)
            return
        task = asyncio.create_task(self._record(samples, about, steps))
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _record(self, samples: np.ndarray, about: About, steps: Callable[[], Awaitable[Steps]]) -> None:
        try:
            about = replace(about, steps=await asyncio.wait_for(steps(), STEPS_S))
        except Exception:  # a recording is worth more than its story
            logger.exception("Call %s: a turn is recorded without what the bot did.", about.call_id)
        self.recorder.record(samples, about)

    async def close(self) -> None:
        """Records what is asked about still, and ends (see `Recorder.close`)."""
        if self._asking:
            await asyncio.wait(self._asking)
        await asyncio.get_running_loop().run_in_executor(None, self.recorder.close)
