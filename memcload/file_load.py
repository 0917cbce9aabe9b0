"""One file on its way through a run, and what became of one text of it."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from memcload.counts import Counts, Reject, RejectedLines
from memcload.encode.encoder import EncodedText
from memcload.log import log_lines
from memcload.memcached.routing import Partition
from memcload.memcached.server import Identity, ServerDown
from memcload.outcome import Status, Verdict
from memcload.sink import Delivery
from memcload.source.reader import InputFile
from memcload.source.rejects import Rejects
from memcload.text import Text

Message = tuple[int, str]  # a level of the log, and what to say


@dataclass(frozen=True)
class Rules:
    """What a run was told about its files.

    only: the device types to load, where these are not all
    reloads: how often a file whose records were lost may be loaded again
    """

    settle: float
    max_error_rate: float
    dry: bool
    only: tuple[str, ...] = ()
    rejects: str | None = None
    max_rejects: int = 100_000
    reloads: int = 0


@dataclass(eq=False)
class FileLoad:
    """One file on its way through a run. What is in it so far is right for the texts that were added.

    number: its place in the order of the run
    attempt: counts the loads of this file in this run from 1
    texts_out: how many texts were handed out whose results were not added
    causes: why records failed, by the address of the server
    acknowledged: who acknowledged records, by the address of the server
    was_replaced: another host, which read it, found something else under its path
    """

    path: str
    number: int = 0
    attempt: int = 1
    input: InputFile | None = None
    counts: Counts = field(default_factory=Counts)
    lines: int = 0
    texts_out: int = 0
    is_read: bool = False
    read_error: str = ""
    was_replaced: bool = False
    not_renamable: str = ""
    causes: dict[str, ServerDown] = field(default_factory=dict)
    acknowledged: set[tuple[str, Identity]] = field(default_factory=set)
    rejects: Rejects | None = None
    started: float = field(default_factory=time.monotonic)
    seconds: float = 0.0
    verdict: Verdict = field(default_factory=lambda: Verdict("pending"))
    renamed_to: str | None = None
    rejects_saved_as: str | None = None
    unshown: Counter[str] = field(default_factory=Counter)  # warnings that are only counted, by kind
    is_current: bool = False  # the first file that is not finalized: the one that the log talks about
    messages: list[Message] = field(default_factory=list)

    @property
    def status(self) -> Status:
        """What became of the file; pending until it is finalized."""
        return self.verdict.status

    @property
    def is_complete(self) -> bool:
        """True once it is known what became of every line."""
        return self.is_read and not self.texts_out

    def texts(self, size: int) -> Iterator[Text]:
        """Yield the lines of the file in texts of about `size` bytes; an error ends them and is kept."""
        if self.input is None:
            return
        yield from self.input.texts(size)
        if error := self.input.read_error:
            self.read_error = error.strerror or str(error)

    def say(self, *messages: Message) -> None:
        """Log messages about the file, when its turn has come."""
        if self.is_current:
            log_lines(messages)
        else:
            self.messages += messages

    def closing_messages(self, max_error_rate: float) -> list[Message]:
        """Return everything that is still to be logged about the file once it is finalized."""
        counts, verdict = self.counts, self.verdict
        messages = [] if self.is_current else [(logging.INFO, f"Processing {self.path}")]
        messages += self.messages
        for kind, count in self.unshown.items():
            messages.append((logging.WARNING, f"… and {count} more: {kind}"))
        if verdict.status == "pending":
            level = logging.ERROR if verdict.holds_back else logging.INFO
            messages.append((level, f"{self.path} stays pending: {verdict.detail}"))
        elif verdict.status == "damaged":
            name = f"set aside as {self.renamed_to}" if self.renamed_to else "it was not renamed"
            messages.append((logging.ERROR, f"{self.path} is {verdict.reason}: {verdict.detail}; {name}"))
        elif verdict.status == "error":
            messages.append((logging.ERROR, f"{self.path}: {verdict.detail}"))
        name = f", now {self.renamed_to}" if verdict.status == "done" and self.renamed_to else ""
        messages.append(
            (
                logging.INFO,
                f"{self.path}: {verdict.status}{name}. {counts.records} records in {self.seconds:.1f} s: "
                f"{counts.total_stored} stored, {counts.total_rejected} rejected, {counts.total_failed} failed; "
                f"{counts.partial} partial, {counts.blank} blank lines",
            )
        )
        if verdict.status == "damaged" and not counts.records:
            return messages  # nothing could be loaded, successfully or not
        if verdict.is_loaded and counts.error_rate > max_error_rate:
            messages.append((logging.ERROR, f"High error rate ({counts.error_rate} > {max_error_rate}). Failed load"))
        elif verdict.is_loaded:
            messages.append((logging.INFO, f"Acceptable error rate ({counts.error_rate}). Successful load"))
        return messages


@dataclass
class TextResult:
    """What became of a text: whole lines of one file.

    refused: what servers said of records that they refused for another reason than their size
    shown: the log lines of its records, in a dry run
    """

    file: FileLoad
    lines: int
    counts: Counts
    rejects: RejectedLines
    refused: list[str] = field(default_factory=list)
    causes: dict[str, ServerDown] = field(default_factory=dict)
    acknowledged: set[tuple[str, Identity]] = field(default_factory=set)
    shown: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, file: FileLoad, text: EncodedText, shown: list[str]) -> TextResult:
        """Make the result of a text of which nothing is delivered yet."""
        rejected = text.rejects.by_reason()
        counts = Counts(rejected=rejected, partial=text.partial, blank=text.blank, skipped=text.skipped)
        return cls(file, text.lines, counts, text.rejects, shown=shown)

    def add(self, partition: Partition, delivery: Delivery, text: Text, lines: Sequence[int]) -> None:
        """Add what became of its records of one partition; `lines` are the numbers of their lines in the text."""
        failed, stored = delivery.failed, delivery.answered - len(delivery.refusals)
        if delivery.answered:
            for identity in delivery.identities:
                self.acknowledged.add((partition.server, identity))
        if delivery.failed and delivery.cause:
            self.causes[partition.server] = delivery.cause
        if delivery.refusals:
            split = bytes(text).split(b"\n")
            for refusal in delivery.refusals:
                line = lines[refusal.position]
                if refusal.too_large:
                    self.counts.rejected["too_large"] += 1
                    self.rejects.append(Reject(line, "too_large", split[line]))
                else:
                    failed += 1
                    self.add_refusal(partition, refusal.reply)
        if stored:
            self.counts.stored[partition.number] += stored
        if failed:
            self.counts.failed[partition.number] += failed

    def add_refusal(self, partition: Partition, reply: str) -> None:
        """Add what a server said of a record that it refused for another reason than its size."""
        self.refused.append(f"{partition.device_type} {partition.server} refused a record: {reply}")
        self.causes.setdefault(partition.server, ServerDown(partition.server, reply))
