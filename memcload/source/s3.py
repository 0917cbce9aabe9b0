"""What S3 can do beyond what fsspec has for any store: stream an object, hold a copy to a version."""

from __future__ import annotations

import os
import time
from collections.abc import Generator
from typing import Any

LARGEST_COPY = 5 << 30  # bytes, of a single request
_ATTEMPTS = 3  # of a request
_PAUSE = 0.3  # seconds before the next attempt
_CHUNK = 1 << 20  # bytes that are read at a time


def settings() -> dict[str, Any]:
    """Return what its client is told about waiting, and about stores that know less than Amazon's."""
    told: dict[str, Any] = {"connect_timeout": 5, "read_timeout": 60, "retries": {"total_max_attempts": _ATTEMPTS}}
    for setting in ("request_checksum_calculation", "response_checksum_validation"):
        if f"AWS_{setting.upper()}" not in os.environ:
            told[setting] = "when_required"
    return told


def copy(system: Any, source: str, target: str, tag: str) -> None:
    """Copy an object that has this ETag, by one request: s3fs makes many for a large one, none of which minds that."""
    (bucket, key, _), (from_bucket, from_key, _) = map(system.split_path, (target, source))
    system.call_s3(
        "copy_object",
        Bucket=bucket,
        Key=key,
        CopySource={"Bucket": from_bucket, "Key": from_key},
        CopySourceIfMatch=tag,
    )


def stream(system: Any, path: str, size: int, tag: str, position: int) -> Generator[bytes, None, None]:
    """Yield the bytes of an object with this ETag from a position on, by one request as long as the connection lasts.

    That takes a quarter of the processor time that a request for each part would take.
    """
    from fsspec.asyn import sync

    bucket, key, _ = system.split_path(path)
    failures = 0
    while position < size:
        response = system.call_s3(
            "get_object", Bucket=bucket, Key=key, Range=f"bytes={position}-{size - 1}", IfMatch=tag
        )
        body = response["Body"]
        try:
            while data := sync(system.loop, body.read, _CHUNK):
                yield data
                position += len(data)
                failures = 0
        except Exception:  # the connection broke: a store closes one that is idle for long
            failures += 1
            if failures == _ATTEMPTS:
                raise
            time.sleep(_PAUSE * failures)
        else:
            return
        finally:
            system.loop.call_soon_threadsafe(body.close)
