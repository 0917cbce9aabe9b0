"""A bounded queue with worker threads behind it, whose results come back in the order of the blocks."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Generic, NamedTuple, TypeVar

Tag = TypeVar("Tag")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Block(Generic[Tag]):
    """Whole lines on their way to a worker. `number` counts the blocks; `tag` says what they belong to."""

    number: int
    tag: Tag
    lines: bytes


class WorkerPool(Generic[Tag, Result]):
    """Threads that work on blocks. A context manager; leaving it ends the threads.

    workers, queue_size: how many threads, and how many blocks may wait for them
    new_task: called once in each thread; what it returns is then called with each of the thread's blocks
    on_failure: called when a task raises, so that no other task waits for it for ever
    """

    def __init__(
        self,
        workers: int,
        queue_size: int,
        new_task: Callable[[], Callable[[Block[Tag]], Result]],
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self._new_task = new_task
        self._on_failure = on_failure
        self._blocks: queue.Queue[Block[Tag] | None] = queue.Queue(queue_size)
        self._finished: queue.SimpleQueue[tuple[int, Result | _Failure]] = queue.SimpleQueue()
        self._results: dict[int, Result] = {}  # of blocks that others have to come before
        self._tags: dict[int, Tag] = {}  # of the blocks whose results were not taken yet
        self._most = workers + queue_size
        self._submitted = 0
        self._taken = 0
        self._threads = [threading.Thread(target=self._work, name=f"worker-{n}", daemon=True) for n in range(workers)]

    def __enter__(self) -> WorkerPool[Tag, Result]:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._on_failure()
        for _ in self._threads:
            self._blocks.put(None)
        for thread in self._threads:
            thread.join()

    @property
    def is_empty(self) -> bool:
        """Tell whether there is no result to be taken."""
        return not self._tags

    @property
    def is_full(self) -> bool:
        """Tell whether a result has to be taken before the next block is submitted."""
        return len(self._tags) >= self._most

    def submit(self, tag: Tag, lines: bytes) -> None:
        """Queue a block. Waits while the queue is full."""
        self._tags[self._submitted] = tag
        self._blocks.put(Block(self._submitted, tag, lines))
        self._submitted += 1

    def take(self) -> tuple[Tag, Result]:
        """Wait for the result of the first block whose result was not taken yet. Raises what its task raised."""
        while self._taken not in self._results:
            number, result = self._finished.get()
            if isinstance(result, _Failure):
                raise result.error
            self._results[number] = result
        taken, self._taken = self._taken, self._taken + 1
        return self._tags.pop(taken), self._results.pop(taken)

    def _work(self) -> None:
        task: Callable[[Block[Tag]], Result] | None = None
        while (block := self._blocks.get()) is not None:
            try:
                task = task or self._new_task()
                self._finished.put((block.number, task(block)))
            except BaseException as error:  # which the main thread raises again
                self._finished.put((block.number, _Failure(error)))
                self._on_failure()


class _Failure(NamedTuple):
    error: BaseException
