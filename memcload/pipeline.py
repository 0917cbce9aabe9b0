"""From blocks of lines to acknowledged records, in order, by threads with bounded queues between them.

Encode threads turn each block into a batch for every partition. Whichever of them finishes the block that is next in
line hands its batches, and those of blocks that were finished early, to the lanes of the partitions. So each lane has
its batches in the order of the blocks, and its one sender stores them in that order, neighbours together in one
request: the last record of a key wins, as if there were but one thread.

A block holds its slot until all its batches are answered, and those of all blocks before it. The number of slots bounds
the memory, and how far the other servers can be ahead of a slow one. Small batches are held back for larger requests,
until the caller waits for the block that they are of.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import TracebackType

from memcload.cancel import Cancel
from memcload.encode.encoder import Encoded, Encoder
from memcload.file_load import FileLoad, TextResult
from memcload.memcached.batch import REQUEST_SIZE, Batch
from memcload.memcached.routing import Partition
from memcload.sink import Delivery, Sink
from memcload.text import Text

_WORTH_SENDING = 1 << 18  # bytes of commands: by a tenth of that, a record costs both sides twice as much
_PARTITIONS_A_BLOCK = 12  # more of them get longer blocks

FileText = tuple[FileLoad, Text]


class NoThreads(OSError):
    """The system lets this process start no more threads."""

    def __init__(self) -> None:
        super().__init__(
            "no more threads can be started: raise the limit (ulimit -u, TasksMax=, a container's limit of pids), "
            "or use fewer --workers"
        )


def block_size(size: int, partitions: int) -> int:
    """Return how long blocks should be where `size` bytes do for a few partitions: each gets its share of a block."""
    return size * (1 + partitions // _PARTITIONS_A_BLOCK)


def blocks_of(files: Iterable[FileLoad], size: int, *, mixed: bool = True) -> Iterator[list[FileText] | None]:
    """Read files and yield their lines in blocks of about `size` bytes; None where there is nothing yet.

    A large file fills many blocks, small ones share a block where `mixed` allows it.
    """
    block: list[FileText] = []
    filled = 0
    for file in files:
        for lines in file.texts(size):
            if lines:
                file.texts_out += 1
                block.append((file, lines))
                filled += len(lines)
            if filled > size // 2:  # a large file's texts are a little shorter than `size`
                yield block
                block, filled = [], 0
            elif not lines:
                yield None
        file.is_read = True
        if block and not mixed:
            yield block
            block, filled = [], 0
        elif not block:
            yield None  # so that the file is finalized if it is complete
    if block:
        yield block


@dataclass(eq=False)
class _Block:
    """A block on its way, with what is known of its texts so far."""

    number: int
    texts: list[FileText]
    results: list[TextResult]
    encoded: Encoded
    unanswered: int = 0  # batches


class _Lane:
    """The way of a partition's batches to its sender: held back until they are worth a request, then queued."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[list[tuple[_Block, Batch]] | None] = SimpleQueue()
        self._held: list[tuple[_Block, Batch]] = []
        self._size = 0  # bytes of commands

    def add(self, block: _Block, batch: Batch) -> None:
        """Add the next batch."""
        self._held.append((block, batch))
        self._size += len(batch.commands)
        if self._size >= _WORTH_SENDING:
            self._release()

    def release(self, number: int) -> None:
        """Hold nothing back any more of blocks up to this number."""
        if self._held and self._held[0][0].number <= number:
            self._release()

    def _release(self) -> None:
        self.queue.put(self._held)
        self._held, self._size = [], 0


class Pipeline:
    """The threads of a run. A context manager; leaving it ends them, and entering it raises NoThreads.

    Args:
        partitions: each gets a queue and a sender.
        sink: what the senders store in.
        new_encoder: called once in each encode thread.
        encode_threads: how many of them there are.
        slots: how many blocks may be under way.
        show: what makes the log lines of a text's records, in a dry run that shows them.
        cancel: once it is set, blocks are put but nothing is begun any more.
    """

    def __init__(
        self,
        partitions: Sequence[Partition],
        sink: Sink,
        new_encoder: Callable[[], Encoder],
        *,
        encode_threads: int,
        slots: int,
        cancel: Cancel,
        show: Callable[[Text], list[str]] | None = None,
    ) -> None:
        self._sink = sink
        self._new_encoder = new_encoder
        self._slots = slots
        self._cancel = cancel
        self._show = show
        self._submitted: SimpleQueue[tuple[int, list[FileText]] | None] = SimpleQueue()
        self._lanes = [_Lane() for _ in partitions]
        self._finished: SimpleQueue[_Block | BaseException] = SimpleQueue()
        self._lock = threading.Lock()  # of what the threads share: the next four, and what lanes hold back
        self._encoded: dict[int, _Block] = {}  # blocks waiting for earlier ones
        self._next_to_queue = 0
        self._wanted = -1  # the number of the last block that the caller waits for
        self._is_aborted = False
        self._results: dict[int, _Block] = {}  # finished blocks waiting for earlier ones; the caller's, as is the rest
        self._put = 0  # how many blocks were put in; of these
        self._known = 0  # how many are finished, with all before them
        self._told = 0  # how many the caller has got the results of
        self._encoders = [threading.Thread(target=self._run, args=(self._encode,)) for _ in range(encode_threads)]
        self._senders = [threading.Thread(target=self._run, args=(self._send, p)) for p in partitions]
        for thread in self._encoders + self._senders:
            thread.daemon = True

    def __enter__(self) -> Pipeline:
        try:
            for thread in self._encoders + self._senders:
                thread.start()
        except RuntimeError as error:  # all that Python says
            self.__exit__(RuntimeError, error, None)
            raise NoThreads from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_aborted = self._is_aborted or error is not None
        for _ in self._encoders:
            self._submitted.put(None)
        _join(self._encoders)
        for lane in self._lanes:
            lane.release(self._put)
            lane.queue.put(None)
        _join(self._senders)

    # -- the caller's side

    def put(self, texts: list[FileText]) -> None:
        """Put the next block in; wait for a free slot."""
        while self._put - self._known >= self._slots:
            self._want(self._known)
            self._collect()
        self._submitted.put((self._put, texts))
        self._put += 1

    def finished(self) -> Iterator[TextResult]:
        """Yield what became of the texts, in their order, as far as that is known."""
        while not self._finished.empty():
            self._collect()
        while self._told < self._known:
            block = self._results.pop(self._told)
            self._told += 1
            yield from block.results

    def drain(self) -> Iterator[TextResult]:
        """Wait for all blocks and yield what became of their texts, in their order."""
        self._want(self._put)
        while self._known < self._put:
            self._collect()
        yield from self.finished()

    def _want(self, number: int) -> None:
        """Hold back nothing that blocks up to this number wait for."""
        if number > self._wanted:
            with self._lock:
                self._wanted = number
                for lane in self._lanes:
                    lane.release(number)

    def _collect(self) -> None:
        """Wait for a block to be finished, whichever it is."""
        block = self._finished.get()
        if isinstance(block, BaseException):
            raise block
        self._results[block.number] = block
        while self._known in self._results:
            self._known += 1

    # -- the threads

    def _run(self, work: Callable[..., None], *arguments: Partition) -> None:
        try:
            work(*arguments)
        except BaseException as error:  # which the caller raises again
            self._is_aborted = True
            self._finished.put(error)

    def _encode(self) -> None:
        encoder: Encoder | None = None
        while (submitted := self._submitted.get()) is not None:
            encoder = encoder or self._new_encoder()
            number, texts = submitted
            encoded = encoder.encode([lines for _, lines in texts], self._stops)
            if self._stops():  # it may lack something
                encoded = encoder.encode([])
            results = [
                TextResult.of(file, text, self._show(lines) if self._show else [])
                for (file, lines), text in zip(texts, encoded.texts, strict=False)  # none are encoded if it stops
            ]
            self._hand_over(_Block(number, texts, results, encoded))

    def _stops(self) -> bool:
        return self._is_aborted or self._cancel.is_set

    def _hand_over(self, block: _Block) -> None:
        """Queue the batches of this block and of those that waited for it, in the order of the blocks."""
        with self._lock:
            self._encoded[block.number] = block
            while (ready := self._encoded.pop(self._next_to_queue, None)) is not None:
                self._next_to_queue += 1
                batches = [(number, batch) for number, batch in enumerate(ready.encoded.batches) if batch.count]
                ready.unanswered = len(batches)
                for number, batch in batches:
                    self._lanes[number].add(ready, batch)
                    self._lanes[number].release(self._wanted)
                if not batches:
                    self._finished.put(ready)

    def _send(self, partition: Partition) -> None:
        queue = self._lanes[partition.number].queue
        while (items := queue.get()) is not None:
            size = sum(len(batch.commands) for _, batch in items)
            while size < REQUEST_SIZE:
                try:
                    more = queue.get_nowait()
                except Empty:
                    break
                if more is None:
                    return self._store(partition, items)
                items += more
                size += sum(len(batch.commands) for _, batch in more)
            self._store(partition, items)

    def _store(self, partition: Partition, items: Sequence[tuple[_Block, Batch]]) -> None:
        """Store neighbouring batches, and deal what became of them back to their texts."""
        deliveries = [Delivery()] * len(items)
        if not self._stops():
            files = [block.texts[-1][0].number for block, _ in items]
            deliveries = self._sink.store(partition, [batch for _, batch in items], files)
        for (block, batch), delivery in zip(items, deliveries, strict=True):
            with self._lock:
                self._deal(partition, block, batch, delivery)
                block.unanswered -= 1
                if not block.unanswered:
                    self._finished.put(block)

    def _deal(self, partition: Partition, block: _Block, batch: Batch, delivery: Delivery) -> None:
        first = 0
        for (_, lines), encoded, result in zip(block.texts, block.encoded.texts, block.results, strict=True):
            count = encoded.records[partition.number]
            if count:
                result.add(partition, delivery.share(first, count), lines, batch.lines[first : first + count])
            first += count


def _join(threads: Iterable[threading.Thread]) -> None:
    """Wait for the end of those threads that could be started."""
    for thread in threads:
        if thread.is_alive():
            thread.join()
