"""RuCoLA out of domain: sentences that machine translation and paraphrase models wrote, answered by models trained on RuCoLA."""

from typing import ClassVar

from morocco_lib.tasks.rucola import RuCoLA


class RuCoLAOutOfDomain(RuCoLA):
    name = "rucola_ood"
    trained_on = "rucola"
    files: ClassVar[dict[str, str]] = {"val": "out_of_domain_dev.csv", "test": "test.csv"}


TASK = RuCoLAOutOfDomain()
