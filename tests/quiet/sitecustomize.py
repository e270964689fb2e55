"""Run by every Python that finds this folder on PYTHONPATH, before its program."""

import quiet_machine  # noqa: F401
