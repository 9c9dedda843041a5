"""``spoken-intents teach --cli``: a lesson in a terminal, with this computer's microphone and keys."""

import asyncio
import os
import sys
import termios
import threading
import tty
from collections import deque
from typing import Any, Callable, Deque, Dict, Optional

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.markup import escape

from spoken_intents.errors import SpokenIntentsError, sentence_of
from spoken_intents.microphone import Loudspeaker, Microphone, level_bar, load_sounddevice
from spoken_intents.segmenter import SpeechPaused, SpeechResumed, SpeechStarted
from spoken_intents_training.teach import Lesson, Take, Teaching, speaker_name

KEPT_AFTER_S, DOUBTFUL_AFTER_S = 1.5, 4.0  # behind what was played; the second where something is wrong with it
MOST_REPEATS = 2  # of one sentence by itself
HELP = "Enter keeps, [bold]r[/] repeats, [bold]p[/] plays, space holds, [bold]s[/] skips, [bold]o[/] own words, [bold]u[/] undoes, [bold]q[/] ends"


def teach_in_terminal(teaching: Teaching, name: str, console: Console) -> None:
    """Teaches until somebody presses q or Ctrl-C.

    Raises:
        ConfigError: There is no microphone, or a name that is none.
    """
    sounddevice = load_sounddevice()
    if not name:
        known = f" ({', '.join(map(escape, teaching.people()[:5]))})" if teaching.people() else ""
        name = console.input(f"Your name, or a nickname{known}: ")
    lesson = Lesson(teaching, speaker_name(name))
    console.print(
        f"What you keep is stored on this computer, and sent nowhere: recordings in {teaching.folder}, their sentences, intents, "
        f"{escape(lesson.speaker)} and the date in {teaching.nlu}. Delete them there, or on the page (without --cli).",
        highlight=False,
    )
    console.print(HELP)
    try:
        asyncio.run(_teach(lesson, console, sounddevice))
    except KeyboardInterrupt:
        pass
    console.print(f"{len(teaching.clips(lesson.speaker))} recordings by {escape(lesson.speaker)}. Next: rasa train")


async def _teach(lesson: Lesson, console: Console, sounddevice: Any) -> None:
    with Keyboard(sys.stdin.fileno()) as keyboard, Loudspeaker(sounddevice) as loudspeaker, Microphone(sounddevice) as microphone:
        with Live(console=console, refresh_per_second=10, transient=True) as live:
            await Desk(lesson, console, loudspeaker).work(microphone, keyboard, lambda line: live.update(line))


class Keyboard:
    """Keys as they are pressed, from a terminal or a pipe; where that ends, q. A context manager."""

    def __init__(self, descriptor: int) -> None:
        self.keys: Deque[str] = deque()
        self._descriptor = descriptor
        self._before: Any = None

    def __enter__(self) -> "Keyboard":
        if os.isatty(self._descriptor):
            self._before = termios.tcgetattr(self._descriptor)
            tty.setcbreak(self._descriptor)  # without waiting for Enter; Ctrl-C still ends it
        threading.Thread(target=self._read, daemon=True).start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._before is not None:
            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def _read(self) -> None:
        """Not by sys.stdin: what waits in it would hinder Python from ending."""
        try:
            while typed := os.read(self._descriptor, 100):
                self.keys.extend(typed.decode(errors="ignore"))
        except OSError:
            pass
        self.keys.append("q")


class Desk:
    """What a lesson shows, and what keys do to it: driven by the microphone's blocks, of which 50 come in a second."""

    def __init__(self, lesson: Lesson, console: Console, loudspeaker: Any) -> None:
        self._lesson, self._console, self._loudspeaker = lesson, console, loudspeaker
        self._doing = ""
        self._next: Optional[Callable[[], None]] = None  # what happens by itself
        self._blocks_left = 0  # until then
        self._repeats = 0
        self._keys: Dict[str, Callable[[], None]] = {
            "\n": self._keep, "\r": self._keep, "r": self._repeat, "p": self._play, " ": self._hold,
            "s": lambda: self._another(lesson.skip), "o": lambda: self._another(lesson.own_words), "u": lambda: self._another(self._undo),
        }  # fmt: skip

    async def work(self, microphone: Any, keyboard: Keyboard, show: Callable[[str], None]) -> None:
        """Until q is pressed. `microphone` gives blocks of 20 ms, `show` replaces the last line."""
        self._ask()
        while True:
            block: np.ndarray = await microphone.block()
            for news in self._lesson.hear(block):
                self._heard(news)
            while keyboard.keys:
                key = keyboard.keys.popleft().lower()
                if key == "q":
                    return self._lesson.end()
                self._keys.get(key, lambda: None)()
            self._count_down()
            show(f"[cyan]{level_bar(block)}[/] [dim]{self._doing}[/]")

    def _ask(self) -> None:
        prompt = self._lesson.prompt
        progress = next(one for one in self._lesson.teaching.progress(self._lesson.speaker) if one.intent == prompt.intent)
        how = "Read aloud" if prompt.sentence else "Say it in your own words"
        self._print(f"\n[dim]{how} · {escape(prompt.intent)}, {progress.total} of {self._lesson.teaching.goal}[/]")
        if prompt.sentence:
            self._print(f"[bold]{escape(prompt.sentence)}[/]")
        for example in prompt.examples:
            self._print(f"[dim]  such as: {escape(example)}[/]")
        self._repeats = 0
        self._listen()

    def _listen(self) -> None:
        self._loudspeaker.clear()
        self._next = None
        self._lesson.listen()
        self._doing = "listening"

    def _heard(self, news: Any) -> None:
        if isinstance(news, (SpeechStarted, SpeechResumed)):
            self._doing = "you speak"
        elif isinstance(news, SpeechPaused):
            self._doing = "pause"
        elif isinstance(news, Take):
            self._print(f"[dim]{news.seconds:.1f} s[/]")
            for fault in news.faults:
                self._print(f"[{'red' if fault.spoils else 'yellow'}]{escape(fault.words)}[/]")
            self._loudspeaker.play(news.samples)
            self._decide(news)

    def _decide(self, take: Take) -> None:
        spoilt = any(fault.spoils for fault in take.faults)
        if spoilt and self._repeats >= MOST_REPEATS:
            return self._hold()
        self._next = self._once_more if spoilt else self._keep
        self._blocks_left = round(50 * (DOUBTFUL_AFTER_S if take.faults else KEPT_AFTER_S))
        self._doing = "once more …" if spoilt else "keeping it …"

    def _count_down(self) -> None:
        if self._next is None or self._loudspeaker.playing:
            return
        self._blocks_left -= 1
        if self._blocks_left <= 0:
            does, self._next = self._next, None
            does()

    def _hold(self) -> None:
        """Nothing happens by itself; what is being said is over."""
        for news in self._lesson.finish():
            self._heard(news)
        if self._lesson.take is not None:
            self._loudspeaker.clear()
            self._next = None
            self._doing = "Enter keeps it, r repeats"

    def _once_more(self) -> None:
        self._repeats += 1
        self._listen()

    def _repeat(self) -> None:
        if self._lesson.take is not None:
            self._listen()

    def _play(self) -> None:
        if self._lesson.take is not None:
            self._hold()
            self._loudspeaker.play(self._lesson.take.samples)

    def _keep(self) -> None:
        if self._lesson.take is not None:
            self._another(self._kept)

    def _kept(self) -> None:
        if self._lesson.keep() is not None:
            self._print("[green]Kept.[/]")

    def _undo(self) -> None:
        removed = self._lesson.undo()
        self._print("Nothing of this visit is left to undo." if removed is None else f"Removed {escape(removed.reference)}.")

    def _another(self, does: Callable[[], Any]) -> None:
        """Does what may lead to another sentence. What the disk refuses is told, and may be tried again."""
        before = self._lesson.prompt
        try:
            does()
        except (SpokenIntentsError, OSError) as error:
            self._print(f"[bold red]Not done, and nothing was changed:[/] {escape(sentence_of(error))}")
            self._hold()
        if self._lesson.prompt is not before:
            self._ask()

    def _print(self, words: str) -> None:
        self._console.print(words, highlight=False)
