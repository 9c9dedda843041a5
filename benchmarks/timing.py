"""Times of things done in turns, so that whatever else the machine does meanwhile falls on all of them alike."""

import random
import time
from collections import defaultdict
from typing import Any, Callable, Dict, List, Mapping

import numpy as np
from rich.progress import track

WARM = 2  # rounds that are not counted
Timed = Callable[[], float]  # does it once, and says how many milliseconds it took


def timed(work: Callable[[], Any]) -> Timed:
    """`work`, timed by this process's clock."""

    def once() -> float:
        began = time.perf_counter()
        work()
        return (time.perf_counter() - began) * 1000

    return once


def interleaved(contenders: Mapping[str, Timed], repeats: int, doing: str = "") -> Dict[str, Dict[str, float]]:
    """Median and 95th percentile of each contender's milliseconds.

    Every round does each once, in an order drawn anew: who comes behind whom is nobody's advantage.
    """
    milliseconds: Dict[str, List[float]] = defaultdict(list)
    order, rng = list(contenders), random.Random(0)
    for turn in track(range(repeats + WARM), doing, transient=True, disable=not doing):
        rng.shuffle(order)
        for name in order:
            took = contenders[name]()
            if turn >= WARM:
                milliseconds[name].append(took)
    return {name: summary(milliseconds[name]) for name in contenders}


def summary(values: List[float]) -> Dict[str, float]:
    """Median, 95th percentile and count."""
    return {"median_ms": float(np.median(values)), "p95_ms": float(np.percentile(values, 95)), "n": len(values)}
