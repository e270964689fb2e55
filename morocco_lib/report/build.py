"""The report page: one self-contained file, with its table as CSV and every executed notebook beside it."""

import os
from collections.abc import Callable, Collection
from itertools import count
from pathlib import Path
from typing import Any

from markupsafe import Markup

from morocco_lib import fileio, foreign, formatting
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import PLAN, Kinds
from morocco_lib.artifacts.verify import count_numbers
from morocco_lib.errors import UsageError
from morocco_lib.reasons import MEANING
from morocco_lib.report import averages, figures, grids, interactive, pairs, points, seeds_table, tables
from morocco_lib.report.render import copy_page

PAGE, RESULT = "report.html", "report.json"
MOST_DRAWN = 60  # operating points: of more no figure a point is drawn; the chart has them all


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


def build(
    plan_dir: Path, folder: Path, kinds: Kinds, *, own_notebook: bool = False, published: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write report.html, report.json, table.csv and notebooks/ into `folder`.

    Args:
        plan_dir: Folder of step folders.
        folder: Existing folder; the report's own step folder.
        kinds: The kinds of steps.
        own_notebook: Whether a rendered report notebook will stand beside the page.
        published: {"source", "models"} to be shown beside the measured numbers; see `legacy.published`.
    Returns:
        {"rows", "page", "bytes"}.
    Raises:
        UsageError: nothing to report, or a result that cannot be read.
    """
    rows = points.collect(plan_dir, kinds)
    if not rows:
        raise _nothing_in(plan_dir)
    fileio.write_text(folder / tables.CSV, tables.to_csv(rows))
    trail = _trail(plan_dir, kinds)
    shown = _shown(plan_dir, kinds, rows, trail, published)
    for step in trail:
        if step["page"]:
            (folder / "notebooks").mkdir(exist_ok=True)
            copy_page(Path(plan_dir) / step["folder"] / "notebook.html", folder / step["page"])
    if own_notebook:
        trail.append({"folder": folder.name, "state": "this report", "started": steps.now(), "page": "notebook.html"})
    plan = Path(plan_dir).resolve()
    scripts = interactive.scripts()
    drawn = len(rows) <= MOST_DRAWN
    text = _template().render(
        title=plan.name,
        policy=interactive.policy(scripts),
        scripts=[Markup(script) for script in scripts],
        plan=f"outputs/{plan.name}" if plan.parent.name == "outputs" else plan.name,
        **shown,
        valid=sum(row["verdict"] == "VALID" for row in rows),
        made=steps.now(),
        code=steps.code_facts(),
        uncommitted=steps.uncommitted_text(steps.code_facts()),
        synthetic=any(points.origin_of(row) == points.SYNTHETIC for row in rows),
        metrics=sorted({name for row in rows for name in row["score"].get("metrics", {})}),
        when=lambda text: f"{text[:10]} {text[11:19]} UTC",
        overview=_drawing(figures.overview(rows)) if drawn else None,
        disc=_drawing(figures.disc(rows)) if drawn else None,
        traces=[
            (task, figure)
            for task in sorted({row["task"] for row in rows})
            if drawn and (figure := _traces(plan_dir, rows, task))
        ],
        trail=trail,
        host=next(status["host"] for _, status in steps.find_steps(plan_dir) if status["task"]),
    )
    fileio.write_text(folder / PAGE, text)
    names = ("task", "model", "batch_size", "verdict", "measured")
    listed = [{name: row[name] for name in names} for row in rows]
    place = os.path.relpath(plan_dir, folder)
    result = {"schema": 1, "plan_dir": place, "rows": len(rows), "measured": listed}
    fileio.write_json(folder / RESULT, result | ({"published": published} if published else {}))
    return {"rows": rows, "page": folder / PAGE, "bytes": len(text.encode())}


def _shown(
    plan_dir: Path, kinds: Kinds, rows: list[dict[str, Any]], trail: list[dict[str, Any]], published: dict[str, Any] | None,
    folders: Collection[Path] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the blocks of the page that `rebuild` checks are made of."""
    views = interactive.views(rows)
    return {
        "rows": rows, "columns": [column for column in tables.COLUMNS if column.page],
        "remarks": [line for line in tables.remarks(rows) if not line.startswith("Synthetic")],
        "grids": grids.grids(rows, published and published["models"]), "published_source": published and published["source"],
        "views": Markup(interactive.json_text(views)) if views else None, "shared": averages.averaged(rows)[0],
        "pairs": pairs.differences(Path(plan_dir), rows), "trainings": seeds_table.trainings(plan_dir, kinds, rows, folders),
        "pages": {step["folder"]: step["page"] for step in trail},
        "cell": _cell, "meaning": MEANING, "program": tables.program_text, "settings": tables.settings_text,
        "runner": formatting.runner_text, "speed": formatting.speed_text, "seconds": formatting.seconds_text,
        "bytes": formatting.bytes_text,
    }  # fmt: skip


def rebuild(folder: Path, kinds: Kinds) -> tuple[int, list[str]]:
    """Return (how many numbers a report's table holds, what does not follow from the steps it rests on)."""
    # From the steps that it read: what was added to the plan since is in a later report.
    result = foreign.read_json(
        folder / RESULT, folder, {"plan_dir": str, "published?": ({"source": str, "models": ...}, None)}
    )
    plan_dir = (folder / result["plan_dir"]).resolve()
    used = {(folder / name).resolve().parent for name in steps.read_status(folder)["inputs"]}
    if not all((place / steps.STATUS).is_file() for place in used):
        return 0, []  # moved alone, or a step was set aside: nothing to rebuild the numbers from
    rows = points.collect(plan_dir, kinds, used)
    kept = foreign.read_text(folder / tables.CSV, folder)
    wrong = [] if kept == tables.to_csv(rows) else [f"{folder / tables.CSV} does not follow from the steps"]
    page, template = foreign.read_text(folder / PAGE, folder), _template()
    shown = _shown(plan_dir, kinds, rows, _trail(plan_dir, kinds, used), result.get("published"), used)
    for name, block in template.blocks.items():
        if "".join(block(template.new_context(shown))) not in page:
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
    return Markup(figures.svg(figure)) if figure is not None else None


def _cell(estimate: dict[str, Any], text: Callable[[float], str], link: str):
    if estimate["value"] is None:
        reason = estimate.get("reason")
        return Markup("—<small title='{}'>{}</small>").format(MEANING[reason], reason) if reason else "—"
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    between = Markup("<small>{} to {}</small>").format(text(low), text(high)) if low is not None else ""
    return Markup("<a href='{}'>{}</a>{}").format(link, text(value), between)


def _trail(plan_dir: Path, kinds: Kinds, folders: Collection[Path] | None = None) -> list[dict[str, Any]]:
    """Return the steps of a plan, and where the report keeps the notebook of each as a page."""
    trail, used = [], set()
    for step_folder, status in steps.find_steps(plan_dir, folders):
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
        trail.append({"folder": place, "state": status["state"], "started": status["started"], "page": shown})
    return trail


def _template():
    import jinja2

    loader, undefined = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")
