"""What runs within Dask's scheduler, in a real one: it ends runs and takes away workers as it should, and no more."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

pytest.importorskip("distributed")

import distributed

from memcload.cluster import leases, scheduler
from memcload.cluster.scheduler import RunPlugin, plugin_name

RUN = "memcload_run"
DASK: Any = distributed  # has no types, or is not there to be looked at
SILENT_AFTER = 0.7  # seconds


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let workers be silent soon."""
    monkeypatch.setattr(scheduler, "_LOOK_EVERY", 0.02)
    monkeypatch.setattr(scheduler, "_ASLEEP_AFTER", 0.2)
    monkeypatch.setattr(scheduler, "_SILENT_AFTER", SILENT_AFTER)
    monkeypatch.setattr(scheduler, "_HEARTBEATS", 1)
    monkeypatch.setattr(leases, "LEASE", 0.1)
    monkeypatch.setattr(leases, "_SLACK", 0.0)


@contextlib.asynccontextmanager
async def running_plugin() -> AsyncIterator[tuple[Any, Any, RunPlugin]]:
    """Give a client, its scheduler, which has a worker, and the plugin of its run there."""
    async with (
        DASK.Scheduler(host="tcp://127.0.0.1", dashboard_address="127.0.0.1:0") as dask,
        DASK.Worker(dask.address, nthreads=1, dashboard=False),
        DASK.Client(dask.address, asynchronous=True, set_as_default=False) as client,
    ):
        yield client, dask, await registered(client, dask, RUN, timeout=0.1)


async def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def running(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Run a test that is a coroutine."""

    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@running
async def test_a_worker_that_is_taken_away_makes_no_task_a_suspect() -> None:
    """Dask gives up a task that four workers died with."""
    async with running_plugin() as (client, dask, plugin):
        future = client.submit(time.sleep, 0.3, key=f"{RUN}-task", pure=False)
        await until(lambda: any(worker.processing for worker in dask.workers.values()))
        ((address, worker),) = dask.workers.items()
        assert plugin._is_needed(worker)
        await plugin._remove_worker(address)
        assert not dask.workers
        assert dask.tasks[future.key].suspicious == 0


@running
async def test_only_a_client_of_the_run_ends_it_when_it_goes() -> None:
    async with running_plugin() as (client, dask, plugin):
        async with DASK.Client(dask.address, asynchronous=True, set_as_default=False):
            pass
        assert not plugin.leases.has_ended
        assert plugin.handle("sign")
        await client.close()
        await until(lambda: plugin.leases.has_ended)
        assert plugin.handle("open", window="1") is plugin.handle("sign") is None
        await until(lambda: plugin_name(RUN) not in dask.plugins)
        assert plugin_name(RUN) not in dask.handlers


@running
async def test_tasks_that_lost_every_worker_go_on_with_the_next_that_comes() -> None:
    """Dask forgets those that would rather run on a worker that is gone."""
    async with running_plugin() as (client, dask, _):
        (address,) = dask.workers
        hint = {"workers": [address], "allow_other_workers": True}
        future = client.submit(time.sleep, 0.2, key=f"{RUN}-task", pure=False, **hint)
        await until(lambda: any(worker.processing for worker in dask.workers.values()))
        await dask.remove_worker(address, stimulus_id="a test")
        await until(lambda: dask.unrunnable)
        async with DASK.Worker(dask.address, nthreads=1, dashboard=False):
            assert await asyncio.wait_for(future, 10) is None


@running
async def test_a_scheduler_that_was_frozen_itself_does_not_take_its_workers_for_silent() -> None:
    async with running_plugin() as (client, dask, plugin):
        future = client.submit(time.sleep, 1.5, key=f"{RUN}-task", pure=False)
        await until(lambda: any(worker.processing for worker in dask.workers.values()))
        (address,) = dask.workers
        await until(lambda: plugin.handle("open", window="1"))
        assert plugin.handle("permit", window="1", holder="a delivery", worker=address) == "granted"
        time.sleep(SILENT_AFTER + 0.3)  # and nothing of it goes on
        await until(lambda: not plugin.leases.are_out)
        assert list(dask.workers) == [address]
        for own in DASK.Worker._instances:
            own.periodic_callbacks["heartbeat"].stop()
        await until(lambda: address not in dask.workers)  # but one that is silent is
        assert future.key in dask.tasks  # which another worker would do


@running
async def test_nothing_is_opened_while_permits_of_other_times_may_be_out() -> None:
    """Those of a run whose client is gone, and those that a scheduler granted which was here before."""
    async with running_plugin() as (client, dask, _):
        plugin = await registered(client, dask, "memcload_before", timeout=0.6)
        await until(lambda: plugin.handle("open", window="1"))
        assert plugin.handle("permit", window="1", holder="a delivery", worker="somewhere") == "granted"
        plugin.leases.end()
        next_one = await registered(client, dask, "memcload_next", timeout=0.1)
        assert next_one.handle("open", window="1") is False
        await until(lambda: next_one.handle("open", window="1"))
        assert not plugin.leases.are_out
        patient = await registered(client, dask, "memcload_patient", timeout=60)
        assert patient.handle("open", window="1") is False
        dask.time_started -= 100
        after_long = await registered(client, dask, "memcload_after_long", timeout=60)
        assert after_long.handle("open", window="1") is True


async def registered(client: Any, dask: Any, run: str, timeout: float) -> RunPlugin:
    await client.register_plugin(RunPlugin(run, client.id, timeout, 0))
    plugin = dask.plugins[plugin_name(run)]
    assert isinstance(plugin, RunPlugin)
    return plugin
