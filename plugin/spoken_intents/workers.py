"""The threads that classify for every call: first what somebody waits for, then what may be in vain, which is dropped when too
much waits."""

import threading
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, Optional

from spoken_intents import metrics

THREADS = 2
# An answer in advance is worth something for as long as the silence lasts that ends a turn, about half a second: in that time
# two threads classify about so many utterances. More in the queue would be answered too late.
MOST_WAITING = 16


class Workers(Executor):
    """An executor with two queues. `submit` is for turns: they are done before anything else, in order, and never dropped.
    `speculate` is for what may be in vain. When too much waits, the oldest speculation is dropped: its future is cancelled.

    Thread-safe. Of turns a call has as many as it may be behind (`session.QUEUED_TURNS`).

    Args:
        threads: How many.
        most_waiting: Of turns and speculations together; from there on speculations are dropped.
    """

    def __init__(self, threads: int = THREADS, most_waiting: int = MOST_WAITING) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="recognizer")
        self._most_waiting = most_waiting
        self._turns: Dict["Future[Any]", Callable[[], Any]] = {}  # in order
        self._speculations: Dict["Future[Any]", Callable[[], Any]] = {}
        self._lock = threading.RLock()  # cancelling a future calls `_forget`

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> "Future[Any]":
        """Has `function` called for a turn (see `Executor.submit`)."""
        return self._put(self._turns, lambda: function(*args, **kwargs))

    def speculate(self, function: Callable[..., Any], *args: Any) -> "Future[Any]":
        """Has `function` called if there is time before its future is cancelled or too much waits."""
        return self._put(self._speculations, lambda: function(*args))

    def promote(self, future: "Future[Any]") -> bool:
        """A speculation was right, and is a turn from now on. False: it was dropped before, and nobody will answer it."""
        with self._lock:
            if future in self._speculations:
                self._turns[future] = self._speculations.pop(future)
        return not future.cancelled()

    @property
    def waiting(self) -> int:
        """Turns and speculations that no thread has begun."""
        with self._lock:
            return len(self._turns) + len(self._speculations)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Ends the threads when all that waits is done, or cancelled (see `Executor.shutdown`)."""
        if cancel_futures:
            with self._lock:
                waiting = [*self._turns, *self._speculations]
            for future in waiting:
                future.cancel()
        self._threads.shutdown(wait)

    def _put(self, queue: Dict["Future[Any]", Callable[[], Any]], job: Callable[[], Any]) -> "Future[Any]":
        future: "Future[Any]" = Future()
        future.add_done_callback(self._forget)  # one that is cancelled waits no more
        with self._lock:
            self._threads.submit(self._do_first)  # which waits for the lock, and raises behind `shutdown`
            queue[future] = job
            metrics.WAITING.inc()
            over = max(0, len(self._turns) + len(self._speculations) - self._most_waiting)
            for late in [*self._speculations][:over]:
                late.cancel()
                metrics.SPECULATIONS_DROPPED.inc()
        return future

    def _forget(self, future: "Future[Any]") -> None:
        with self._lock:
            self._take(future)

    def _take(self, future: "Future[Any]") -> Optional[Callable[[], Any]]:
        job = self._turns.pop(future, None) or self._speculations.pop(future, None)
        if job is not None:
            metrics.WAITING.dec()
        return job

    def _do_first(self) -> None:
        """In a thread: what is most urgent by now, which need not be what was put when this was asked for."""
        with self._lock:
            first = next(iter(self._turns or self._speculations), None)
            job = self._take(first) if first else None
        if first is None or job is None or not first.set_running_or_notify_cancel():
            return  # it was dropped or cancelled
        try:
            result = job()
        except BaseException as error:
            first.set_exception(error)
        else:
            first.set_result(result)
