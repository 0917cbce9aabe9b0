"""The tasks that workers run."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from memcload.cluster.delivery import Delivery
from memcload.cluster.job import Buffer, Delivered, Job, Summary, Unit
from memcload.cluster.reading import PartBuilder, Stream
from memcload.cluster.worker import WorkerRun, working_for
from memcload.encode.message import show_records
from memcload.output.verification import Found
from memcload.verify import Known

SUMMARY = 0  # where a part has it; the buffer of each partition follows


class RunEnded(Exception):
    """The run has ended while a task was at work."""


def read_part(job: Job, unit: Unit, number: int, previous: Summary | None) -> list[Any]:
    """Return a part of a unit: its summary, and the records of each partition."""
    with working_for(job) as run:
        partitions = len(run.router.partitions)
        if previous is not None and previous.is_last:  # asked for before that was known
            return [Summary([], 0, True), *[None] * partitions]
        stream = _stream_at(run, unit, number)
        builder, encoder = PartBuilder(partitions), run.encoder()
        for piece in stream.pieces(job.part_size):
            _check(run, stream)
            shown = show_records(piece.text, run.router) if job.shows_records else []
            builder.add(piece, encoder, shown)
        if not stream.is_over:
            run.keep_stream(unit.name, number + 1, stream)
        return [Summary(builder.segments(), builder.size, stream.is_over), *builder.buffers()]


def read_lines(job: Job, unit: Unit, number: int, wanted: Mapping[int, Sequence[int]]) -> dict[tuple[int, int], bytes]:
    """Return lines of a part, read again: by segment, and by their numbers in it."""
    with working_for(job) as run:
        stream = _stream_at(run, unit, number)
        found: dict[tuple[int, int], bytes] = {}
        segment, file, first = -1, -1, 0
        for piece in stream.pieces(job.part_size):
            _check(run, stream)
            if piece.file != file:
                segment, file, first = segment + 1, piece.file, 0
            lines = bytes(piece.text).split(b"\n")
            lines.pop()
            for line in wanted.get(segment, ()):
                if 0 <= line - first < len(lines):
                    found[segment, line] = lines[line - first]
            first += len(lines)
        stream.close()
        return found


def pick(part: Sequence[Any], partitions: Sequence[int]) -> dict[int, Buffer]:
    """Return the records of some partitions of a part."""
    buffers = part[SUMMARY + 1 :]
    return {number: buffers[number] for number in partitions if buffers[number] is not None}


def deliver(job: Job, window: str, partition: int, retries: bool, *groups: Mapping[int, Buffer]) -> Delivered:
    """Store the last record of each key. Raises Superseded where the window is closed."""
    with working_for(job) as run:
        connected = run.connected(partition)
        with connected.lock:
            delivery = Delivery(run, connected, [group[partition] for group in groups], retries)
            with connected.permit.hold(window):
                return delivery.store()


def compare(
    job: Job, partition: int, known: Known | None, files: Sequence[Sequence[int]], *groups: Mapping[int, Buffer]
) -> Known:
    """Compare the records of a partition with what its server holds.

    Args:
        job: the run.
        partition: its number.
        known: what is known of it from the windows before.
        files: the numbers of the files of each segment of each part.
        groups: what holds its records, for each part.
    """
    with working_for(job) as run:
        sink = run.comparing
        with run.connected(partition).lock:
            sink.known[partition] = copy.deepcopy(known) if known is not None else Known()
            for numbers, group in zip(files, groups, strict=True):
                for number, batch in zip(numbers, group[partition].batches(), strict=True):
                    _check(run)
                    sink.store(run.router.partitions[partition], [batch], [number])
            return sink.known[partition]


def found_of(known: Known) -> Found:
    """Return the counts only."""
    return known.found


def _stream_at(run: WorkerRun, unit: Unit, number: int) -> Stream:
    """Return the files of a unit, read up to a part."""
    stream = run.take_stream(unit.name, number)
    if stream is None:
        stream = Stream(run.source, unit.paths, run.job.block_size)
        for _ in range(number):
            for _ in stream.pieces(run.job.part_size):
                _check(run, stream)
    return stream


def _check(run: WorkerRun, stream: Stream | None = None) -> None:
    if run.cancel.is_set:
        if stream is not None:
            stream.close()
        raise RunEnded
