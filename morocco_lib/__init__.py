"""morocco: how good, how fast and how big a text model is, with evidence you can check.

Rooms, in the order a record walks through them: `tasks` (what is asked), `data` and `workload` (which records, in
which order), `runners` (how a model is run), `monitor` (what it costs), `bench` (the protocol), `estimate` and
`validity` (facts -> numbers and verdict), `steps` (the record on disk), `report` and `verify` (reading it back).
Nothing heavy is imported until it is used: `morocco_lib.benchmark.protocol` and the other rooms are, when they are first named.
"""

import importlib
import pkgutil

__version__ = "0.1.0"
__all__ = ["__version__"]


def __getattr__(name: str):
    if not name.startswith("_") and name in __dir__():
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no room {name!r}; rooms: {', '.join(__dir__())}")


def __dir__() -> list[str]:
    return sorted(room.name for room in pkgutil.iter_modules(__path__) if not room.name.startswith("_"))
