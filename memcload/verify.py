"""Compares log files with what the servers hold. Nothing is written, to the servers or beside the files."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from memcload.cancel import Cancel
from memcload.encode.encoder import Encoder
from memcload.file_load import FileLoad
from memcload.log import LOG
from memcload.memcached.batch import Batch, Difference, Lookup, lookups
from memcload.memcached.routing import Partition, Router
from memcload.memcached.server import ServerDown
from memcload.pipeline import Pipeline, blocks_of
from memcload.sink import Delivery, Fleet
from memcload.source.local import LocalSource
