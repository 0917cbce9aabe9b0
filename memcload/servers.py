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

    def restarts(self) -> dict[str, int]:
        """Return how often each server has been found restarted so far."""
        return {name: client.restarts for name, client in self.clients.items()}

    def hindrance(self, names: Iterable[str], restarts_before: dict[str, int]) -> str | None:
        """Say why what these servers acknowledged is not known to be there still, or None if it is.

        restarts_before: restarts() of when the first of it was sent.
        """
        for name in names:
            client = self.clients[name]
            try:
                if client.confirm() != restarts_before[name]:
                    return f"{name} {client.address} restarted and lost what it had stored"
            except ServerUnavailable as error:
                return f"{name} {error}, so it can't say whether its records are still there"
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

