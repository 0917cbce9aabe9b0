"""Measures the sections of a plan, one after the other; within a section every subject in every round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from benchmarks import reader, replies, startup
from benchmarks.farm import Setup
from benchmarks.measure import Laboratory, cores, say
from benchmarks.plan import DECOMPRESSION, LIMIT, LIVE, Plan, Subject, live
from benchmarks.results import Figures, Row

SECTIONS = ("limit", "rival", "sizes", "files", "servers", "tls", "refill", "setup", "reader", "startup", "replies")
SLOW_ROUNDS = 3  # at most, of what takes long


def measure(plan: Plan, laboratory: Laboratory, sections: Sequence[str] = SECTIONS) -> Iterator[Row]:
    """Measure sections of a plan and yield their rows. Raises BenchmarkError or ServerError."""
    loads = plan.loads()
    say("preparing the logs")
    laboratory.logs.prepare([subject.logs for name in sections for subject in loads.get(name, [])])
    say("warming up")  # what is compiled once is compiled now: the kernel, and one that chooses among servers
    for servers in (1, 2) if "servers" in sections else (1,):
        laboratory.measure(live(startup.LOGS, "--engine", "compiled", setup=Setup(servers)))
    for section in sections:
        if section in loads:
            rounds = min(plan.rounds, SLOW_ROUNDS) if section == "rival" else plan.rounds
            yield from _loads(section, loads[section], rounds, laboratory)
        elif section == "reader":
            yield from _others(section, min(plan.rounds, SLOW_ROUNDS), lambda: reader.measure(plan, laboratory))
        elif section == "startup":
            yield from _others(section, plan.rounds, lambda: startup.measure(laboratory))
        else:
            yield from _others(section, 1, lambda: replies.measure(plan.reply))


def _loads(section: str, subjects: list[Subject], rounds: int, laboratory: Laboratory) -> list[Row]:
    measured: dict[str, list[Figures]] = {subject.name: [] for subject in subjects}
    for number in range(1, rounds + 1):
        # Every second round goes backwards, so that nothing is always the first.
        for subject in subjects if number % 2 else reversed(subjects):
            say(f"{section}, round {number}/{rounds}: {subject.name}, {subject.logs}:", end=" ")
            figures = laboratory.measure(subject)
            say(f"{figures['whole_seconds']:.2f} s")
            measured[subject.name].append(figures)
    rows = [
        Row(
            section,
            subject.name,
            measured[subject.name],
            {"records": subject.logs.records, "files": subject.logs.files},
        )
        for subject in subjects
    ]
    if section == "limit":
        rates = map(_limit, measured[DECOMPRESSION], measured[LIVE])
        rows.insert(1, Row(section, LIMIT, [{"whole_records_per_second": rate} for rate in rates], rows[0].facts))
    return rows


def _limit(alone: Figures, loaded: Figures) -> float:
    """Return the records a second of all cores if they did nothing but decompress and run memcached."""
    needed = alone["cpu_microseconds_per_record"] + loaded["memcached_cpu_microseconds_per_record"]
    return cores() * 1e6 / needed


def _others(section: str, rounds: int, measure_round: Callable[[], dict[str, Figures]]) -> list[Row]:
    measured: list[dict[str, Figures]] = []
    for number in range(1, rounds + 1):
        say(f"{section}, round {number}/{rounds}")
        measured.append(measure_round())
    return [Row(section, name, [figures[name] for figures in measured]) for name in measured[0]]
