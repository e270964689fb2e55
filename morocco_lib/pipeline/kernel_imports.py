"""What every notebook imports, imported once: in the process that kernels are forked from."""

import importlib
import os

os.environ["JPY_PARENT_PID"] = str(os.getpid())  # a kernel without a parent would give advice in its log

import ipykernel.kernelapp

from morocco_lib.report import figures

for name in (
    "IPython.core.display", "pandas.io.formats.style", "morocco_lib.benchmark.evaluate",
    "morocco_lib.benchmark.protocol", "morocco_lib.doctor", "morocco_lib.pipeline.session", "morocco_lib.report.bounds",
    "morocco_lib.report.tables", "morocco_lib.report.training",
):  # fmt: skip
    importlib.import_module(name)
figures.style()
run = ipykernel.kernelapp.launch_new_instance
