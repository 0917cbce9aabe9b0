"""What runs within Dask's scheduler during a load: the permits, and an end to workers that have gone silent."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import distributed
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.scheduler import heartbeat_interval

from memcload.cluster.leases import Leases, boot_clock, lasting

_Plugin: Any = SchedulerPlugin  # Dask has no types, or is not there to be looked at
_rpc: Any = distributed.rpc
_LOOK_EVERY = 0.25  # seconds
_ASLEEP_AFTER = 1.0  # seconds that a look is late, after which it was the scheduler that was silent
_SILENT_AFTER = 5.0  # seconds without a heartbeat
_HEARTBEATS = 10  # and so many of them that are missing: of many workers, each has fewer
_PREFIX = "memcload-"


def plugin_name(run: str) -> str:
    """Return what the plugin of a run, and the operation by which it is spoken to, are called."""
    return _PREFIX + run


class RunPlugin(_Plugin):  # type: ignore[misc]
    """Grants the permits of one run. Dask's own time to live of workers is minutes; this one's is seconds.

    Args:
        run: its name; no two have the same, so that never is an old one's plugin taken for this one.
        client: the name of the coordinator's connection to the scheduler.
        timeout: seconds that a request may last once its permit has run out.
        max_rate: records a second, 0 for no limit.
    """

    def __init__(self, run: str, client: str, timeout: float, max_rate: int) -> None:
        self.name = plugin_name(run)
        self._run = run
        self._client = client
        self._timeout = timeout
        self._max_rate = max_rate

    async def start(self, scheduler: Any) -> None:
        """Begin to grant permits."""
        self._scheduler = scheduler
        # A scheduler that was restarted knows nothing of permits that its predecessor granted.
        age = max(0.0, time.time() - getattr(scheduler, "time_started", time.time()))
        self.leases = Leases(self._timeout, self._max_rate, boot_clock() + max(0.0, lasting(self._timeout) - age))
        self._removals: set[asyncio.Task[None]] = set()
        scheduler.handlers[self.name] = self.handle
        self._watch_task = asyncio.create_task(self._watch())
        self._watch_task.add_done_callback(lambda _: self.leases.end())  # whatever has ended it: Dask would only log it

    async def close(self) -> None:
        """Grant nothing any more."""
        self.leases.end()
        self._scheduler.handlers.pop(self.name, None)
        self._watch_task.cancel()

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Take note that a client has gone: with the coordinator the run has ended."""
        if client == self._client:
            self.leases.end()

    def handle(
        self, action: str, window: str = "", holder: str = "", worker: str = "", records: int = 0
    ) -> str | bool | float | None:
        """Do what a worker or the coordinator asks for; None, as once the plugin is gone, if the run has ended."""
        leases = self.leases
        if action == "permit":
            return leases.permit(window, holder, worker)
        if action == "reserve":
            return leases.reserve(records)
        if action == "give back":
            leases.give_back(holder)
            return True
        if action == "end":
            leases.end()
            return not leases.are_out
        if leases.has_ended:
            return None
        leases.see_coordinator()
        if action == "open":
            return not self._others_are_out() and leases.open(window)
        return leases.close() if action == "close" else True

    def _others_are_out(self) -> bool:
        """Return True if deliveries of a run whose coordinator is gone may still write."""
        plugins = [plugin for plugin in self._scheduler.plugins.values() if isinstance(plugin, RunPlugin)]
        return any(plugin.leases.has_ended and plugin.leases.are_out for plugin in plugins)

    async def _watch(self) -> None:
        last_look = awake_since = time.time()
        while True:
            await asyncio.sleep(_LOOK_EVERY)
            now = time.time()
            if was_asleep := now - last_look > _LOOK_EVERY + _ASLEEP_AFTER:
                awake_since = now  # what workers said meanwhile is still to be read
            last_look = now
            lapsed = self.leases.lapse()
            for address in () if was_asleep else lapsed:
                self._remove(address)
            if self.leases.has_ended:
                if not self.leases.are_out:
                    with contextlib.suppress(ValueError):
                        self._scheduler.remove_plugin(self.name)
                    self._scheduler.handlers.pop(self.name, None)
                    return
                continue
            self._place_tasks()
            workers = list(self._scheduler.workers.values())
            silent_after = max(_SILENT_AFTER, _HEARTBEATS * heartbeat_interval(len(workers)))
            for worker in workers:
                if now - max(worker.last_seen, awake_since) > silent_after and self._is_needed(worker):
                    self._remove(worker.address)

    def _place_tasks(self) -> None:
        """Begin what found no worker once there is one.

        Dask leaves it to the worker that it should rather run on, even if that is gone and others are allowed.
        """
        if self._scheduler.running:
            waiting = {task.key: "processing" for task in self._scheduler.unrunnable if self._is_ours(task)}
            self._scheduler.transitions(waiting, stimulus_id=f"{self.name}-place")

    def _is_needed(self, worker: Any) -> bool:
        """Return True if the run waits for a worker, or for what it holds."""
        return any(self._is_ours(task) for tasks in (worker.processing, worker.has_what) for task in tasks)

    def _is_ours(self, task: Any) -> bool:
        return str(task.key).startswith(f"{self._run}-")

    def _remove(self, address: str) -> None:
        task = asyncio.create_task(self._remove_worker(address))
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)

    async def _remove_worker(self, address: str) -> None:
        """Take a worker's tasks away and have it killed: what it was about to write when it froze goes with it."""
        worker = self._scheduler.workers.get(address)
        if worker is None:
            return
        nanny = worker.nanny
        # Expected, or its tasks would be suspected of having killed it.
        await self._scheduler.remove_worker(address, stimulus_id=f"{self.name}-silent", expected=True, close=False)
        if nanny:
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                async with _rpc(nanny) as connection:
                    await asyncio.wait_for(connection.kill(timeout=0.5, reason="silent"), 10)
