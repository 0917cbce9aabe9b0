"""Lines that nobody would write, from files into memcached, against the specification; `make fuzz` loads many more."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.outside.fuzzing import fuzz
from tests.outside.memcached import Servers


@pytest.fixture
def unlimited_digits() -> Iterator[None]:
    """The oracle takes an app id for a number, however long it is."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.usefixtures("unlimited_digits")
@pytest.mark.parametrize("seed", range(5))
def test_any_lines_leave_what_the_specification_says(tmp_path: Path, servers: Servers, seed: int) -> None:
    result = fuzz(seed, 4000, tmp_path, servers)
    assert len(result.reasons) >= 5
    assert min(result.stored.total(), len(result.rejected), result.partial, result.blank) > 50
