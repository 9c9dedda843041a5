"""A recognizer's graph behind Triton's HTTP server, without a container; for tests and benchmarks.

    python triton_graph.py model.fp32.onnx spoken-intents-0123456789abcdef 8000

Needs nvidia-pytriton, which is Triton without its ONNX Runtime backend, and onnxruntime, which stands in for that here.
"""

import os
import sys
import sysconfig
from typing import Any, List

import numpy as np
import onnxruntime
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig


def main(graph: str, name: str, port: str) -> None:
    os.environ["LD_LIBRARY_PATH"] = sysconfig.get_config_var("LIBDIR")  # of libpython, where Triton starts a Python of its own
    session = onnxruntime.InferenceSession(graph)

    def infer(requests: List[Any]) -> List[Any]:
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, {"input_features": request["input_features"]}))) for request in requests]

    inputs = [Tensor(name="input_features", dtype=np.float32, shape=(1, session.get_inputs()[0].shape[1], -1))]
    outputs = [Tensor(name=output.name, dtype=np.float32, shape=(1, -1)) for output in session.get_outputs()]
    settings = TritonConfig(
        http_address="127.0.0.1", http_port=int(port), allow_grpc=False, allow_metrics=False, exit_timeout_secs=2
    )
    with Triton(config=settings) as triton:
        triton.bind(name, infer, inputs, outputs, config=ModelConfig(batching=False), strict=False)
        triton.serve()


if __name__ == "__main__":
    main(*sys.argv[1:])
