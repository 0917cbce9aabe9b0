"""What becomes of a file: one pure function from facts to a verdict."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

Status = Literal["done", "pending", "damaged", "dry", "error"]
STATUSES: tuple[Status, ...] = get_args(Status)

VerdictReason = Literal[
    "",
    # pending
    "stopped",
    "records_failed",
    "server_unreachable",
    "server_lost_records",
    "still_being_written",
    "changed",
    "earlier_file_pending",
    "partly_loaded",
    # damaged
    "truncated",
    "corrupt",
    "unsupported",
    # error
    "not_readable",
    "not_renamable",
    "rename_failed",
]
"""Why a file is not simply done. All but `partly_loaded`, which --only asks for, need somebody's attention."""

DamageKind = Literal["truncated", "corrupt", "unsupported"]


class FileFacts(NamedTuple):
    """Everything that bears on what becomes of a file. Texts are empty where there is nothing to tell.

    stopped_by: the signal that stopped the run, or what else did
    not_renamable: why the file could not be renamed, known before it is loaded
    read_error: why it could not be opened, or read to its end
    records: how many records of it were stored, rejected or failed; failed: how many failed
    failures: which servers failed, and why
    unreachable: which server did not answer when it was asked whether it still has the records, and why
    lost: which server has lost records that it had acknowledged, and how
    damage, damage_description: what is wrong with the archive
    size: bytes on disk; age: seconds since it was last written to, negative for a date in the future
    settle: below this age a file may still be being written
    open_for_writing: another process has it open for writing
    incomplete_text: it is plain text that ends within a line
    changed: it is not the file any more that was read
    earlier_pending: an earlier file of the run that stays pending
    dry: nothing was sent, and nothing is renamed
    only: the device types that were loaded, where these are not all
    loaded_before: its name says that it was done already
    """

    stopped_by: str = ""
    not_renamable: str = ""
    read_error: str = ""
    records: int = 0
    failed: int = 0
    failures: str = ""
    unreachable: str = ""
    lost: str = ""
    damage: DamageKind | None = None
    damage_description: str = ""
    size: int = 1
    age: float = 3600.0
    settle: float = 60.0
    open_for_writing: bool = False
    incomplete_text: bool = False
    changed: bool = False
    earlier_pending: str = ""
    dry: bool = False
    only: tuple[str, ...] = ()
    loaded_before: bool = False


class Verdict(NamedTuple):
    """What becomes of a file.

    detail: the reason in words: which server, what cause
    renames: whether the file gets the name of a file that is done, or damaged
    holds_back: no later file of the run may be renamed, so that the next run replays them in order
    """

    status: Status
    reason: VerdictReason = ""
    detail: str = ""
    renames: bool = False
    holds_back: bool = False

    @property
    def is_clean(self) -> bool:
        """True if nobody has to do anything about the file."""
        return self.status in ("done", "dry") or self.reason == "partly_loaded"

    @property
    def is_loaded(self) -> bool:
        """True if everything that could be read of the file has been loaded, or was tried in a dry run."""
        return self.is_clean or self.status == "damaged"


def decide(facts: FileFacts) -> Verdict:
    """Return what becomes of a file."""
    if facts.not_renamable:
        return Verdict(
            "error", "not_renamable", f"not loaded, because it can't be renamed afterwards: {facts.not_renamable}"
        )
    if facts.read_error:  # what was loaded of it is loaded again, and later files have to come after it
        return Verdict("error", "not_readable", facts.read_error, holds_back=facts.records > 0)
    if waits_for := _pending_reason(facts):
        return Verdict("pending", *waits_for, holds_back=True)
    keeps_its_name = facts.dry or facts.loaded_before or bool(facts.only)
    if facts.damage:
        return Verdict("damaged", facts.damage, facts.damage_description, renames=not keeps_its_name)
    if facts.dry:
        return Verdict("dry")
    if facts.only and not facts.loaded_before:
        return Verdict("pending", "partly_loaded", f"only {', '.join(facts.only)} records were loaded (--only)")
    return Verdict("done", renames=not keeps_its_name)


def _pending_reason(facts: FileFacts) -> tuple[VerdictReason, str] | None:
    """Return why the file may not be called done now but may be in a later run, and the detail; or None."""
    if facts.stopped_by:
        return "stopped", f"the run was stopped by {facts.stopped_by}"
    if facts.failed:
        return "records_failed", f"{facts.failed:,} of its records failed: {facts.failures}"
    if facts.unreachable:
        return "server_unreachable", facts.unreachable
    if facts.lost:
        return "server_lost_records", facts.lost
    if facts.open_for_writing:
        return "still_being_written", "another process has it open for writing"
    if 0 <= facts.age < facts.settle and (facts.damage == "truncated" or not facts.size or facts.incomplete_text):
        what = "incomplete" if facts.size else "empty"
        return "still_being_written", f"it is probably still being written ({what}, changed {facts.age:.0f} s ago)"
    if facts.changed:
        return "changed", "it changed while it was being read"
    if facts.earlier_pending and not facts.dry:
        return "earlier_file_pending", f"an earlier file, {facts.earlier_pending}, is pending"
    return None
