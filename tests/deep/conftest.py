"""The deep tests in eight shards, of which CI takes one a commit: SHARD=0 to 7 chooses, without it all are run.

A shard takes under four minutes on two cores: what is marked `timed` alone and one after the other, the rest by two workers.
"""

import os
from pathlib import Path

import pytest

SHARDS = (
    "analysis/test_intervals.py analysis/test_caching.py data/test_synthetic_signal.py benchmark/test_books.py pipeline/test_cluster.py",
    "benchmark/test_truth.py analysis/test_verdicts.py",
    "benchmark/test_truth_and_the_original.py cli/test_foreign_fuzz.py leaderboard/test_ranks.py "
    "training/test_swarm_peers.py training/test_learning.py",
    "benchmark/test_truth_without_readiness.py benchmark/test_caches.py monitors/test_disturbances.py",
    "images/test_bases.py images/test_foreign_model.py cli/test_floods.py legacy/test_corrected_coverage.py training/test_speed.py "
    "training/test_swarm_restart.py pipeline/test_slots.py",
    "images/test_plans.py images/test_registry.py pipeline/test_official_records.py monitors/test_accuracy.py",
    "images/test_engine_trouble.py runners/test_docker_at_length.py pipeline/test_kills.py runners/test_bulk.py "
    "models/test_architectures.py training/test_distributed.py leaderboard/test_archives.py",
    "artifacts/test_storage_on_swift.py cloud/test_clean_root.py images/test_transformer.py "
    "monitors/test_real_gpu.py training/test_interruptions.py",
)


def shard_of(path: Path) -> int:
    """Return the number of the shard that a file is in; raises UsageError unless it is in one."""
    name = path.relative_to(Path(__file__).parent).as_posix()
    found = [number for number, names in enumerate(SHARDS) if name in names.split()]
    if len(found) != 1:
        raise pytest.UsageError(f"tests/deep/{name} is in {len(found)} shards of tests/deep/conftest.py; one is right")
    return found[0]


def pytest_ignore_collect(collection_path):
    wanted = os.environ.get("SHARD")
    if wanted and collection_path.name.startswith("test_"):
        return shard_of(collection_path) != int(wanted) or None


def pytest_sessionfinish(session, exitstatus):
    if exitstatus == pytest.ExitCode.NO_TESTS_COLLECTED:
        session.exitstatus = pytest.ExitCode.OK  # a shard may have no timed tests, or no others
