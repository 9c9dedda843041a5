"""An inference server in this process: the Open Inference Protocol over HTTP, read strictly, on top of a real exported graph."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Set

import numpy as np
import onnxruntime

Answer = Callable[["_Handler", bytes], None]  # instead of the right one, which it is given


class GraphServer:
    """Serves `graph` as the model `name` on 127.0.0.1. Use as a context manager.

    Attributes:
        kinds: "json" or "binary" for each request to infer, in their order.
        answer: What is done instead of answering, where the server is to misbehave.
        left_alone: Whether a client that was let down (`stall`) has hung up in time.
    """

    def __init__(self, graph: Path, name: str, binary: bool = True) -> None:
        self.session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        self.name = name
        self.extensions = ["classification", *(["binary_tensor_data"] if binary else [])]
        self.kinds: List[str] = []
        self.answer: Optional[Answer] = None
        self.left_alone: Optional[bool] = None
        self.closing = threading.Event()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._http.connections)

    def __enter__(self) -> "GraphServer":
        self.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self.stop()

    def start(self) -> None:
        """Listens; the second time on the same port as before."""
        self.closing.clear()
        self._http = _Server(("127.0.0.1", self._port), _Handler)
        self._http.graph = self
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Ends as a process that is killed does: nobody listens, every connection is gone."""
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self.drop_connections()

    def drop_connections(self) -> None:
        """Closes the connections that clients keep."""
        for connection in list(self._http.connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def infer(self, headers: Any, body: bytes) -> Dict[str, Any]:
        """What the protocol says of a request's outputs; an AssertionError where it says that the request is none."""
        size = headers.get("Inference-Header-Content-Length")
        request = json.loads(body if size is None else body[: int(size)])
        (tensor,) = request["inputs"]
        assert tensor["name"] == "input_features" and tensor["datatype"] == "FP32", tensor
        if size is None:
            assert headers["Content-Type"] == "application/json"
            values = np.array(tensor["data"], dtype=np.float32)
        else:
            assert "binary_tensor_data" in self.extensions and "data" not in tensor
            raw = body[int(size) :]
            assert tensor["parameters"] == {"binary_data_size": len(raw)}
            values = np.frombuffer(raw, dtype="<f4")
        self.kinds.append("json" if size is None else "binary")
        assert values.size == np.prod(tensor["shape"]), tensor["shape"]
        names = [output["name"] for output in request["outputs"]]
        outputs = self.session.run(names, {"input_features": values.reshape(tensor["shape"])})
        told = [
            {"name": name, "datatype": "FP32", "shape": list(output.shape), "data": output.ravel().tolist()}
            for name, output in zip(names, outputs)
        ]
        return {"model_name": self.name, "model_version": "1", "outputs": told}


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    graph: GraphServer

    def __init__(self, *arguments: Any) -> None:
        self.connections: Set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone; what it thinks of that is the test's business."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, *arguments: Any) -> None: ...

    def do_GET(self) -> None:
        if self.path == "/v2":
            self.send(200, {"name": "graph-server", "version": "1", "extensions": self.server.graph.extensions})
        else:
            self.send(404, {"error": f"nothing at {self.path}"})

    def do_POST(self) -> None:
        graph = self.server.graph
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path != f"/v2/models/{graph.name}/infer":
            return self.send(404, {"error": f"unknown model at {self.path}"})
        try:
            right = json.dumps(graph.infer(self.headers, body)).encode()
        except Exception as error:
            return self.send(400, {"error": repr(error)})
        if graph.answer is not None:
            return graph.answer(self, right)
        self.send(200, right)

    def send(self, status: int, content: Any) -> None:
        """An answer: these bytes, or this as JSON."""
        content = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def never(self, _: bytes) -> None:
        """Lets the client wait until the server ends."""
        self.server.graph.closing.wait(30)
        self.close_connection = True

    def drip(self, right: bytes) -> None:
        """A byte now and then, each soon enough for a time-out that begins anew with every byte."""
        self.send_response(200)
        self.send_header("Content-Length", str(len(right)))
        self.end_headers()
        for byte in right:
            self.wfile.write(bytes([byte]))
            time.sleep(0.02)

    def stall(self, right: bytes) -> None:
        """Headers and a byte when most of a second is over, then nothing. Was the client gone well before another second?"""
        time.sleep(0.8)
        self.send_response(200)
        self.send_header("Content-Length", str(len(right)))
        self.end_headers()
        self.wfile.write(right[:1])
        self.connection.settimeout(0.6)
        try:
            self.server.graph.left_alone = self.connection.recv(1) == b""
        except TimeoutError:
            self.server.graph.left_alone = False
        self.close_connection = True


never, drip, stall = _Handler.never, _Handler.drip, _Handler.stall


def says(change: Callable[[Dict[str, Any]], Any]) -> Answer:
    """Answers what `change` makes of the right answer: bytes, or something for JSON."""
    return lambda handler, right: handler.send(200, change(json.loads(right)))
