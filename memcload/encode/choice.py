"""Which encoder a run uses, and where its code comes from."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

from memcload.encode import image, object_cache
from memcload.encode.compiled import CompiledEncoder
from memcload.encode.encoder import Encoder, PythonEncoder
from memcload.encode.image import HAS_IMAGES, load_image
from memcload.encode.layout import ENCODE, LOOK_UP, Kernel
from memcload.log import LOG
from memcload.memcached import routes
from memcload.memcached.routing import Router
from memcload.memcached.routing_rules import RoutingName
from memcload.records import DEVICE_TYPES
from memcload.text import Text

EngineName = Literal["auto", "compiled", "python"]

_SAMPLE = b"".join(b"%b\t1rfw452y52g2gq4g\t55.55\t-42.42\t7423,424\n" % name.encode() for name in DEVICE_TYPES)
_PAYS_FROM = 5_000_000  # bytes of gzip, about 35,000 records: encoding these in Python takes as long as compiling


class EngineError(Exception):
    """The engine that --engine names can't be used; the message says why."""


def choose_encoder(engine: EngineName, router: Router, ttl: int, pending_bytes: int) -> Callable[[], Encoder]:
    """Return what makes an encoder for a thread.

    With `auto` it is the compiled one where its code is cached, or the load is large enough to pay for compiling.

    Args:
        engine: what `--engine` says.
        router: the partitions.
        ttl: seconds until a record expires, 0 for never.
        pending_bytes: how large the files are that are to be loaded.

    Raises:
        EngineError: the engine is `compiled`, and can't be used.
    """
    if engine != "python":
        try:
            kernel = _load_kernel(router, may_compile=engine == "compiled" or pending_bytes >= _PAYS_FROM)
        except Exception as error:  # whatever Numba does not like here, Python can do
            cause = _cause(error)
            if engine == "compiled":
                raise EngineError(f"the compiled engine can't be used: {cause}") from error
            LOG.warning(
                "The compiled engine can't be used (%s): using --engine python, which is many times slower", cause
            )
        else:
            if kernel is not None:
                return lambda: CompiledEncoder(kernel, router, ttl)
    return lambda: PythonEncoder(router, ttl)


class EngineState(NamedTuple):
    """What a load would encode with, found out without compiling or writing anything.

    name: the engine
    cached: where its compiled code lies and works
    compiles_into: the directory where code would be kept that is not there yet
    problem: why the compiled engine, or the code that is cached for it, can't be used
    """

    name: Literal["compiled", "python"]
    cached: Path | None = None
    compiles_into: Path | None = None
    problem: str = ""


def examine_engine(engine: EngineName, router: Router) -> EngineState:
    """Return what a load with this `--engine` would encode with."""
    if engine == "python":
        return EngineState("python")
    try:
        _require_numba()
        name = _cache_name(router.routing if router.hashes_keys else None)
        code, problem = object_cache.read(name)
    except Exception as error:
        return EngineState("python", problem=_cause(error))
    if code is not None:
        try:
            _linked(code, router)
            return EngineState("compiled", cached=object_cache.find(name))
        except Exception as error:
            problem = f"the cached {name} does not work: {_cause(error)}"
    return EngineState("compiled", compiles_into=object_cache.find_writable(), problem=problem or "")


def _cause(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _require_numba() -> None:
    if find_spec("numba") is None or find_spec("llvmlite") is None:
        raise ImportError("Numba is not installed: pip install numba")


def _load_kernel(router: Router, *, may_compile: bool) -> Kernel | None:
    """Return the kernel for a router from the cache, or compile it and keep it there.

    A kernel whose cached code is damaged is compiled in any case. Returns None where nothing is cached and nothing
    may be compiled. Raises ImportError where Numba is missing, and whatever Numba and llvmlite raise.
    """
    _require_numba()
    if not may_compile and object_cache.is_empty():
        return None  # found without llvmlite, which takes a moment to import
    routing = router.routing if router.hashes_keys else None
    name = _cache_name(routing)
    code, problem = object_cache.read(name)
    if code is not None:
        try:
            return _linked(code, router)
        except OSError:  # no code may run here, and to compile it again would not help
            raise
        except Exception as error:
            problem = f"the cached {name} does not work: {error}"
    if may_compile or problem:
        return _linked(_compile(routing, name, problem), router)
    return None


def _linked(code: bytes, router: Router) -> Kernel:
    """Make code run, and try it out. Raises RuntimeError where it does not do what it should."""
    keep = None
    if HAS_IMAGES:
        encode, look_up = load_image(code, 2)
    else:
        from memcload.encode.native import link

        keep, (encode, look_up) = link(code, ("encode", "look_up"))
    kernel = Kernel(ENCODE(encode), LOOK_UP(look_up), keep)
    sample = [Text.of(_SAMPLE)]
    if CompiledEncoder(kernel, router, 0).encode(sample) != PythonEncoder(router, 0).encode(sample):
        raise RuntimeError("the compiled code does not encode as Python does")
    return kernel


def _compile(routing: RoutingName | None, name: str, problem: str | None) -> bytes:
    started = time.monotonic()
    from memcload.encode.build import object_code  # Numba takes a moment, and may be missing

    code = object_code(routing)
    seconds = time.monotonic() - started
    if object_cache.write(name, code) is None:
        future = "for this run only, because no cache directory is writable: set NUMBA_CACHE_DIR to one that is"
    else:
        future = "for this run and the next"
    LOG.info("Compiled the encoder in %.1f s, %s%s", seconds, future, f" ({problem})" if problem else "")
    return code


def _cache_name(routing: RoutingName | None) -> str:
    """Return the name of a kernel's code in the cache: another one for everything that could make other code."""
    here = Path(__file__).parent
    sources = [here / name for name in ("kernel.py", "layout.py", "build.py", "native.py", "image.py")]
    sources += sorted(Path(routes.__path__[0]).glob("*.py"))
    for library in ("numba", "llvmlite"):  # importing them to ask for their versions would take longer
        spec = find_spec(library)
        if spec is not None and spec.origin is not None:
            sources += Path(spec.origin).parent.glob("_version.py")
    digest = hashlib.sha256()
    for fact in [sys.version, _processor(), str(len(DEVICE_TYPES)), *(source.read_text() for source in sources)]:
        digest.update(fact.encode() + b"\0")
    return f"kernel-{routing or 'unrouted'}-{digest.hexdigest()[:32]}"


def _processor() -> str:
    if HAS_IMAGES and (processor := image.processor()):
        return processor
    from memcload.encode import native

    return native.processor()
