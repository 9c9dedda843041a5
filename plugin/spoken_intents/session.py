"""One spoken conversation: audio and typed messages in, turns in order, one at a time. Knows no wire format.

    hear() ──▶ segmenter ──▶ queue ──▶ worker: classify in a thread ──▶ hand-off ──▶ Rasa ──▶ listener
    type() ─────────────────▶ queue

A pause is classified at once, in the silence that has to be waited for anyway; the answer counts only if the
utterance turns out to hold exactly the samples that were classified.

The worker is a task of its own, so a caller who hangs up cannot tear a turn that Rasa already has.
"""

import asyncio
import logging
import time
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Awaitable, Callable, Dict, Iterable, Optional, Protocol, Union

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.segmenter import Event, Segmenter, SpeechPaused, SpeechStarted, Utterance
from spoken_intents.utterances import LiveUtterance, hand_off

logger = logging.getLogger(__name__)

QUEUED_TURNS = 8  # a caller who is further ahead than this is not read until the bot has caught up


@dataclass
class Turn:
    """What the caller said at once, and how long each step took, in milliseconds.

    Attributes:
        text: What Rasa gets: an audio reference, or what was typed.
        recognition: What was heard; None for a typed turn.
        utterance: The audio; None for a typed turn.
        ended_at: When the turn was over, by ``time.perf_counter``, in seconds.
        endpoint_delay_ms: From the end of speech to the decision that the turn is over, in the audio's time.
        asr_latency_ms: From the end of the turn to its intent.
        first_response_latency_ms: From the end of the turn to the bot's first message; None without one.
        rasa_processing_latency_ms: What Rasa took for the whole turn.
    """

    text: str
    recognition: Optional[Recognition] = None
    utterance: Optional[Utterance] = None
    ended_at: float = 0.0
    endpoint_delay_ms: float = 0.0
    asr_latency_ms: float = 0.0
    first_response_latency_ms: Optional[float] = None
    rasa_processing_latency_ms: float = 0.0

    def latency(self) -> Dict[str, float]:
        """The figures by name, without those that this turn has none of."""
        names = ("asr_latency_ms", "first_response_latency_ms", "rasa_processing_latency_ms", "endpoint_delay_ms")
        return {name: round(getattr(self, name), 1) for name in names if getattr(self, name) is not None}

    def spoken(self) -> Optional[Dict[str, Any]]:
        """What was heard and when in the stream, small enough for the tracker; None for a typed turn."""
        if self.recognition is None or self.utterance is None:
            return None
        return {
            "intent": self.recognition.intent,
            "confidence": round(self.recognition.confidence, 4),
            "start_ms": self.utterance.start_sample * 1000 // SAMPLE_RATE,
            "end_ms": self.utterance.speech_end_sample * 1000 // SAMPLE_RATE,
        }


class Listener(Protocol):
    """Who is told what happens in a session, in order."""

    async def speech_started(self) -> None: ...

    async def non_speech(self, recognition: Recognition) -> None:
        """What sounded like speech was none; there is no turn."""

    async def turn_started(self, turn: Turn) -> None:
        """It is known what the caller said; Rasa gets it next."""

    async def turn_ended(self, turn: Turn) -> None: ...

    async def turn_failed(self, turn: Turn, message: str) -> None: ...


Converse = Callable[[Turn], Awaitable[None]]
_Item = Union[Utterance, str, None]  # None: nothing more comes
_Ahead = Optional["asyncio.Future[Recognition]"]  # of the utterance, classified while its caller was silent


class SpokenSession:
    """See the module. One instance for each caller; used from one event loop.

    Args:
        find_recognizer: The recognizer to use now; asked anew for each turn, since models are replaced.
        converse: Gives a turn to Rasa and returns when the bot's answers are sent.
        workers: Threads that classify; shared between sessions.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        find_recognizer: Callable[[], Optional[Recognizer]],
        converse: Converse,
        listener: Listener,
        workers: Executor,
    ) -> None:
        self._segmenter = segmenter
        self._find_recognizer = find_recognizer
        self._converse = converse
        self._listener = listener
        self._workers = workers
        self._queue: "asyncio.Queue[tuple[_Item, float, _Ahead]]" = asyncio.Queue(QUEUED_TURNS)
        self._ahead: _Ahead = None
        self._ahead_at = 0  # the end of speech, in samples, that `_ahead` belongs to
        self._closing = False
        self._worker = asyncio.create_task(self._work())

    async def hear(self, samples: np.ndarray) -> None:
        """Takes audio (float32, 16 kHz). Waits while the bot is too far behind."""
        await self._handle(self._segmenter.push(samples))

    async def commit(self) -> None:
        """Ends the utterance under way now (push-to-talk); without one, does nothing."""
        await self._handle(self._segmenter.flush("commit"))

    async def type(self, text: str) -> None:
        """Takes a typed turn or a button's payload."""
        await self._put(text)

    async def finish(self) -> None:
        """Ends the audio and waits until every turn is answered."""
        await self._handle(self._segmenter.flush())
        await self._put(None)
        await asyncio.shield(self._worker)  # whoever waits here may be cancelled; Rasa's turn may not

    async def close(self) -> None:
        """Lets the turn that Rasa already has end; cancels everything else."""
        self._closing = True
        if self._ahead is not None:
            self._ahead.cancel()
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait((None, 0.0, None))
        await asyncio.shield(self._worker)

    async def _handle(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, SpeechStarted):
                await self._listener.speech_started()
            elif isinstance(event, SpeechPaused):
                self._classify_ahead(event)
            elif isinstance(event, Utterance):
                ahead, self._ahead = self._ahead, None
                # An utterance that did not end in this pause holds other samples.
                same = ahead is not None and self._ahead_at == event.speech_end_sample
                await self._put(event, ahead if same else None)

    def _classify_ahead(self, pause: SpeechPaused) -> None:
        if self._ahead is not None:
            self._ahead.cancel()  # speech went on; not begun yet, it is not begun at all
            self._ahead = None
        recognizer = self._find_recognizer()
        if recognizer is not None and not self._closing:
            self._ahead_at = pause.at_sample
            self._ahead = asyncio.get_running_loop().run_in_executor(self._workers, recognizer.classify, pause.samples)

    async def _put(self, item: _Item, ahead: _Ahead = None) -> None:
        if not self._closing:
            await self._queue.put((item, time.perf_counter(), ahead))

    async def _work(self) -> None:
        while True:
            item, ended_at, ahead = await self._queue.get()
            if item is None:
                return
            if isinstance(item, str):
                turn = Turn(item, ended_at=ended_at)
            else:
                turn = Turn("", utterance=item, ended_at=ended_at, endpoint_delay_ms=item.endpoint_delay_ms)
            try:
                await self._take(turn, ahead)
            except Exception as error:
                logger.exception("A turn failed.")
                await self._tell_failure(turn, error)
            finally:
                hand_off.discard(turn.text)

    async def _tell_failure(self, turn: Turn, error: Exception) -> None:
        try:
            await self._listener.turn_failed(turn, f"This turn could not be answered ({type(error).__name__}).")
        except Exception:  # or the worker would end, and nobody would take the next turn
            logger.exception("A failed turn could not be told.")

    async def _take(self, turn: Turn, ahead: _Ahead) -> None:
        if turn.utterance is not None:
            recognition = await self._recognize(turn.utterance, ahead)
            turn.asr_latency_ms = _milliseconds_since(turn.ended_at)
            if recognition is not None and not recognition.is_speech:
                await self._listener.non_speech(recognition)
                return
            turn.recognition = recognition
            turn.text = hand_off.put(LiveUtterance(turn.utterance.samples, recognition))
        if self._closing:
            return
        await self._listener.turn_started(turn)
        began = time.perf_counter()
        await self._converse(turn)
        turn.rasa_processing_latency_ms = _milliseconds_since(began)
        await self._listener.turn_ended(turn)

    async def _recognize(self, utterance: Utterance, ahead: _Ahead) -> Optional[Recognition]:
        """In a thread: the event loop never waits for a model. None when the Rasa model has no recognizer."""
        recognizer = self._find_recognizer()
        if recognizer is None:
            return None
        if ahead is not None:
            recognition = await ahead
            if recognition.model == recognizer.fingerprint:  # else the model was replaced in between
                return recognition
        return await asyncio.get_running_loop().run_in_executor(self._workers, recognizer.classify, utterance.samples)


def _milliseconds_since(began: float) -> float:
    return (time.perf_counter() - began) * 1000
