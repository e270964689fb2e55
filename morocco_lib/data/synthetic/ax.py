"""Synthetic AX records; see `_glue`."""

from morocco_lib.data.synthetic._glue import of_task

SIZES = {"val": 300, "test": 300}
records_with_truth = of_task("ax")
