"""morocco: how good, how fast and how big a text model is, with evidence you can check.

Rooms, in the order a record walks through them: `tasks` (what is asked), `data` and `workload` (which records, in
which order), `runners` (how a model is run), `monitor` (what it costs), `bench` (the protocol), `estimate` and
`validity` (facts -> numbers and verdict), `steps` (the record on disk), `report` and `verify` (reading it back).
Nothing heavy is imported until it is used.
"""

__version__ = "0.1.0"
__all__ = ["__version__"]
