"""Pre-training in the process of the tests leaves the C library as it is: other tests measure memory there."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def kept_memory():
    """What would have been changed: an entry a training."""
    from morocco_lib.training.pretraining import loop  # needs torch, which these modules skip without

    trainings = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "keep_freed_memory", lambda: trainings.append("kept"))
        yield trainings
