"""The compiled encoder makes what the Python encoder makes, byte for byte, of any bytes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from memc_client import split_batch
from memcload.compiled import CompiledEncoder
from memcload.encoder import Encoder, PythonEncoder
from memcload.records import DEVICE_TYPES, MAX_LINE_LENGTH
from memcload.tally import BlockResult
from tools.make_logs import log_lines

PROJECT = Path(__file__).resolve().parent.parent
ENCODED = tuple[dict[str, tuple[int, bytes]], BlockResult]


def encoded(encoder: Encoder, block: bytes) -> ENCODED:
    batches, result = encoder.encode(block)
    return {name: (batch.count, bytes(batch.commands)) for name, batch in batches.items()}, result


def assert_same(block: bytes, ttl: int = 0) -> None:
    assert encoded(CompiledEncoder(ttl), block) == encoded(PythonEncoder(ttl), block)


device_types = st.sampled_from([b"idfa", b"gaid", b"adid", b"dvid", b"idfb", b"gai", b"", b"advid", b"idfaa"])
device_ids = st.one_of(
    st.text("0123456789abcdef", min_size=32, max_size=32).map(str.encode),
    st.binary(max_size=4),
    st.integers(240, 250).map(lambda length: b"~" * length),
)
coordinates = st.one_of(
    st.floats(-180, 180).map(lambda number: b"%.10f" % number),
    st.floats().map(lambda number: repr(number).encode()),
    st.from_regex(rb"[+-]?[0-9]{0,17}\.?[0-9]{0,17}", fullmatch=True),
    st.sampled_from([b"", b"-", b".", b"-0.0", b"5.", b".5", b"+1", b"1e5", b"00000000000000001", b"1_0", b"nan"]),
)
app_ids = st.one_of(
    st.integers(0, 9999).map(b"%d".__mod__),
    st.integers(0, 2**33).map(b"%d".__mod__),
    st.sampled_from([b"", b" 1", b"1 ", b"\r", b"0000", b"12:4", b"12/4", b"4294967295", b"4294967296", b"999999999"]),
)
lines = st.one_of(
    st.builds(
        lambda fields, apps, ending: b"\t".join([*fields, b",".join(apps)]) + ending,
        st.tuples(device_types, device_ids, coordinates, coordinates),
        st.lists(app_ids, max_size=9),
        st.sampled_from([b"", b"", b"\r", b"\t", b",", b"\r\r"]),
    ),
    st.binary(max_size=30),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(lines, max_size=12))
@example([b"\t" * 40])
@example([b"idfa\tx\t1\t1\t" + b"1234," * 4 + b"12"])
def test_lines_of_the_right_shape_nearly(some: list[bytes]) -> None:
    assert_same(b"".join(line + b"\n" for line in some))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(content: bytes) -> None:
    assert_same(content + b"\n")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32))
def test_lines_of_the_real_shape_with_bytes_changed(seed: int) -> None:
    random = Random(seed)
    block = bytearray(b"".join(islice(log_lines(seed, malformed=0.05), 40)))
    for _ in range(random.randrange(40)):
        block[random.randrange(len(block) - 1)] = random.choice(b"\t\n\r ,.-+e0123456789\x00\xff")
    assert_same(bytes(block))


@pytest.mark.parametrize("ttl", [1, 2592000, 2592001])
def test_an_expiry(ttl: int) -> None:
    assert_same(b"idfa\tx\t1.5\t-2.5\t1,2,3\n", ttl)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"\n",
        b"\n\n\r\n \n",
        b"idfa\tx\t0\t0\t1\n" * 1000,  # the shortest records grow most
        b"idfa\t" + b"x" * 245 + b"\t0\t0\t1\n",
        b"idfa\t" + b"x" * 246 + b"\t0\t0\t1\n",
        b"idfa\tx\t0\t0\t" + b"1," * 500 + b"1\n",  # a value of four digits' length
        b"idfa\tx\t0\t0\t" + b"9," * (MAX_LINE_LENGTH // 2 - 10) + b"9\n",
        b"idfa\tx\t0\t0\t" + b"9" * (MAX_LINE_LENGTH - 11) + b"\n",
        b"idfa\tx\t0\t0\t" + b"9" * MAX_LINE_LENGTH + b"\n",
        b"idfa\tx\t" + b"0" * MAX_LINE_LENGTH + b"\n",
        b"i\nid\nidf\nidfa\nidfa\t\nidfa\tx\nidfa\tx\t\nidfa\tx\t1\t\nidfa\tx\t1\t1\t\nidfa\tx\t1\t1\t1,\n",
        b"idfa\tx\t1\t1\t1\r\n" * 3 + b"idfa\tx\t1\t1\t1\r\r\n",
    ],
    ids=lambda block: f"{block[:16]!r} {len(block)}",
)
def test_borders(block: bytes) -> None:
    assert_same(block)


def test_a_block_full_of_odd_lines_is_right_and_in_order() -> None:
    odd_and_common = b"idfa\tx\t1\t1\t 1\ngaid\ty\t1\t1\t1\nidfa\tx\t1\t1\t2\nno record\n\n"
    assert_same(odd_and_common * 500)


def test_an_encoder_is_used_again_for_blocks_of_any_size() -> None:
    encoder, reference = CompiledEncoder(0), PythonEncoder(0)
    for count in (1, 500, 3, 2000, 0):
        block = b"".join(islice(log_lines(count), count))
        assert encoded(encoder, block) == encoded(reference, block)


@pytest.mark.parametrize("ttl", [0, 60])
def test_questions_are_the_same(ttl: int) -> None:
    block = b"".join(islice(log_lines(7), 3000)) + b"idfa\tx\t0\t0\t" + b"1," * 500 + b"1\nidfa\ty\t0\t0\t1\n"
    compiled, python = CompiledEncoder(ttl), PythonEncoder(ttl)
    batches = compiled.encode(block).batches
    for name in DEVICE_TYPES:
        questions = list(compiled.inquire(batches[name]))
        assert questions == list(python.inquire(batches[name]))
        assert [key for question in questions for key in question.asked_keys()] == [
            key for key, _ in split_batch(batches[name])
        ]


def in_a_process(code: str, directory: Path = PROJECT, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], cwd=directory, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stderr
    return process.stdout + process.stderr


def test_nothing_is_touched_out_of_bounds(tmp_path: Path) -> None:
    code = "import tests.test_encoders; tests.test_encoders.fuzz_with_bounds_checked()"
    # compiled anew: what is in the cache has no bounds checks
    assert "5000 blocks" in in_a_process(code, NUMBA_BOUNDSCHECK="1", NUMBA_CACHE_DIR=str(tmp_path))


def fuzz_with_bounds_checked() -> None:
    """Encode odd blocks; with NUMBA_BOUNDSCHECK=1 an index out of bounds raises IndexError."""
    encoder = CompiledEncoder(0)
    count = 0
    for block in _odd_blocks(Random(1), 5000):
        encoder.encode(block)
        count += 1
    print(count, "blocks")


def _odd_blocks(random: Random, count: int) -> Iterator[bytes]:
    common = list(islice(log_lines(1), 200))
    for number in range(count):
        block = bytearray(b"".join(random.choices(common, k=random.randrange(1, 4))))
        del block[random.randrange(len(block)) :]
        for _ in range(random.randrange(4)):
            if block:
                block[random.randrange(len(block))] = random.randrange(256)
        if number % 5 == 0:
            block += random.choice([b"\t" * 50, b"idfa", b"idfa\t", b"idfa\tx\t1", b"idfa\tx\t1\t1\t123", b"1234,"])
        yield bytes(block) + b"\n"


RUN = "import memc_load_parallel, sys; sys.exit(memc_load_parallel.main({arguments}))"
DRY = ["--dry", "--log-level", "info", "--pattern", "data/sample/*.tsv.gz"]


def test_without_numba_the_python_engine_takes_over_and_says_so() -> None:
    output = in_a_process("import sys; sys.modules['numba'] = None\n" + RUN.format(arguments=DRY))
    assert output.count("--engine python") == 1
    assert "3 dry" in output


def test_where_the_cache_cannot_be_written_the_python_engine_takes_over(tmp_path: Path) -> None:
    for module in ("memc_load_parallel.py", "memc_client.py", "appsinstalled_pb2.py"):
        shutil.copy(PROJECT / module, tmp_path)
    shutil.copytree(PROJECT / "memcload", tmp_path / "memcload", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(PROJECT / "data", tmp_path / "data")
    no_directory = tmp_path / "memcload" / "__pycache__"
    no_directory.touch()  # so no directory can be made in its place, not even by root
    home = str(no_directory)
    output = in_a_process(RUN.format(arguments=DRY), tmp_path, HOME=home, XDG_CACHE_HOME=home)
    assert output.count("--engine python") == 1
    assert "3 dry" in output


def test_the_compiled_engine_can_be_insisted_on() -> None:
    code = "import sys; sys.modules['numba'] = None\nimport memc_load_parallel\n"
    code += f"print('exit', memc_load_parallel.main({[*DRY, '--engine', 'compiled']}))"
    output = in_a_process(code)
    assert "exit 2" in output
    assert "the compiled engine can't be had" in output


@pytest.mark.parametrize("arguments", [["--help"], ["--test"], ["--workers", "none"], ["--version"]])
def test_what_loads_nothing_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys, memc_load_parallel
try:
    memc_load_parallel.main({arguments})
except SystemExit:
    pass
print("heavy:", [name for name in ("numba", "numpy", "rich", "prometheus_client") if name in sys.modules])
"""
    assert "heavy: []" in in_a_process(code)
