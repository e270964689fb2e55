"""The measurement: protocol, one run, conformance. The only package where tasks, runners and monitors meet.

May import `analysis`, `artifacts`, `runners` and what stands below them.
"""

from morocco_lib.benchmark.conformance import check
from morocco_lib.benchmark.evaluate import evaluate
from morocco_lib.benchmark.protocol import bench
from morocco_lib.benchmark.target import Hooks, Program, Target

__all__ = ["Hooks", "Program", "Target", "bench", "check", "evaluate"]
