from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class UserApps(_message.Message):
    __slots__ = ("apps", "lat", "lon")
    APPS_FIELD_NUMBER: _ClassVar[int]
    LAT_FIELD_NUMBER: _ClassVar[int]
    LON_FIELD_NUMBER: _ClassVar[int]
    apps: _containers.RepeatedScalarFieldContainer[int]
    lat: float
    lon: float
    def __init__(self, apps: _Optional[_Iterable[int]] = ..., lat: _Optional[float] = ..., lon: _Optional[float] = ...) -> None: ...
