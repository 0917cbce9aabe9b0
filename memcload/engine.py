"""Which encoder a run uses."""

from __future__ import annotations

import time
from collections.abc import Callable

from memcload.encoder import Encoder, PythonEncoder
from memcload.log import LOG
from memcload.options import ParallelOptions


class EngineError(Exception):
    """The engine that was asked for is not to be had."""


def choose_encoder(options: ParallelOptions) -> Callable[[], Encoder]:
    """Return what makes an encoder for a worker, as `--engine` asks.

    With `auto` it is the compiled one where that can be had. Raises EngineError where `compiled` can't.
    """
    if options.engine != "python":
        try:
            from memcload.compiled import CompiledEncoder  # Numba is heavy, and may be missing

            started = time.monotonic()
            CompiledEncoder(options.ttl).encode(b"\n")  # compiles it, or takes it from the cache
        except Exception as error:  # whatever Numba does not like here, Python can do
            if options.engine == "compiled":
                raise EngineError(f"the compiled engine can't be had: {error}") from error
            LOG.warning("Loading with --engine python, many times slower, for want of Numba: %s", error)
        else:
            if (seconds := time.monotonic() - started) > 1:
                LOG.info("Compiled the encoder in %.1f s, for this run and the next", seconds)
            return lambda: CompiledEncoder(options.ttl, options.only)
    return lambda: PythonEncoder(options.ttl, options.only)
