"""Which encoder a run gets, where its code comes from, and what the log says of it."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from memcload.encode import image, object_cache
from memcload.encode.choice import EngineError, choose_encoder
from memcload.encode.encoder import Encoder, PythonEncoder
from memcload.log import LOG
from memcload.memcached.routing import Router
from memcload.records import DEVICE_TYPES
from memcload.text import Text
from tests.inside.test_object_cache import DAMAGES

build = pytest.importorskip("memcload.encode.build")
native = pytest.importorskip("memcload.encode.native")

PROJECT = Path(__file__).resolve().parent.parent.parent
ROUTER = Router({name: ["h:1"] for name in DEVICE_TYPES})
LARGE = 6_000_000  # bytes of gzip
TEXT = b"idfa\tx\t1.5\t-2.5\t1,2,300\n" * 100


@pytest.fixture(scope="session")
def object_code() -> bytes:
    code: bytes = build.object_code(None)
    return code


@pytest.fixture
def compilations(object_code: bytes, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Spare the tests the seconds that compiling takes; return a list with an item for each time."""
    done: list[None] = []

    def compile_at_once(routing: object) -> bytes:
        done.append(None)
        return object_code

    monkeypatch.setattr(build, "object_code", compile_at_once)
    return done


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no other."""
    (tmp_path / "file").touch()
    for variable in ("CACHE_DIRECTORY", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    return tmp_path / "memcload"


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(LOG, "propagate", True)
    caplog.set_level(logging.INFO, "memcload")
    return caplog


def kind_of(encoder: Encoder) -> str:
    assert encoder.encode([Text.of(TEXT)]) == PythonEncoder(ROUTER, 0).encode([Text.of(TEXT)])
    return type(encoder).__name__


def chosen(engine: str, pending_bytes: int = 0) -> str:
    return kind_of(choose_encoder(engine, ROUTER, 0, pending_bytes)())  # type: ignore[arg-type]


@pytest.mark.usefixtures("cache")
def test_auto_compiles_where_the_load_pays_for_it_and_takes_what_is_cached_from_then_on(
    compilations: list[None], log: pytest.LogCaptureFixture
) -> None:
    assert (chosen("auto"), log.messages) == ("PythonEncoder", [])
    assert chosen("auto", LARGE) == "CompiledEncoder"
    (line,) = log.messages
    assert line.startswith("Compiled the encoder in ")
    assert line.endswith(" s, for this run and the next")
    assert (chosen("auto"), chosen("auto", LARGE), chosen("compiled")) == ("CompiledEncoder",) * 3
    assert (len(compilations), log.messages) == (1, [line])


@pytest.mark.usefixtures("cache")
def test_compiled_always_compiles_and_python_never(compilations: list[None]) -> None:
    assert (chosen("python", LARGE), len(compilations)) == ("PythonEncoder", 0)
    assert (chosen("compiled"), len(compilations)) == ("CompiledEncoder", 1)
    assert chosen("python", LARGE) == "PythonEncoder"


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("module", ["numba", "llvmlite"])
def test_without_numba_auto_says_so_once_and_compiled_is_an_error(
    module: str, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert (chosen("auto"), chosen("python")) == ("PythonEncoder",) * 2
    assert log.messages == [
        "The compiled engine can't be used (Numba is not installed: pip install numba): "
        "using --engine python, which is many times slower"
    ]
    with pytest.raises(EngineError, match=r"^the compiled engine can't be used: Numba is not installed"):
        chosen("compiled")


@pytest.mark.usefixtures("cache")
def test_where_numba_can_not_compile_python_takes_over(
    monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    def fail(routing: object) -> bytes:
        raise RuntimeError("no such processor\nand a page of details")

    monkeypatch.setattr(build, "object_code", fail)
    assert chosen("auto", LARGE) == "PythonEncoder"
    assert log.messages == [
        "The compiled engine can't be used (no such processor): using --engine python, which is many times slower"
    ]
    with pytest.raises(EngineError, match=r"^the compiled engine can't be used: no such processor$"):
        chosen("compiled")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
@pytest.mark.parametrize("engine", ["auto", "compiled"])
def test_damaged_code_is_compiled_again_with_one_line(
    engine: str,
    damage: Callable[[Path], object],
    cache: Path,
    compilations: list[None],
    log: pytest.LogCaptureFixture,
) -> None:
    chosen("compiled")
    (path,) = cache.iterdir()
    damage(path)
    log.clear()
    assert (chosen(engine), chosen(engine)) == ("CompiledEncoder",) * 2
    (line,) = log.messages
    assert str(path) in line
    assert len(compilations) == 2


class Callback(NamedTuple):
    """What Numba gives for a C callback, with code of one's own."""

    code: str
    native_name: str = "f"

    def inspect_llvm(self) -> str:
        return self.code


NOTHING = "define void @f() { ret void }"
SAYS_THAT_ALL_IS_DONE = """
define void @f(ptr %text, i64 %length, ptr %rules, ptr %progress) {
  store i64 %length, ptr %progress
  ret void
}
"""


@pytest.mark.parametrize(
    "callbacks",
    [{"encode": NOTHING}, {"encode": SAYS_THAT_ALL_IS_DONE, "look_up": NOTHING}],
    ids=["lacks a function", "does something else"],
)
def test_code_that_does_not_work_is_compiled_again_with_one_line(
    callbacks: dict[str, str], cache: Path, compilations: list[None], log: pytest.LogCaptureFixture
) -> None:
    chosen("compiled")
    (path,) = cache.iterdir()
    object_cache.write(path.name, native.emit({name: Callback(code) for name, code in callbacks.items()}))
    log.clear()
    assert (chosen("auto"), chosen("auto")) == ("CompiledEncoder",) * 2
    (line,) = log.messages
    assert path.name in line
    assert len(compilations) == 2


def test_code_that_needs_anything_from_outside_is_not_made() -> None:
    with pytest.raises(RuntimeError, match="needs g from outside"):
        native.emit({"encode": Callback("declare void @g() define void @f() { call void @g() ret void }")})


@pytest.mark.skipif(not image.HAS_IMAGES, reason="object files are all that there is here")
@pytest.mark.parametrize(
    "code",
    ["@n = external global i32 define void @f() { store i32 1, ptr @n ret void }", NOTHING],
    ids=["refers to elsewhere", "of another processor"],
)
def test_an_image_has_all_that_its_code_needs(code: str) -> None:
    built = native._machine().emit_object(native.llvm.parse_assembly(code))
    if code == NOTHING:
        built = built[:18] + b"\xb7\0" + built[20:]
    with pytest.raises(RuntimeError):
        image.make_image(built, ["f"])


NO_MEMORY_THAT_WAS_WRITTEN_MAY_RUN = """
import ctypes, sys
if ctypes.CDLL(None, use_errno=True).prctl(65, 1, 0, 0, 0):
    sys.exit("not supported")
"""


@pytest.mark.skipif(not image.HAS_IMAGES, reason="there are no images here")
def test_an_image_runs_where_no_memory_may_run_that_was_written_to(cache: Path, compilations: list[None]) -> None:
    chosen("compiled")
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache.parent)}
    process = subprocess.run(
        [sys.executable, "-c", NO_MEMORY_THAT_WAS_WRITTEN_MAY_RUN + RUN],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if "not supported" in process.stderr:
        pytest.skip("the kernel has no PR_SET_MDWE")
    assert (process.returncode, process.stdout) == (0, "1 []\n")


def test_where_there_are_no_images_object_files_are_linked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "HAS_IMAGES", False)
    code = native.emit({"encode": Callback(SAYS_THAT_ALL_IS_DONE), "look_up": Callback(NOTHING)})
    keep, (encode, look_up) = native.link(code, ("encode", "look_up"))
    progress = (ctypes.c_int64 * 1)()
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p)(encode)(
        None, 42, None, ctypes.addressof(progress)
    )
    assert (progress[0], bool(look_up), keep is not None) == (42, True, True)
    with pytest.raises(RuntimeError, match="missing"):
        native.link(code, ("encode", "something else"))


def test_another_processor_has_another_file(
    cache: Path, compilations: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen("compiled")
    monkeypatch.setattr(image if image.HAS_IMAGES else native, "processor", lambda: "another processor")
    chosen("compiled")
    assert (len(compilations), len(list(cache.iterdir()))) == (2, 2)


def test_where_nothing_can_be_written_it_is_compiled_for_each_run(
    tmp_path: Path, cache: Path, compilations: list[None], log: pytest.LogCaptureFixture
) -> None:
    cache.touch()
    assert (chosen("auto", LARGE), chosen("auto")) == ("CompiledEncoder", "PythonEncoder")
    (line,) = log.messages
    assert line.endswith(
        ", for this run only, because no cache directory is writable: set NUMBA_CACHE_DIR to one that is"
    )


RUN = """
import sys, logging
logging.basicConfig(stream=sys.stdout, level="INFO", format="%(message)s")
from memcload.encode.choice import choose_encoder
from memcload.memcached.routing import Router
from memcload.text import Text
router = Router({"idfa": ["h:1"]})
encoded = choose_encoder("compiled", router, 0, 0)().encode([Text.of(b"idfa\\tx\\t1\\t1\\t1\\n")])
print(encoded.batches[0].count, [name for name in ("numba", "numpy") if name in sys.modules])
"""


def test_processes_compile_at_once_and_the_next_needs_neither_numba_nor_numpy(cache: Path) -> None:
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", RUN], cwd=PROJECT, stdout=subprocess.PIPE, text=True)

    for process in [start(), start()]:
        output, _ = process.communicate()
        assert (process.returncode, output.splitlines()[1]) == (0, "1 ['numba', 'numpy']")
    assert len(os.listdir(cache)) == 1
    assert start().communicate()[0] == "1 []\n"
