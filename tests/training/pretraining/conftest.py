"""Pre-training in the process of the tests leaves the C library as it is: other tests measure memory there."""

import pytest

pytest.importorskip("torch", reason="needs the torch extra: make setup-torch")

from morocco_lib.training.pretraining import loop


@pytest.fixture(scope="module", autouse=True)
def kept_memory():
    """What would have been changed: an entry a training."""
    trainings = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "keep_freed_memory", lambda: trainings.append("kept"))
        yield trainings
