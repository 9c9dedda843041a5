"""Whether the recognizer answers: it is asked about a known sound, in the same threads and as urgently as about a caller's turn."""

import asyncio
import time
from typing import Optional

from spoken_intents.errors import UnwellError
from spoken_intents.recognizer import Recognition, Recognizer, known_sound
from spoken_intents.workers import Workers

KEPT_S = 5.0  # an answer counts for so long: however many ask, the threads hear one sound in this time
DEADLINE_S = 3.0  # an answer that comes later is none; balancers wait five seconds


class Probe:
    """Asks the recognizer, at most once in `KEPT_S`, and not again before it has answered. Used from one event loop.

    Args:
        workers: The threads that classify for calls.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._sound = known_sound()
        self._question: Optional[_Question] = None

    async def answered_ms(self, recognizer: Recognizer) -> float:
        """What its last answer took, waiting for a thread included, in milliseconds.

        Raises:
            UnwellError: It failed, or has not answered in time.
        """
        question = self._question
        if question is None or question.model != recognizer.fingerprint or question.is_outdated():
            answer = asyncio.wrap_future(self._workers.submit(recognizer.classify, self._sound))
            question = self._question = _Question(recognizer.fingerprint, answer)
        await asyncio.wait({question.answer}, timeout=max(0.0, question.asked_at + DEADLINE_S - time.monotonic()))
        if question.took_s is None or question.took_s > DEADLINE_S:
            late = f"The recognizer does not answer within {DEADLINE_S:g} s: it hangs, or has far too much to do."
            raise UnwellError("recognizer_late", late)
        error = question.answer.exception()
        if error is not None:
            raise UnwellError("recognizer_failed", f"The recognizer fails ({type(error).__name__}).") from error
        return question.took_s * 1000


class _Question:
    """What the recognizer was asked, and when."""

    def __init__(self, model: str, answer: "asyncio.Future[Recognition]") -> None:
        self.model = model
        self.answer = answer
        self.asked_at = time.monotonic()
        self.took_s: Optional[float] = None  # not answered yet
        answer.add_done_callback(self._is_answered)

    def is_outdated(self) -> bool:
        return self.answer.done() and time.monotonic() - self.asked_at > KEPT_S

    def _is_answered(self, answer: "asyncio.Future[Recognition]") -> None:
        self.took_s = time.monotonic() - self.asked_at
        answer.exception()  # which perhaps nobody asks for any more
