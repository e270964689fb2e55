"""The report page: one self-contained file, with its table as CSV and every executed notebook beside it."""

import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from morocco_lib import fileio, foreign, formatting
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import PLAN, Kinds
from morocco_lib.artifacts.verify import count_numbers
from morocco_lib.errors import UsageError
from morocco_lib.reasons import MEANING
from morocco_lib.report import figures, points, tables
from morocco_lib.report.render import POLICY, copy_page

PAGE, RESULT = "report.html", "report.json"


def inputs_of(plan_dir: Path) -> dict[str, Path]:
    """Return the status files that a report of a plan folder reads, by their path in it; raises UsageError without any."""
    found = {
        folder.relative_to(plan_dir).as_posix(): folder / steps.STATUS
        for folder, status in steps.find_steps(plan_dir)
        if status["task"] and not steps.is_retired(folder, status) and status["state"] != steps.RUNNING
    }
    if not found:
        raise _nothing_in(plan_dir)
    return found


def _nothing_in(plan_dir: Path) -> UsageError:
    return UsageError(
        f"no result in {plan_dir}",
        rule="a report shows bench and eval steps",
        remedy="run `morocco run PLAN.yaml`, `morocco bench` or the bench notebook first",
    )


def build(plan_dir: Path, folder: Path, kinds: Kinds, *, own_notebook: bool = False) -> dict[str, Any]:
    """Write report.html, report.json, table.csv and notebooks/ into `folder`.

    Args:
        plan_dir: Folder of step folders.
        folder: Existing folder; the report's own step folder.
        kinds: The kinds of steps.
        own_notebook: Whether a rendered report notebook will stand beside the page.
    Returns:
        {"rows", "page", "bytes"}.
    Raises:
        UsageError: nothing to report, or a result that cannot be read.
    """
    rows = points.collect(plan_dir, kinds)
    if not rows:
        raise _nothing_in(plan_dir)
    fileio.write_text(folder / tables.CSV, tables.to_csv(rows))
    trail = _trail(plan_dir, folder, kinds)
    if own_notebook:
        trail.append({"folder": folder.name, "state": "this report", "started": steps.now(), "page": "notebook.html"})
    plan = Path(plan_dir).resolve()
    text = _template().render(
        title=plan.name,
        policy=POLICY,
        plan=f"outputs/{plan.name}" if plan.parent.name == "outputs" else plan.name,
        **_shown(rows),
        valid=sum(row["verdict"] == "VALID" for row in rows),
        made=steps.now(),
        code=steps.code_facts(),
        uncommitted=steps.uncommitted_text(steps.code_facts()),
        synthetic=any(points.origin_of(row) == points.SYNTHETIC for row in rows),
        metrics=sorted({name for row in rows for name in row["score"].get("metrics", {})}),
        when=lambda text: f"{text[:10]} {text[11:19]} UTC",
        bytes=formatting.bytes_text,
        overview=_drawing(figures.overview(rows)),
        disc=_drawing(figures.disc(rows)),
        traces=[
            (task, figure)
            for task in sorted({row["task"] for row in rows})
            if (figure := _traces(plan_dir, rows, task))
        ],
        trail=trail,
        host=next(status["host"] for _, status in steps.find_steps(plan_dir) if status["task"]),
    )
    fileio.write_text(folder / PAGE, text)
    names = ("task", "model", "batch_size", "verdict", "measured")
    listed = [{name: row[name] for name in names} for row in rows]
    place = os.path.relpath(plan_dir, folder)
    fileio.write_json(folder / RESULT, {"schema": 1, "plan_dir": place, "rows": len(rows), "measured": listed})
    return {"rows": rows, "page": folder / PAGE, "bytes": len(text.encode())}


def _shown(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the blocks of the page that `rebuild` checks are made of."""
    remarks = [line for line in tables.remarks(rows) if not line.startswith("Synthetic")]
    columns = [column for column in tables.COLUMNS if column.page]
    texts = {"cell": _cell, "meaning": MEANING, "program": tables.program_text, "settings": tables.settings_text}
    texts["runner"] = formatting.runner_text
    return {"rows": rows, "columns": columns, "remarks": remarks, **texts}


def rebuild(folder: Path, kinds: Kinds) -> tuple[int, list[str]]:
    """Return (how many numbers a report's table holds, what does not follow from the steps it rests on)."""
    # From the steps that it read: what was added to the plan since is in a later report.
    plan_dir = (folder / foreign.read_json(folder / RESULT, folder, {"plan_dir": str})["plan_dir"]).resolve()
    used = {(folder / name).resolve().parent for name in steps.read_status(folder)["inputs"]}
    if not all((place / steps.STATUS).is_file() for place in used):
        return 0, []  # moved alone, or a step was set aside: nothing to rebuild the numbers from
    rows = points.collect(plan_dir, kinds, used)
    kept = foreign.read_text(folder / tables.CSV, folder)
    wrong = [] if kept == tables.to_csv(rows) else [f"{folder / tables.CSV} does not follow from the steps"]
    page, template = foreign.read_text(folder / PAGE, folder), _template()
    for name, block in template.blocks.items():
        if "".join(block(template.new_context(_shown(rows)))) not in page:
            wrong.append(f"{folder / PAGE}: what it shows as {name} does not follow from the steps")
    return sum(map(count_numbers, rows)), wrong


def _traces(plan_dir: Path, rows: list[dict[str, Any]], task: str):
    """Return the traces of the first run of each operating point of a task."""
    found = []
    for row in rows:
        if row["task"] == task and row["bench_folder"]:
            folders = sorted((Path(plan_dir) / row["bench_folder"] / "runs").glob("[0-9]*"))
            found += [(f"{row['model']}, batch {row['batch_size']}", folders[0])] if folders else []
    return _drawing(figures.traces(found))


def _drawing(figure):
    from markupsafe import Markup

    return Markup(figures.svg(figure)) if figure is not None else None


def _cell(estimate: dict[str, Any], text: Callable[[float], str]):
    from markupsafe import Markup

    if estimate["value"] is None:
        reason = estimate.get("reason")
        return Markup("—<small title='{}'>{}</small>").format(MEANING[reason], reason) if reason else "—"
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    if low is None:
        return text(value)
    return Markup("{}<small>{} to {}</small>").format(text(value), text(low), text(high))


def _trail(plan_dir: Path, folder: Path, kinds: Kinds) -> list[dict[str, Any]]:
    trail, used = [], set()
    for step_folder, status in steps.find_steps(plan_dir):
        if status["step"] in kinds and kinds[status["step"]].scope == PLAN:
            continue
        place = step_folder.relative_to(plan_dir).as_posix()
        rendered, shown = step_folder / "notebook.html", None
        if os.path.lexists(rendered):
            name = foreign.word(place.replace("/", "-"))
            shown = next(
                page for k in count(1) if (page := f"notebooks/{name}{'' if k == 1 else f'.{k}'}.html") not in used
            )
            used.add(shown)
            (folder / "notebooks").mkdir(exist_ok=True)
            copy_page(rendered, folder / shown)
        trail.append({"folder": place, "state": status["state"], "started": status["started"], "page": shown})
    return trail


def _template():
    import jinja2

    loader, undefined = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")
