"""SST-2: is a phrase of a film review positive? Train holds phrases of sentences, dev and test whole ones.

Source: GLUE; train 67349, dev 872, test 1821.
"""

from typing import ClassVar

from morocco_lib.tasks.glue._glue import GlueTask, submission


class SST2(GlueTask):
    name = "sst2"
    title = "SST-2"
    fields: ClassVar[dict[str, type]] = {"sentence": str}
    sizes: ClassVar[dict[str, int]] = {"train": 67349, "dev": 872, "test": 1821}
    submissions = submission("SST-2")


TASK = SST2()
