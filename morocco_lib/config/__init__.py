"""Schemas of params/ and of notebook parameters: validated whole before anything runs.

May import `tasks` and what stands below it. Choices only, no facts.
"""

from morocco_lib.config.machine import MachineParams, load_machine
from morocco_lib.config.model import TRANSFORMER, ModelParams, load_model, load_recipe, with_recipe
from morocco_lib.config.notebooks import (
    BenchParams,
    EvalParams,
    OriginalParams,
    ReportParams,
    TrainParams,
    of_notebook,
)
from morocco_lib.config.plan import Override, PlanParams, PlanScalars, load_plan
from morocco_lib.config.recipe import Recipe
from morocco_lib.config.schema import (
    ROOT_MARKS,
    Count,
    Schema,
    find_root,
    load,
    parse_seeds,
    project_root,
    read_yaml,
    resolve,
    validate,
)
from morocco_lib.config.task import TaskParams, load_task

__all__ = [
    "ROOT_MARKS",
    "TRANSFORMER",
    "BenchParams",
    "Count",
    "EvalParams",
    "MachineParams",
    "ModelParams",
    "OriginalParams",
    "Override",
    "PlanParams",
    "PlanScalars",
    "Recipe",
    "ReportParams",
    "Schema",
    "TaskParams",
    "TrainParams",
    "find_root",
    "load",
    "load_machine",
    "load_model",
    "load_plan",
    "load_recipe",
    "load_task",
    "of_notebook",
    "parse_seeds",
    "project_root",
    "read_yaml",
    "resolve",
    "validate",
    "with_recipe",
]
