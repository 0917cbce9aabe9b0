"""Waiting for what may never come."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from memcload.cancel import Cancel
from memcload.cluster.failure import ClusterError

LOOK_EVERY = 0.05  # seconds, at the cancel token


def patiently(functions: Mapping[str, Callable[[], Any]], cancel: Cancel, timeout: float) -> dict[str, Any]:
    """Return what functions return or raise, those that do so in time. Raises ClusterError once it is cancelled."""
    results: dict[str, Any] = {}
    have_all_ended = threading.Event()

    def call(name: str) -> None:
        try:
            results[name] = functions[name]()
        except Exception as error:
            results[name] = error
        if len(results) == len(functions):
            have_all_ended.set()

    for name in functions:
        threading.Thread(target=call, args=(name,), daemon=True).start()
    deadline = time.monotonic() + timeout
    while len(results) < len(functions) and time.monotonic() < deadline:
        if cancel.is_set:
            raise ClusterError("the run was stopped before the cluster answered")
        have_all_ended.wait(LOOK_EVERY)
    return dict(results)
