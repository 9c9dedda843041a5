"""The recognizer's graph on inference servers: log-mel there, logits back; and when to do without them.

By the Open Inference Protocol (KServe's version 2) over HTTP, which Triton, MLServer, KServe and OpenVINO Model Server
speak: https://github.com/kserve/open-inference-protocol, and Triton's extension for binary tensors where a server has it.
A server has the fp32 graph of the artefact, unchanged, and nothing else: labels, temperature and front end are those of
the artefact here, whose fingerprint is in the name that the server knows the graph by. So a graph never answers for
another model's labels.
"""

import itertools
import json
import logging
import threading
import time
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import urlsplit

import numpy as np
import urllib3

from spoken_intents.config import require, settings_from

logger = logging.getLogger(__name__)

PREFIX = "SPOKEN_INTENTS_RECOGNIZER_"
LARGEST_ANSWER_BYTES = 1 << 20  # of thousands of labels
MAY_DIFFER = 0.05  # of the logits' spread; a GPU that rounds to 10 bits moves them by a tenth of that
ABOUT_THE_REQUEST = (400, 413, 422)  # of HTTP; other errors are about the server: without the model, with too much to do
LONGEST_TIMEOUT_MS = 60_000
FIRST_REST_SECONDS, LONGEST_REST_SECONDS = 1.0, 30.0


@dataclass(frozen=True)
class RemoteSettings:
    """Where graphs are served. From the environment, since that differs from machine to machine while the model does not.

    Attributes:
        url: The servers' addresses, separated by commas; empty: the graph runs in this process.
        timeout_ms: Most that one server may take for one utterance; up to a minute.
    """

    url: str = ""
    timeout_ms: float = 500

    def __post_init__(self) -> None:
        for url in self.urls:
            require(_is_address(url), f"url takes addresses such as http://gpu:8000, got {url}")
        require(
            0 < self.timeout_ms <= LONGEST_TIMEOUT_MS,
            f"timeout_ms takes a positive number up to {LONGEST_TIMEOUT_MS}, got {self.timeout_ms:g}",
        )

    @property
    def urls(self) -> Tuple[str, ...]:
        return tuple(url.strip().rstrip("/") for url in self.url.split(",") if url.strip())

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> "RemoteSettings":
        """The settings in variables such as ``SPOKEN_INTENTS_RECOGNIZER_URL``.

        Raises:
            ConfigError: An unknown one, or a wrong value.
        """
        said = {name[len(PREFIX) :].lower(): value for name, value in environment.items() if name.startswith(PREFIX)}
        return settings_from(cls, said, f"The environment's {PREFIX}*")


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # such as half an IPv6 address
        return False


class _Failed(Exception):
    """A server has not answered, or not as it should; in words for the log."""


class _Late(_Failed):
    """It has not answered in time: it may be gone, or the utterance long."""


class _Refused(_Failed):
    """It has answered that it does not take this request: another one it may."""


class _Replica:
    """One server, as it has been found."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.in_use = False  # it has answered the probe, and everything since
        self.checking = False
        self.takes_binary = False
        self.was_late = False  # with the last answer
        self.rest_seconds = FIRST_REST_SECONDS
        self.check_at = 0.0  # in `time.monotonic()`
        self.told = ""


class RemoteGraph:
    """One graph on several servers. Thread-safe.

    A server is in use from when it answers a probe as the local graph does, until it fails, or is late twice in a row,
    since once may be due to a long utterance. Then it rests, longer each time it fails again, and is asked the probe by a
    thread of its own: no caller waits for a server that is known to be gone.

    Args:
        name: What the servers know the graph by.
        probe: Log-mel, shape (1, n_mels, frames).
        expected: What the local graph gives for it: its outputs by name, each of shape (1, width).
    """

    def __init__(self, settings: RemoteSettings, name: str, probe: np.ndarray, expected: Dict[str, np.ndarray]) -> None:
        self.name = name
        self._probe = probe
        self._expected = expected
        self._seconds = settings.timeout_ms / 1000
        self._replicas = [_Replica(url) for url in settings.urls]
        self._turn = itertools.count()
        self._pool = urllib3.PoolManager(maxsize=8)  # connections kept for each server
        self._lock = threading.Lock()
        self._check_those_that_rested()

    @property
    def servers(self) -> List[str]:
        """All of them."""
        return [replica.url for replica in self._replicas]

    @property
    def in_use(self) -> List[str]:
        """The servers that are asked at the moment."""
        return [replica.url for replica in self._replicas if replica.in_use]

    def run(self, features: np.ndarray) -> Optional[List[np.ndarray]]:
        """The graph's outputs for log-mel of shape (1, n_mels, frames), as ONNX Runtime gives them.

        Two servers are asked at most, each for the time-out at most, and one where it refuses this utterance, as others would.
        None where none of them gave an answer: the local graph has to.
        """
        from spoken_intents.metrics import RECOGNITIONS  # not above: metrics are of turns, which are of what a recognizer says

        self._check_those_that_rested()
        replicas = [replica for replica in self._replicas if replica.in_use]
        first = next(self._turn)
        for retry in range(min(2, len(replicas))):
            replica = replicas[(first + retry) % len(replicas)]
            try:
                outputs = self._infer(replica, features)
            except _Refused as error:
                logger.warning(f"The inference server {replica.url} refuses an utterance, which is heard here: {error}.")
                break
            except _Late as error:
                again, replica.was_late = replica.was_late, True
                if again:
                    self._rest(replica, str(error))
            except _Failed as error:
                self._rest(replica, str(error))
            else:
                # Not with a right answer to the probe: a server may know that sound and still fail with every turn.
                replica.rest_seconds = FIRST_REST_SECONDS
                replica.was_late = False
                RECOGNITIONS.labels("retried" if retry else "server").inc()
                return outputs
        RECOGNITIONS.labels("local").inc()
        return None

    # ------------------------------------------------ which servers are in use

    def _check_those_that_rested(self) -> None:
        for replica in self._replicas:
            with self._lock:
                due = not replica.in_use and not replica.checking and time.monotonic() >= replica.check_at
                replica.checking = replica.checking or due
            if due:
                try:
                    threading.Thread(target=self._check, args=(replica,), name="inference server", daemon=True).start()
                except RuntimeError as error:  # the system gives no more of them; a turn is heard all the same
                    self._rest(replica, f"no thread asks it ({error})", checked=True)

    def _check(self, replica: _Replica) -> None:
        try:
            announced = _json(self._ask(replica, "GET", "/v2")).get("extensions")
            replica.takes_binary = isinstance(announced, list) and "binary_tensor_data" in announced
            for output, wanted in zip(self._infer(replica, self._probe), self._expected.values()):
                if np.abs(output - wanted).max() > MAY_DIFFER * max(1.0, float(np.ptp(wanted))):
                    raise _Failed(f"its {self.name} hears otherwise than this model's fp32 graph does")
        except _Failed as error:
            self._rest(replica, str(error), checked=True)
        except Exception as error:  # else nobody would ask this server ever again
            logger.exception(f"Asking the inference server {replica.url} about the known sound failed.")
            self._rest(replica, repr(error), checked=True)
        else:
            with self._lock:
                replica.in_use, replica.checking, replica.was_late, replica.told = True, False, False, ""
            logger.info(f"The inference server {replica.url} hears turns by {self.name}.")

    def _rest(self, replica: _Replica, why: str, checked: bool = False) -> None:
        """Uses the server no more until it has rested; says so once, however many turns find out at the same time."""
        with self._lock:
            if not replica.in_use and not checked:
                return
            replica.in_use = replica.checking = False
            replica.check_at = time.monotonic() + replica.rest_seconds
            replica.rest_seconds = min(2 * replica.rest_seconds, LONGEST_REST_SECONDS)
            news, replica.told = why != replica.told, why
        if news:
            logger.warning(
                f"The inference server {replica.url} is not used for now: {why}. Other servers, or this process, hear the turns."
            )

    # ------------------------------------------------ the protocol

    def _infer(self, replica: _Replica, features: np.ndarray) -> List[np.ndarray]:
        tensor: Dict[str, Any] = {"name": "input_features", "shape": list(features.shape), "datatype": "FP32"}
        request = {"outputs": [{"name": name} for name in self._expected], "inputs": [tensor]}
        headers = {"Content-Type": "application/json"}
        if replica.takes_binary:
            raw = features.astype("<f4").tobytes()
            tensor["parameters"] = {"binary_data_size": len(raw)}
            head = json.dumps(request).encode()
            headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
            body = head + raw
        else:
            open_tensor = json.dumps(request).removesuffix("}]}")
            body = f'{open_tensor}, "data": {_numbers(features)}}}]}}'.encode()
        answer = _json(self._ask(replica, "POST", f"/v2/models/{self.name}/infer", body, headers))
        try:
            data = {output["name"]: np.array(output["data"], dtype=np.float32) for output in answer["outputs"]}
            outputs = [data[name].reshape(wanted.shape) for name, wanted in self._expected.items()]
        except (KeyError, TypeError, ValueError, OverflowError):
            shapes = ", ".join(f"{name} {list(wanted.shape)}" for name, wanted in self._expected.items())
            raise _Failed(f"its answer does not hold {shapes}") from None
        if not all(np.isfinite(output).all() for output in outputs):
            raise _Failed("its answer holds what is no number")
        return outputs

    def _ask(
        self, replica: _Replica, method: str, path: str, body: bytes = b"", headers: Optional[Dict[str, str]] = None
    ) -> bytes:
        """An answer's body, within the time-out.

        Only headers that come in pieces begin it anew with each, and so does the body of a server that hangs up after it.
        """
        deadline = time.monotonic() + self._seconds
        try:
            try:
                response = self._send(replica, method, path, body, headers, deadline)
            except urllib3.exceptions.ProtocolError:  # a kept connection that the server was closing just then
                response = self._send(replica, method, path, body, headers, deadline)
            answer = self._read(response, deadline)
        except urllib3.exceptions.HTTPError as error:
            refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # which is a TimeoutError by inheritance only
            if isinstance(error, urllib3.exceptions.TimeoutError) and not refused:
                raise self._too_late() from None
            raise _Failed(f"it cannot be reached ({type(error).__name__})") from None
        if response.status != 200:
            failure = _Refused if response.status in ABOUT_THE_REQUEST else _Failed
            raise failure(f"it says {response.status} to {method} {path}: {answer[:200].decode(errors='replace')}")
        return answer

    def _read(self, response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
        answer = b""
        try:
            while len(answer) <= LARGEST_ANSWER_BYTES:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise self._too_late()
                sock = getattr(response.connection, "sock", None)  # none where the server has said that it will hang up
                if sock is not None:
                    sock.settimeout(left)
                piece = response.read1(LARGEST_ANSWER_BYTES)
                if not piece:
                    return answer
                answer += piece
            raise _Failed(f"its answer is longer than {LARGEST_ANSWER_BYTES} bytes")
        except _Failed:
            response.close()  # with its connection, since the rest is still on the way
            raise

    def _too_late(self) -> _Late:
        return _Late(f"it takes more than {self._seconds * 1000:g} ms")

    def _send(
        self, replica: _Replica, method: str, path: str, body: bytes, headers: Optional[Dict[str, str]], deadline: float
    ) -> urllib3.BaseHTTPResponse:
        left = urllib3.Timeout(total=max(0.001, deadline - time.monotonic()))
        return self._pool.request(
            method, replica.url + path, body=body, headers=headers, timeout=left, retries=False, redirect=False, preload_content=False
        )  # fmt: skip


def _numbers(features: np.ndarray) -> str:
    """Log-mel as a JSON list, to five decimals: whole numbers with an exponent, in a quarter of the time of fractions."""
    whole = np.rint(features * 1e5).astype(int).ravel().tolist()
    return json.dumps(whole, separators=("e-5,", ":"))[:-1] + "e-5]"


def _json(answer: bytes) -> Dict[str, Any]:
    try:
        content = json.loads(answer)
    except (ValueError, RecursionError):
        raise _Failed("its answer is not JSON") from None
    if not isinstance(content, dict):
        raise _Failed("its answer is no JSON object")
    return content
