"""Makes the pictures of the documents from the running software, into docs/.

    python scripts/pictures.py [NAME ...]    # all, or some of: demo, page, turn, report, teach, review

Needs Chromium, espeak for the bot's voice, and the banking assistant, which is trained where it is not. Pictures differ a little each
time, and git keeps every one for ever: make them anew when what they show has changed.
"""

import argparse
import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any, Awaitable, Callable, Dict, Iterator, List

import demo
import numpy as np
import soundfile
import yaml
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from assistant import BIN, PROJECT, ROOT, Assistant, train
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.client import Message, VoiceClient

sys.path.append(str(ROOT / "tests"))
from chromium import Chromium, microphone_flags

DOCS = ROOT / "docs"
DEMO = PROJECT / "audio/demo"
PATIENCE_S = 600.0
LIGHT = TerminalTheme(
    (255, 255, 255),
    (31, 35, 40),
    [(31, 35, 40), (207, 34, 46), (17, 99, 41), (154, 103, 0), (9, 105, 218), (130, 80, 223), (27, 124, 131), (110, 119, 129)],
)
INK, FAINT, LINE, BLUE = "#1f2328", "#57606a", "#d0d7de", "#0969da"
COLOURS = {"speech": "#0b7a70", "silence": "#a2590a", "Rasa": "#2f6fc4", "the bot": "#4b45a9"}


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * SAMPLE_RATE), dtype=np.float32)


async def draw_demo(assistant: Assistant) -> None:
    """What `make demo` prints, as a terminal shows it."""
    console = demo.console = Console(record=True, width=128, highlight=False, soft_wrap=False, force_terminal=True)
    turns = yaml.safe_load((PROJECT / "demo.yml").read_text())
    different = await demo.converse(assistant, turns)
    if different:
        raise SystemExit(f"The demo did not go as it should: {different}")
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\s*", "", CONSOLE_SVG_FORMAT, flags=re.S)  # of a server that is not ours
    svg = console.export_svg(title="make demo", theme=LIGHT, code_format=without_fonts, unique_id="demo")
    (DOCS / "demo.svg").write_text("\n".join(line.rstrip() for line in svg.splitlines()) + "\n")


async def draw_page(assistant: Assistant) -> None:
    """The page in the middle of a call: one turn is answered, the next is still spoken."""
    said = [silence(0.7), read_audio(DEMO / "balance.ogg", 30), silence(6), read_audio(DEMO / "pay_bill.ogg", 30), silence(6)]
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder, "said.wav")
        soundfile.write(recording, np.concatenate(said), SAMPLE_RATE, subtype="PCM_16")
        async with Chromium(*microphone_flags(recording)) as browser:
            page = await browser.open(f"{assistant.http}/webhooks/voice/", 1180, 720)
            await page.click("#talk")
            await page.sees(".timeline", "playback")
            await page.sees("body", "So far")
            await page.screenshot(DOCS / "page.png")


async def draw_report(assistant: Assistant) -> None:
    """The page of figures that `spoken-intents evaluate` writes, of the assistant's model on the corpus' test part."""
    with tempfile.TemporaryDirectory() as folder:
        newest = max((PROJECT / "models").glob("*.tar.gz"), key=lambda archive: archive.stat().st_mtime)
        with tarfile.open(newest) as archive:
            archive.extractall(folder)
        (described,) = Path(folder).rglob("*SpokenIntentClassifier*/model.json")
        report = Path(folder, "report.html")
        clips = PROJECT / "audio/manifest.csv"
        command = [BIN / "spoken-intents", "evaluate", "--model", described.parent, "--data", clips, "--split", "test"]
        subprocess.run([*map(str, command), "--report", str(report)], check=True)
        async with Chromium() as browser:
            page = await browser.open(report.as_uri(), 1180, 900)
            await page.command("Emulation.setScrollbarsHidden", hidden=True)
            await page.screenshot(DOCS / "report.png")


async def draw_turn(assistant: Assistant) -> None:
    """Where the time of one turn goes: of a real one, by the server's own figures."""
    told: List[Message] = []
    samples = read_audio(DEMO / "pay_bill.ogg", 30)
    async with VoiceClient(assistant.voice, told.append) as client:
        answer = await client.say(samples)
    if answer is None or not len(answer.speech):
        raise SystemExit("The bot said nothing, so there is no timeline.")
    (DOCS / "turn.svg").write_text(turn_svg(samples, told, len(answer.speech) / SAMPLE_RATE))


def turn_svg(samples: np.ndarray, told: List[Message], spoken_s: float) -> str:
    """A timeline of a turn, as SVG.

    Args:
        samples: What the caller said, float32 at 16 kHz, from the beginning of the call.
        told: What the server told meanwhile: pauses, what was heard so far, the final marker.
        spoken_s: How long the bot's answer is.
    """
    final = next(message for message in told if message.get("final"))
    turn, latency = final["turn"], final["latency"]
    end, until = turn["end_ms"], turn["end_ms"] + latency["tts_first_byte_latency_ms"] + 700

    def x(ms: float) -> float:
        return round(150 + 820 * ms / until, 1)

    parts: List[str] = []

    def text(ms: float, y: float, said: str, colour: str = FAINT, anchor: str = "start", size: float = 12.5) -> None:
        parts.append(f'<text x="{x(ms)}" y="{y}" fill="{colour}" font-size="{size}" text-anchor="{anchor}">{escape(said)}</text>')

    def bar(start: float, stop: float, y: float, colour: str) -> None:
        parts.append(
            f'<rect x="{x(start)}" y="{y}" width="{max(2.0, x(stop) - x(start)):.1f}" height="16" rx="3" fill="{colour}"/>'
        )

    for name, y in (("the caller", 86), ("silence", 146), ("heard so far", 196), ("Rasa", 246), ("the bot", 296)):
        parts.append(f'<text x="24" y="{y}" fill="{INK}" font-size="13.5" font-weight="600">{name}</text>')
    step = 8 * SAMPLE_RATE // 1000
    for place in range(0, len(samples) - step, 3 * step):
        high = max(1.0, 34 * float(np.abs(samples[place : place + 3 * step]).max()) / float(np.abs(samples).max()))
        ms = place * 1000 / SAMPLE_RATE
        parts.append(f'<path d="M{x(ms)} {82 - high:.1f}V{82 + high:.1f}" stroke="{COLOURS["speech"]}" stroke-width="3"/>')
    bar(turn["speech_end_ms"], end, 134, COLOURS["silence"])
    text(turn["speech_end_ms"], 128, f"{latency['endpoint_delay_ms']:.0f} ms waited until the turn is over", anchor="end")
    heard = [message for message in told if message.get("trace_event") == "partial" and message["at_ms"] <= end]
    for number, message in enumerate(heard):
        best = message["intent_ranking"][0]
        parts.append(f'<circle cx="{x(message["at_ms"])}" cy="192" r="5" fill="{BLUE}"/>')
        if number == len(heard) - 1:
            said = f"{best['name']} {best['confidence']:.0%}, asked for in the pause"
            text(message["at_ms"] - 60, 197, said, anchor="end")
    parts.append(f'<path d="M{x(end)} 44V312" stroke="{LINE}" stroke-dasharray="3 3"/>')
    dialogue = end + latency["asr_latency_ms"]
    bar(dialogue, dialogue + latency["rasa_processing_latency_ms"], 234, COLOURS["Rasa"])
    first = f"first message after {latency['first_response_latency_ms']:.0f} ms"
    text(end - 30, 247, f"{first}; done after {latency['rasa_processing_latency_ms']:.0f}", anchor="end")
    sound = end + latency["tts_first_byte_latency_ms"]
    bar(sound, until, 284, COLOURS["the bot"])
    text(end - 30, 297, f"first sound after {latency['tts_first_byte_latency_ms']:.0f} ms, {spoken_s:.1f} s in all", anchor="end")
    for ms in range(0, int(until) + 1, 500):
        parts.append(f'<path d="M{x(ms)} 318V324" stroke="{FAINT}"/>')
        text(ms, 340, f"{ms / 1000:g} s", anchor="middle", size=11.5)
    drawn = "\n  ".join(parts)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 356" width="1000" height="356" font-family="system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif" role="img" aria-labelledby="turn">
  <title id="turn">A turn from the first word to the first sound of the answer: {escape(turn["intent"])}</title>
  <rect x="1" y="1" width="998" height="354" rx="12" fill="#f6f8fa" stroke="#afb8c1"/>
  {drawn}
</svg>
"""


async def draw_teach(assistant: Assistant) -> None:
    """The page on which people read sentences aloud, with one kept and the next one being said."""
    said = [silence(1.5), read_audio(DEMO / "balance.ogg", 30), silence(7), read_audio(DEMO / "pay_bill.ogg", 30), silence(6)]
    with tempfile.TemporaryDirectory() as folder:
        project, recording = Path(folder, "my_bank"), Path(folder, "said.wav")
        shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns(".rasa", "audio", "models", "nlu_spoken.yml"))
        soundfile.write(recording, np.concatenate(said), SAMPLE_RATE, subtype="PCM_16")
        with command_page("teach", project) as address:
            async with Chromium(*microphone_flags(recording)) as browser:
                page = await browser.open(address, 1180, 720)
                await page.until("!document.querySelector('#door').hidden")
                await page.evaluate("document.querySelector('#name').focus()")
                await page.type("Anna")
                await page.sees("#sum", "1 of")
                await page.until("document.body.dataset.phase === 'speaking'")
                await asyncio.sleep(1)  # of speech to be seen
                await page.screenshot(DOCS / "teach.png")


async def draw_review(assistant: Assistant) -> None:
    """The page on which recorded turns are labelled: the demo's, by an assistant that records them."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder, "my_bank")
        shutil.copytree(PROJECT, project, ignore=shutil.ignore_patterns(".rasa"))
        (project / "credentials.yml").write_text("spoken_intents.channels.voice.VoiceInput: {recordings: recordings}\n")
        with Assistant(project) as recording:
            await demo.converse(recording, yaml.safe_load((PROJECT / "demo.yml").read_text()))
        with command_page("review", project) as address:
            async with Chromium() as browser:
                page = await browser.open(address, 1180, 720)
                await page.sees("#nearest li", "")
                await page.screenshot(DOCS / "review.png")


@contextmanager
def command_page(command: str, project: Path) -> Iterator[str]:
    """The address of a page that a command serves for as long as it is open."""
    words = [str(BIN / "spoken-intents"), command, str(project), "--no-browser", "--port", "0"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if found := re.search(r"http://\S+", line):
                yield found[0]
                return
        raise SystemExit(f"spoken-intents {command} gave no address.")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


PICTURES: Dict[str, Callable[[Assistant], Awaitable[Any]]] = {
    "demo": draw_demo,
    "page": draw_page,
    "turn": draw_turn,
    "report": draw_report,
    "teach": draw_teach,
    "review": draw_review,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(PICTURES))
    names = parser.parse_args().names or list(PICTURES)
    if unknown := [name for name in names if name not in PICTURES]:
        parser.error(f"no picture is called {unknown[0]}: {', '.join(PICTURES)}")
    if not any((PROJECT / "models").glob("*.tar.gz")):
        train()
    with Assistant() as assistant:
        for name in names:
            asyncio.run(asyncio.wait_for(PICTURES[name](assistant), PATIENCE_S))
            print(f"docs: {name}")


if __name__ == "__main__":
    main()
