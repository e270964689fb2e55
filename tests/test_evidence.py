"""The table of docs/evidence.md: every named fault is injected by a test that exists and finds its code."""

import re

from helpers import ROOT

from morocco_lib.reasons import Reason

EVIDENCE = ROOT / "docs" / "evidence.md"
FAULTS = {
    "CPU hog", "other GPU process", "wrong count", "duplicate idx", "missing line", "non-zero exit", "OOM",
    "killed worker", "truncated log", "throttling", "drift", "bimodal start-up", "sampler gaps", "clock trouble",
    "cached answers",
}  # fmt: skip


def injected() -> list[tuple[str, str, str]]:
    text = EVIDENCE.read_text(encoding="utf-8")
    return re.findall(r"^\| ([^|]+) \| `([A-Z_]+)` \| `tests/([\w/]+\.py::\w+)` \|", text, re.M)


def test_every_fault_is_injected_by_a_test_that_exists_and_names_its_code():
    rows = injected()
    assert {fault for fault, _, _ in rows} == FAULTS
    for fault, code, test in rows:
        name, function = test.split("::")
        text = (ROOT / "tests" / name).read_text(encoding="utf-8")
        begin = re.search(rf"((?:^@.*\n(?:^[ )].*\n)*)*)^def {function}\(", text, re.M)
        assert begin, (fault, test)
        body = re.split(r"^(?:def|class|@)", text[begin.end() :], maxsplit=1, flags=re.M)[0]
        assert Reason(code) and code in begin.group(0) + body, (fault, test, code)
