"""The banking assistant's processes: `rasa train`, the action server, `rasa run`. Used by the demo, talk and tests."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any, Dict, List, Optional

ROOT = Path(__file__).resolve().parent.parent
PROJECT = ROOT / "assistant_project"
BIN = Path(sys.executable).parent
QUIET = {
    "RASA_TELEMETRY_ENABLED": "false",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "PYTHONWARNINGS": "ignore",
    "SQLALCHEMY_SILENCE_UBER_WARNING": "1",
    "CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    "PYTHONUNBUFFERED": "1",
}


def train(project: Path = PROJECT) -> None:
    """Runs `rasa train` in `project`, its output less other libraries' deprecation warnings.

    Raises:
        CalledProcessError: It failed.
    """
    command = [str(BIN / "rasa"), "train", "--quiet"]
    process = subprocess.Popen(command, cwd=project, env={**os.environ, **QUIET}, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        below_warning = False
        for line in process.stderr:
            # Sanic switches these on for everybody, whatever PYTHONWARNINGS says; each echoes a source line or two.
            below_warning = "DeprecationWarning" in line or (below_warning and line.startswith(("  ", "Implementing")))
            if not below_warning:
                sys.stderr.write(line)
    except BaseException:
        process.terminate()
        raise
    finally:
        process.wait()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def free_port(rather: int = 0) -> int:
    """A port of 127.0.0.1 that nobody uses at the moment: `rather` if that is one."""
    for port in (rather, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return probe.getsockname()[1]
    raise RuntimeError("127.0.0.1 has no free port.")


class Assistant:
    """A running assistant. Use as a context manager; leaving it ends its processes.

    Args:
        project: A trained Rasa project.
        actions: Whether to start its action server too.
        api: Whether to open Rasa's HTTP API (parse, trackers), which asks nobody for a password.
        port: Where Rasa listens, if nobody else does.
        credentials: A file with the channels' settings, instead of the project's own.
    """

    def __init__(
        self, project: Path = PROJECT, actions: bool = True, api: bool = False, port: int = 0, credentials: Optional[Path] = None
    ) -> None:
        self.project = project
        self._credentials = credentials
        self.port = free_port(port)
        self._actions_port = free_port() if actions else None
        self._api = api
        self._processes: List[subprocess.Popen] = []

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def voice(self) -> str:
        return f"ws://127.0.0.1:{self.port}/webhooks/voice/websocket"

    @property
    def pid(self) -> int:
        """Rasa's process."""
        return self._processes[-1].pid

    def __enter__(self) -> "Assistant":
        self._folder = tempfile.TemporaryDirectory()
        self.log = Path(self._folder.name) / "log.txt"
        environment = {**os.environ, **QUIET, "BANK_DB": str(Path(self._folder.name) / "bank.db")}
        rasa = [str(BIN / "rasa"), "run", "-i", "127.0.0.1", "-p", str(self.port)]
        if self._api:
            rasa.append("--enable-api")
        if self._credentials:
            rasa += ["--credentials", str(self._credentials)]
        try:
            if self._actions_port:
                endpoints = Path(self._folder.name) / "endpoints.yml"
                endpoints.write_text(f"action_endpoint:\n  url: http://127.0.0.1:{self._actions_port}/webhook\n")
                rasa += ["--endpoints", str(endpoints)]
                self._start([sys.executable, str(ROOT / "scripts" / "action_server.py"), str(self._actions_port)], environment)
            self._start(rasa, environment)
            self._wait_until_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        self._folder.cleanup()

    def alive(self) -> bool:
        """Whether every process still runs."""
        return all(process.poll() is None for process in self._processes)

    def _start(self, command: List[str], environment: Dict[str, str]) -> None:
        with self.log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(command, cwd=self.project, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _wait_until_ready(self, seconds: float = 600) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            for process in self._processes:
                if process.poll() is not None:
                    raise RuntimeError(f"A server ended with {process.returncode}:\n{self.log_tail()}")
            if self._answers("/webhooks/voice/health") and self._actions_answer():
                return
            time.sleep(0.2)
        raise RuntimeError(f"The assistant was not ready after {seconds:.0f} s:\n{self.log_tail()}")

    def _actions_answer(self) -> bool:
        return not self._actions_port or bool(self._answers("/health", self._actions_port))

    def _answers(self, path: str, port: Optional[int] = None) -> Dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port or self.port}{path}", timeout=5) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError, ValueError):
            return {}

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of what the servers printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
