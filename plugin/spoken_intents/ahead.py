"""Classifying in advance: what was said is heard in the silence that has to be waited for anyway."""

import asyncio
from concurrent.futures import Future
from typing import NamedTuple, Optional

from spoken_intents.recognizer import Recognition, Recognizer
from spoken_intents.segmenter import SpeechPaused, Utterance
from spoken_intents.turns import HeardAhead
from spoken_intents.workers import Workers

Answer = Optional["asyncio.Future[Recognition]"]


class Ahead:
    """The answer to the latest pause of one caller, made in a thread of `workers`; used from one event loop.

    An answer belongs to the sample where its pause began: it counts for nothing else.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._question: Optional[_Question] = None
        self._answer: Answer = None  # to that
        self._told = False

    def begin(self, recognizer: Optional[Recognizer], pause: SpeechPaused) -> None:
        """Has `recognizer` hear what was said up to `pause`, instead of what was said up to the one before."""
        self.cancel()
        if recognizer is not None:
            self._ask(recognizer, pause, self._workers.speculate(recognizer.classify, pause.samples))

    def _ask(self, recognizer: Recognizer, pause: SpeechPaused, asked: "Future[Recognition]") -> None:
        self._question, self._told = _Question(recognizer, pause, asked), False
        self._answer = answer_to(asked)

    def cancel(self) -> None:
        """Speech went on, or nobody listens any more: what is not begun yet is not begun at all."""
        if self._question is not None:
            self._question.asked.cancel()  # at once: it must not push out what others wait for
        self._question = self._answer = None

    @property
    def done(self) -> bool:
        """Whether the answer to the latest pause is there."""
        return self._answer is not None and self._answer.done()

    async def heard(self, at_sample: int, within_s: float) -> Optional[Recognition]:
        """Waits for the answer to the pause since `at_sample`; None when there is none, or the model failed or is late.

        From now on it is no speculation: a caller waits, and where the turn ends follows from it. So it is asked for anew
        where it was dropped.
        """
        question = self._question
        if question is None or question.pause.at_sample != at_sample:
            return None
        if not self._workers.promote(question.asked):
            self._ask(*question[:2], self._workers.submit(question.recognizer.classify, question.pause.samples))
        answer = self._answer
        assert answer is not None
        await asyncio.wait({answer}, timeout=within_s)
        answer.cancel()  # if it is late; the turn fails for it, and waits no longer
        return _result(answer)

    def news(self) -> Optional[HeardAhead]:
        """The answer, once, as soon as it is there."""
        question = self._question
        if question is None or self._answer is None or self._told or not self._answer.done():
            return None
        self._told = True
        recognition = _result(self._answer)
        return None if recognition is None else HeardAhead(question.pause.at_sample, recognition)

    def take(self, utterance: Utterance) -> Answer:
        """The answer for `utterance`, if it ended in the pause: another one holds other samples. It will be answered."""
        question, answer = self._question, self._answer
        if question is not None and question.pause.at_sample == utterance.speech_end_sample:
            self._question = self._answer = None
            return answer if self._workers.promote(question.asked) else None
        self.cancel()
        return None


async def in_time(answer: "asyncio.Future[Recognition]", within_s: float) -> Recognition:
    """The answer; one that is late is given up, and where no thread has begun with it, none will.

    Raises:
        asyncio.TimeoutError: It is late, or was given up before.
    """
    if not answer.done():
        await asyncio.wait({answer}, timeout=max(0.0, within_s))
    answer.cancel()  # does nothing to one that is there
    if answer.cancelled():
        raise asyncio.TimeoutError("The model does not answer: it hangs, or has far too much to do.")
    return answer.result()


class _Question(NamedTuple):
    recognizer: Recognizer
    pause: SpeechPaused
    asked: "Future[Recognition]"


def answer_to(asked: "Future[Recognition]") -> "asyncio.Future[Recognition]":
    """What was asked of `Workers`, to be awaited, or not: speech goes on, callers leave. Nobody is told then that it failed."""
    answer = asyncio.wrap_future(asked)
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return answer


def _result(answer: "asyncio.Future[Recognition]") -> Optional[Recognition]:
    return None if answer.cancelled() or answer.exception() is not None else answer.result()
