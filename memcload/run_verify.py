"""One comparison of files with what the servers hold."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

from memcload.cancel import Cancel
from memcload.encode.choice import choose_encoder
from memcload.encode.encoder import Encoder
from memcload.log import LOG
from memcload.memcached.routing import Router
from memcload.options import ParallelOptions
from memcload.output.telling import tell_verification
from memcload.output.verification import Verification
from memcload.pipeline import block_size
from memcload.session import exit_code_of, finished, guard, new_fleet, new_pipeline, nothing_to, open_source, progress
from memcload.sink import NewClient
from memcload.source.pattern import PatternError
from memcload.verify import ComparingSink, Verifier


@dataclass(frozen=True)
class VerifyRun:
    """What compares files with what the servers hold is given."""

    options: ParallelOptions
    router: Router
    verifier: Verifier
    sink: ComparingSink
    cancel: Cancel
    new_client: NewClient
    new_encoder: Callable[[], Encoder]


def compare_here(run: VerifyRun) -> None:
    """Compare files on this host, until the run is cancelled."""
    pipeline = new_pipeline(run.options, run.router, run.sink, run.new_encoder, run.cancel)
    run.verifier.verify(pipeline, block_size(run.options.block_size, len(run.router.partitions)))


def verify(options: ParallelOptions, compare: Callable[[VerifyRun], None], new_client: NewClient) -> int:
    """Compare files with what the servers hold, and report; return the exit code."""
    started = time.monotonic()

    def find_and_verify(cancel: Cancel) -> int:
        router, fleet = new_fleet(options, new_client, cancel)
        source = open_source(options, cancel)
        verification = Verification(router.partitions, fleet.servers)
        try:
            paths = source.find()
            if not paths:
                LOG.info("%s", nothing_to("verify", options))
            new_encoder = choose_encoder(options.engine, router, options.ttl, source.size_of(paths))
            sink = ComparingSink(fleet, router.partitions, new_encoder, paths, options.sample)
            verifier = Verifier(paths, source, sink, cancel)
            try:
                with progress(options, verifier, router, fleet, cancel) if paths else nullcontext():
                    compare(VerifyRun(options, router, verifier, sink, cancel, new_client, new_encoder))
            finally:
                fleet.close()
            sink.warn()
            verification = dataclasses.replace(verification, files=verifier.files, found=sink.found)
            is_clean = verifier.is_clean
        except PatternError as error:
            LOG.error("%s", error)
            is_clean = False
        exit_code = exit_code_of(options, cancel, is_clean)
        verification = dataclasses.replace(verification, exit_code=exit_code, seconds=time.monotonic() - started)
        return finished(started, tell_verification(verification, options.report, options.metrics))

    return guard(options, find_and_verify)
