"""One spoken conversation: audio, keys and typed messages in; turns in order, one at a time; speech out. No wire format.

    hear() ──▶ segmenter ──▶ queue ──▶ worker: classify in a thread ──▶ hand-off ──▶ Rasa ──▶ say() ──▶ speaker
    type(), dtmf() ─────────▶ queue

A pause is classified at once, in the silence that has to be waited for anyway; the answer counts only if the
utterance turns out to hold exactly the samples that were classified, and says how much silence ends it.

Time is counted in samples heard. The worker is a task of its own, so a caller who hangs up cannot tear a turn that
Rasa already has.
"""

import asyncio
import json
import logging
import time
from dataclasses import dataclass
from typing import Iterable, List, NamedTuple, Optional, Protocol, Tuple, Union

import numpy as np

from spoken_intents import keys, logs
from spoken_intents.ahead import Ahead, Answer, answer_to, in_time
from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.config import require
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.segmenter import (
    Event,
    Segmenter,
    SegmenterSettings,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    SpeechSustained,
    Undecided,
    Utterance,
)
from spoken_intents.speaking import Player, SendMark, Speaker
from spoken_intents.speech import Speech
from spoken_intents.turns import (
    Backchannel,
    Happening,
    NotSpeech,
    Silence,
    Turn,
    TurnFailed,
    TurnOver,
    TurnStarted,
    milliseconds,
)
from spoken_intents.utterances import LiveUtterance, hand_off
from spoken_intents.workers import Workers

logger = logging.getLogger(__name__)

LOOK_S = 0.1  # how often it is looked whether the last word is played
QUEUED_TURNS = 8  # a caller who is further ahead than this is not read until the bot has caught up
SILENCE = "silence"  # the intent, where the domain has it


@dataclass(frozen=True)
class SessionSettings(SegmenterSettings):
    """How a conversation goes.

    Attributes:
        barge_in: Whether callers may interrupt the bot. A response with ``metadata: {barge_in: false}`` is always
            played to its end.
        backchannel_intents: Intents that are no turn while the bot speaks, such as an "uh-huh".
        interruption_confidence: Speech over the bot that is shorter than `interruption_ms` is no turn either when it
            is heard with less confidence.
        silence_timeout_ms: Silence, from the end of playback, after which the bot asks again; 0: it waits for ever.
        max_silences: As many in a row, and the bot says `goodbye` and hangs up.
        still_there: What the bot asks after a silence, when it has repeated itself and no story knows ``silence``.
        goodbye: What it says before it hangs up on nobody.
        sorry: What it says when a turn failed; empty: nothing.
        intent_timeout_ms: A turn fails when the model takes longer for its intent, waiting for a thread included.
        dtmf_length: Keys that make a turn; 0: a turn ends by ``#`` or by a pause only.
        dtmf_pause_ms: Pause that ends a turn of keys.
        initial_message: What Rasa is told when a call begins, such as ``/greet``, so that the bot speaks first.
    """

    barge_in: bool = True
    backchannel_intents: Tuple[str, ...] = ()
    interruption_confidence: float = 0.5
    silence_timeout_ms: int = 10_000
    max_silences: int = 3
    still_there: str = "Are you still there?"
    goodbye: str = "I cannot hear anybody. Goodbye."
    sorry: str = "Sorry, that did not work. Please try again."
    intent_timeout_ms: int = 10_000
    dtmf_length: int = 0
    dtmf_pause_ms: int = 2_000
    initial_message: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            0 <= self.interruption_confidence <= 1,
            f"interruption_confidence takes a number from 0 to 1, got {self.interruption_confidence}.",
        )
        require(
            self.silence_timeout_ms == 0 or 1000 <= self.silence_timeout_ms <= 600_000,
            f"silence_timeout_ms takes 0 or 1000 to 600000, got {self.silence_timeout_ms}.",
        )
        require(1 <= self.max_silences <= 100, f"max_silences takes 1 to 100, got {self.max_silences}.")
        require(100 <= self.intent_timeout_ms <= 60_000, f"intent_timeout_ms takes 100 to 60000, got {self.intent_timeout_ms}.")
        require(0 <= self.dtmf_length <= keys.MAX_KEYS, f"dtmf_length takes 0 to {keys.MAX_KEYS}, got {self.dtmf_length}.")
        require(200 <= self.dtmf_pause_ms <= 60_000, f"dtmf_pause_ms takes 200 to 60000, got {self.dtmf_pause_ms}.")


class Line(Player, Protocol):
    """The channel's side of a session: the caller's loudspeaker, and whoever is told what happens, in order."""

    async def tell(self, happening: Happening) -> None: ...

    async def show(self, text: str) -> None:
        """Text that the session says on its own account."""

    async def turn_ended(self, turn: Turn) -> Optional[str]:
        """Every message of the turn is sent; the name of the mark that comes back when it was played, if one will."""

    async def send_mark(self) -> Optional[str]:
        """All that was given to play so far is sent: the mark's name, if the caller's side will truly tell when it got there."""

    async def hang_up(self) -> None: ...


class Assistant(Protocol):
    """Rasa, as a session sees it."""

    def recognizer(self) -> Optional[Recognizer]:
        """The one to use now; asked anew for each turn, since models are replaced."""

    def has_intent(self, name: str) -> bool:
        """Whether the domain has it."""

    async def converse(self, turn: Turn) -> None:
        """Gives Rasa a turn; returns when its messages are sent, and said (`SpokenSession.say`)."""


class _Heard(NamedTuple):
    """An utterance, and what was known when it ended."""

    utterance: Utterance
    answer: Answer  # asked for while its caller was silent, or as it is to be judged at once
    in_time: bool  # and that was there before it ended
    over_bot: bool  # it began while the bot spoke
    sustained: bool


_Item = Union[_Heard, str, None]  # None: nothing more comes


class SpokenSession:
    """See the module. One instance for each caller; used from one event loop. `finish` or `close` ends it.

    Args:
        workers: Threads that classify; shared between sessions.
        speech: What speaks; None: the bot's texts are only written.
        segmenter: Instead of the one that `settings` make.
    """

    def __init__(
        self,
        settings: SessionSettings,
        line: Line,
        assistant: Assistant,
        workers: Workers,
        speech: Optional[Speech] = None,
        segmenter: Optional[Segmenter] = None,
    ) -> None:
        self._settings = settings
        self._segmenter = segmenter or Segmenter(settings)
        self._line = line
        self._assistant = assistant
        self._workers = workers
        self._speaker = Speaker(line, lambda: self._segmenter.now, speech)
        self._queue: "asyncio.Queue[tuple[_Item, float]]" = asyncio.Queue(QUEUED_TURNS)
        self._unanswered = 0  # turns queued, and the one that Rasa has
        self._ahead = Ahead(workers)
        self._came_at, self._waited = 0.0, False  # when what is being handled came, and whether an answer had to be waited for
        self._handling = False  # what the caller has just sent
        self._over_bot = self._sustained = False  # of the utterance under way
        self._active_at = 0  # when anybody last did anything, in samples
        self._silences = 0  # in a row
        self._intent_timeout_s = settings.intent_timeout_ms / 1000
        self._keys = keys.Keys(settings.dtmf_length, settings.dtmf_pause_ms * SAMPLE_RATE // 1000)
        self._said: List[Tuple[str, bool]] = []  # since the last turn, and whether it may be interrupted
        self._turns = 0  # that were answered or failed
        self._last: Optional[Turn] = None  # whose playback is not over
        self._leaving = False  # the bot says goodbye to nobody; somebody who answers keeps it
        self._closing = self._hanging_up = self._hung_up = False
        self._worker = asyncio.create_task(self._work())

    @property
    def busy(self) -> bool:
        """Whether the caller is saying something, or waits for an answer, or hears one."""
        saying = self._segmenter.speaking or self._handling or self._keys.waiting
        return bool(saying or self._unanswered or self._speaker.playing)

    # ------------------------------------------------ from the caller

    async def hear(self, samples: np.ndarray) -> None:
        """Takes audio (float32, 16 kHz). Waits while the bot is too far behind."""
        await self._handle(self._segmenter.push(samples))
        news = self._ahead.news()
        if news is not None:
            await self._line.tell(news)
        await self._watch()

    async def commit(self) -> None:
        """Ends what is under way now (push-to-talk, keys); without any, does nothing."""
        self._segmenter.held = False
        await self._handle(self._segmenter.flush("commit"))
        await self._put_keys(self._keys.end())

    def hold(self) -> None:
        """No silence ends what is under way, or comes next, until `commit` (push-to-talk)."""
        self._segmenter.held = True

    async def type(self, text: str) -> None:
        """Takes a typed turn or a button's payload."""
        if not self._hanging_up:
            self._silences, self._leaving = 0, False
            await self._put(text)

    async def dtmf(self, pressed: str) -> None:
        """Takes keys of a telephone, which are one turn together: up to ``#``, `dtmf_length` of them, or a pause."""
        await self._put_keys(self._keys.press(pressed, self._segmenter.now))

    async def played(self, mark: str) -> None:
        """The caller's side has played everything up to the mark."""
        self._speaker.played(mark)
        await self._watch()

    async def finish(self) -> None:
        """Ends the audio and waits until every turn is answered."""
        await self._handle(self._segmenter.flush())
        await self._put_keys(self._keys.end())
        await self._put(None)
        await asyncio.shield(self._worker)  # whoever waits here may be cancelled; Rasa's turn may not
        await self._speaker.close()
        await self._conclude()

    async def close(self) -> None:
        """Lets the turn that Rasa already has end; cancels everything else."""
        self._closing = True
        self._ahead.cancel()
        while not self._queue.empty():
            item, _ = self._queue.get_nowait()
            if isinstance(item, _Heard) and item.answer is not None:
                item.answer.cancel()  # nobody waits for it any more
        self._queue.put_nowait((None, 0.0))
        await self._speaker.drop()
        try:
            await asyncio.shield(self._worker)
        finally:
            await self._speaker.close()
            await self._conclude()

    # ------------------------------------------------ from the bot

    async def say(self, text: str, may_interrupt: bool = True) -> None:
        """Speaks a message of the bot, after those before it."""
        if self._closing or self._hung_up:
            return
        self._said.append((text, may_interrupt and self._settings.barge_in))
        await self._speaker.say(*self._said[-1])

    async def then(self, send_mark: SendMark) -> None:
        """Calls `send_mark` when what was said before is sent; see `Speaker.then`."""
        await self._speaker.then(send_mark)

    def hang_up(self) -> None:
        """Ends the call when everything is answered and played. What the caller says from now on is not heard."""
        self._hanging_up = True
        self._ahead.cancel()

    # ------------------------------------------------ listening

    async def _handle(self, events: Iterable[Event]) -> None:
        self._handling = True
        try:
            await self._handle_each(events)
        finally:
            self._handling = False

    async def _handle_each(self, events: Iterable[Event]) -> None:
        self._came_at, self._waited = time.perf_counter(), False
        for event in events:
            if self._hanging_up or self._closing:
                continue  # the rest of the events still moves the clock
            if isinstance(event, SpeechStarted):
                self._over_bot, self._sustained = self._speaker.sounding, False
                await self._line.tell(event)
            elif isinstance(event, SpeechSustained):
                self._sustained = True
                await self._give_way()
            elif isinstance(event, SpeechPaused):
                await self._line.tell(event)
                self._ahead.begin(None if self._closing else self._assistant.recognizer(), event)
            elif isinstance(event, SpeechResumed):
                self._ahead.cancel()
                await self._line.tell(event)
            elif isinstance(event, Undecided):
                # A late answer delays the turn's end, and changes nothing else.
                self._waited = not self._ahead.done
                recognition = await self._ahead.heard(event.at_sample, self._intent_timeout_s)
                if recognition is not None:
                    self._segmenter.settle(self._settings.silence_for(recognition.complete))
            else:
                await self._line.tell(event)
                in_time = self._ahead.done and not self._waited
                answer = self._ahead.take(event)
                in_time = in_time and answer is not None
                if answer is None and self._over_bot:
                    answer = self._classify(event)
                heard = _Heard(event, answer, in_time, self._over_bot, self._sustained)
                # Rasa may be busy for long: whether the bot goes on is not for its queue to say.
                if not heard.over_bot or not await self._dismissed(heard):
                    self._leaving = False
                    await self._put(heard, self._came_at)

    async def _give_way(self) -> None:
        """Holds the bot's speech while somebody speaks for long, also where it began behind them."""
        if self._segmenter.speaking and self._speaker.sounding:
            self._over_bot = True
            if self._sustained and self._speaker.may_interrupt:
                await self._speaker.hold()

    async def _put(self, item: _Item, ended_at: Optional[float] = None) -> None:
        if not self._closing:
            self._unanswered += 1
            await self._queue.put((item, time.perf_counter() if ended_at is None else ended_at))

    async def _put_keys(self, turns: List[str]) -> None:
        for pressed in turns:
            await self.type(keys.payload(pressed) if self._assistant.has_intent(keys.INTENT) else pressed)

    async def _watch(self) -> None:
        """What is due because time has passed."""
        if self._closing:
            return
        now = self._segmenter.now
        await self._put_keys(self._keys.due(now))
        if self._hanging_up and not self._unanswered:
            await self._speaker.go_on()  # held for a caller who is not heard any more
        else:
            await self._give_way()
        if self._unanswered or self._speaker.playing:
            self._active_at = now
            return
        await self._conclude()
        if self._hanging_up:
            await self._leave()
        elif self._segmenter.speaking or self._keys.waiting:
            self._active_at = now
        elif self._leaving:
            await self._leave()
        elif 0 < self._settings.silence_timeout_ms * SAMPLE_RATE // 1000 <= now - self._active_at:
            self._active_at = now
            await self._ask_again()

    async def _leave(self) -> None:
        self.hang_up()
        if not self._hung_up and not self._closing:
            self._hung_up = True
            await self._line.hang_up()

    async def _ask_again(self) -> None:
        self._silences += 1
        await self._line.tell(Silence(self._silences))
        if self._silences >= self._settings.max_silences:
            self._leaving = True
            await self._say_itself(self._settings.goodbye)
        elif self._assistant.has_intent(SILENCE):
            await self._put(f"/{SILENCE}")
        elif self._said and self._silences == 1:
            for text, may_interrupt in [*self._said]:
                await self._speaker.say(text, may_interrupt)
            await self._speaker.then(self._line.send_mark)
        else:
            await self._say_itself(self._settings.still_there)

    async def _say_itself(self, text: str) -> None:
        await self._line.show(text)
        await self._speaker.say(text, self._settings.barge_in)
        await self._speaker.then(self._line.send_mark)

    # ------------------------------------------------ taking turns

    async def _work(self) -> None:
        while True:
            item, ended_at = await self._queue.get()
            if item is None:
                return
            turn = Turn(item if isinstance(item, str) else "", ended_at=ended_at)
            try:
                await self._take(turn, None if isinstance(item, str) else item)
            except Exception as error:
                logger.exception("A turn failed.")
                await self._tell_failure(turn, error)
            finally:
                hand_off.discard(turn.text)
                self._unanswered -= 1
            try:
                await self._leave_soon()
            except Exception:  # or nobody would take the next turn
                logger.exception("A call could not be ended.")

    async def _leave_soon(self) -> None:
        """Hangs up, when that is due: the caller may send nothing any more that would tell the time."""
        while self._hanging_up and not self._hung_up and not self._closing and not self._unanswered:
            await self._watch()
            await asyncio.sleep(LOOK_S)

    async def _tell_failure(self, turn: Turn, error: Exception) -> None:
        turn.failed = True
        try:
            await self._line.tell(TurnFailed(turn, f"This turn could not be answered ({type(error).__name__})."))
            await self._speaker.go_on()
            if self._settings.sorry and not self._closing:
                await self._say_itself(self._settings.sorry)
            await self._end(turn)
        except Exception:  # or the worker would end, and nobody would take the next turn
            logger.exception("A failed turn could not be told.")

    async def _take(self, turn: Turn, heard: Optional[_Heard]) -> None:
        if heard is not None and not await self._accept(turn, heard):
            await self._speaker.go_on()
            return await self._speaker.sent()
        if self._speaker.may_interrupt:
            turn.interrupted = await self._speaker.break_off()
        else:
            await self._speaker.go_on()  # held before what is to be heard to its end was there to be said
        await self._speaker.sent()
        if self._closing:
            return
        await self._begin(turn)
        await self._line.tell(TurnStarted(turn))
        began = time.perf_counter()
        await self._assistant.converse(turn)
        turn.rasa_processing_latency_ms = _milliseconds_since(began)
        await self._end(turn)

    async def _begin(self, turn: Turn) -> None:
        """Another turn: what was said and measured of the one before is done with."""
        await self._conclude()
        self._turns += 1
        turn.number = self._turns
        logs.turn_begins(turn.number)
        self._said = []
        self._speaker.forget_times()

    async def _accept(self, turn: Turn, heard: _Heard) -> bool:
        """Whether what was heard is a turn, which it then describes."""
        turn.utterance, turn.endpoint_delay_ms = heard.utterance, heard.utterance.endpoint_delay_ms
        turn.ahead = heard.in_time
        try:
            turn.recognition = await self._recognize(heard, turn.ended_at)
        except Exception:
            await self._begin(turn)
            raise
        turn.asr_latency_ms = _milliseconds_since(turn.ended_at)
        why_not = self._why_not(turn.recognition, heard)
        if why_not is not None:
            await self._line.tell(why_not)
            return False
        self._silences = 0
        turn.text = hand_off.put(LiveUtterance(heard.utterance.samples, turn.recognition))
        return True

    async def _dismissed(self, heard: _Heard) -> bool:
        """Whether what was said over the bot is no turn: then the bot goes on at once."""
        try:
            recognition = await self._recognize(heard, self._came_at)
        except Exception:  # a turn that fails says so in its place
            return False
        why_not = self._why_not(recognition, heard)
        if why_not is None or self._closing:
            return False
        await self._line.tell(why_not)
        await self._speaker.go_on()
        return True

    def _why_not(self, recognition: Optional[Recognition], heard: _Heard) -> Union[NotSpeech, Backchannel, None]:
        """What an utterance is that is no turn."""
        if recognition is None:
            return None
        if not recognition.is_speech:
            return NotSpeech(recognition)
        unsure = recognition.confidence < self._settings.interruption_confidence and not heard.sustained
        if heard.over_bot and (unsure or recognition.intent in self._settings.backchannel_intents):
            return Backchannel(recognition)
        return None

    async def _recognize(self, heard: _Heard, ended_at: float) -> Optional[Recognition]:
        """In a thread: the event loop never waits for a model. None when the Rasa model has no recognizer.

        Raises:
            asyncio.TimeoutError: The model takes too long.
        """
        recognizer = self._assistant.recognizer()
        if recognizer is None:
            return None
        if heard.answer is not None:
            recognition = await in_time(heard.answer, ended_at + self._intent_timeout_s - time.perf_counter())
            if recognition.model == recognizer.fingerprint:  # else the model was replaced in between
                return recognition
        asked = self._classify(heard.utterance)
        return None if asked is None else await in_time(asked, self._intent_timeout_s)

    def _classify(self, utterance: Utterance) -> Answer:
        recognizer = self._assistant.recognizer()
        return None if recognizer is None else answer_to(self._workers.submit(recognizer.classify, utterance.samples))

    async def _end(self, turn: Turn) -> None:
        """The turn is over for the channel once its last audio is sent, or held because the caller interrupts."""
        self._last = turn

        async def end() -> Optional[str]:
            if self._speaker.sent_times:
                first, last = self._speaker.sent_times[0], self._speaker.sent_times[-1]
                turn.tts_first_byte_latency_ms = (first - turn.ended_at) * 1000
                turn.tts_complete_latency_ms = (last - turn.ended_at) * 1000
            return await self._line.turn_ended(turn)

        await self._speaker.then(end)
        await self._speaker.sent()

    async def _conclude(self) -> None:
        """The last turn's playback is over: logs it, and tells."""
        turn, self._last = self._last, None
        if turn is not None:
            if turn.tts_complete_latency_ms is not None:
                turn.playback_end_ms = milliseconds(self._speaker.ended_at)
            logger.info(json.dumps({"event": "turn_over", **turn.record(), **turn.latency()}))
            await self._line.tell(TurnOver(turn))


def _milliseconds_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
