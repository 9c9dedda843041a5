"""Trains the banking assistant, starts it, and has a spoken conversation with it.

    python scripts/demo.py [--short]

Exits with 1 and the difference when a turn is not what assistant_project/demo.yml expects.
"""

import argparse
import asyncio
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List, Optional

import yaml
from rich.console import Console

from assistant import PROJECT, Assistant, train
from spoken_intents.audio import SAMPLE_RATE, read_audio
from spoken_intents.cli import shown
from spoken_intents.client import Answer, VoiceClient
from spoken_intents.errors import SpokenIntentsError

console = Console(highlight=False, soft_wrap=True)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true", help="fewer turns")
    short = arguments.parse_args().short
    turns = [turn for turn in yaml.safe_load((PROJECT / "demo.yml").read_text()) if turn.get("short") or not short]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that `with Assistant()` ends its processes
    began = time.monotonic()
    console.rule("rasa train")
    try:
        train()
    except subprocess.CalledProcessError as error:
        console.print(f"[bold red]rasa train failed ({error.returncode}); see above.[/]")
        return 1
    trained = time.monotonic()
    console.rule("rasa run")
    console.print("Starting the action server and Rasa ...")
    with Assistant() as assistant:
        started = time.monotonic()
        console.print(f"Listening at {assistant.voice}\n")
        differences = asyncio.run(converse(assistant, turns))
        if differences:
            console.print(f"\n[bold red]{len(differences)} of {len(turns)} turns were not as expected:[/]")
            for difference in differences:
                console.print(f"  {difference}")
            console.print(f"\nThe servers' last lines:\n{assistant.log_tail(15)}", markup=False)
    now = time.monotonic()
    console.print(
        f"\nTraining {trained - began:.0f} s, start {started - trained:.0f} s, conversation {now - started:.0f} s, "
        f"together {now - began:.0f} s."
    )
    if not differences:
        console.print(
            f"[bold green]All {len(turns)} turns as expected.[/] The intents were learnt from synthetic voices: `make talk` to try yours."
        )
    return 1 if differences else 0


async def converse(assistant: Assistant, turns: List[Dict[str, Any]]) -> List[str]:
    """Says every turn and prints what comes back; returns how it differed from what was expected."""
    differences = []
    async with VoiceClient(assistant.voice) as client:
        for number, turn in enumerate(turns, 1):
            clip = f"audio/demo/{turn['clip']}.ogg"
            samples = read_audio(PROJECT / clip, 60)
            console.print(
                f"[bold]{number}. You[/]   {turn.get('say', '(a vacuum cleaner)')}   [dim]{clip}, {len(samples) / SAMPLE_RATE:.1f} s[/]"
            )
            try:
                answer = await client.say(samples, patience_s=3.0 if turn.get("noise") else 15.0)
            except SpokenIntentsError as error:
                return [*differences, f"{turn['clip']}: {error}"]
            print_answer(answer)
            difference = compare(turn, answer)
            if difference:
                differences.append(difference)
    return differences


def print_answer(answer: Optional[Answer]) -> None:
    if answer is None:
        console.print("   [dim]heard  no speech: no turn[/]\n")
        return
    if answer.heard:
        console.print(f"   heard  [cyan]{answer.heard['intent']}[/] {answer.heard['confidence']:.0%}")
    for message in answer.messages:
        for line in shown(message):
            console.print(f"   [bold green]Bot[/]   {line}")
    latency, after = answer.latency, answer.answered_after_ms
    if after is not None:
        waited, classified, in_rasa = (
            latency[f"{name}_ms"] for name in ("endpoint_delay", "asr_latency", "rasa_processing_latency")
        )
        noticed = max(0.0, after - waited - classified - in_rasa)  # voice activity detectors lag behind
        console.print(
            f"   [dim]answered {after:.0f} ms after the end of speech: {noticed:.0f} until silence was noticed, {waited:.0f} of "
            f"silence, {classified:.0f} classifying, {in_rasa:.0f} in Rasa[/]"
        )
    console.print()


def compare(turn: Dict[str, Any], answer: Optional[Answer]) -> str:
    """What is not as `turn` expects; empty when all is."""
    heard = answer.heard["intent"] if answer and answer.heard else None
    if "intent" in turn and heard != turn["intent"]:
        return f"{turn['clip']}: expected to hear {turn['intent']}, heard {heard}"
    said = " ".join(answer.texts) if answer else ""
    wanted = turn.get("answer", "")
    if not any(words in said for words in ([wanted] if isinstance(wanted, str) else wanted)):
        return f"{turn['clip']}: expected the answer to hold {wanted!r}, got {said!r}"
    return ""


if __name__ == "__main__":
    sys.exit(main())
