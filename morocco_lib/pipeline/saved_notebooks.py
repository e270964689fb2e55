"""What JupyterLab saves of the project's notebooks: their source without outputs, so that the checkout stays clean.

`make setup` names `scrub` as the hook of Jupyter's contents manager.
"""

import copy
import json
from pathlib import Path
from typing import Any

from morocco_lib import config, fileio

INTERACTIVE = Path("outputs/interactive")


def scrub(model: dict[str, Any], path: str, contents_manager: Any, **kwargs: Any) -> None:
    """Take outputs, counts and Jupyter's metadata from a notebook of the project before it is saved.

    What was shown is kept as outputs/interactive/<name>.ipynb. Notebooks elsewhere are saved as they are.

    Args:
        model: What is to be saved; `content` is the notebook, changed in place.
        path: Below the root folder of `contents_manager`.
    """
    place = Path(contents_manager.root_dir, path)
    root = config.find_root(place.parent)
    if (
        model["type"] != "notebook"
        or root is None
        or place.resolve().parent != root / "notebooks"
        or not place.exists()
    ):
        return
    notebook = model["content"]
    if any(cell.get("outputs") for cell in notebook["cells"]):
        (root / INTERACTIVE).mkdir(parents=True, exist_ok=True)
        fileio.write_json(root / INTERACTIVE / place.name, copy.deepcopy(notebook))
    source = json.loads(place.read_text(encoding="utf-8"))
    tags = {cell["id"]: cell["metadata"] for cell in source["cells"] if "id" in cell}
    notebook["metadata"] = source["metadata"]
    for cell in notebook["cells"]:
        cell["metadata"] = tags.get(cell.get("id"), {})
        if cell["cell_type"] == "code":
            cell["outputs"], cell["execution_count"] = [], None
