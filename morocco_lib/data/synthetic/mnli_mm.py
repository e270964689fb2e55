"""Synthetic records of MNLI on other genres: the same templates with another random stream; see `_glue`."""

from morocco_lib.data.synthetic._glue import of_task

SIZES = {"val": 300, "test": 300}
records_with_truth = of_task("mnli_mm")
