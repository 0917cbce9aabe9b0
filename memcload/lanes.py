"""Ordered lanes, one for each device type: blocks are encoded in any order but delivered in theirs.

So the last record of a key wins, as if there were but one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import NamedTuple

from memc_client import Batch, MemcacheClient, Refusal, ServerUnavailable, cut_batch
from memcload.throttle import Throttle


class Aborted(Exception):
    """The lanes were shut while a block waited for its turn."""


class Delivery(NamedTuple):
    """What became of a batch: so many records were acknowledged, but for the refusals, and so many failed.

    What is left was not sent, because the throttle lets nothing through any more.
    """

    acknowledged: int
    refusals: list[Refusal]
    failed: int


class Lanes:
    """Delivers the batches of blocks that are numbered 0, 1, 2 …; every number has to be delivered once.

    A block whose turn it is in some lane is sent there, whichever lane that is. The block with the lowest
    number waits for nobody, so there is always one that moves.
    """

    def __init__(self, clients: Mapping[str, MemcacheClient], throttle: Throttle) -> None:
        self._clients = clients
        self._throttle = throttle
        self._turns = threading.Condition()
        self._turn = dict.fromkeys(clients, 0)  # the number of the block that each lane is open for
        self._given_up: dict[str, int] = {}  # server → the file in which it was given up
        self._is_shut = False

    def deliver(self, number: int, file: int, batches: Mapping[str, Batch]) -> dict[str, Delivery]:
        """Deliver a block's batches, each in its lane; a lane for which there is none is passed by.

        file: the number of the file that the block is of. A server that was given up is not tried again
            for the rest of that file, and only once at the next.

        Returns what became of each batch that is not empty. Raises Aborted.
        """
        deliveries: dict[str, Delivery] = {}
        waiting = set(self._clients)
        while waiting:
            name = self._await_turn(number, waiting)
            waiting.remove(name)
            try:
                if name in batches and batches[name].count:
                    deliveries[name] = self._send(name, file, batches[name])
            finally:
                self._pass_turn(name)
        return deliveries

    def shut(self) -> None:
        """Let nobody wait any longer: who does gets Aborted."""
        with self._turns:
            self._is_shut = True
            self._turns.notify_all()

    def _await_turn(self, number: int, names: set[str]) -> str:
        """Wait until some of these lanes is open for the block; return which."""
        with self._turns:
            while not self._is_shut:
                for name in names:
                    if self._turn[name] == number:
                        return name
                self._turns.wait()
        raise Aborted

    def _pass_turn(self, name: str) -> None:
        with self._turns:
            self._turn[name] += 1
            self._turns.notify_all()

    def _send(self, name: str, file: int, batch: Batch) -> Delivery:
        if self._given_up.get(name) == file:
            return Delivery(0, [], batch.count)
        size = self._throttle.piece_size
        refusals: list[Refusal] = []
        acknowledged = 0
        try:
            for piece in [batch] if size is None else cut_batch(batch, size):
                if self._is_shut or not self._throttle.wait(piece.count):
                    return Delivery(acknowledged, refusals, 0)
                refused = self._clients[name].store(piece, patient=name not in self._given_up)
                self._given_up.pop(name, None)
                refusals += [refusal._replace(position=refusal.position + acknowledged) for refusal in refused]
                acknowledged += piece.count
        except ServerUnavailable:
            self._given_up[name] = file
        return Delivery(acknowledged, refusals, batch.count - acknowledged)
