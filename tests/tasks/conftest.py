"""Official records, read once."""

import functools

import pytest

from morocco_lib import data
from morocco_lib.tasks import get_task


@pytest.fixture(scope="session")
def official(real_data):
    """Read the official records of a task: `official("terra", "train")`; of RuCoS there is one sample of train."""

    @functools.cache
    def read(name: str, split: str = "val") -> list[dict]:
        task, root = get_task(name), real_data / "rsg"
        path = root / "RuCoS/train_sample.jsonl" if name == "rucos" else data.find_split(root, task, split)
        return task.read(path)

    return read
