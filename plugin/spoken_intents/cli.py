"""The command ``spoken-intents``: classify and talk; what makes and measures models is in the training package."""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import List, Optional

import numpy as np
import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from spoken_intents.archives import model_directory
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.cli_init import typed as starting
from spoken_intents.cli_recordings import typed as recordings
from spoken_intents.client import DEFAULT_URL, TOKEN, Message, VoiceClient
from spoken_intents.errors import ConfigError, ProtocolError, SpokenIntentsError, sentence_of
from spoken_intents.features import MAX_SAMPLES
from spoken_intents.files import require_file, write_whole
from spoken_intents.load import read_recordings
from spoken_intents.load import run as run_load
from spoken_intents.load_report import LoadSettings, Report
from spoken_intents.microphone import Loudspeaker, Microphone, level_bar, load_sounddevice
from spoken_intents.recognizer import Recognizer
from spoken_intents_training.cli import typed as training
from spoken_intents_training.cli_measure import MODEL

typed = typer.Typer(
    help="Teach a speech-to-intent model, measure it, and talk to a Rasa assistant that uses it.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
console = Console()
typed.add_typer(starting)
typed.add_typer(training)
typed.add_typer(recordings, name="recordings")
SHOWN_TOKEN = typer.Option(
    "", envvar=TOKEN, help="For a server that asks who calls. Other users of a computer see options, not variables."
)


def app() -> None:
    """Runs the command; an error of ours, or of a file or the network, becomes one sentence and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        typed()
    except (SpokenIntentsError, OSError) as error:
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(sentence_of(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


@typed.command()
def classify(
    files: List[Path] = typer.Argument(..., help="Recordings of up to 30 s: WAV, FLAC, Ogg, MP3."),
    model: Path = MODEL,
    top: int = typer.Option(5, help="How much of the ranking to show."),
) -> None:
    """Print the intent ranking of each recording."""
    with model_directory(model) as directory:
        recognizer = Recognizer(directory)
    for file in files:
        recognition = recognizer.classify(read_audio(file, MAX_SAMPLES / SAMPLE_RATE))
        console.print(escape(str(file)), style="bold", highlight=False, soft_wrap=True)
        table = Table(box=None, show_header=False)
        if not recognition.is_speech:
            table.add_row("(no speech)", f"{recognition.non_speech:.1%}")
        for intent, confidence in recognition.ranking[:top]:
            table.add_row(escape(intent), f"{confidence:.1%}", "█" * round(30 * confidence))
        console.print(table)


@typed.command()
def talk(
    files: Optional[List[Path]] = typer.Argument(None, help="Recordings to say, one after the other, in real time."),
    mic: bool = typer.Option(False, "--mic", help="Talk by microphone (needs the extra [bold]mic[/]); Ctrl-C hangs up."),
    url: str = typer.Option(DEFAULT_URL, help="The assistant's voice WebSocket."),
    sender: str = typer.Option("", help="Go on with this conversation instead of a new one."),
    token: str = SHOWN_TOKEN,
) -> None:
    """Talk to a running assistant, by files or by microphone.

    [dim]spoken-intents talk question.wav yes.wav[/]
    """
    if mic == bool(files):
        raise ConfigError("Name recordings to say, or --mic; one of both.")
    try:
        asyncio.run(_talk_by_mic(url, sender, token) if mic else _talk_by_files(files or [], url, sender, token))
    except KeyboardInterrupt:
        console.print("Hung up.")


async def _talk_by_files(files: List[Path], url: str, sender: str, token: str) -> None:
    recordings = [(file, read_audio(file, 300)) for file in files]
    async with VoiceClient(url, _print_message, sender, token=token) as client:
        for file, samples in recordings:
            console.print(f"[bold]You:[/] {escape(str(file))} ({len(samples) / SAMPLE_RATE:.1f} s)")
            try:
                answers = await client.play(samples)
            except ProtocolError:
                if not client.is_lost:
                    raise
                await _call_again(client)
                answers = await client.play(samples)
            if not answers:
                console.print("[dim]     no turn: nothing was taken for speech[/]")


async def _talk_by_mic(url: str, sender: str, token: str) -> None:
    sounddevice = load_sounddevice()
    state = _State()
    with Loudspeaker(sounddevice) as loudspeaker, Microphone(sounddevice) as microphone:

        async def send() -> None:
            while True:
                block = await microphone.block()
                await client.send_audio(block)
                live.update(state.line(block, loudspeaker.playing))

        async with VoiceClient(url, sender=sender, output=loudspeaker, token=token) as client:
            console.print("Speak; you may interrupt. A headset keeps the bot from hearing itself. Ctrl-C hangs up.")
            with Live(console=console, refresh_per_second=10, transient=True) as live:
                while True:
                    sending = asyncio.create_task(send())
                    try:
                        async for message in client.messages():
                            state.follow(message)
                            _print_message(message)
                            if message.get("hangup"):
                                return
                    except ProtocolError:
                        if not client.is_lost:
                            raise
                    finally:
                        sending.cancel()
                        await asyncio.gather(sending, return_exceptions=True)  # what broke the line, `messages` has said
                    if not client.is_lost:
                        raise ProtocolError("closed", "The server hung up.")
                    await _call_again(client)


async def _call_again(client: VoiceClient) -> None:
    """Goes on with the conversation: only its server is gone."""
    console.print("[dim]The server is gone: calling again.[/]")
    await client.dial_again()


@typed.command()
def load(
    recordings: List[Path] = typer.Argument(..., help="What is said: recordings of one utterance each, or folders of them."),
    url: str = typer.Option(DEFAULT_URL, help="The assistant's voice WebSocket."),
    callers: int = typer.Option(10, min=1, max=1000, help="Calls at the same time."),
    seconds: float = typer.Option(60, min=1, max=3600, help="How long each caller speaks, now and then."),
    ramp: float = typer.Option(5, min=0, max=600, help="Seconds in which the calls begin, one after the other."),
    messages: str = typer.Option("telephone", help="[bold]telephone[/]: 50 a second; [bold]browser[/]: 375 small ones."),
    late_ms: float = typer.Option(1000, min=1, help="An answer is late that begins later than this behind its turn's end."),
    seed: int = typer.Option(0, min=0, help="Of who says what, how loud, and when."),
    token: str = SHOWN_TOKEN,
    json_file: Optional[Path] = typer.Option(None, "--json", help="Write all figures here."),
) -> None:
    """Have many callers talk to a running assistant in real time, and say what was lost, what was late, and by how much.

    Each caller speaks about 3 s in every 10, answered or not, and is right when heard as the same recording is when said
    alone. Ends with 1 when a turn was lost or failed, a call dropped, or nothing said. Run it against your own server, and on another machine than that
    where you can: here it takes processor time from what it measures.

    [dim]spoken-intents load audio/test --callers 50[/]
    """
    require_file("--json", json_file)
    settings = LoadSettings(url, callers, seconds, ramp, messages, late_ms, seed)
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("Saying each recording alone", total=seconds + ramp)

        def progress(gone_s: float, report: Report) -> None:
            counts = report.counts()
            bar.update(
                task, completed=gone_s, description=f"{counts['said']} said, {counts['right']} right, {counts['late']} late"
            )

        report = asyncio.run(run_load(settings, read_recordings(recordings, seed), progress, token))
    for table in report.tables():
        console.print(table)
    for problem in report.problems():
        console.print(f"[bold yellow]{escape(problem)}[/]", highlight=False)
    if json_file:
        write_whole(json_file, (json.dumps(report.as_json(), indent=2) + "\n").encode())
    if not report.passed:
        raise typer.Exit(1)


class _State:
    """One line that says what is going on."""

    WORDS = {"user_speaking_start": "you speak", "user_speaking_end": "heard", "transcript": "thinking"}

    def __init__(self) -> None:
        self._said = "listening"

    def follow(self, message: Message) -> None:
        if message.get("final") or message.get("trace_event") in ("non_speech", "ignored"):
            self._said = "listening"
        else:
            self._said = self.WORDS.get(message.get("trace_event", ""), self._said)

    def line(self, block: np.ndarray, bot_speaks: bool) -> str:
        """Shown while `block` (float32) is heard."""
        said = "the bot speaks" if bot_speaks and self._said == "listening" else self._said
        return f"[cyan]{level_bar(block)}[/] [dim]{said}[/]"


def _print_message(message: Message) -> None:
    if message.get("trace_event") == "transcript":
        console.print(f"     heard [bold cyan]{escape(message['intent'])}[/] {message['confidence']:.0%}")
    if message.get("error", {}).get("code") == "turn_failed":  # every other error ends the call and is raised
        console.print(f"[bold red]Error:[/] {escape(message['error']['message'])}", highlight=False)
    for line in shown(message):
        console.print(f"[bold green]Bot:[/] {line}")


def shown(message: Message) -> List[str]:
    """A bot message's lines for a terminal; none for events and markers."""
    lines = [escape(message["response"])] if "response" in message else []
    if message.get("buttons"):
        lines.append("   ".join(f"\\[{escape(button['title'])}]" for button in message["buttons"]))
    if "image" in message:
        lines.append(f"(picture) {escape(message['image'])}")
    if "custom" in message:
        lines.append(escape(json.dumps(message["custom"])))
    return lines
