"""The files of a run, in their order: what became of their records, and in the end of themselves."""

from __future__ import annotations

import errno
import functools
import itertools
import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence

from memcload.cancel import Cancel
from memcload.counts import Counts, RejectedLines
from memcload.file_load import FileLoad, Message, Rules, TextResult
from memcload.log import excerpt, log_lines
from memcload.memcached.server import Identity, Server, ServerDown
from memcload.outcome import FileFacts, Verdict, decide
from memcload.source.pattern import is_done
from memcload.source.reader import InputFile
from memcload.source.source import Source

_SHOWN_OF_A_KIND = 3  # warnings about lines, for a run
_CONFIRM_INTERVAL = 0.2  # seconds; files that become complete within it are confirmed and renamed together
_OUT_OF_DESCRIPTORS = (errno.EMFILE, errno.ENFILE)
_ROOM_TIMEOUT = 5.0  # seconds to wait for a descriptor when none of ours can be given back

Confirm = Callable[[Iterable[str]], dict[str, Identity | ServerDown]]


class Tracker:
    """Keeps the accounts of a run's files and finalizes them in their order.

    files: those that are finalized
    records_seen, rejects_seen: also count those of files that are being loaded
    has_trouble: something went wrong that is no file's fault
    """

    def __init__(
        self,
        paths: Sequence[str],
        source: Source,
        rules: Rules,
        cancel: Cancel,
        servers: dict[str, Server],
        confirm: Confirm,
    ) -> None:
        self.rules = rules
        self._source = source
        self._cancel = cancel
        self._servers = servers
        self._confirm = confirm
        self._waiting = deque(FileLoad(path, number) for number, path in enumerate(paths))
        self._open: deque[FileLoad] = deque()
        self._renaming: FileLoad | None = None  # its verdict is there; the next is decided once it has its name
        self._last_confirmed = 0.0
        self._earlier_pending = ""  # the first file of the run that stays pending
        self._shown: Counter[str] = Counter()  # warnings about lines, by kind
        self._bytes_finalized = 0
        self.records_seen = 0
        self.rejects_seen = 0
        self.files: list[FileLoad] = []
        self.has_trouble = False
        self.must_rewind = False

    # -- reading

    @property
    def is_finished(self) -> bool:
        """True once every file is finalized."""
        return not self._waiting and not self._open and not self._renaming

    def to_read(self) -> Iterator[FileLoad]:
        """Yield the files that are still to be read, in order, opened or with the reason why that can't be done."""
        while self._waiting and not self._cancel.is_set:
            file = self._waiting.popleft()
            self._open.append(file)
            file.started = time.monotonic()
            self._introduce()
            self._begin(file)
            yield file

    def _begin(self, file: FileLoad) -> None:
        rules = self.rules
        try:
            if not rules.dry and (why := self._source.why_not_renamable(file.path)):
                file.not_renamable = why
                return
            file.input = self._open_when_possible(file.path)
        except OSError as error:
            file.read_error = error.strerror or str(error)
            return
        if rules.rejects is not None or not rules.dry:
            file.rejects = self._source.new_rejects(file.path, rules.rejects, rules.max_rejects)

    def _open_when_possible(self, path: str) -> InputFile:
        """Open a file; wait for a while where the process or the system has run out of descriptors."""
        deadline = time.monotonic() + _ROOM_TIMEOUT
        while True:
            try:
                return self._source.open(path)
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS or time.monotonic() > deadline or self._cancel.wait(0.05):
                    raise

    def _introduce(self) -> None:
        """Log which file it is whose turn has come. Later ones may have been begun; they are not talked about yet."""
        if self._open and not self._open[0].is_current and not self._renaming:
            current = self._open[0]
            current.is_current = True
            log_lines([(logging.INFO, f"Processing {current.path}"), *current.messages])
            current.messages.clear()

    # -- results

    def add_all(self, results: Iterable[TextResult]) -> None:
        """Add what became of texts; those of a file come in their order."""
        for result in results:
            self.add(result)

    def add(self, result: TextResult) -> None:
        """Add what became of a text."""
        file = result.file
        file.texts_out -= 1
        if result.shown:
            file.say(*((logging.DEBUG, message) for message in result.shown))
        for message in result.refused:
            if self._shows(file, "refused by a server"):
                file.say((logging.WARNING, f"{file.path}: {message}"))
        if result.rejects:
            self._add_rejects(file, result.rejects)
        self.records_seen += result.counts.records
        file.lines += result.lines
        file.counts += result.counts
        file.causes.update(result.causes)
        file.acknowledged |= result.acknowledged

    def _add_rejects(self, file: FileLoad, rejects: RejectedLines) -> None:
        self.rejects_seen += len(rejects)
        for reject in rejects.in_order():
            if self._cancel.is_set:
                return  # the file will be read again
            number, kind = file.lines + reject.line + 1, f"rejected for {reject.reason}"
            if self._shows(file, kind):
                file.say((logging.WARNING, f"{file.path}:{number}: {kind}: {excerpt(reject.text)}"))
            if file.rejects is not None:
                try:
                    file.rejects.add(number, reject)
                except OSError as error:
                    self._note_trouble(file, "can't save its rejected lines", error)
                    file.rejects.close()
                    file.rejects = None

    def _shows(self, file: FileLoad, kind: str) -> bool:
        """Return True if a warning about a line is shown: the first few of a kind in this run. Others are counted."""
        if self._shown[kind] < _SHOWN_OF_A_KIND:
            self._shown[kind] += 1
            return True
        file.unshown[kind] += 1
        return False

    def _note_trouble(self, file: FileLoad, what: str, error: OSError) -> None:
        self.has_trouble = True
        file.say((logging.ERROR, f"{file.path}: {what}: {error.strerror or error}"))

    # -- finalizing

    def finalize_complete(self, *, last: bool = False) -> None:
        """Finalize the files that are complete and have no incomplete one before them.

        Where a server has lost records of one of them, `must_rewind` is set: this file and all that were begun after
        it are to be loaded again.

        Args:
            last: do it now, even if the servers were confirmed a moment ago.
        """
        log_lines(self._end_rename(wait=last))
        self._introduce()
        if not self._open or not self._open[0].is_complete or self.must_rewind or self._renaming:
            return
        now = time.monotonic()
        if not last and now - self._last_confirmed < _CONFIRM_INTERVAL:
            return
        self._last_confirmed = now
        complete = list(itertools.takewhile(lambda file: file.is_complete, self._open))
        asked = {address for file in complete if not file.causes for address, _ in file.acknowledged}
        answers = self._confirm(asked) if asked else {}
        messages: list[Message] = []
        for file in complete:
            verdict = decide(self._facts(file, answers))
            if verdict.reason == "server_lost_records" and file.attempt <= self.rules.reloads:
                file.say((logging.WARNING, f"{file.path}: {verdict.detail}; loading it again"))
                self.must_rewind = True
                break
            self._open.popleft()
            messages += self._finalize(file, verdict, wait=last)
            if self._renaming:
                break  # it may fail, and then it holds back the others
        log_lines(messages)
        self._introduce()

    def finalize_rest(self) -> None:
        """Finalize the files that a cancelled run leaves behind."""
        log_lines(self._end_rename(wait=True))
        for file in [*self._open, *self._waiting]:
            log_lines(self._finalize(file, decide(self._facts(file, {})), wait=True))
        self._open.clear()
        self._waiting.clear()

    def rewind(self) -> None:
        """Discard what is known of the files that are not finalized; they are to be read again, in order."""
        self.must_rewind = False
        while self._open:
            file = self._open.pop()
            self._discard(file)
            self._waiting.appendleft(FileLoad(file.path, file.number, file.attempt + 1))

    def _discard(self, file: FileLoad) -> None:
        if file.rejects is not None:
            file.rejects.close()
        self.records_seen -= file.counts.records
        self.rejects_seen -= file.counts.total_rejected

    def _facts(self, file: FileLoad, answers: dict[str, Identity | ServerDown]) -> FileFacts:
        source, rules = file.input, self.rules
        unreachable, lost = self._losses(file, answers)
        damage = source and source.damage
        return FileFacts(
            stopped_by=self._cancel.cause,
            not_renamable=file.not_renamable,
            read_error=file.read_error,
            records=file.counts.records,
            failed=file.counts.total_failed,
            failures="; ".join(f"{self._label(address)}: {error.cause}" for address, error in file.causes.items()),
            unreachable=unreachable,
            lost=lost,
            damage=damage.kind if damage else None,
            damage_description=damage.description if damage else "",
            size=source.size if source else 1,
            age=source.age if source and not source.arrives_whole else math.inf,
            settle=rules.settle,
            open_for_writing=source is not None and source.is_open_for_writing(),
            incomplete_text=source is not None and source.ends_within_line,
            changed=self._is_changed(file),
            earlier_pending=self._earlier_pending,
            dry=rules.dry,
            only=rules.only,
            loaded_before=is_done(file.path),
        )

    def _is_changed(self, file: FileLoad) -> bool:
        source = file.input
        if source is None or (source.is_unchanged() and not file.was_replaced):
            return False
        return self._source.exists(file.path)

    def _losses(self, file: FileLoad, answers: dict[str, Identity | ServerDown]) -> tuple[str, str]:
        """Return which server of a file does not answer, and which has lost records, in words; empty where none."""
        for address, identity in file.acknowledged:
            answer = answers.get(address, identity)
            if isinstance(answer, ServerDown):
                return f"{self._label(address)}: {answer.cause}; it could not be asked if it still has the records", ""
            if answer != identity:
                return "", f"{self._label(address)} {identity.loss(answer)}"
        return "", ""

    def _label(self, address: str) -> str:
        return self._servers[address].label

    def _finalize(self, file: FileLoad, verdict: Verdict, *, wait: bool) -> list[Message]:
        """Let a verdict take effect; return what is to be logged about it, nothing while the file is being renamed."""
        comes_again = not self.rules.dry and (is_done(file.path) or bool(self.rules.only))
        if verdict.is_loaded and file.input is not None and not comes_again:
            self._save_rejects(file, file.input)
        if file.input is not None:
            self._bytes_finalized += file.input.bytes_read
        file.verdict = verdict
        if verdict.renames:
            self._renaming = file
            return self._end_rename(wait=wait)
        return self._close(file)

    def _end_rename(self, *, wait: bool) -> list[Message]:
        """Finalize the file that is being renamed, once it is; return what is to be logged about it."""
        file = self._renaming
        if file is None:
            return []
        try:
            file.renamed_to = self._source.finalize(file.path, damaged=file.status == "damaged", wait=wait)
            if file.renamed_to is None:
                return []
        except OSError as error:
            detail = f"it was loaded but can't be renamed: {error.strerror or error}"
            file.verdict = Verdict("error", "rename_failed", detail, holds_back=self._source.exists(file.path))
        self._renaming = None
        return self._close(file)

    def _close(self, file: FileLoad) -> list[Message]:
        file.seconds = time.monotonic() - file.started
        if file.verdict.holds_back and not self._earlier_pending:
            self._earlier_pending = file.path
        if file.rejects is not None:
            file.rejects.close()
        self.files.append(file)
        return file.closing_messages(self.rules.max_error_rate)

    def _save_rejects(self, file: FileLoad, source: InputFile) -> None:
        if file.rejects is None:
            return
        try:
            saved = file.rejects_saved_as = file.rejects.save(source.mode)
        except OSError as error:
            self._note_trouble(file, "can't save its rejected lines", error)
        else:
            if saved:
                dropped = f"; {file.rejects.dropped:,} more were counted but not saved" if file.rejects.dropped else ""
                file.say((logging.INFO, f"Rejected lines saved as {saved}{dropped}"))

    # -- what there is to tell

    def is_rate_too_high(self, file: FileLoad) -> bool:
        """Return True if more of the file's records were rejected than is acceptable."""
        return file.counts.error_rate > self.rules.max_error_rate

    @functools.cached_property
    def bytes_to_read(self) -> int:
        """How large the files of the run were together when this was first asked."""
        return self._source.size_of([file.path for file in (*self.files, *self._open, *self._waiting)])

    @property
    def bytes_read(self) -> int:
        """How many bytes of all files, as they lie on disk, have been read so far."""
        return self._bytes_finalized + sum(file.input.bytes_read for file in list(self._open) if file.input)

    def totals(self) -> Counts:
        """Return the sum of all finalized files."""
        totals = Counts()
        for file in self.files:
            totals += file.counts
        return totals

    @property
    def is_clean(self) -> bool:
        """True if everything ended well, so that the exit code may be 0."""
        return not self.has_trouble and all(
            file.verdict.is_clean and not self.is_rate_too_high(file) for file in self.files
        )
