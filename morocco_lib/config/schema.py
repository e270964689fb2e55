"""Validation of values from YAML files and notebooks: unknown, duplicate and impossible ones are refused by name."""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, ValidationError

from morocco_lib import fileio, foreign
from morocco_lib.errors import UsageError

ROOT_MARKS = ("notebooks", "params", "pyproject.toml")
Count = Annotated[StrictInt, Field(ge=1)]  # strict: YAML's `yes` and "32" are no counts
CountOrFound = Annotated[StrictInt, Field(ge=0)]  # 0: the protocol finds it


def _check_seeds(text: str) -> str:
    if text:
        parse_seeds(text)
    return text


Seeds = Annotated[str, AfterValidator(_check_seeds)]  # "1-5" or "1,3,8"; "" is none


class Schema(BaseModel):
    """Immutable, and refuses unknown names."""

    model_config = ConfigDict(extra="forbid", frozen=True)


# -- paths ---------------------------------------------------------------------------------------------------------
def find_root(start: Path) -> Path | None:
    """Return the project root at or above a folder, None if there is none."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if all((folder / mark).exists() for mark in ROOT_MARKS):
            return folder
    return None


def project_root(start: Path | None = None) -> Path:
    """Return the project root; raises UsageError."""
    start = Path(start or Path.cwd())
    root = find_root(start)
    if root is None:
        raise UsageError(
            f"no project found at or above {start}",
            rule=f"a project holds {', '.join(ROOT_MARKS)}",
            remedy="change into the project",
        )
    return root


def resolve(path: str, root: Path) -> Path:
    """Return a parameter's path, `~` and variables replaced: relative ones count from the project root."""
    return (root / fileio.expand(path)).resolve()


def from_root(path: Path, root: Path) -> str:
    """Return a path as a parameter and a message have it: from a root above it, so that it reads the same on every machine."""
    return str(path.relative_to(root) if path.is_relative_to(root) else path)


# -- reading and refusing ------------------------------------------------------------------------------------------
def refuse(error: ValidationError, where: str, known: type[BaseModel]) -> UsageError:
    """Return pydantic's findings as one error that names the nearest known parameter."""
    lines, findings = [], error.errors()
    for finding in findings:
        before = finding["loc"][:-1]
        others = [other for other in findings if other["loc"][: len(before)] == before and not _of_other_type(other)]
        if _of_other_type(finding) and others:
            continue  # the others say what is wrong
        place = _place(finding["loc"])
        if finding["type"] == "extra_forbidden":
            unknown = str(finding["loc"][-1])
            names = {name.lower(): name for name in _names_at(known, finding["loc"][:-1])}
            place = ".".join([*filter(None, [_place(finding["loc"][:-1])]), unknown])
            near = difflib.get_close_matches(unknown.lower(), names, n=1, cutoff=0.5)
            hint = f"did you mean {names[near[0]]!r}?" if near else f"known: {', '.join(names.values())}"
            lines.append(f"unknown parameter {place!r}; {hint}")
        elif finding["type"] == "missing":
            lines.append(f"parameter {place!r} is missing")
        else:
            message = finding["msg"].removeprefix("Value error, ")
            lines.append(f"parameter {place!r} is {finding['input']!r}: {message}")
    return UsageError(f"{where}: " + "; ".join(lines))


def _of_other_type(finding: Mapping[str, Any]) -> bool:
    """Tell whether a finding only says that a value is not of the type of one member of a union."""
    return finding["type"].endswith("_type") and any(_is_member(str(part)) for part in finding["loc"][-1:])


def _is_member(part: str) -> bool:
    """Tell whether a part of a place names a member of a union, not a parameter."""
    return part[:1].isupper() or "[" in part or part.startswith("constrained-") or part in ("str", "int", "float")


def _place(loc: tuple) -> str:
    return ".".join(part for part in map(str, loc) if not _is_member(part))


def _names_at(known: type[BaseModel], loc: tuple) -> list[str]:
    for part in loc:
        field = known.model_fields.get(part) if isinstance(part, str) else None
        if field is None:
            continue
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                known = inner
    return sorted(known.model_fields)


def validate(known: type[BaseModel], values: dict[str, Any], where: str):
    """Return validated parameters.

    Raises:
        UsageError: unknown, missing or impossible values, all at once.
    """
    try:
        return known.model_validate(values)
    except ValidationError as error:
        raise refuse(error, where, known) from None


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, of which YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; raises UsageError."""
    try:
        raw = foreign.read_bytes(path, limit=foreign.YAML_BYTES)
        foreign.check_brackets(raw)
        value = yaml.load(raw.decode("utf-8-sig"), Loader=_Loader)
        foreign.check_nesting(value, foreign.VALUES)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", remedy="give the path of a YAML file") from None
    except UsageError:
        raise
    except Exception as error:  # the library's constructors raise anything for an odd value
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise UsageError(f"{path} holds no mapping", rule="key: value lines")
    return value


def load(kind: str, known: type[BaseModel], path: Path):
    return validate(known, read_under(kind, path), str(path))


def read_under(kind: str, path: Path) -> Any:
    """Return what a YAML file holds under its one top-level key; raises UsageError."""
    value = read_yaml(path)
    if set(value) != {kind}:
        raise UsageError(f"{path} has the keys {', '.join(map(str, value))}", rule=f"one top-level key, {kind}:")
    return value[kind] or {}


def merged(parent: dict[str, Any], child: dict[str, Any]) -> dict[str, Any]:
    """Return parent's values with child's in their place, at every depth; null takes a whole part away."""
    made = dict(parent)
    for name, value in child.items():
        below = made.get(name)
        made[name] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return made


def extended(
    values: dict[str, Any], find: Callable[[str], dict[str, Any]], seen: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return a mapping with what it `extends` below it, and what that extends.

    Args:
        find: Name -> mapping; raises UsageError.
    Raises:
        UsageError: it extends itself.
    """
    values = dict(values)
    if not (above := values.pop("extends", None)):
        return values
    if above in seen:
        raise UsageError(f"{' -> '.join([*seen, above])}", rule="nothing extends itself")
    return merged(extended(find(above), find, (*seen, above)), values)


def parse_seeds(text: str) -> list[int]:
    """Return the seeds of "1-5" or "1,3,8"; raises ValueError."""
    found: list[int] = []
    for part in text.split(","):
        low, dash, high = part.strip().partition("-")
        if not (low.isdecimal() and (not dash or high.isdecimal())):
            raise ValueError(f"seeds are {text!r}; they are written as 1-5 or 1,3,8")
        found += range(int(low), int(high or low) + 1)
    if len(set(found)) < len(found) or not found:
        raise ValueError(f"seeds {text!r}: none, or a duplicate")
    return found
