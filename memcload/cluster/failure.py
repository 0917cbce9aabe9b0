"""What ends a load on a cluster."""

from __future__ import annotations


class ClusterError(Exception):
    """The cluster can't be used, or not any more; the message says why and what to do."""
