"""What this machine's processor can multiply and add: the fastest matrix product that any library here brings about."""

from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from timing import Timed, timed

SIZES = [(200, 512, 2048), (400, 768, 3072), (1024, 1024, 1024)]  # rows, inner, columns; two are an encoder's
SECONDS = 0.02  # a product is repeated until it takes about this long
ROUNDS = 5


def fastest(precision: str, threads: int) -> Tuple[Dict[str, Any], Timed]:
    """Which of the matrix products of `precision` (``fp32`` or ``int8``) does most a second, and itself, to time again.

    Its description holds library, size, the multiply-adds of one call, and every other's billions a second.
    """
    described: List[Tuple[Dict[str, Any], Timed]] = []
    for library, make in PRODUCTS[precision].items():
        for size in SIZES:
            try:
                once = make(*size, threads)
                once()
            except (RuntimeError, NotImplementedError, AttributeError):  # not in this library on this processor
                continue
            repeated = max(1, round(SECONDS * 1000 / _best(once)))
            many = _repeated(once, repeated)
            multiply_adds = repeated * size[0] * size[1] * size[2]
            rate = multiply_adds / _best(many) / 1e6
            described.append(
                ({"library": library, "size": size, "multiply_adds": multiply_adds, "billions_a_second": rate}, many)
            )
    best, product = max(described, key=lambda pair: pair[0]["billions_a_second"])
    tried = [{key: other[key] for key in ("library", "size", "billions_a_second")} for other, _ in described]
    return {**best, "tried": tried}, timed(product)


def _repeated(once: Callable[[], Any], times: int) -> Callable[[], None]:
    def many() -> None:
        for _ in range(times):
            once()

    return many


def _best(work: Callable[[], Any]) -> float:
    """Milliseconds of the quickest of a few."""
    once = timed(work)
    return min(once() for _ in range(ROUNDS))


def _torch_fp32(rows: int, inner: int, columns: int, threads: int) -> Callable[[], Any]:
    left, right = torch.randn(rows, inner), torch.randn(inner, columns)
    return lambda: left @ right


def _torch_int8(rows: int, inner: int, columns: int, threads: int) -> Callable[[], Any]:
    left, right = (torch.randint(-64, 64, size, dtype=torch.int8) for size in ((rows, inner), (inner, columns)))
    return lambda: torch._int_mm(left, right)


def _torch_quantized(engine: str) -> Callable[[int, int, int, int], Callable[[], Any]]:
    def make(rows: int, inner: int, columns: int, threads: int) -> Callable[[], Any]:
        before = torch.backends.quantized.engine
        torch.backends.quantized.engine = engine
        try:
            weights = torch.quantize_per_tensor(torch.randn(columns, inner), 0.1, 0, torch.qint8)
            packed = torch.ops.quantized.linear_prepack(weights, None)
        finally:
            torch.backends.quantized.engine = before
        left = torch.quantize_per_tensor(torch.randn(rows, inner), 0.1, 64, torch.quint8)
        return lambda: torch.ops.quantized.linear(left, packed, 0.1, 64)

    return make


def _onnxruntime(precision: str) -> Callable[[int, int, int, int], Callable[[], Any]]:
    def make(rows: int, inner: int, columns: int, threads: int) -> Callable[[], Any]:
        rng = np.random.default_rng(0)
        if precision == "fp32":
            left, right = rng.standard_normal((rows, inner), np.float32), rng.standard_normal((inner, columns), np.float32)
            operator, given, result = "MatMul", TensorProto.FLOAT, TensorProto.FLOAT
        else:
            left, right = rng.integers(0, 128, (rows, inner), np.uint8), rng.integers(-64, 64, (inner, columns), np.int8)
            operator, given, result = "MatMulInteger", TensorProto.UINT8, TensorProto.INT32
        graph = helper.make_graph(
            [helper.make_node(operator, ["left", "right"], ["out"])],
            "product",
            [helper.make_tensor_value_info("left", given, [rows, inner])],
            [helper.make_tensor_value_info("out", result, [rows, columns])],
            [onnx.numpy_helper.from_array(right, "right")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return lambda: session.run(None, {"left": left})

    return make


PRODUCTS: Dict[str, Dict[str, Callable[[int, int, int, int], Callable[[], Any]]]] = {
    "fp32": {"torch": _torch_fp32, "onnxruntime": _onnxruntime("fp32")},
    "int8": {
        "torch": _torch_int8,
        "torch, fbgemm": _torch_quantized("fbgemm"),
        "torch, oneDNN": _torch_quantized("onednn"),
        "onnxruntime": _onnxruntime("int8"),
    },
}
