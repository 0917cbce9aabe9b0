"""Tells people and machines what became of a run, and what that makes of its exit code."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from memcload.log import LOG
from memcload.output.results import Results
from memcload.output.summary import summarize

if TYPE_CHECKING:
    from memcload.output.verification import Verification

AnyResults = TypeVar("AnyResults", "Results", "Verification")

_MUCH = 10_000_000  # bytes of logs, as they lie on disk: a hundred thousand lines
_FAILED = 1  # the exit code of a run that was fine but for what could not be written


def tell_how_to_be_quiet(size: int) -> None:
    """Say how to keep the records of logs of this size from being shown, where that would be many."""
    if size > _MUCH:
        LOG.info("Every record of %d MB of logs is shown; --log-level info leaves them out", size // 1_000_000)


def tell(results: Results, *, as_table: bool, report: str | None, metrics: str | None) -> int:
    """Tell what became of a load; return the exit code."""
    summarize(results, as_table=as_table)
    return _write(results, report, _write_report, metrics, _write_metrics)


def tell_verification(results: Verification, report: str | None, metrics: str | None) -> int:
    """Tell what a verification found, in files beside those of a load; return the exit code."""
    from memcload.output.verification import log_verification, path_for_verification, write_verification_report

    log_verification(results)
    report, metrics = (path and path_for_verification(path) for path in (report, metrics))
    return _write(results, report, write_verification_report, metrics, _write_verification_metrics)


def _write(
    results: AnyResults,
    report: str | None,
    write_report: Callable[[AnyResults, str], None],
    metrics: str | None,
    write_metrics: Callable[[AnyResults, str], None],
) -> int:
    """Write a report and metrics where a path is given; return the exit code.

    What can't be written is logged, and the metrics tell of a report that could not be.
    """
    for what, path, write in (("report", report, write_report), ("metrics", metrics, write_metrics)):
        if path is None:
            continue
        try:
            write(results, path)
        except OSError as error:
            LOG.error("can't write the %s %s: %s", what, path, error.strerror or error)
            results = dataclasses.replace(results, exit_code=results.exit_code or _FAILED)
    return results.exit_code


# Each imports what only those need who want such a file.


def _write_report(results: Results, path: str) -> None:
    from memcload.output.report import write_report

    write_report(results, path)


def _write_metrics(results: Results, path: str) -> None:
    from memcload.output.metrics import write_metrics

    write_metrics(results, path)


def _write_verification_metrics(results: Verification, path: str) -> None:
    from memcload.output.verify_metrics import write_verification_metrics

    write_verification_metrics(results, path)
