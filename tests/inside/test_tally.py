"""Counts add up: every record is stored, rejected or failed, in a block as in a whole run."""

from __future__ import annotations

from collections import Counter
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memc_client import Refusal
from memcload.records import DEVICE_TYPES, Reason
from memcload.tally import BlockResult, Reject, Tally

COUNTS = st.integers(0, 10**12)
BY_TYPE = st.dictionaries(st.sampled_from(DEVICE_TYPES), COUNTS)
BY_REASON: st.SearchStrategy[dict[Reason, int]] = st.dictionaries(st.sampled_from(get_args(Reason)), COUNTS)
TALLIES = st.builds(Tally, BY_TYPE.map(Counter), BY_TYPE.map(Counter), BY_REASON.map(Counter), COUNTS, COUNTS, COUNTS)


def test_an_empty_tally_has_no_records_and_no_errors() -> None:
    assert Tally().records == 0
    assert Tally().error_rate == 0.0


@pytest.mark.parametrize(
    ("stored", "rejected", "failed", "rate"),
    [(99, 1, 0, 0.01), (0, 5, 0, 1.0), (1, 1, 2, 0.25), (7, 0, 3, 0.0), (0, 0, 3, 0.0), (0, 1, 1, 0.5)],
)
def test_the_error_rate_is_the_rejected_fraction_of_all_records(
    stored: int, rejected: int, failed: int, rate: float
) -> None:
    tally = Tally(Counter(idfa=stored), Counter(gaid=failed), Counter({"key": rejected}), partial=3, blank=1000)
    assert tally.records == stored + rejected + failed
    assert tally.error_rate == rate


@given(st.lists(TALLIES))
def test_tallies_add_up(tallies: list[Tally]) -> None:
    total = Tally()
    for tally in tallies:
        total += tally
    assert total.records == sum(tally.records for tally in tallies)
    assert total.records == total.stored.total() + total.rejected.total() + total.failed.total()
    assert total.partial == sum(tally.partial for tally in tallies)
    assert total.blank == sum(tally.blank for tally in tallies)
    assert total.skipped == sum(tally.skipped for tally in tallies)
    for name in DEVICE_TYPES:
        assert total.stored[name] == sum(tally.stored[name] for tally in tallies)
        assert total.failed[name] == sum(tally.failed[name] for tally in tallies)
    for reason in get_args(Reason):
        assert total.rejected[reason] == sum(tally.rejected[reason] for tally in tallies)


@given(TALLIES)
def test_the_error_rate_is_a_fraction(tally: Tally) -> None:
    assert 0 <= tally.error_rate <= 1


def test_adding_changes_only_the_left_side() -> None:
    left, right = Tally(Counter(idfa=1)), Tally(Counter(idfa=2), Counter(gaid=3))
    left += right
    left += right
    assert left == Tally(Counter(idfa=5), Counter(gaid=6))
    assert right == Tally(Counter(idfa=2), Counter(gaid=3))


def test_two_tallies_share_no_counts() -> None:
    one, other = Tally(), Tally()
    one.stored["idfa"] += 1
    assert other.records == 0


def test_a_rejected_line_is_counted_and_kept() -> None:
    result = BlockResult(lines=2)
    result.reject(Reject(1, "apps", b"line"))
    assert (result.tally.rejected, result.rejects) == (Counter(apps=1), [Reject(1, "apps", b"line")])


def test_a_record_that_is_too_large_for_its_server_is_rejected() -> None:
    result = BlockResult(lines=1)
    reject = Reject(0, "too_large", b"line")
    result.refuse("idfa", Refusal(0, too_large=True, reply="SERVER_ERROR object too large for cache"), reject)
    assert (result.tally, result.rejects) == (Tally(rejected=Counter[Reason]({"too_large": 1})), [reject])
    assert result.complaints == []


def test_a_record_that_its_server_refused_for_another_reason_failed() -> None:
    result = BlockResult(lines=1)
    reply = "SERVER_ERROR out of memory storing object"
    result.refuse("idfa", Refusal(0, too_large=False, reply=reply), Reject(0, "too_large", b"line"))
    assert (result.tally, result.rejects) == (Tally(failed=Counter(idfa=1)), [])
    assert result.complaints == [f"idfa refused a record: {reply}"]


def test_rejects_sort_by_their_place_in_the_block() -> None:
    rejects = [Reject(2, "apps", b"a"), Reject(0, "key", b"c"), Reject(1, "columns", b"b")]
    assert [reject.index for reject in sorted(rejects)] == [0, 1, 2]
