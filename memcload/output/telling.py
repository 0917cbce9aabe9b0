"""Tells people and machines what became of a run, and what that makes of its exit code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from memcload.log import LOG
from memcload.output.results import Results
from memcload.output.summary import summarize

if TYPE_CHECKING:
    from memcload.output.verification import Verification

_MUCH = 10_000_000  # bytes of logs, as they lie on disk: a hundred thousand lines
_FAILED = 1  # the exit code of a run that was fine but for what could not be written


def tell_how_to_be_quiet(size: int) -> None:
    """Say how to keep the records of logs of this size from being shown, where that would be many."""
    if size > _MUCH:
        LOG.info("Every record of %d MB of logs is shown; --log-level info leaves them out", size // 1_000_000)


def tell(results: Results, *, as_table: bool, report: str | None, metrics: str | None) -> int:
    """Tell what became of a load; return the exit code."""
    summarize(results, as_table=as_table)
    if report is not None:
        from memcload.output.report import write_report

        if not _written("report", report, lambda path: write_report(results, path)):
            results = dataclasses.replace(results, exit_code=results.exit_code or _FAILED)
    if metrics is not None:
        from memcload.output.metrics import write_metrics  # needs a library that nothing else needs

        if not _written("metrics", metrics, lambda path: write_metrics(results, path)):
            return results.exit_code or _FAILED
    return results.exit_code


def tell_verification(results: Verification, report: str | None, metrics: str | None) -> int:
    """Tell what a verification found, in files beside those of a load; return the exit code."""
    from memcload.output.verification import log_verification, path_for_verification, write_verification_report

    log_verification(results)
    report, metrics = (path and path_for_verification(path) for path in (report, metrics))
    if not _written("report", report, lambda path: write_verification_report(results, path)):
        results = dataclasses.replace(results, exit_code=results.exit_code or _FAILED)
    if metrics is not None:
        from memcload.output.verify_metrics import write_verification_metrics

        if not _written("metrics", metrics, lambda path: write_verification_metrics(results, path)):
            return results.exit_code or _FAILED
    return results.exit_code


def _written(what: str, path: str | None, write: Callable[[str], None]) -> bool:
    """Write a report or metrics where a path is given; return False, and log why, if that fails."""
    if path is None:
        return True
    try:
        write(path)
    except OSError as error:
        LOG.error("can't write the %s %s: %s", what, path, error.strerror or error)
        return False
    return True
