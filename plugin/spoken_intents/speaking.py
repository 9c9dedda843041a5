"""What the bot says on its way to the caller's ear, and how far it has got.

    say() ──▶ queue ──▶ worker: Speech ──▶ Player.play ──▶ played: by the caller's clock, or by its marks

Playback can be held, to go on where it was, and broken off. How much was heard is counted in the caller's own
samples, as both directions of a call run at the same pace.
"""

import asyncio
import logging
import time
from collections import deque
from typing import Awaitable, Callable, Deque, Dict, List, NamedTuple, Optional, Protocol, Tuple, Union

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

    async def send_mark(self) -> Optional[str]:
        """Asks for word when all it was given is played; the mark's name, if the caller's side will truly tell."""


class _Text(NamedTuple):
    text: str
    may_interrupt: bool


SendMark = Callable[[], Awaitable[Optional[str]]]  # asks the caller's side to tell when it got there; its name, if it will


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
        self._held: Optional[List[np.ndarray]] = None  # what is to be played when it goes on
        self._repeating = False  # what was held is on its way
        self._cut = 0  # counts breaking off, so that a sentence being made then is not played
        self._began = 0  # by the clock, when the first of `_sent` was
        self._sent: List[Tuple[np.ndarray, bool]] = []  # of this playback
        self._marks: Dict[str, int] = {}  # name -> samples of this playback before it
        self.sent_times: List[float] = []  # first and last audio since `forget_times`, by ``time.perf_counter``
        self._worker = asyncio.create_task(self._work()) if speech else None

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
            self._remember(await send_mark())

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
        """Whether the caller hears the bot, or will once it goes on."""
        if self._held is not None or any(isinstance(item, _Text) for item in self._unsent):
            return True
        waits = LATE_SAMPLES if self._marks else 0
        return bool(self._sent) and self._clock() < self._began + self._total() + waits

    @property
    def may_interrupt(self) -> bool:
        """Whether what is being played now may be broken off."""
        position = self._position()
        for samples, may_interrupt in self._sent:
            position -= len(samples)
            if position < 0:
                return may_interrupt
        return not self._unsent or all(item.may_interrupt for item in self._unsent if isinstance(item, _Text))

    def played(self, name: str) -> None:
        """The caller's side has played everything up to the mark `name`. A name that is not awaited says nothing."""
        reached = self._marks.pop(name, None)
        if reached is not None:
            self._marks = {other: at for other, at in self._marks.items() if at > reached}
            if reached == self._total():
                self._began, self._sent = self._clock(), []
            elif reached > self._position():
                self._began = self._clock() - reached

    def _total(self) -> int:
        return sum(len(samples) for samples, _ in self._sent)

    def _position(self) -> int:
        if self._held is not None:
            return self._total() - sum(map(len, self._held))
        return min(self._total(), max(0, self._clock() - self._began))

    # ------------------------------------------------ interrupted

    async def hold(self) -> None:
        """Stops playing for now; nothing to hold is no harm."""
        if not self.playing or self._held is not None:
            return
        position, rest = self._position(), []
        for samples, _ in self._sent:
            if position < len(samples):
                rest.append(samples[position:])
            position = max(0, position - len(samples))
        self._held = rest
        self._marks.clear()  # on clear, some clients say at once that they were reached
        await self._player.clear()
        await self._wake()

    async def go_on(self) -> None:
        """Plays from where it was held."""
        if self._held is None:
            return
        rest, self._held = self._held, None
        self._began = self._clock() - (self._total() - sum(map(len, rest)))
        self._repeating = True
        for samples in rest:
            if self._held is None and self._sent:  # else it was held or broken off again
                await self._player.play(samples)
        if rest and self._held is None and self._sent:  # the marks it had were forgotten
            self._remember(await self._player.send_mark())
        self._repeating = False
        await self._wake()

    async def break_off(self) -> Optional[Interruption]:
        """Drops everything there was to say. None when nothing was being said."""
        if not self.playing:
            return None
        await self.hold()
        total = self._total()
        left = sum(map(len, self._held or ()))
        self._held, self._sent = None, []
        self._cut += 1
        waiting = list(self._unsent)
        self._unsent.clear()
        self._unsent.extend(item for item in waiting if not isinstance(item, _Text))
        await self._wake()
        return Interruption((total - left) * 1000 / SAMPLE_RATE, total * 1000 / SAMPLE_RATE)

    async def close(self) -> None:
        """Ends the worker; nothing more is played."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)

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
            item, cut = self._unsent[0], self._cut
            try:
                if isinstance(item, _Text):
                    await self._speak(item, cut)
                else:
                    self._remember(await item())
            except Exception:  # or nobody would say the rest
                logger.exception("Something could not be spoken.")
            if self._unsent and self._unsent[0] is item:  # else it was broken off
                self._unsent.popleft()
            await self._wake()

    async def _speak(self, item: _Text, cut: int) -> None:
        assert self._speech is not None
        async for sentence in self._speech.speak(item.text):
            for start in range(0, len(sentence), CHUNK_SAMPLES):
                async with self._changed:
                    await self._changed.wait_for(self._may_play)
                if self._cut != cut:
                    return
                await self._play(sentence[start : start + CHUNK_SAMPLES], item.may_interrupt)

    def _may_play(self) -> bool:
        return self._held is None and not self._repeating

    async def _play(self, samples: np.ndarray, may_interrupt: bool) -> None:
        if self._clock() >= self._began + self._total():
            self._began, self._sent, self._marks = self._clock(), [], {}
        self._sent.append((samples, may_interrupt))
        self.sent_times = [*self.sent_times[:1], time.perf_counter()]
        await self._player.play(samples)

    def _remember(self, mark: Optional[str]) -> None:
        if mark is not None and self._sent and self._held is None:
            self._marks[mark] = self._total()
