"""What people use instead and cannot live in this environment: faster-whisper, in one of its own; and Rasa's DIET behind it.

Each is a process that is told what to do by a line and answers with the milliseconds that it took, so that it takes its turn
among the other contenders.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, Tuple

from timing import Timed

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
FOLDER = HERE / ".peers"
PINNED = HERE / "peers.txt"
SETTLE_SECONDS = 0.25  # CTranslate2's threads keep a core busy for 200 ms behind the last call
SENTENCES = ("what is the balance on my account", "please freeze my card, somebody stole it", "that's all, thank you, goodbye")


class PeersMissing(Exception):
    """The environment is not there and cannot be made; the text says why."""


def environment() -> Path:
    """The Python of the peers' environment, which is made by uv if `peers.txt` changed.

    Raises:
        PeersMissing: There is no uv, or the registry cannot be reached.
    """
    python, stamp = FOLDER / "venv/bin/python", FOLDER / "venv/made-from.txt"
    if stamp.is_file() and stamp.read_text() == PINNED.read_text():
        return python
    uv = shutil.which("uv") or shutil.which("uv", path=str(ROOT / ".uv/bin"))
    if uv is None:
        raise PeersMissing("needs uv, which `make setup` installs")
    FOLDER.mkdir(exist_ok=True)
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(FOLDER / "venv")],
        [uv, "pip", "install", "--quiet", "--python", str(python), "-r", str(PINNED)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **registry()})
        if done.returncode:
            raise PeersMissing(f"uv {command[1]} failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    stamp.write_text(PINNED.read_text())
    return python


def registry() -> Dict[str, str]:
    """The package registry that pip is set to, for uv, which does not read pip's settings."""
    done = subprocess.run([sys.executable, "-m", "pip", "config", "get", "global.index-url"], capture_output=True, text=True)
    index = os.environ.get("PIP_INDEX_URL") or (done.stdout.strip() if done.returncode == 0 else "")
    return {"UV_DEFAULT_INDEX": index} if index and "UV_DEFAULT_INDEX" not in os.environ else {}


class Worker:
    """A process that answers each line on its input with a line of JSON. Use as a context manager."""

    def __init__(self, command: List[str]) -> None:
        self._log = (FOLDER / f"{Path(command[1]).stem}.log").open("w+")
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True)
        self.told = self._answer()  # what it has to say once it is ready

    def ask(self, question: Any) -> Any:
        """The answer to one question."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            self._log.seek(0)
            raise RuntimeError(f"A peer ended early:\n{self._log.read()[-2000:]}")
        return json.loads(line)

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        self._process.wait()


class Peers:
    """faster-whisper and DIET, running. Use as a context manager.

    Args:
        shapes: (width, layers, heads) of encoder and decoder by name.
        threads: As many as everybody has; TensorFlow takes as many as there are cores.

    Raises:
        PeersMissing: See `environment`.
    """

    def __init__(self, shapes: Mapping[str, Tuple[int, int, int]], threads: int) -> None:
        python = environment()
        self._transcriber = Worker([str(python), str(HERE / "peer_transcriber.py"), json.dumps(shapes), str(threads)])
        try:
            self._diet = Worker([sys.executable, str(HERE / "peer_diet.py"), str(FOLDER / "diet")])
        except BaseException:
            self._transcriber.close()
            raise
        self.versions: Dict[str, str] = {**self._transcriber.told, **self._diet.told}

    def __enter__(self) -> "Peers":
        return self

    def __exit__(self, *error: Any) -> None:
        self._transcriber.close()
        self._diet.close()

    def contender(self, shape: str, seconds: float) -> Timed:
        """Transcribes `seconds` of audio, then classifies a sentence's text."""
        turn = 0

        def once() -> float:
            nonlocal turn
            turn += 1
            heard = self._transcriber.ask([shape, seconds])
            understood = self._diet.ask(SENTENCES[turn % len(SENTENCES)])
            time.sleep(SETTLE_SECONDS)
            return heard["ms"] + understood["ms"]

        return once
