"""The cache of object code: where it lies, whom it trusts, and what it makes of damage."""

from __future__ import annotations

import os
import stat
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from memcload.encode.object_cache import Cached, is_empty, read, write

CODE = bytes(range(256)) * 20
VARIABLES = ("NUMBA_CACHE_DIR", "CACHE_DIRECTORY", "XDG_CACHE_HOME", "HOME")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of the cache, and no other that could be used."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    nowhere = tmp_path / "file"
    nowhere.touch()  # no directory can be made below it, not even by root
    monkeypatch.setenv("HOME", str(nowhere))
    monkeypatch.setattr(tempfile, "tempdir", str(nowhere))
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "memcload"


def test_what_is_written_is_read_and_belongs_to_the_user_alone(directory: Path) -> None:
    assert (read("a"), is_empty()) == (Cached(None), True)
    assert write("a", CODE) == directory / "a"
    assert (read("a"), read("b"), is_empty()) == (Cached(CODE), Cached(None), False)
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "a").stat().st_mode) == 0o600
    assert os.listdir(directory) == ["a"]


def test_the_directories_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", f"{tmp_path}/systemd:{tmp_path}/other")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/xdg")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    places = [
        tmp_path / "cache" / "memcload",
        tmp_path / "systemd" / "memcload",
        tmp_path / "xdg" / "memcload",
        tmp_path / f"memcload-{os.geteuid()}",
    ]
    for place in places:
        assert write("a", CODE) == place / "a"
        place.rename(place.with_name("away"))
        place.touch()  # it can't be used any more
    assert write("a", CODE) is None


@pytest.mark.parametrize("relative", ["", "cache"])
def test_the_home_directory_is_where_xdg_names_no_absolute_path(
    relative: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", relative)
    monkeypatch.setattr("memcload.encode.object_cache.sys.platform", "linux")
    assert write("a", CODE) == tmp_path / ".cache/memcload/a"
    monkeypatch.setattr("memcload.encode.object_cache.sys.platform", "darwin")
    assert write("a", CODE) == tmp_path / "Library/Caches/memcload/a"


def test_without_any_directory_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "file"))
    assert (write("a", CODE), read("a"), is_empty()) == (None, Cached(None), True)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        path.unlink()
        make(path)

    return damage


def link_to_a_good_one(path: Path) -> None:
    path.rename(path.with_name("good"))
    path.symlink_to("good")


DAMAGES: dict[str, Callable[[Path], object]] = {
    "a flipped bit": flip_a_bit,
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, 100),
    "cut by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "another format": lambda path: path.write_bytes(path.read_bytes().replace(b"memcload", b"memcloud", 1)),
    "a link": link_to_a_good_one,
    "a pipe": replace_by(os.mkfifo),
    "others can write to it": lambda path: path.chmod(0o622),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_what_is_damaged_or_not_trustworthy_is_not_read_and_can_be_replaced(
    damage: Callable[[Path], object], directory: Path
) -> None:
    path = write("a", CODE)
    assert path == directory / "a"
    damage(path)
    code, problem = read("a")
    assert code is None
    assert problem is not None
    assert problem.startswith(f"{path}: ")
    assert write("a", CODE) == path
    assert read("a") == Cached(CODE)


def test_where_it_can_not_be_replaced_it_lies_in_the_next_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path / "systemd"))
    (directory / "a").mkdir(parents=True)
    (directory / "a" / "full").touch()
    directory.chmod(0o700)
    assert read("a").problem is not None
    assert write("a", CODE) == tmp_path / "systemd/memcload/a"
    assert read("a") == Cached(CODE)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_directory_that_others_may_write_is_not_used(mode: int, directory: Path) -> None:
    write("a", CODE)
    directory.chmod(mode)
    assert (read("a"), write("b", CODE)) == (Cached(None), None)


@as_root
def test_neither_a_directory_nor_a_file_of_another_user_is_used(directory: Path) -> None:
    path = write("a", CODE)
    assert path is not None
    os.chown(path, 65534, -1)
    assert read("a").code is None
    os.chown(path, 0, -1)
    os.chown(directory, 65534, -1)
    assert (read("a"), write("b", CODE)) == (Cached(None), None)


def test_a_link_in_place_of_the_directory_is_not_used(directory: Path, tmp_path: Path) -> None:
    write("a", CODE)
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    assert (read("a"), write("b", CODE)) == (Cached(None), None)


def test_where_the_disk_is_full_nothing_is_left_behind(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a", CODE)
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert write("b", CODE) is None
    assert os.listdir(directory) == ["a"]


def test_several_may_write_and_read_at_once() -> None:
    wrong: list[object] = []

    def write_and_read() -> None:
        for _ in range(50):
            write("a", CODE)
            if (found := read("a")) != Cached(CODE):
                wrong.append(found)

    threads = [threading.Thread(target=write_and_read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
