"""Batches that were encoded beforehand, poured into the four servers through the loader's own client."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.decompression import READ_SIZE
from benchmarks.rival import Stopwatch, run
from memc_client import Batch, MemcacheClient
from memcload.blocks import LogFile
from memcload.compiled import CompiledEncoder


def pour(path: Path, addresses: Mapping[str, str], stopwatch: Stopwatch) -> int:
    """Encode the log, then store it with a thread for each server; only the storing is timed."""
    batches = encode(path)
    clients = {name: MemcacheClient(address) for name, address in addresses.items()}
    for client in clients.values():
        client.confirm()  # connects
    with ThreadPoolExecutor(len(clients)) as pool, stopwatch:
        stored = sum(pool.map(store, clients.values(), (batches[name] for name in clients)))
    for client in clients.values():
        client.close()
    return stored


def encode(path: Path) -> dict[str, list[Batch]]:
    """Return the batches that the loader would send, by device type."""
    encoder = CompiledEncoder(ttl=0)
    batches: dict[str, list[Batch]] = {}
    with LogFile(str(path)) as log:
        for block in log.blocks(READ_SIZE):
            for name, batch in encoder.encode(block).batches.items():
                # The encoder's own buffer is valid until its next block only.
                batches.setdefault(name, []).append(Batch(batch.count, bytes(batch.commands)))
    return batches


def store(client: MemcacheClient, batches: list[Batch]) -> int:
    """Store the batches one after the other; return how many records the server took."""
    return sum(batch.count - len(client.store(batch)) for batch in batches)


if __name__ == "__main__":
    run(pour)
