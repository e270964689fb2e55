"""Schemas of params/ and of notebook parameters: validated whole before anything runs.

May import `tasks` and what stands below it. Choices only, no facts.
"""

from morocco_lib.config.machine import MachineParams as MachineParams
from morocco_lib.config.machine import load_machine as load_machine
from morocco_lib.config.model import PROGRAM as PROGRAM
from morocco_lib.config.model import TRANSFORMER as TRANSFORMER
from morocco_lib.config.model import ModelParams as ModelParams
from morocco_lib.config.model import load_model as load_model
from morocco_lib.config.model import load_recipe as load_recipe
from morocco_lib.config.model import with_recipe as with_recipe
from morocco_lib.config.notebooks import BenchParams as BenchParams
from morocco_lib.config.notebooks import EvalParams as EvalParams
from morocco_lib.config.notebooks import OriginalParams as OriginalParams
from morocco_lib.config.notebooks import PretrainParams as PretrainParams
from morocco_lib.config.notebooks import ReportParams as ReportParams
from morocco_lib.config.notebooks import SearchParams as SearchParams
from morocco_lib.config.notebooks import SpeedParams as SpeedParams
from morocco_lib.config.notebooks import TrainParams as TrainParams
from morocco_lib.config.notebooks import of_notebook as of_notebook
from morocco_lib.config.plan import PlanParams as PlanParams
from morocco_lib.config.plan import PlanScalars as PlanScalars
from morocco_lib.config.plan import load_plan as load_plan
from morocco_lib.config.schema import ROOT_MARKS as ROOT_MARKS
from morocco_lib.config.schema import Count as Count
from morocco_lib.config.schema import Schema as Schema
from morocco_lib.config.schema import find_root as find_root
from morocco_lib.config.schema import from_root as from_root
from morocco_lib.config.schema import project_root as project_root
from morocco_lib.config.schema import read_yaml as read_yaml
from morocco_lib.config.schema import resolve as resolve
from morocco_lib.config.schema import validate as validate
from morocco_lib.config.task import TaskParams as TaskParams
from morocco_lib.config.task import load_task as load_task
