"""An emulator of the whole Piccc API for tests, notebooks and trying things out; needs `piccc[emulator]`.

Start an `Emulator`. Its model follows fixed rules unless you queue `Scripted` replies. A `Fault` breaks
requests or responses on purpose. `RequestRecord`, `Charge` and `Delivery` show what happened.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from piccc.emulator.clock import ManualClock
    from piccc.emulator.conversation import ModelRequest, Scripted
    from piccc.emulator.faults import Fault, FaultRule
    from piccc.emulator.quirks import Quirks
    from piccc.emulator.request_log import Charge, RequestRecord
    from piccc.emulator.server import Emulator
    from piccc.emulator.webhooks import Delivery

_LIBRARIES = ("PIL", "av", "httptools", "jsonschema", "snowballstemmer")
_MODULES = {
    "Charge": "request_log",
    "Delivery": "webhooks",
    "Emulator": "server",
    "Fault": "faults",
    "FaultRule": "faults",
    "ManualClock": "clock",
    "ModelRequest": "conversation",
    "Quirks": "quirks",
    "RequestRecord": "request_log",
    "Scripted": "conversation",
}

__all__ = [
    "Charge",
    "Delivery",
    "Emulator",
    "Fault",
    "FaultRule",
    "ManualClock",
    "ModelRequest",
    "Quirks",
    "RequestRecord",
    "Scripted",
]

if missing := [name for name in _LIBRARIES if find_spec(name) is None]:
    from piccc.errors import MissingExtraError

    raise MissingExtraError(
        f"piccc.emulator needs {', '.join(missing)}.", hint='pip install "piccc[emulator]"'
    )


def __getattr__(name: str) -> Any:
    """Import a public name on first use to keep `import piccc.emulator` light."""
    if name == "Ask":
        warnings.warn("piccc.emulator.Ask was renamed to ModelRequest.", DeprecationWarning, stacklevel=2)
        name = "ModelRequest"
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
