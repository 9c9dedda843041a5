"""What the bot says on its way to the caller's ear, and how far it has got.

    say() ──▶ queue ──▶ worker: Speech ──▶ Player.play ──▶ played: by the caller's clock, or by its marks

Playback can be held, to go on where it was, and broken off. How much was heard is counted in the caller's own
samples, as both directions of a call run at the same pace.
"""

import asyncio
import logging
import time
from collections import deque
from typing import Awaitable, Callable, Deque, Dict, List, NamedTuple, Optional, Protocol, Set, Tuple, Union

import numpy as np

from spoken_intents.audio import SAMPLE_RATE
from spoken_intents.speech import Speech
from spoken_intents.turns import Interruption

logger = logging.getLogger(__name__)

CHUNK_SAMPLES = SAMPLE_RATE  # played at once; a message stays small, and a caller who interrupts waits for none
LATE_SAMPLES = SAMPLE_RATE  # a mark that is later than this after the end will never come


class Player(Protocol):
    """The caller's loudspeaker."""

    async def play(self, samples: np.ndarray) -> None:
        """Plays float32 samples at 16 kHz after what it was given before."""

    async def clear(self) -> None:
        """Drops what it has not played yet."""


class _Text(NamedTuple):
    text: str
    may_interrupt: bool


SendMark = Callable[[], Awaitable[Optional[str]]]  # asks the caller's side to tell when it got there; its name, if it will


class _Piece(NamedTuple):
    samples: np.ndarray
    may_interrupt: bool


class Speaker:
    """Speaks one caller's answers, in order; used from one event loop. `close` ends it.

    Args:
        clock: The samples heard from the caller so far.
        speech: None: nothing is spoken, and everything else happens at once.
    """

    def __init__(self, player: Player, clock: Callable[[], int], speech: Optional[Speech]) -> None:
        self._player = player
        self._clock = clock
        self._speech = speech
        self._unsent: Deque[Union[_Text, SendMark]] = deque()
        self._changed = asyncio.Condition()
        self._held: Optional[List[_Piece]] = None  # what is to be played when it goes on
        self._repeating = False  # what was held is on its way
        self._began, self._began_s = 0, 0.0  # when the first of `_sent` was, by the caller's clock and by ours
        self._sent: List[_Piece] = []  # of this playback
        self._stopped_at: Optional[int] = None  # when it is over, by more than the clock
        self._marks: Dict[str, Tuple[int, SendMark]] = {}  # name -> samples of this playback before it, what asked for it
        self._forgotten: Optional[SendMark] = None  # the last that was awaited when playback was held
        self._asking = False
        self._early: Set[str] = set()  # marks that came back before it was known that they were sent
        self.sent_times: List[float] = []  # first and last audio since `forget_times`, by ``time.perf_counter``
        self._worker = asyncio.create_task(self._work()) if speech else None
        self._saying: "Optional[asyncio.Task[None]]" = None

    # ------------------------------------------------ to be said

    async def say(self, text: str, may_interrupt: bool = True) -> None:
        """Speaks `text` after what is being said."""
        if self._speech is not None:
            await self._put(_Text(text, may_interrupt))

    async def then(self, send_mark: SendMark) -> None:
        """Calls `send_mark` when everything before is sent; `played` is told the name that it returns."""
        if self._unsent:
            await self._put(send_mark)
        else:
            await self._ask(send_mark)

    async def sent(self) -> None:
        """Waits until everything is sent, or held."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._unsent or self._held is not None)

    def forget_times(self) -> None:
        """A new turn begins."""
        self.sent_times = []

    # ------------------------------------------------ how far it has got

    @property
    def playing(self) -> bool:
        """Whether the caller hears the bot, or will once it goes on, or may hear it yet as a mark is late."""
        return self._is_playing(LATE_SAMPLES if self._marks else 0)

    @property
    def sounding(self) -> bool:
        """As `playing`, without waiting for marks."""
        return self._is_playing(0)

    def _is_playing(self, late_samples: int) -> bool:
        if self._held is not None or any(isinstance(item, _Text) for item in self._unsent):
            return True
        ends = self._total() + late_samples
        # A caller who sends no audio has a clock that stands still: then ours says when it must be over.
        over_s = time.monotonic() - self._began_s > (self._total() + LATE_SAMPLES) / SAMPLE_RATE
        return bool(self._sent) and self._clock() < self._began + ends and not over_s

    @property
    def may_interrupt(self) -> bool:
        """Whether what is being played now may be broken off."""
        position = self._position()
        for samples, may_interrupt in self._sent:
            position -= len(samples)
            if position < 0:
                return may_interrupt
        return all(item.may_interrupt for item in self._unsent if isinstance(item, _Text))

    @property
    def ended_at(self) -> int:
        """When the last playback ended, or was stopped, in samples."""
        return self._began + self._total() if self._stopped_at is None else self._stopped_at

    def played(self, name: str) -> None:
        """The caller's side has played everything up to the mark `name`. A name that is not awaited says nothing."""
        if self._asking:
            self._early.add(name)
        reached, _ = self._marks.pop(name, (None, None))
        if reached is not None:
            self._marks = {other: mark for other, mark in self._marks.items() if mark[0] > reached}
            if reached == self._total():
                self._stopped_at, self._sent = self._clock(), []
            elif reached > self._position():
                self._began = self._clock() - reached

    def _total(self) -> int:
        return sum(len(samples) for samples, _ in self._sent)

    def _position(self) -> int:
        if self._held is not None:
            return self._total() - sum(len(samples) for samples, _ in self._held)
        return min(self._total(), max(0, self._clock() - self._began))

    # ------------------------------------------------ interrupted

    async def hold(self) -> None:
        """Stops playing for now; nothing to hold is no harm."""
        if not self.playing or self._held is not None:
            return
        position, rest = self._position(), []
        for samples, may_interrupt in self._sent:
            if position < len(samples):
                rest.append(_Piece(samples[position:], may_interrupt))
            position = max(0, position - len(samples))
        self._held, self._stopped_at = rest, self._clock()
        if self._marks:
            self._forgotten = [*self._marks.values()][-1][1]
        self._marks.clear()  # on clear, some clients say at once that they were reached
        await self._player.clear()
        await self._wake()

    async def go_on(self) -> None:
        """Plays from where it was held."""
        if self._held is None:
            return
        rest, again, heard = self._held, self._forgotten, self._position()
        self._held = self._forgotten = self._stopped_at = None
        self._began, self._began_s = self._clock() - heard, time.monotonic() - heard / SAMPLE_RATE
        self._repeating = True
        try:
            for samples, _ in rest:
                if self._held is None and self._sent:  # else it was held or broken off again
                    await self._player.play(samples)
            if again is not None and self._held is None and self._sent:
                await self._ask(again)
        finally:
            self._repeating = False
            await self._wake()

    async def break_off(self) -> Optional[Interruption]:
        """Drops what there was to say, but for what may not be interrupted. None when nothing was being said."""
        if not self.playing:
            return None
        await self.hold()
        total, heard = self._total(), self._position()
        kept = [piece for piece in self._held or () if not piece.may_interrupt]
        self._forget(lambda text: text.may_interrupt)
        for piece in kept:
            await self._play(piece)
        await self._wake()
        return Interruption(heard * 1000 / SAMPLE_RATE, total * 1000 / SAMPLE_RATE)

    async def drop(self) -> None:
        """Drops everything there was to say: nobody hears it any more. Marks are still asked for."""
        self._forget(lambda text: True)
        await self._wake()

    def _forget(self, which: Callable[[_Text], bool]) -> None:
        saying = self._unsent[0] if self._unsent else None
        if self._saying is not None and isinstance(saying, _Text) and which(saying):
            self._saying.cancel()
        waiting = [item for item in self._unsent if not isinstance(item, _Text) or not which(item)]
        self._unsent.clear()
        self._unsent.extend(waiting)
        self._held, self._forgotten, self._sent = None, None, []

    async def close(self) -> None:
        """Ends the worker; nothing more is played."""
        tasks = [task for task in (self._worker, self._saying) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------ the worker

    async def _put(self, item: Union[_Text, SendMark]) -> None:
        self._unsent.append(item)
        await self._wake()

    async def _wake(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _work(self) -> None:
        while True:
            async with self._changed:
                await self._changed.wait_for(lambda: self._unsent and self._may_play())
            item = self._unsent[0]
            try:
                if isinstance(item, _Text):
                    self._saying = asyncio.create_task(self._speak(item))
                    await asyncio.wait({self._saying})
                    if not self._saying.cancelled():
                        self._saying.result()
                else:
                    await self._ask(item)
            except Exception:  # or nobody would say the rest
                logger.exception("Something could not be spoken.")
            self._saying = None
            if self._unsent and self._unsent[0] is item:  # else it was broken off
                self._unsent.popleft()
            await self._wake()

    async def _speak(self, item: _Text) -> None:
        assert self._speech is not None
        async for sentence in self._speech.speak(item.text):
            for start in range(0, len(sentence), CHUNK_SAMPLES):
                async with self._changed:
                    await self._changed.wait_for(self._may_play)
                await self._play(_Piece(sentence[start : start + CHUNK_SAMPLES], item.may_interrupt))

    def _may_play(self) -> bool:
        return self._held is None and not self._repeating

    async def _play(self, piece: _Piece) -> None:
        if self._clock() >= self._began + self._total():
            self._began, self._began_s = self._clock(), time.monotonic()
            self._sent, self._marks, self._stopped_at = [], {}, None
        self._sent.append(piece)
        self.sent_times = [*self.sent_times[:1], time.perf_counter()]
        await self._player.play(piece.samples)

    async def _ask(self, send_mark: SendMark) -> None:
        self._asking = True
        try:
            mark = await send_mark()
        finally:
            self._asking, early, self._early = False, self._early, set()
        if mark is not None and self._sent and self._held is None:
            self._marks[mark] = (self._total(), send_mark)
            if mark in early:
                self.played(mark)
