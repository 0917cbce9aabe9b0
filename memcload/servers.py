"""The four memcached of a run, one client for each device type."""

from __future__ import annotations

from collections.abc import Iterable

from memc_client import MemcacheClient, ServerState, ServerUnavailable
from memcload.log import LOG
from memcload.options import Options


class Servers:
    """The clients of a run, by device type; none of them in a dry run. Connections open on first use."""

    def __init__(self, options: Options) -> None:
        self.addresses = options.addresses
        self.clients: dict[str, MemcacheClient] = {}
        if options.dry:
            return
        for name, address in options.addresses.items():
            self.clients[name] = MemcacheClient(
                address,
                timeout=options.timeout,
                connect_timeout=options.connect_timeout,
                retries=options.retries,
                ttl=options.ttl,
                on_state=_Reporter(name, address),
            )

    def states(self) -> dict[str, ServerState]:
        """Return the state of each server."""
        return {name: client.state for name, client in self.clients.items()}

    def restarts(self) -> dict[str, int]:
        """Return how often each server has been found restarted so far."""
        return {name: client.restarts for name, client in self.clients.items()}

    def confirm(self, names: Iterable[str]) -> dict[str, str]:
        """Ask these servers whether they are still there, and the same as before.

        Returns, for those that do not answer, what to say about that.
        """
        unreachable = {}
        for name in names:
            try:
                self.clients[name].confirm()
            except ServerUnavailable as error:
                unreachable[name] = f"{name} {error}, so it can't tell whether it still has the records"
        return unreachable

    def restarted(self, names: Iterable[str], before: dict[str, int]) -> str | None:
        """Say which of these servers restarted since `before`, what restarts() gave then; None if none did."""
        for name in names:
            if name in before and self.clients[name].restarts != before[name]:
                return f"{name} {self.addresses[name]} restarted and lost what it had stored"
        return None

    def counters(self, name: str) -> dict[str, int]:
        """Return what the client of a device type counted, for the report."""
        client = self.clients.get(name)
        return {
            "retries": client.retried if client else 0,
            "evictions": client.evictions if client else 0,
            "restarts": client.restarts if client else 0,
        }

    def close(self) -> None:
        """Take a last look at what was evicted, say so, and close the connections."""
        for name, client in self.clients.items():
            client.close()
            if client.evictions:
                LOG.warning(
                    "%s %s evicted %d items during this run: the data does not fit its memory (memcached -m)",
                    name,
                    client.address,
                    client.evictions,
                )


class _Reporter:
    """Logs when a server stops answering, and when it is back."""

    def __init__(self, name: str, address: str) -> None:
        self._who = f"{name} {address}"

    def __call__(self, state: ServerState, cause: str) -> None:
        if state == "retrying":
            LOG.warning("%s: %s; trying again", self._who, cause)
        elif state == "down":
            LOG.error("%s: %s; giving up for this file", self._who, cause)
        else:
            LOG.info("%s answers again", self._who)
