"""The command ``spoken-intents``: classify and talk; what makes and measures models is in the training package."""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any, List, Optional

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.client import DEFAULT_URL, PACKET_SAMPLES, Message, VoiceClient
from spoken_intents.errors import ConfigError, ProtocolError, SpokenIntentsError
from spoken_intents.features import MAX_SAMPLES
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
typed.add_typer(training)


def app() -> None:
    """Runs the command; an error of ours, or of a file or the network, becomes one sentence and exit code 1."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        typed()
    except (SpokenIntentsError, OSError) as error:
        said = str(error)
        if isinstance(error, OSError) and error.filename is not None and error.strerror:
            said = f"{error.filename}: {error.strerror}."
        Console(stderr=True).print(f"[bold red]Error:[/] {escape(said)}", highlight=False, soft_wrap=True)
        sys.exit(1)


@typed.command()
def classify(
    files: List[Path] = typer.Argument(..., help="Recordings of up to 30 s: WAV, FLAC, Ogg, MP3."),
    model: Path = MODEL,
    top: int = typer.Option(5, help="How much of the ranking to show."),
) -> None:
    """Print the intent ranking of each recording."""
    recognizer = Recognizer(model)
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
) -> None:
    """Talk to a running assistant, by files or by microphone.

    [dim]spoken-intents talk question.wav yes.wav[/]
    """
    if mic == bool(files):
        raise ConfigError("Name recordings to say, or --mic; one of both.")
    try:
        asyncio.run(_talk_by_mic(url, sender) if mic else _talk_by_files(files or [], url, sender))
    except KeyboardInterrupt:
        console.print("Hung up.")


async def _talk_by_files(files: List[Path], url: str, sender: str) -> None:
    recordings = [(file, read_audio(file, 300)) for file in files]
    async with VoiceClient(url, _print_message, sender) as client:
        for file, samples in recordings:
            console.print(f"[bold]You:[/] {escape(str(file))} ({len(samples) / SAMPLE_RATE:.1f} s)")
            if not await client.play(samples):
                console.print("[dim]     no turn: nothing was taken for speech[/]")


async def _talk_by_mic(url: str, sender: str) -> None:
    sounddevice = _sounddevice()
    loop = asyncio.get_running_loop()
    blocks: "asyncio.Queue[Any]" = asyncio.Queue()

    def recorded(block: Any, count: int, clock: Any, status: Any) -> None:
        loop.call_soon_threadsafe(blocks.put_nowait, block[:, 0].copy())

    async def send() -> None:
        while True:
            await client.send_audio(await blocks.get())

    async with VoiceClient(url, sender=sender) as client:
        with sounddevice.InputStream(SAMPLE_RATE, PACKET_SAMPLES, channels=1, dtype="float32", callback=recorded):
            console.print("Speak. Ctrl-C hangs up.")
            sending = asyncio.create_task(send())
            try:
                async for message in client.messages():
                    _print_message(message)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)  # what broke the line, `messages` has said
    raise ProtocolError("closed", "The server hung up.")


def _sounddevice() -> Any:
    try:
        import sounddevice
    except ImportError:
        raise ConfigError("--mic needs the extra: pip install 'rasa-spoken-intents[mic]'.") from None
    except OSError:
        raise ConfigError("--mic needs the system's PortAudio library (Debian and Ubuntu: apt install libportaudio2).") from None
    try:
        sounddevice.check_input_settings(samplerate=SAMPLE_RATE, channels=1)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise ConfigError(f"No microphone can be used: {error}") from None
    return sounddevice


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
