"""Every verdict, and which of several facts decides."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from memcload.outcome import FileFacts, Verdict, decide

# Each fact alone, from the one that overrides all others to the one that overrides none: with the verdict that it
# leads to and whether later files are held back.
BY_RANK: list[tuple[dict[str, Any], tuple[str, str], bool]] = [
    ({"not_renamable": "name too long"}, ("error", "not_renamable"), False),
    ({"read_error": "input/output error", "records": 5}, ("error", "not_readable"), True),
    ({"stopped_by": "SIGTERM"}, ("pending", "stopped"), True),
    ({"failed": 3, "failures": "idfa 127.0.0.1:1: connection refused"}, ("pending", "records_failed"), True),
    ({"unreachable": "idfa 127.0.0.1:1: timed out"}, ("pending", "server_unreachable"), True),
    ({"lost": "idfa 127.0.0.1:1 restarted"}, ("pending", "server_lost_records"), True),
    ({"open_for_writing": True}, ("pending", "still_being_written"), True),
    ({"damage": "truncated", "age": 5.0}, ("pending", "still_being_written"), True),
    ({"changed": True}, ("pending", "changed"), True),
    ({"earlier_pending": "/in/a.gz"}, ("pending", "earlier_file_pending"), True),
    ({"damage": "corrupt"}, ("damaged", "corrupt"), False),
    ({"only": ("gaid",)}, ("pending", "partly_loaded"), False),
    ({}, ("done", ""), False),
]


@pytest.mark.parametrize(("facts", "expected", "holds_back"), BY_RANK, ids=[case[1][1] or "done" for case in BY_RANK])
def test_each_fact_leads_to_its_verdict(facts: dict[str, Any], expected: tuple[str, str], holds_back: bool) -> None:
    verdict = decide(FileFacts(**facts))
    assert (verdict.status, verdict.reason) == expected
    assert verdict.holds_back == holds_back


@pytest.mark.parametrize(("stronger", "weaker"), list(itertools.combinations(range(len(BY_RANK)), 2)))
def test_of_two_facts_the_stronger_decides(stronger: int, weaker: int) -> None:
    facts = {**BY_RANK[weaker][0], **BY_RANK[stronger][0]}
    verdict = decide(FileFacts(**facts))
    assert (verdict.status, verdict.reason) == BY_RANK[stronger][1]


@pytest.mark.parametrize(
    ("facts", "is_young"),
    [
        ({"damage": "truncated"}, True),
        ({"size": 0}, True),
        ({"incomplete_text": True}, True),
        ({"damage": "corrupt"}, False),
        ({"damage": "unsupported"}, False),
        ({}, False),
    ],
)
@pytest.mark.parametrize(("age", "settle"), [(5.0, 60.0), (5.0, 5.0), (3600.0, 60.0), (-86400.0, 60.0), (0.0, 0.0)])
def test_a_young_file_that_looks_unfinished_is_still_being_written(
    facts: dict[str, Any], is_young: bool, age: float, settle: float
) -> None:
    verdict = decide(FileFacts(**facts, age=age, settle=settle))
    assert (verdict.reason == "still_being_written") == (is_young and 0 <= age < settle)


@pytest.mark.parametrize("records", [0, 1])
def test_a_read_error_holds_later_files_back_once_records_were_loaded(records: int) -> None:
    assert decide(FileFacts(read_error="input/output error", records=records)).holds_back == bool(records)


@pytest.mark.parametrize(
    ("facts", "status", "renames"),
    [
        ({}, "done", True),
        ({"damage": "corrupt"}, "damaged", True),
        ({"damage": "truncated", "age": 7200.0}, "damaged", True),
        ({"loaded_before": True}, "done", False),
        ({"loaded_before": True, "damage": "corrupt"}, "damaged", False),
        ({"loaded_before": True, "only": ("idfa",)}, "done", False),
        ({"only": ("idfa",), "damage": "corrupt"}, "damaged", False),
        ({"only": ("idfa",)}, "pending", False),
        ({"dry": True}, "dry", False),
        ({"dry": True, "damage": "corrupt"}, "damaged", False),
        ({"dry": True, "only": ("idfa",)}, "dry", False),
        ({"dry": True, "earlier_pending": "a.gz"}, "dry", False),
        ({"dry": True, "size": 0, "age": 1.0}, "pending", False),
        ({"failed": 1}, "pending", False),
        ({"not_renamable": "name too long"}, "error", False),
    ],
)
def test_a_file_is_renamed_only_when_it_is_wholly_loaded(facts: dict[str, Any], status: str, renames: bool) -> None:
    verdict = decide(FileFacts(**facts))
    assert (verdict.status, verdict.renames) == (status, renames)


def test_the_detail_names_the_server_and_the_cause() -> None:
    verdict = decide(FileFacts(failed=1234, failures="idfa 10.0.0.1:11211: connection refused"))
    assert verdict.detail == "1,234 of its records failed: idfa 10.0.0.1:11211: connection refused"


@pytest.mark.parametrize(
    ("verdict", "is_clean", "is_loaded"),
    [
        (Verdict("done"), True, True),
        (Verdict("dry"), True, True),
        (Verdict("pending", "partly_loaded"), True, True),
        (Verdict("pending", "stopped"), False, False),
        (Verdict("damaged", "corrupt"), False, True),
        (Verdict("error", "not_readable"), False, False),
    ],
)
def test_what_is_clean_and_what_is_loaded(verdict: Verdict, is_clean: bool, is_loaded: bool) -> None:
    assert (verdict.is_clean, verdict.is_loaded) == (is_clean, is_loaded)


def test_every_fact_is_in_the_table() -> None:
    weighed = {name for facts, _, _ in BY_RANK for name in facts}
    described = {"damage_description", "failures", "size", "age", "settle", "incomplete_text", "dry", "loaded_before"}
    assert weighed | described == set(FileFacts._fields)
