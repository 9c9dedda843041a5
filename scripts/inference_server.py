"""Inference servers that exist in the field, serving an artefact's graph; used by tests and benchmarks.

Each lives in an environment of its own, since its dependencies are not Rasa's: where MLSERVER_PYTHON or TRITON_PYTHON
says, or made by uv in the cache directory.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any, List

from assistant import ROOT, free_port

PACKAGES = {"mlserver": "mlserver==1.7.1", "triton": "nvidia-pytriton==0.7.0"}


class Unavailable(Exception):
    """A server that cannot be had here; in words for a skipped test."""


def environment(kind: str) -> Path:
    """The Python that has the server `kind`, made by uv if it is not there yet.

    Raises:
        Unavailable: There is none, and none can be made.
    """
    said = os.environ.get(f"{kind.upper()}_PYTHON")
    if said:
        return Path(said)
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spoken-intents" / PACKAGES[kind]
    python, uv = home / "bin/python", shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    if not (home / "complete").exists():
        commands = (
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(home)],
            [uv, "pip", "install", "--quiet", "--python", str(python), PACKAGES[kind], "onnxruntime>=1.23,<1.24"],
        )
        try:
            for command in commands:
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except (OSError, subprocess.SubprocessError) as error:
            why = getattr(error, "stderr", "") or error
            raise Unavailable(f"needs {PACKAGES[kind]} at {kind.upper()}_PYTHON, or uv and a package registry ({why})") from None
        (home / "complete").touch()
    return python


class InferenceServer:
    """`artefact`'s fp32 graph behind the server `kind` on 127.0.0.1. Leaving the context ends it.

    Raises:
        Unavailable: The server cannot be had here.
    """

    def __init__(self, kind: str, artefact: Path) -> None:
        self._python = environment(kind)
        self.port = free_port()
        self.name = f"spoken-intents-{hashlib.sha256((artefact / 'model.json').read_bytes()).hexdigest()[:16]}"
        self._graph = artefact / "model.fp32.onnx"
        self._kind = kind

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "InferenceServer":
        self._folder = tempfile.TemporaryDirectory()
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()
        self._folder.cleanup()

    def start(self) -> None:
        """Starts the server, on the same port each time, and waits until it is ready."""
        folder = Path(self._folder.name)
        command = self._mlserver(folder) if self._kind == "mlserver" else self._triton()
        itself = {**os.environ, "PYTRITON_HOME": str(folder)}
        log = folder / "log.txt"
        with log.open("wb") as output:
            streams: Any = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": output}
            self._process = subprocess.Popen(command, cwd=folder, env=itself, start_new_session=True, **streams)
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.url}/v2/models/{self.name}/ready", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"{self._kind} did not start:\n{log.read_text(errors='replace')[-3000:]}")

    def stop(self) -> None:
        """Ends the server, if it runs."""
        self._process.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(30)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # whatever it started and left: Triton's own Python, at times
        self._process.wait()
        for left in Path("/dev/shm").glob(f"pytrtion{self._process.pid}-*"):  # by Triton, most times; spelt so
            left.unlink()

    def _mlserver(self, folder: Path) -> List[str]:
        shutil.copy(Path(__file__).parent / "mlserver_graph.py", folder)
        settings = {"host": "127.0.0.1", "http_port": self.port, "grpc_port": free_port(), "metrics_endpoint": None}
        (folder / "settings.json").write_text(json.dumps({**settings, "parallel_workers": 0, "debug": False}))
        model = {"name": self.name, "implementation": "mlserver_graph.Graph", "parameters": {"uri": str(self._graph)}}
        (folder / "model-settings.json").write_text(json.dumps(model))
        return [str(self._python.parent / "mlserver"), "start", str(folder)]

    def _triton(self) -> List[str]:
        return [str(self._python), str(Path(__file__).parent / "triton_graph.py"), str(self._graph), self.name, str(self.port)]
