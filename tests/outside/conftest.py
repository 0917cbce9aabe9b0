"""Directories with logs for tests that do harm to a load."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.outside.logs import Inbox, log_of_few_devices, make_inbox


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    """Three logs with many records for few devices each: what is overwritten in the wrong order is seen."""
    rng = random.Random(2017)
    return make_inbox(tmp_path / "inbox", [log_of_few_devices(rng, file) for file in range(3)])


@pytest.fixture
def one_file(tmp_path: Path) -> Inbox:
    """One such log."""
    return make_inbox(tmp_path / "inbox", [log_of_few_devices(random.Random(1), 0)])
