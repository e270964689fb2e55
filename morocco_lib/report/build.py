"""The report page: one self-contained file, with its table as CSV and every executed notebook beside it."""

import os
import re
from collections.abc import Callable, Sequence
from itertools import count, zip_longest
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from morocco_lib import fileio, foreign, formatting
from morocco_lib.artifacts import steps
from morocco_lib.artifacts.step_kind import PLAN, Kinds
from morocco_lib.artifacts.verify import Unchecked, count_numbers
from morocco_lib.errors import UsageError
from morocco_lib.reasons import MEANING
from morocco_lib.report import (
    averages,
    figures,
    glue,
    grids,
    interactive,
    machines,
    pairs,
    points,
    pretraining,
    seeds_table,
    tables,
)
from morocco_lib.report.points import Found
from morocco_lib.report.render import stranger_page

PAGE, RESULT = "report.html", "report.json"
MOST_DRAWN = 60  # operating points: of more no figure a point is drawn; the chart has them all
OWN, TEXT = "this report", (str, None)


def inputs_of(plan_dir: Path, every: Found | None = None) -> dict[str, Path]:
    """Return the status files that a report of a plan folder reads, by their path in it; raises UsageError without any.

    Args:
        every: Its step folders and their statuses; None: they are looked for.
    """
    found = {
        folder.relative_to(plan_dir).as_posix(): folder / steps.STATUS
        for folder, status in (steps.find_steps(plan_dir) if every is None else every)
        if status["model"] and not steps.is_retired(status) and status["state"] != steps.RUNNING
    }
    if not found:
        raise _nothing_in(plan_dir)
    return found


def steps_of(plan_dirs: Sequence[Path]) -> set[Path]:
    """Return the step folders (resolved) of several plan folders; of copies of one step the first."""
    found: dict[str | None, Path] = {}
    for plan_dir in plan_dirs:
        for folder, status in steps.find_steps(plan_dir):
            found.setdefault(status.get("seal"), folder.resolve())
    return set(found.values())


def _nothing_in(plan_dir: Path) -> UsageError:
    return UsageError(
        f"no result in {plan_dir}",
        rule="a report shows bench and eval steps",
        remedy="run `morocco run PLAN.yaml`, `morocco bench` or the bench notebook first",
    )


def build(
    plan_dir: Path, folder: Path, kinds: Kinds, *, own_notebook: bool = False, published: dict[str, Any] | None = None,
    plan_dirs: Sequence[Path] = (), every: Found | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write report.html, report.json, table.csv and notebooks/ into `folder`; of GLUE its tables, too.

    Args:
        plan_dir: Folder of step folders.
        folder: Existing folder; the report's own step folder.
        kinds: The kinds of steps.
        own_notebook: Whether a rendered report notebook will stand beside the page.
        published: {"source", "models"} to be shown beside the measured numbers; see `legacy.published`.
        plan_dirs: Several folders, whose steps are shown; `plan_dir` is then one that holds them all.
        every: The step folders and their statuses; None: those below `plan_dir` are looked for.
    Returns:
        {"rows", "page", "bytes"}.
    Raises:
        UsageError: nothing to report, or a result that cannot be read.
    """
    status = steps.read_status(folder)
    every = list(steps.find_steps(plan_dir)) if every is None else every
    found = [(f, s) for f, s in every if not steps.is_retired(s)]
    rows = points.collect(plan_dir, kinds, found)
    if not rows:
        raise _nothing_in(plan_dir)
    trail, pages = _trail(plan_dir, {f.relative_to(plan_dir).as_posix(): s for f, s in every if not _of_plan(s, kinds)})
    made = steps.now()
    if own_notebook:
        trail.append({"folder": folder.name, "state": OWN, "started": made, "page": "notebook.html"})
    facts = {
        "schema": 1,
        "plan_dir": os.path.relpath(plan_dir, folder),
        "plan": ", ".join(map(_plan_name, plan_dirs or [plan_dir])),
        **_counted(rows),
        "made": made,
        "drawn_with": figures.drawn_with(),
        "trail": trail,
        **({"published": published} if published else {}),
    }
    text = _page(plan_dir, _shown(plan_dir, kinds, rows, facts, found), facts, status, found)
    for page, notebook in pages.items():
        (folder / page).parent.mkdir(exist_ok=True)
        fileio.write_text(folder / page, stranger_page(notebook))
    for name, table in _tables(plan_dir, kinds, rows, found).items():
        fileio.write_text(folder / name, table)
    fileio.write_text(folder / PAGE, text)
    fileio.write_json(folder / RESULT, facts)
    return {"rows": rows, "page": folder / PAGE, "bytes": len(text.encode())}


def _plan_name(plan_dir: Path) -> str:
    plan = Path(plan_dir).resolve()
    return f"outputs/{plan.name}" if plan.parent.name == "outputs" else plan.name


def _of_plan(status: dict[str, Any], kinds: Kinds) -> bool:
    return status["step"] in kinds and kinds[status["step"]].scope == PLAN


def _counted(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what report.json says of the rows."""
    names = ("task", "model", "batch_size", "verdict", "measured")
    measured = [{name: row[name] for name in names} | ({"on": row["on"]} if row["on"] else {}) for row in rows]
    found = [machine._asdict() for machine in machines.machines(rows)]
    return {"rows": len(rows), "measured": measured, **({"machines": found} if found else {})}


def _tables(plan_dir: Path, kinds: Kinds, rows: list[dict[str, Any]], found: Found) -> dict[str, str]:
    """Return file name -> text of the tables beside the page."""
    trainings = seeds_table.trainings(plan_dir, kinds, rows, found) if glue.rows_of(rows) else []
    made = pretraining.pretrainings(plan_dir, kinds, found)
    return {tables.CSV: tables.to_csv(rows), **glue.files(glue.results(rows, trainings, made))}


def _page(plan_dir: Path, shown: dict[str, Any], facts: dict[str, Any], status: dict[str, Any], found: Found) -> str:
    """Return the page: the same text for the same steps, `facts` (report.json) and status of the report.

    Args:
        shown: Of `_shown`.
    """
    rows = shown["rows"]
    used = {plan_dir / row[name] for row in rows for name in ("bench_folder", "eval_folder") if row[name]}
    hosts = [s["host"] for f, s in found if f in used]
    scripts, drawn = interactive.scripts(), len(rows) <= MOST_DRAWN
    return _template().render(
        title=facts["plan"].replace("outputs/", ""),
        policy=interactive.policy(scripts),
        scripts=[Markup(script) for script in scripts],
        plan=facts["plan"],
        **shown,
        valid=sum(row["verdict"] == "VALID" for row in rows),
        made=facts["made"],
        code=status["code"],
        uncommitted=steps.uncommitted_text(status["code"]),
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
        trail=facts["trail"],
        host=(hosts or [status["host"]])[0],
    )


def _shown(
    plan_dir: Path, kinds: Kinds, rows: list[dict[str, Any]], facts: dict[str, Any], found: Found
) -> dict[str, Any]:
    """Return what the blocks of the page that `rebuild` checks are made of."""
    views, published = interactive.views(rows), facts.get("published")
    groups, elsewhere = machines.groups(rows), machines.lines(rows)
    shared = averages.averaged(groups[0].rows)[0]
    if len(groups) > 1:
        shared = ["the tasks that its name lists"] * any("mean of" in view["name"] for view in views)
    trainings = seeds_table.trainings(plan_dir, kinds, rows, found)
    pretrainings = pretraining.pretrainings(plan_dir, kinds, found)
    return {
        "rows": rows, "columns": [column for column in tables.COLUMNS if column.page], "groups": groups,
        "machines": machines.machines(rows), "scaled": machines.scaled_text, "is_scaled": machines.is_scaled,
        "ratio_of": machines.ratio_text, "anchor_of": machines.anchor_text, "rule": machines.RULE,
        "remarks": [line for line in tables.remarks(rows) if not line.startswith("Synthetic") and line not in elsewhere],
        "grids": [grid for group in groups for grid in grids.grids(group.rows, published and published["models"], group.name)],
        "published_source": published and published["source"],
        "views": Markup(interactive.json_text(views)) if views else None, "shared": shared,
        "pairs": pairs.differences(Path(plan_dir), rows), "trainings": trainings,
        "pretrainings": pretrainings, "glue": glue.results(rows, trainings, pretrainings), "glue_runs": glue.RUNS,
        "pages": {step["folder"]: step["page"] for step in facts.get("trail", ())},
        "cell": _cell, "meaning": MEANING, "program": tables.program_text, "settings": tables.settings_text,
        "runner": formatting.runner_text, "speed": formatting.speed_text, "seconds": formatting.seconds_text,
        "bytes": formatting.bytes_text,
    }  # fmt: skip


def rebuild(folder: Path, kinds: Kinds) -> tuple[int, list[str]]:
    """Return (how many numbers a report's table holds, what does not follow from the steps it rests on).

    All that it holds is made anew and compared. What differs rightly is when it was made, and what its steps were then:
    these are taken from report.json, if they fit the report's own status and the steps that are still here.
    """
    # From the steps that it read: what was added to the plan since is in a later report.
    stored, status = foreign.read_json(folder / RESULT, folder, STORED), steps.read_status(folder)
    plan_dir, used = (folder / stored["plan_dir"]).resolve(), _used(folder, status)
    if not used:
        return 0, []  # moved alone, or a step was set aside: nothing to rebuild the numbers from
    found = list(steps.find_steps(plan_dir, used))
    rows = points.collect(plan_dir, kinds, found)
    wrong = [f"it rests on {f.resolve()}, which was set aside" for f, s in found if steps.is_retired(s)]
    for name, table in _tables(plan_dir, kinds, rows, found).items():
        if foreign.read_text(folder / name, folder) != table:
            wrong.append(f"{folder / name} does not follow from the steps")
    if any(stored.get(name) != value for name, value in _counted(rows).items()):
        wrong.append(f"{folder / RESULT} does not follow from the steps")
    page, template = foreign.read_text(folder / PAGE, folder), _template()
    shown = _shown(plan_dir, kinds, rows, stored, found)
    for name, block in template.blocks.items():
        if "".join(block(template.new_context(shown))) not in page:
            wrong.append(f"{folder / PAGE}: what it shows as {name} does not follow from the steps")
    if "made" not in stored:  # older ones do not hold what the rest is made of
        return sum(map(count_numbers, rows)), wrong
    listed = {step["folder"]: plan_dir / step["folder"] for step in stored["trail"] if step["state"] != OWN}
    statuses = {n: steps.read_status(f) if (f / steps.STATUS).is_file() else _GONE for n, f in listed.items()}
    trail, pages = _trail(plan_dir, statuses)
    own = [step for step in stored["trail"] if step["state"] == OWN]
    moments = [stored["made"], *(step["started"] for step in own)]
    now = {step["folder"]: step for step in trail if step["state"]}
    if any(now.get(step["folder"], step) != step for step in stored["trail"] if step["state"] != steps.RUNNING):
        wrong.append(f"{folder / RESULT}: its trail does not follow from the steps")
    if not all(status["started"] <= moment <= (status.get("ended") or "") for moment in moments):
        wrong.append(f"{folder / RESULT}: it was made at another time than its status says")
    if not wrong:
        texts = [page, _page(plan_dir, shown, stored, status, found)]
        if stored["drawn_with"] != figures.drawn_with():
            texts = [_DRAWN.sub("", text) for text in texts]
        wrong += [f"{folder / PAGE}: {_first_difference(*texts)}"] if texts[0] != texts[1] else []
    for name, notebook in pages.items():
        if foreign.read_text(folder / name, folder) != stranger_page(notebook):
            wrong.append(f"{folder / name} is not the notebook of its step")
    return sum(map(count_numbers, rows)), wrong


_GONE = {"state": None, "started": None}
STORED = {
    "plan_dir": str, "rows": int, "measured": list, "plan?": str, "made?": str, "drawn_with?": {str: TEXT},
    "trail?": [{"folder": str, "state": str, "started": str, "page": TEXT}],
    "published?": grids.PUBLISHED, "machines?": [dict],
}  # fmt: skip
_DRAWN = re.compile(r"<svg.*?</svg>|<script>.*?</script>|sha256-[\w+/=]*", re.DOTALL)


def rests_on(folder: Path) -> dict[str, dict[str, str]]:
    """Return the digests of all that the steps hold which a report shows or lists."""
    stored = foreign.read_json(folder / RESULT, folder, STORED)
    plan_dir = (folder / stored["plan_dir"]).resolve()
    listed = {plan_dir / step["folder"] for step in stored.get("trail", ()) if step["state"] != OWN}
    listed |= {(folder / name).resolve().parent for name in steps.read_status(folder)["inputs"]}
    return {str(place): steps.everything(place) for place in sorted(listed)}


def unchecked(folder: Path, status: dict[str, Any]) -> list[Unchecked]:
    """Return what of a report is not made anew: all where its steps are not here, figures that another version drew."""
    stored = foreign.read_json(folder / RESULT, folder, STORED)
    if not _used(folder, status):
        return [Unchecked(1, "report", "not held against its steps", "some of them are not here")]
    if "made" not in stored:
        return [Unchecked(1, "report", "of an older version", "beside its tables nothing of the page was made anew")]
    found, here = [], figures.drawn_with()
    if (then := stored["drawn_with"]) != here:
        drawn = foreign.read_text(folder / PAGE, folder).count("<figure>")
        found.append(Unchecked(drawn, "figure", "not drawn anew", f"drawn with {then}, here is {here}"))
    trail = [step for step in stored["trail"] if step["state"] != OWN]
    plan_dir = (folder / stored["plan_dir"]).resolve()
    if gone := [step["folder"] for step in trail if not (plan_dir / step["folder"] / steps.STATUS).is_file()]:
        found.append(Unchecked(len(gone), "step", "gone since a report", ", ".join(gone)))
    return found


def _used(folder: Path, status: dict[str, Any]) -> set[Path]:
    """Return the steps that a report rests on; none unless all are here."""
    used = {(folder / name).resolve().parent for name in status["inputs"]}
    return used if all((place / steps.STATUS).is_file() for place in used) else set()


def _first_difference(page: str, derived: str) -> str:
    lines = enumerate(zip_longest(page.split("\n"), derived.split("\n")), 1)
    number, line = next((number, a) for number, (a, b) in lines if a != b)
    shown = "its end" if line is None else line.strip()[:80]
    return f"line {number} ({shown!r}) does not follow from the steps"


def _traces(plan_dir: Path, rows: list[dict[str, Any]], task: str):
    """Return the traces of the first run of each operating point of a task."""
    found = []
    for row in rows:
        if row["task"] == task and row["bench_folder"]:
            folders = sorted((Path(plan_dir) / row["bench_folder"] / "runs").glob("[0-9]*"))
            found += [(f"{tables.name_of(row)}, batch {row['batch_size']}", folders[0])] if folders else []
    return _drawing(figures.traces(found))


def _drawing(figure):
    return Markup(figures.svg(figure)) if figure is not None else None


def _cell(estimate: dict[str, Any], text: Callable[[float], str], link: str):
    if estimate["value"] is None:
        reason = estimate.get("reason")
        return Markup(f"—<small title='{escape(MEANING[reason])}'>{escape(reason)}</small>") if reason else "—"
    value, low, high = estimate["value"], estimate.get("low"), estimate.get("high")
    between = f"<small>{escape(text(low))} to {escape(text(high))}</small>" if low is not None else ""
    return Markup(f"<a href='{escape(link)}'>{escape(text(value))}</a>{between}")


def _trail(plan_dir: Path, statuses: dict[str, dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Path]]:
    """Return (what the page lists of the step folders, {page beside it: rendered notebook}); state is None of those gone."""
    trail, pages = [], {}
    for place, status in statuses.items():
        shown = None
        if os.path.lexists(rendered := plan_dir / place / "notebook.html"):
            name = foreign.word(place.replace("/", "-"))
            shown = next(
                page for k in count(1) if (page := f"notebooks/{name}{'' if k == 1 else f'.{k}'}.html") not in pages
            )
            pages[shown] = rendered
        trail.append({"folder": place, "state": status["state"], "started": status["started"], "page": shown})
    return trail, pages


def _template():
    import jinja2

    loader, undefined = jinja2.FileSystemLoader(Path(__file__).parent), jinja2.StrictUndefined
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html.j2")
