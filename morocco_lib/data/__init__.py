"""Where records come from: folders in the official layout, downloads, synthetic records; and the stream that is fed.

May import `config` and `tasks`.
"""

from pathlib import Path

from morocco_lib.data.splits import MARK as MARK
from morocco_lib.data.splits import describe as describe
from morocco_lib.data.splits import find_split as find_split
from morocco_lib.data.splits import is_synthetic as is_synthetic
from morocco_lib.data.splits import origin as origin
from morocco_lib.data.splits import read_split as read_split
from morocco_lib.tasks import get_task


def make_synthetic(folder: Path, task_names: list[str], seed: int, train_records: int = 0) -> list[Path]:
    """Write synthetic records of the tasks in the official layout and return the files; see `synthetic.write`."""
    from morocco_lib.data import synthetic

    for name in task_names:
        get_task(name)
    return synthetic.write(Path(folder), task_names, seed, train_records)
