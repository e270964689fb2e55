"""Synthetic SST-2 records; see `_glue`."""

from morocco_lib.data.synthetic._glue import SIZES as SIZES
from morocco_lib.data.synthetic._glue import of_task

records_with_truth = of_task("sst2")
