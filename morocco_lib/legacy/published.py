"""Published numbers of models, to be shown beside measured ones."""

from pathlib import Path
from typing import Any

from morocco_lib import foreign
from morocco_lib.report.grids import PUBLISHED

FOUNDING = "founding"


def read(name: str | Path) -> dict[str, Any]:
    """Return {"source", "models"}: of each model its total and, by task, scores, GPU memory (GiB) and records a second.

    Args:
        name: "founding" (the original's README), or a JSON file of the same form: see legacy/published.json.
    Raises:
        UsageError: no such file, or of another form.
    """
    path = Path(__file__).with_name("published.json") if str(name) == FOUNDING else Path(name)
    return foreign.read_json(path, None, PUBLISHED)
