"""appsinstalled_pb2.py is what the pinned protoc makes of appsinstalled.proto, and loads here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import google.protobuf
import pytest

from appsinstalled_pb2 import UserApps

PROJECT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["appsinstalled_pb2.py", "appsinstalled_pb2.pyi"])
def test_the_committed_code_is_what_make_proto_generates(tmp_path: Path, name: str) -> None:
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROJECT}"]
    outputs = [f"--python_out={tmp_path}", f"--pyi_out={tmp_path}"]
    subprocess.run([*protoc, *outputs, "appsinstalled.proto"], check=True)
    assert (tmp_path / name).read_text() == (PROJECT / name).read_text(), "run `make proto`"


def test_the_code_is_no_newer_than_the_runtime_and_of_its_major_version() -> None:
    (generated_by,) = (
        line.rpartition(" ")[2]
        for line in (PROJECT / "appsinstalled_pb2.py").read_text().splitlines()
        if line.startswith("# Protobuf Python Version: ")
    )
    generated = [int(part) for part in generated_by.split(".")]
    runtime = [int(part) for part in google.protobuf.__version__.split(".")]
    assert generated[0] == runtime[0]
    assert generated <= runtime


def test_the_message_is_proto2_and_not_packed() -> None:
    value = UserApps(apps=[7942, 1], lat=67.75, lon=-22.5).SerializeToString()
    assert value.hex(" ") == "08 86 3e 08 01 11 00 00 00 00 00 f0 50 40 19 00 00 00 00 00 80 36 c0"
    assert not UserApps().HasField("lat")
