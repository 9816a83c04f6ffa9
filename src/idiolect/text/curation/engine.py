"""Work on many tasks in many processes: those of one machine by default, or a ray cluster's."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait as wait_for
from typing import Any, Literal, TypeVar

from idiolect.errors import UserError, missing_extra

Engine = Literal["local", "ray"]
T = TypeVar("T")
R = TypeVar("R")
Work = Callable[[T], R]
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TRIES = 2
"""How often a task is begun whose process dies under it."""


def cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Work[T, R], tasks: Sequence[T], workers: int | None = None, engine: Engine = "local") -> Iterator[R]:
    """What `work` returns for each task, in the order in which they end.

    Work and tasks are sent to other processes, so both can be pickled. workers: how many processes; None: one a core;
    with 1 the work is done in this process.

    An error of `work` is raised here; a process that dies (of a crash, or for want of memory) is replaced and its
    task begun again, TRIES times at most. On leaving, whatever the reason, no process is left behind.

    Raises UserError when a task's process dies again and again.
    """
    yield from ENGINES[engine](work, tasks, workers or cores())


def _local(work: Work[T, R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    if workers == 1:
        yield from map(work, tasks)
        return
    left, died = list(tasks), 0
    while left:
        pool = ProcessPoolExecutor(min(workers, len(left)), multiprocessing.get_context("spawn"), _die_with_parent)
        try:
            for task, result in _ended(pool, work, left, workers):
                left.remove(task)
                died = 0
                yield result
        except BrokenProcessPool:
            died += 1
            if died == TRIES:
                raise UserError(
                    f"a process died {TRIES} times at work on {left[0]}",
                    "look for what is wrong with it, or use fewer workers if memory ran out",
                ) from None
        finally:
            for process in list((pool._processes or {}).values()):  # else a pool ends only after the tasks it began
                process.kill()
            pool.shutdown(cancel_futures=True)


def _ended(pool: Executor, work: Work[T, R], tasks: Sequence[T], workers: int) -> Iterator[tuple[T, R]]:
    """Tasks with their results; no more are handed out than processes can begin soon."""
    waiting, rest = {}, iter(tasks)
    for task in rest:
        with _undisturbed():
            waiting[pool.submit(work, task)] = task
        if len(waiting) < 2 * workers:
            continue
        yield from _done(waiting)
    while waiting:
        yield from _done(waiting)


def _done(waiting: dict[Any, T]) -> Iterator[tuple[T, Any]]:
    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
        yield waiting.pop(future), future.result()


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keeps signals waiting: one that came while a process is begun would leave half of it behind.

    Blocking them would not do, for Python heeds in its main thread what any thread received.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught: list[int] = []
    before = {number: signal.getsignal(number) for number in STOPPING}
    for sign in STOPPING:
        signal.signal(sign, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in caught:
            os.kill(os.getpid(), late)


def _die_with_parent() -> None:
    """A worker outlives no parent, not even one that was killed; and a Ctrl-C is the parent's to heed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _ray(work: Work[T, R], tasks: Sequence[T], workers: int) -> Iterator[R]:
    """On the cluster that RAY_ADDRESS names, whose machines share this one's disk; without one, on this machine."""
    try:
        import ray
    except ImportError:
        raise missing_extra("cluster", "ray", "the engine ray") from None
    cluster = bool(os.environ.get("RAY_ADDRESS"))
    ray.init(num_cpus=None if cluster else workers, logging_level=logging.ERROR, include_dashboard=False)
    try:
        remote: Any = ray.remote(max_retries=TRIES - 1)(lambda task: work(task))
        waiting = [remote.remote(task) for task in tasks]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield ray.get(done[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        ray.shutdown()


ENGINES: Mapping[Engine, Callable[..., Iterator[Any]]] = {"local": _local, "ray": _ray}
"""How tasks are worked on, by name."""
