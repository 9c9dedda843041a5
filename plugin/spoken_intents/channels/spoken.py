"""What the channels of speech share: the Rasa side of a session, and who ends it. Rasa and Sanic glue only."""

import asyncio
import gc
import logging
import time
import uuid
from datetime import datetime, timezone
from functools import partial
from typing import Any, Awaitable, Callable, Coroutine, Dict, Iterable, List, Optional, Set, Tuple

import numpy as np
from rasa.core.agent import Agent
from rasa.core.channels.channel import InputChannel, OutputChannel, UserMessage
from rasa.shared.core.domain import Domain
from sanic import Blueprint, Sanic
from sanic.request import Request
from sanic.response import HTTPResponse, raw
from sanic.response import json as json_response

from spoken_intents import metrics
from spoken_intents import recognizer as recognizers
from spoken_intents.action_answers import judge_schemas_once
from spoken_intents.channels.actions import failures, notice_failures
from spoken_intents.channels.stories import Steps, StoryRecorder, steps_between
from spoken_intents.errors import ActionError, ProtocolError, UnwellError
from spoken_intents.health import Probe
from spoken_intents.logs import LogContext, name_calls
from spoken_intents.recognizer import Recognizer
from spoken_intents.recordings import RANKED, About, Recorder, RecordingSettings
from spoken_intents.segmenter import Segmenter
from spoken_intents.session import Line, SessionSettings, SpokenSession
from spoken_intents.speech import Speech, SpeechSettings, make_speech
from spoken_intents.turns import Happening, Turn
from spoken_intents.utterances import hand_off
from spoken_intents.workers import Workers

logger = logging.getLogger(__name__)

OnNewMessage = Callable[[UserMessage], Awaitable[Any]]
NO_RECOGNIZER = (
    "The loaded Rasa model hears nothing: it has no trained SpokenIntentClassifier. Add it to the pipeline in "
    "config.yml, give it spoken examples, and run rasa train."
)
RECORD = "record"  # the parameter by which callers refuse to be recorded
EVER_ANSWERED = ("/metrics", "/health")  # also by a server that ends
GOING_DOWN = ProtocolError("going_down", "This server is about to end. Call again: the conversation goes on where it was.", 1012)


def agent_of(app: Sanic) -> Optional[Agent]:
    """Rasa's agent with the model that `app` serves now; None while it has none."""
    return getattr(app.ctx, "agent", None)


def recognizer_of(app: Sanic) -> Optional[Recognizer]:
    """The recognizer of the Rasa model that `app` serves now; None when it has none."""
    agent = agent_of(app)
    return recognizers.live(agent.model_id if agent else None)


def settle(app: Sanic) -> None:
    """To be called when calls may begin; does something once for each Rasa model that `app` serves.

    Rasa and a trained assistant are half a million objects. Every now and then Python looks through all of them for cycles
    that nobody needs any more, and for these 0.4 s no call is heard. Once frozen they are not looked at; what calls leave
    behind still is.

    This itself is such a look: when a model was replaced, calls in progress are not heard for as long, once. It freezes what
    they have at that moment, too; cycles that they leave behind of that are kept until the next model.
    """
    agent = agent_of(app)
    model = agent.model_id if agent else None
    if getattr(app.ctx, "settled", "") != model:
        app.ctx.settled = model
        gc.unfreeze()  # so that the model before this one can go
        gc.collect()
        gc.freeze()


def said_yes(parameters: Iterable[Tuple[str, str]]) -> bool:
    """Whether a caller may be recorded by its parameters, names and values: whatever is called ``record`` says ``true``."""
    return all(value == "true" for name, value in parameters if name.casefold() == RECORD)


class SpokenInput(InputChannel):
    """A channel of speech: what its calls share, and what ends with the server.

    Args:
        speech: How the bot speaks.
        recordings: Whether callers are recorded.
        audio_files: Whether text may name files while this channel serves.

    Attributes:
        ending: Whether the server was told to end: it takes no more calls.
    """

    def __init__(
        self, settings: SessionSettings, speech: SpeechSettings, recordings: RecordingSettings, audio_files: bool = False
    ) -> None:
        judge_schemas_once()
        name_calls()
        notice_failures()
        Segmenter(settings)  # a detector that is not installed is told now, not to the first caller
        self.speech: Optional[Speech] = make_speech(speech)  # likewise a voice
        self.recorder = StoryRecorder(Recorder(recordings)) if recordings.recordings else None  # likewise a directory
        self.workers = Workers()
        self._audio_files = audio_files
        self.ending = False
        self._probe = Probe(self.workers)
        self._told = ""  # what the log says of this server's health
        self._ends_at: Optional[float] = None  # by ``time.monotonic``
        self._ending: Set["asyncio.Task[None]"] = set()  # such as sessions whose last turn is still with Rasa
        self._watching: "Optional[asyncio.Task[None]]" = None

    @property
    def calls(self) -> int:
        """Those that are open."""
        return 0

    async def health(self, app: Sanic) -> Dict[str, Any]:
        """What is known of whether calls can be answered; with ``error`` when they cannot."""
        agent, recognizer = agent_of(app), recognizer_of(app)
        model = agent.model_id if agent else None
        known: Dict[str, Any] = {"model": model, "calls": self.calls, "waiting": self.workers.waiting}
        if recognizer is not None and recognizer.remote is not None:
            known["servers"] = {"in_use": len(recognizer.remote.in_use), "of": len(recognizer.remote.servers)}
        try:
            if self.ending:
                raise UnwellError("ending", "This server was told to end.")
            if model is None:
                raise UnwellError("no_model", "No Rasa model is loaded.")
            if recognizer is None:
                raise UnwellError("no_recognizer", NO_RECOGNIZER)
            known["answered_ms"] = round(await self._probe.answered_ms(recognizer), 1)
        except UnwellError as error:
            known["error"] = {"code": error.code, "message": str(error)}
            self._tell(error)
        else:
            self._tell(None)
        return known

    def _tell(self, error: Optional[UnwellError]) -> None:
        """Writes to the log when the server's health is another."""
        code = error.code if error else ""
        if error is not None and code != self._told:
            logger.error("No calls can be answered: %s (%s)", error, code, exc_info=error.__cause__)
        elif error is None and self._told:
            logger.warning("Calls can be answered again.")
        self._told = code

    def operate(self, blueprint: Blueprint) -> None:
        """Adds what every channel has beside its calls: ``/health``, ``/metrics``; what begins and ends with the server."""

        @blueprint.get("/health")
        async def health(request: Request) -> HTTPResponse:
            known = await self.health(request.app)
            return json_response(known, status=503 if "error" in known else 200)

        @blueprint.middleware("request")
        async def send_elsewhere(request: Request) -> Optional[HTTPResponse]:
            """By a status on which a balancer asks another server, before there is a WebSocket."""
            if not self.ending or request.path.endswith(EVER_ANSWERED):
                return None
            metrics.refused(self.name(), GOING_DOWN.code)
            return json_response({"error": {"code": GOING_DOWN.code, "message": str(GOING_DOWN)}}, status=503)

        @blueprint.get("/metrics")
        async def exposition(request: Request) -> HTTPResponse:
            for channel in request.app.ctx.spoken_inputs:  # all channels show the same, so each has a say
                refusal = channel.refuse_figures(request)
                if refusal is not None:
                    return refusal
            body = await asyncio.get_running_loop().run_in_executor(None, metrics.exposition)
            return raw(body, content_type=metrics.CONTENT_TYPE)

        @blueprint.listener("after_server_start")
        async def start(app: Sanic, loop: Any) -> None:
            settle(app)
            if not self._audio_files:
                hand_off.serve(self)
            if self.recorder is not None:
                self.recorder.start()
            if not hasattr(app.ctx, "spoken_inputs"):
                app.ctx.spoken_inputs = []
            app.ctx.spoken_inputs.append(self)
            if len(app.ctx.spoken_inputs) == 1:
                self._watching = asyncio.create_task(metrics.watch_event_loop())

        @blueprint.listener("before_server_stop")
        async def end(app: Sanic, loop: Any) -> None:
            # All at once: Sanic would ask one channel after the other, with those behind it still taking calls.
            await asyncio.gather(*(channel.wind_down() for channel in app.ctx.spoken_inputs))

        @blueprint.listener("after_server_stop")
        async def stop(app: Sanic, loop: Any) -> None:
            await self.stop()

    def refuse_figures(self, request: Request) -> Optional[HTTPResponse]:
        """The answer to who may not see the figures; None: anybody may."""
        return None

    def close_soon(self, session: SpokenSession) -> None:
        """Closes a session whose caller is gone, without making its handler wait."""
        self.soon(session.close())

    def soon(self, ending: Coroutine[Any, Any, None]) -> None:
        """Ends something without making anybody wait."""
        task = asyncio.create_task(ending)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def wind_down(self) -> None:
        """The server was told to end."""
        self.ending = True

    async def stop(self) -> None:
        """Ends what the channel owns; turns that Rasa has are finished first, if there is time."""
        hand_off.leave(self)
        if self._watching is not None:
            self._watching.cancel()
        if self._ending:
            left = None if self._ends_at is None else max(0.0, self._ends_at - time.monotonic())
            _, late = await asyncio.wait(self._ending, timeout=left)
            if late:
                logger.error("%d turns were not finished in time, and are lost: see the setting shutdown_timeout_ms.", len(late))
        self.workers.shutdown(wait=False)
        if self.speech is not None:
            self.speech.close()
        if self.recorder is not None:
            await self.recorder.close()


class SpokenCall(Line):
    """One call: the channel's side and Rasa's side of its session. Channels add how it sounds on the wire.

    Args:
        channel: The channel, by name, for Rasa.
        counted_as: The channel, in metrics.
        recorder: Keeps what the caller says.

    Attributes:
        sender: The conversation; as the call itself where nobody says another.
        metadata: What is known of the call, for the tracker.
        log: How the log names it.
        may_record: Whether the caller has nothing against being recorded.
    """

    def __init__(
        self,
        app: Sanic,
        on_new_message: OnNewMessage,
        channel: str,
        counted_as: str = "",
        recorder: Optional[StoryRecorder] = None,
    ) -> None:
        self.id = uuid.uuid4().hex
        self.sender = self.id
        self.metadata: Dict[str, Any] = {"call_id": self.id}
        self.log = LogContext(self.id)
        self._app = app
        self._on_new_message = on_new_message
        self.channel = channel
        self.counted_as = counted_as or channel
        self.may_record = True
        self._recorder = recorder
        self._told_until = time.time()  # what happened until then is in the recordings before
        self._previous: Optional[Turn] = None
        self.session: SpokenSession

    # ------------------------------------------------ Rasa, as the session sees it

    def recognizer(self) -> Optional[Recognizer]:
        """See `session.Assistant`."""
        return recognizer_of(self._app)

    def has_intent(self, name: str) -> bool:
        """See `session.Assistant`."""
        domain = self.domain()
        return domain is not None and name in domain.intents

    def domain(self) -> Optional[Domain]:
        """That of the Rasa model which is served now."""
        agent = agent_of(self._app)
        return agent.domain if agent else None

    async def is_known(self, sender: str) -> bool:
        """Whether Rasa has had a turn of that conversation: a caller who is back is not greeted again."""
        agent = agent_of(self._app)
        return bool(agent and await agent.tracker_store.exists(sender))

    async def converse(self, turn: Turn) -> None:
        """See `session.Assistant`."""
        output = SpokenOutput(self, turn)
        metadata = {**self.metadata, "turn": turn.number, "spoken": turn.spoken()}
        if turn.interrupted:
            metadata["interrupted"] = turn.interrupted.as_json()
        if self._previous:
            metadata["previous_turn"] = {**self._previous.record(), **self._previous.latency()}
        self._previous = turn
        message = UserMessage(turn.text, output, self.sender, input_channel=self.channel, metadata=metadata)
        failed = await self.give(turn, message)
        if failed and turn.first_response_latency_ms is None:
            raise ActionError(f"{', '.join(failed)} failed, and the bot said nothing.")

    async def give(self, turn: Turn, message: UserMessage) -> List[str]:
        """Gives Rasa a turn as a message; whatever becomes of it, what was said is recorded, where that is wanted.

        Returns:
            The names of the actions that failed.
        """
        try:
            with failures() as failed:
                await self._on_new_message(message)
            return failed
        finally:
            if self._recorder is not None and self.may_record and turn.recognition and turn.utterance:
                since, self._told_until = self._told_until, time.time()
                about = About(
                    sender=self.sender,
                    call_id=self.id,
                    channel=self.channel,
                    turn=turn.number,
                    time=datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
                    intent=turn.recognition.intent,
                    confidence=round(turn.recognition.confidence, 4),
                    reference=turn.text,
                    ranking=[[intent, round(confidence, 4)] for intent, confidence in turn.recognition.ranking[:RANKED]],
                    non_speech=round(turn.recognition.non_speech, 4),
                    interrupted=turn.interrupted is not None,
                )
                self._recorder.record(turn.utterance.samples, about, partial(self._steps, since, self._told_until))

    async def _steps(self, since: float, until: float) -> Steps:
        """What happened in this call in between; nothing where there is no tracker."""
        agent = agent_of(self._app)
        tracker = await agent.tracker_store.retrieve(self.sender) if agent else None
        if agent is None or agent.domain is None or tracker is None:
            return []
        return await asyncio.to_thread(steps_between, tracker, self.id, since, until, agent.domain)

    # ------------------------------------------------ the caller's side; what a channel has not got does nothing

    async def send_message(self, message: Dict[str, Any]) -> None:
        """A message of the bot, as it is to be seen; what is to be heard comes by `play`."""

    async def send_mark(self) -> Optional[str]:
        """See `speaking.Player`."""
        return None

    async def play(self, samples: np.ndarray) -> None:
        """See `speaking.Player`."""

    async def clear(self) -> None:
        """See `speaking.Player`."""

    async def tell(self, happening: Happening) -> None:
        """See `session.Line`. Everything that happens in any call passes here, and is counted; channels have `notify`."""
        metrics.count(self.counted_as, happening)
        await self.notify(happening)

    async def notify(self, happening: Happening) -> None:
        """Tells the caller's side what happened."""

    async def show(self, text: str) -> None:
        """See `session.Line`."""
        await self.send_message({"response": text})

    async def turn_ended(self, turn: Turn) -> Optional[str]:
        """See `session.Line`."""
        return None

    async def hang_up(self) -> None:
        """See `session.Line`."""


class SpokenOutput(OutputChannel):
    """The bot's messages for one turn of a call: shown, spoken, marked."""

    def name(self) -> str:  # Rasa asks the instance, which serves several channels
        """The channel's name, in ``channel:`` variations of responses."""
        return self._call.channel

    def __init__(self, call: SpokenCall, turn: Turn) -> None:
        self._call = call
        self._turn = turn

    async def _say(self, message: Dict[str, Any], text: str = "", metadata: Any = None) -> None:
        if self._turn.first_response_latency_ms is None:
            self._turn.first_response_latency_ms = (time.perf_counter() - self._turn.ended_at) * 1000
        await self._call.send_message(message)
        if text:
            may_interrupt = not (isinstance(metadata, dict) and metadata.get("barge_in") is False)
            await self._call.session.say(text, may_interrupt)
        await self._call.session.then(self._call.send_mark)

    async def send_text_message(self, recipient_id: str, text: str, **kwargs: Any) -> None:
        """Text as one response, and spoken."""
        await self._say({"response": text}, text, kwargs.get("metadata"))

    async def send_text_with_buttons(self, recipient_id: str, text: str, buttons: List[Dict[str, Any]], **kwargs: Any) -> None:
        """Text, spoken, and buttons whose payload the client sends back."""
        await self._say({"response": text, "buttons": buttons}, text, kwargs.get("metadata"))

    async def send_image_url(self, recipient_id: str, image: str, **kwargs: Any) -> None:
        """A picture's address."""
        await self._say({"image": image})

    async def send_attachment(self, recipient_id: str, attachment: str, **kwargs: Any) -> None:
        """An attachment, as a custom message."""
        await self._say({"custom": {"attachment": attachment}})

    async def send_custom_json(self, recipient_id: str, json_message: Dict[str, Any], **kwargs: Any) -> None:
        """Whatever the assistant's author put there; ``hangup: true`` ends the call once all is said."""
        hangs_up = isinstance(json_message, dict) and json_message.get("hangup") is True
        custom = {name: value for name, value in json_message.items() if name != "hangup"} if hangs_up else json_message
        if custom:
            await self._say({"custom": custom})
        if hangs_up:
            self._call.session.hang_up()
