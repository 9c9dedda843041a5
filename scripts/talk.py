"""Trains the banking assistant if need be, leaves it running, and says how to talk to it. Ctrl-C ends it."""

import signal
import subprocess
import sys
import time

from rich.console import Console

from assistant import Assistant, train

PORT = 5005  # Rasa's own; a page's address that stays the same
console = Console(highlight=False)


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        train()
    except subprocess.CalledProcessError as error:
        console.print(f"[bold red]rasa train failed ({error.returncode}); see above.[/]")
        return 1
    console.print("Starting the action server and Rasa ...")
    try:
        with Assistant(port=PORT) as assistant:
            console.print(
                f"""
[bold green]The assistant listens.[/] Talk to it in a browser:

  [bold]{assistant.http}/webhooks/voice/[/]

Or in another terminal:

  by file        .venv/bin/spoken-intents talk --url {assistant.voice} assistant_project/audio/demo/balance.ogg
  by microphone  .venv/bin/spoken-intents talk --url {assistant.voice} --mic
  a recording    curl --data-binary @recording.wav {assistant.http}/webhooks/voice/webhook

Ask for your balance, the latest transactions, to pay a bill, to freeze your card.
The intents were learnt from synthetic voices only: expect it to mishear people. Record examples of your own
(docs/builder.md, "Give it clips") to change that.

Ctrl-C ends the assistant. Its log: {assistant.log}
"""
            )
            while assistant.alive():
                time.sleep(1)
            console.print("[bold red]The assistant ended by itself.[/] Its last lines:")
            console.print(assistant.log_tail(), markup=False)
    except RuntimeError as error:  # it did not come up
        console.print(str(error), markup=False)
    return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        console.print("Ended.")
