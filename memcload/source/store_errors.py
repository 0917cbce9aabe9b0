"""What goes wrong with an object store, in words: its libraries have many errors, and not all of them are OSErrors."""

from __future__ import annotations

import errno
import re
from typing import Any

_LONGEST_CAUSE = 200  # characters


class Stopped(OSError):
    """The run was cancelled, and its grace is over."""


class Conflict(FileExistsError):
    """An object is not there any more as the condition of a request says, or is there already."""


def explained(error: BaseException, url: str) -> OSError:
    """Return an error of a store or its libraries as an OSError with a sentence for its strerror."""
    code, status, text = _code(error), _status(error), _text(error)
    kind = type(error).__name__
    if status in (409, 412) or isinstance(error, FileExistsError):
        return Conflict(errno.EEXIST, f"another process has written it ({text})" if text else "it exists", url)
    if kind == "ParamValidationError":  # of a name, of which there may be none
        return FileNotFoundError(errno.ENOENT, "no bucket or object can have this name", url)
    if code == "NoSuchBucket":
        return FileNotFoundError(errno.ENOENT, "there is no such bucket", url)
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, "there is no such object", url)
    if "Credentials" in kind or "Token" in kind:
        advice = "the environment, a profile or a role has to give them"
        return PermissionError(errno.EACCES, f"no credentials can be had ({text}): {advice}", url)
    if isinstance(error, PermissionError) or status in (401, 403):
        return PermissionError(errno.EACCES, f"the store refuses it ({text}); check credentials and permissions", url)
    if "Timeout" in kind or isinstance(error, TimeoutError):
        return TimeoutError(errno.ETIMEDOUT, f"the store does not answer ({text or kind})", url)
    if "Connect" in kind or isinstance(error, ConnectionError):
        return ConnectionError(errno.ECONNREFUSED, f"the store can't be reached ({text})", url)
    if isinstance(error, NotImplementedError):
        return OSError(errno.ENOSYS, "this kind of store can't do that", url)
    return OSError(getattr(error, "errno", None) or errno.EIO, f"the store says: {text or kind}", url)


def is_collision(error: BaseException) -> bool:
    """Return True if a store wants a request again, because another one was under way for the same object."""
    return _status(error) == 409


def _response(error: BaseException) -> dict[str, Any]:
    for candidate in (error, error.__cause__, error.__context__):
        response = getattr(candidate, "response", None)
        if isinstance(response, dict):
            return response
    return {}


def _code(error: BaseException) -> str:
    return str(_response(error).get("Error", {}).get("Code", ""))


def _status(error: BaseException) -> int:
    status = _response(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status if isinstance(status, int) else 0


def _text(error: BaseException) -> str:
    """Return the first line of what an error says, without addresses' queries and whatever may be a secret."""
    text = (getattr(error, "strerror", None) or str(error)).strip().partition("\n")[0]
    text = re.sub(r"//[^/@\s]*@", "//", text)
    text = re.sub(r"(\w+://[^\s?\"]*)\?[^\s\"]*", r"\1", text)
    return text[:_LONGEST_CAUSE]
