"""One trial of the torture of a cluster: a load with something going wrong, one without, and the oracle's word."""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tests.outside.clusters import DaskCluster
from tests.outside.faults import trigger
from tests.outside.loading import Running, with_report
from tests.outside.logs import log_of_few_devices, make_inbox
from tests.outside.proxy import Fault, FaultyProxy
from tests.outside.spec import TYPES
from tests.outside.torture_faults import Loss, Servers, Trial, check_all, check_clean, check_renamed, options_for

LONGEST = 8.0  # seconds for which something is frozen or cut off, at most
MOST = 150.0  # seconds for a load
GHOSTLY = 1.0  # seconds in which a worker that was frozen would do what it had begun

Event = Callable[[Trial, DaskCluster], None]


def later(trial: Trial, action: Callable[[], object]) -> None:
    """Do something after some seconds, while this load may still be at work, or the next one."""
    timer = threading.Timer(trial.rng.uniform(0, LONGEST), action)
    trial.timers.append(timer)
    timer.start()


def kill_worker(trial: Trial, cluster: DaskCluster) -> None:
    cluster.kill(trial.rng.randrange(2))


def freeze_worker(trial: Trial, cluster: DaskCluster) -> None:
    cluster.freeze(trial.rng.randrange(2))


def freeze_worker_for_some_time(trial: Trial, cluster: DaskCluster) -> None:
    number = trial.rng.randrange(2)
    cluster.freeze(number)
    later(trial, lambda: cluster.thaw(number))


def cut_worker_off(trial: Trial, cluster: DaskCluster) -> None:
    cluster.cut_off()
    later(trial, cluster.is_cut_off.clear)


def kill_scheduler(trial: Trial, cluster: DaskCluster) -> None:
    cluster.scheduler.kill()


def kill_run(trial: Trial, cluster: DaskCluster) -> None:
    trial.kill_loader()


def stop_run(trial: Trial, cluster: DaskCluster) -> None:
    trial.stop_loader()


def freeze_run_for_some_time(trial: Trial, cluster: DaskCluster) -> None:
    trial.send(signal.SIGSTOP)
    later(trial, lambda: trial.send(signal.SIGCONT))


def freeze_worker_and_kill_run(trial: Trial, cluster: DaskCluster) -> None:
    freeze_worker_for_some_time(trial, cluster)
    trial.kill_loader()


def restart_server(trial: Trial, cluster: DaskCluster) -> None:
    trial.restart_server()


def freeze_server_for_a_while(trial: Trial, cluster: DaskCluster) -> None:
    trial.freeze_server_for_a_while()


CLUSTER_FAULTS: dict[str, Event] = {
    "worker killed": kill_worker,
    "worker frozen": freeze_worker,
    "worker frozen, goes on after some seconds": freeze_worker_for_some_time,
    "worker cut off from the scheduler for some seconds": cut_worker_off,
    "scheduler killed": kill_scheduler,
    "run killed": kill_run,
    "run stopped by a signal": stop_run,
    "run frozen, goes on after some seconds": freeze_run_for_some_time,
    "worker frozen for some seconds, and run killed": freeze_worker_and_kill_run,
    "server restarted": restart_server,
    "server frozen, thawed after a moment": freeze_server_for_a_while,
}


def try_cluster_fault(name: str, seed: str, servers: Servers, cluster: DaskCluster) -> tuple[int, int]:
    """Load with a fault and at once again without; return the exit code of the first load and the number of records.

    Where the scheduler is gone, the second load is one without a cluster: nobody keeps old workers away from it.
    """
    rng = random.Random(seed)
    used = {type: servers[type][:1] for type in TYPES}
    cluster.make_ready()
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        devices = rng.choice((20, 500, 2000))
        logs = [
            log_of_few_devices(rng, file, lines=rng.randint(300, 2000), devices=devices)
            for file in range(rng.randint(2, 5))
        ]
        inbox = make_inbox(Path(scratch) / "inbox", logs)
        trial = Trial(rng, inbox, used, rng.choice(TYPES))
        watched = rng.choice([type for type in TYPES if type != trial.victim])
        place = rng.randrange(max(1, sum(map(len, logs)) // len(TYPES) // 2))
        proxies = {}
        for type, (server,) in used.items():
            fault = trigger(place, lambda: CLUSTER_FAULTS[name](trial, cluster)) if type == watched else Fault
            proxies[type] = stack.enter_context(FaultyProxy(server.address, fault))
        where = options_for({type: [proxy.address] for type, proxy in proxies.items()}, "rendezvous")
        loader = ("memc_load_parallel.py", "--engine", rng.choice(("auto", "python")))
        size = rng.choice((15_000, 50_000, 1 << 26))
        options = (
            *("--timeout", "0.5", "--connect-timeout", "0.5", "--retries", str(rng.randint(0, 3))),
            *("--window-size", str(size), "--cluster", cluster.address),
        )
        trial.loader = stack.enter_context(Running(loader, inbox.pattern, *where, *options))
        try:
            exit_code = trial.loader.process.wait(MOST)
        except subprocess.TimeoutExpired:
            raise Loss(f"the load has no end: {trial.loader.log}") from None
        check_renamed(trial)
        if not trial.server.running:
            trial.server.restart()
        trial.server.thaw()
        proxies[watched].fault = Fault
        on = ("--cluster", cluster.address) if cluster.scheduler.poll() is None else ()
        with Running(loader, inbox.pattern, *where, *on, "--report", "-") as running:
            try:
                clean = with_report(running.finish())
            except subprocess.TimeoutExpired:
                raise Loss(f"the clean load has no end: {running.log}") from None
        check_clean(clean, trial)
        for timer in trial.timers:
            timer.join()
        cluster.thaw_all()
        time.sleep(GHOSTLY)
        return exit_code, check_all(trial)
