"""The pipeline by itself: order, requests, back-pressure, cancelling and errors, with a sink that only takes notes."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Any

import pytest

from memcload.cancel import Cancel
from memcload.encode.encoder import Encoded, PythonEncoder, never
from memcload.file_load import FileLoad, TextResult
from memcload.memcached.batch import Batch, Refusal
from memcload.memcached.routing import Partition, Router
from memcload.memcached.server import ServerDown
from memcload.pipeline import FileText, NoThreads, Pipeline, blocks_of
from memcload.records import DEVICE_TYPES
from memcload.sink import Delivery
from memcload.text import Text

PATIENCE = 20.0  # seconds


class NotingSink:
    """Notes the requests of each partition; what becomes of one is for `answer` to say."""

    def __init__(self, answer: Callable[[Partition, int], Delivery] | None = None) -> None:
        self.requests: dict[str, list[list[tuple[bytes, bytes]]]] = {name: [] for name in DEVICE_TYPES}
        self._answer = answer or (lambda partition, count: Delivery(answered=count))

    def store(self, partition: Partition, batches: Sequence[Batch], files: Sequence[int]) -> list[Delivery]:
        assert len(batches) == len(files)
        records = [record for batch in batches for record in batch.records()]
        self.requests[partition.device_type].append(records)
        delivery = self._answer(partition, len(records))
        ends = accumulate(batch.count for batch in batches)
        return [delivery.share(end - batch.count, batch.count) for batch, end in zip(batches, ends, strict=True)]

    def keys(self, device_type: str) -> list[bytes]:
        return [key for request in self.requests[device_type] for key, _ in request]


class SlowEncoder(PythonEncoder):
    """Takes its time, not always the same."""

    def encode(self, texts: Sequence[Text], stops: Callable[[], bool] = never) -> Encoded:
        time.sleep(random.uniform(0, 0.003))
        return super().encode(texts, stops)


def one_server_each() -> Router:
    return Router({name: [f"{name}.example:11211"] for name in DEVICE_TYPES})


def make_pipeline(
    sink: NotingSink, *, cancel: Cancel | None = None, slots: int = 6, encoder: type[PythonEncoder] = PythonEncoder
) -> Pipeline:
    router = one_server_each()
    return Pipeline(
        router.partitions,
        sink,
        lambda: encoder(router, 0),
        encode_threads=3,
        slots=slots,
        cancel=cancel or Cancel(),
    )


def lines(device_type: str, numbers: Sequence[int]) -> bytes:
    return b"".join(b"%b\tdevice%d\t1\t2\t3\n" % (device_type.encode(), number) for number in numbers)


def text_of(file: FileLoad, lines: bytes) -> FileText:
    return file, Text.of(lines)


def run(pipeline: Pipeline, blocks: Sequence[list[FileText]]) -> list[TextResult]:
    results: list[TextResult] = []
    with pipeline:
        for block in blocks:
            pipeline.put(block)
            results += pipeline.finished()
        results += pipeline.drain()
    return results


def test_records_reach_every_partition_in_the_order_of_their_lines() -> None:
    sink = NotingSink()
    file = FileLoad("a.gz")
    blocks = [[text_of(file, b"".join(lines(name, [number]) for name in DEVICE_TYPES))] for number in range(300)]
    results = run(make_pipeline(sink, encoder=SlowEncoder), blocks)
    assert [result.counts.total_stored for result in results] == [4] * 300
    for name in DEVICE_TYPES:
        assert sink.keys(name) == [b"%b:device%d" % (name.encode(), number) for number in range(300)]


def test_results_come_in_the_order_of_the_texts_with_their_own_counts() -> None:
    first, second = FileLoad("a.gz", 0), FileLoad("b.gz", 1)
    blocks: list[list[FileText]] = [
        [text_of(first, lines("idfa", range(3)) + b"bad\n"), text_of(second, lines("gaid", range(2)) + b"\n")],
        [text_of(second, lines("idfa", [9]))],
        [text_of(second, b"\n")],
    ]
    results = run(make_pipeline(NotingSink(), encoder=SlowEncoder), blocks)
    assert [(result.file, result.lines) for result in results] == [(first, 4), (second, 3), (second, 1), (second, 1)]
    assert [result.counts.stored for result in results] == [{0: 3}, {1: 2}, {0: 1}, {}]
    assert [result.counts.blank for result in results] == [0, 1, 0, 1]
    assert [[reject.line for reject in result.rejects] for result in results] == [[3], [], [], []]


def test_small_batches_are_held_back_until_the_block_is_waited_for() -> None:
    sink = NotingSink()
    slots = 5
    with make_pipeline(sink, slots=slots) as pipeline:
        file = FileLoad("a.gz")
        for number in range(slots):
            pipeline.put([text_of(file, lines("idfa", [number]))])
        time.sleep(0.2)
        assert not sink.requests["idfa"]
        pipeline.put([text_of(file, lines("idfa", [slots]))])
        assert len(list(pipeline.drain())) == slots + 1
    assert [len(request) for request in sink.requests["idfa"]] == [slots, 1]


def test_batches_that_are_worth_a_request_together_are_sent_at_once() -> None:
    sink = NotingSink()
    with make_pipeline(sink, slots=10) as pipeline:
        file = FileLoad("a.gz")
        for number in range(3):
            pipeline.put([text_of(file, lines("idfa", range(3000 * number, 3000 * (number + 1))))])  # 64 bytes a record
        deadline = time.monotonic() + PATIENCE
        while not sink.requests["idfa"] and time.monotonic() < deadline:
            time.sleep(0.001)
        assert [len(request) for request in sink.requests["idfa"]] == [6000]
        list(pipeline.drain())
    assert [len(request) for request in sink.requests["idfa"]] == [6000, 3000]


def test_batches_that_wait_for_a_busy_server_share_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memcload.pipeline._WORTH_SENDING", 1)
    begun, go_on = threading.Event(), threading.Event()

    def answer(partition: Partition, count: int) -> Delivery:
        begun.set()
        assert go_on.wait(PATIENCE)
        return Delivery(answered=count)

    sink = NotingSink(answer)
    pipeline = make_pipeline(sink, slots=10)
    with pipeline:
        file = FileLoad("a.gz")
        pipeline.put([text_of(file, lines("idfa", [0]))])
        assert begun.wait(PATIENCE)
        for number in range(1, 10):
            pipeline.put([text_of(file, lines("idfa", [number]))])
        while pipeline._next_to_queue < 10:
            time.sleep(0.001)
        go_on.set()
        assert len(list(pipeline.drain())) == 10
    assert [len(request) for request in sink.requests["idfa"]] == [1, 9]


def test_a_slow_server_holds_the_others_up_only_when_the_slots_are_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memcload.pipeline._WORTH_SENDING", 1)
    go_on = threading.Event()

    def answer(partition: Partition, count: int) -> Delivery:
        assert partition.device_type != "idfa" or go_on.wait(PATIENCE)
        return Delivery(answered=count)

    sink = NotingSink(answer)
    slots = 5
    pipeline = make_pipeline(sink, slots=slots)
    file = FileLoad("a.gz")
    with pipeline:
        for number in range(slots):
            pipeline.put([text_of(file, lines("idfa", [number]) + lines("gaid", [number]))])
        deadline = time.monotonic() + PATIENCE
        while len(sink.keys("gaid")) < slots and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(sink.keys("gaid")) == slots
        blocked = threading.Thread(target=pipeline.put, args=([text_of(file, lines("gaid", [99]))],))
        blocked.start()
        blocked.join(0.2)
        assert blocked.is_alive()  # memory is bounded
        go_on.set()
        blocked.join(PATIENCE)
        assert len(list(pipeline.drain())) == slots + 1


def test_what_was_answered_failed_and_not_sent_is_dealt_back_to_the_texts() -> None:
    down = ServerDown("idfa.example:11211", "connection refused")
    sink = NotingSink(lambda partition, count: Delivery(answered=count - 3, failed=2, cause=down))
    files = [FileLoad(name) for name in "abc"]
    (block,) = [[text_of(file, lines("idfa", range(4))) for file in files]]
    results = run(make_pipeline(sink), [block])
    assert [result.counts.stored for result in results] == [{0: 4}, {0: 4}, {0: 1}]
    assert [result.counts.failed for result in results] == [{}, {}, {0: 2}]
    assert [result.causes for result in results] == [{}, {}, {"idfa.example:11211": down}]


def test_a_refused_record_is_named_by_its_line() -> None:
    refusals = [Refusal(1, True, "SERVER_ERROR object too large for cache"), Refusal(4, False, "SERVER_ERROR busy")]
    sink = NotingSink(lambda partition, count: Delivery(answered=count, refusals=refusals))
    first, second = FileLoad("a"), FileLoad("b")
    block: list[FileText] = [
        text_of(first, b"\nbad\n" + lines("idfa", range(3))),
        text_of(second, b"\n" + lines("idfa", range(3))),
    ]
    one, other = run(make_pipeline(sink), [block])
    assert [(reject.line, reject.reason) for reject in sorted(one.rejects)] == [(1, "columns"), (3, "too_large")]
    assert one.rejects[-1].text == b"idfa\tdevice1\t1\t2\t3"
    assert (one.counts.stored, one.counts.rejected) == ({0: 2}, {"columns": 1, "too_large": 1})
    assert (other.counts.stored, other.counts.failed) == ({0: 2}, {0: 1})
    assert "SERVER_ERROR busy" in other.refused[0]


def test_nothing_is_begun_once_the_run_is_cancelled() -> None:
    cancel = Cancel()

    def answer(partition: Partition, count: int) -> Delivery:
        cancel.set()
        return Delivery(answered=count)

    sink = NotingSink(answer)
    run(make_pipeline(sink, cancel=cancel), [[text_of(FileLoad("a"), lines("idfa", [n]))] for n in range(50)])
    assert len(sink.requests["idfa"]) == 1


@pytest.mark.parametrize("where", ["sink", "encoder"])
def test_an_error_in_a_thread_ends_the_run(where: str) -> None:
    def fail(*_: object) -> Any:
        raise ValueError("broken")

    class Broken(PythonEncoder):
        encode = fail  # type: ignore[assignment]

    pipeline = make_pipeline(
        NotingSink(fail if where == "sink" else None), encoder=Broken if where == "encoder" else PythonEncoder
    )
    with pytest.raises(ValueError, match="broken"):
        run(pipeline, [[text_of(FileLoad("a"), lines("idfa", [n]))] for n in range(50)])


@pytest.mark.parametrize("possible", [0, 2, 5])
def test_where_no_more_threads_can_be_started_those_that_were_end(
    monkeypatch: pytest.MonkeyPatch, possible: int
) -> None:
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def limited(thread: threading.Thread) -> None:
        if len(started) == possible:
            raise RuntimeError("can't start new thread")
        start(thread)
        started.append(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    with pytest.raises(NoThreads, match="ulimit -u"), make_pipeline(NotingSink()):
        pass
    assert [thread.is_alive() for thread in started] == [False] * possible


class Pieces(FileLoad):
    """A file that is read in the given pieces."""

    def __init__(self, name: str, *pieces: bytes) -> None:
        super().__init__(name)
        self.pieces = pieces

    def texts(self, size: int):  # type: ignore[no-untyped-def]
        yield from self.pieces


def test_small_files_share_blocks_and_large_ones_fill_many() -> None:
    files = [Pieces("a", b"x" * 40), Pieces("b", b"x" * 40), Pieces("c", *[b"x" * 100] * 3), Pieces("d", b"x")]
    blocks = [[(file.path, len(text)) for file, text in block] for block in blocks_of(files, 100) if block]
    assert blocks == [[("a", 40), ("b", 40)], [("c", 100)], [("c", 100)], [("c", 100)], [("d", 1)]]
    assert [(file.texts_out, file.is_read) for file in files] == [(1, True), (1, True), (3, True), (1, True)]


def test_files_do_not_share_blocks_where_they_must_not() -> None:
    files = [Pieces("a", b"x" * 40), Pieces("b", b"x" * 40, b"y" * 10)]
    blocks = [[file.path for file, _ in block] for block in blocks_of(files, 100, mixed=False) if block]
    assert blocks == [["a"], ["b", "b"]]


def test_the_reader_comes_up_for_air_where_there_are_no_lines_yet() -> None:
    blocks = list(blocks_of([Pieces("a", b"", b"", b"x\n"), Pieces("empty")], 100))
    assert [block is None for block in blocks] == [True, True, False]
    assert all(one is None for one, _ in pairwise(blocks))
