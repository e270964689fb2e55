"""GAP: which of two names does a pronoun in an English text mean, or neither?

Official files are TSV without quoting; Kaggle's test files lack labels. The page's address tells the answer, so it is not read.
Two kinds of submissions are scored: Kaggle's probabilities (log loss, accuracy), and the official scorer's decisions about each
name (F1 in percent, overall and by the pronoun's gender, and their ratio). Source: Webster et al., Mind the GAP (TACL 2018),
development 2000, validation 454, test 2000 records.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from operator import eq
from typing import Any, ClassVar

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import LabelTask, Prediction
from morocco_lib.tasks.checked import AnswerError, Checked, Idx
from morocco_lib.tasks.form import AnswerKind, TextPair
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.recombine import Opening
from morocco_lib.tasks.tables import Row, Submission, Table

KAGGLE = ("A", "B", "NEITHER")  # its order of columns
MENTIONS = ("Pronoun", "A", "B")
GENDERS = {
    "she": "feminine",
    "her": "feminine",
    "hers": "feminine",
    "he": "masculine",
    "his": "masculine",
    "him": "masculine",
}
LEAST = 1e-15  # what Kaggle takes for the logarithm of a probability at least, and one less than that at most
SAME = 0.02  # by which answers of bf16 and fp32, or of two batch sizes, may differ
LARGEST = 1e300
NEAR, FAR = 50, 150  # characters


class GAP(LabelTask):
    name = "gap"
    title = "GAP"
    labels = ("NEITHER", "A", "B")
    answer_kind = AnswerKind.PROBABILITIES
    spans = 3
    idx_type = str
    fields: ClassVar[dict[str, type]] = {
        "Text": str, "Pronoun": str, "Pronoun-offset": int, "A": str, "A-offset": int, "B": str, "B-offset": int,
    }  # fmt: skip
    texts = ("Text",)
    hidden = ("label", "A-coref", "B-coref", "URL")
    sizes: ClassVar[dict[str, int]] = {"gap-development": 2000, "gap-validation": 454, "gap-test": 2000}
    files: ClassVar[dict[str, str]] = {
        "train": "gap-development.tsv", "val": "gap-validation.tsv", "test": "gap-test.tsv",
    }  # fmt: skip
    table = Table(idx="ID", columns={name: name for name in (*fields, "A-coref", "B-coref")})
    submissions = (
        Submission("GAP.csv", ("ID", *KAGGLE), ","),
        Submission("GAP.tsv", ("ID", "A-coref", "B-coref"), header=False),
    )

    # -- records -------------------------------------------------------------------------------------------------
    def from_row(self, row: Row, number: int) -> Record:
        record = super().from_row(row, number)
        for name in MENTIONS:
            offset = record.get(f"{name}-offset", "")
            if not offset.isdecimal():
                raise ValueError(f"'{name}-offset' is {offset!r:.60}; it is a whole number")
            record[f"{name}-offset"] = int(offset)
        if "A-coref" not in record:
            return record
        a, b = _true(record.pop("A-coref")), _true(record.pop("B-coref"))
        if a and b:
            raise ValueError("A-coref and B-coref are both true; a pronoun means one name at most")
        return record | {"label": "A" if a else "B" if b else "NEITHER"}

    def mentions(self, record: Record) -> list[tuple[int, int]]:
        """Return where pronoun, A and B start and end in the text, as the record says."""
        return [(record[f"{name}-offset"], record[f"{name}-offset"] + len(record[name])) for name in MENTIONS]

    def unaligned(self, records: Sequence[Record]) -> int:
        return sum(
            record["Text"][start:end] != record[name]
            for record in records
            for name, (start, end) in zip(MENTIONS, self.mentions(record), strict=True)
        )

    def parts(self, record: Record) -> list[TextPair]:
        return [TextPair(record["Text"], marks=tuple((0, *place) for place in self.mentions(record)))]

    def recombine(self, record: Record, other: Record, opening: Opening) -> Record:
        text, moved = opening(record["Text"], before=min(start for start, _ in self.mentions(record)))
        offsets = (f"{name}-offset" for name in MENTIONS)
        return record | {"Text": text} | {offset: record[offset] + moved for offset in offsets}

    def facets(self, record: Record) -> dict[str, str]:
        places = dict(zip("PAB", self.mentions(record), strict=True))
        pronoun, right = places["P"][0], record.get("label", "NEITHER")
        far = min(abs(pronoun - places[name][0]) for name in ("AB" if right == "NEITHER" else right))
        return {
            "gender": GENDERS.get(record["Pronoun"].lower(), "other"),
            "order": " ".join(sorted(places, key=places.get)),
            "distance": f"below {NEAR}" if far < NEAR else f"below {FAR}" if far < FAR else f"{FAR} or more",
        }

    # -- answers -------------------------------------------------------------------------------------------------
    def gold(self, record: Record) -> Prediction | None:
        answer = super().gold(record)
        return answer and answer | {"gender": GENDERS.get(record["Pronoun"].lower())}

    def prediction(self, record: Record, chosen: Sequence[float]) -> Prediction:
        given = dict(zip(self.labels, chosen, strict=True))
        return {"idx": self.key(record), **{name: given[name] for name in KAGGLE}}

    def majority(self, gold: Sequence[Prediction]) -> dict[str, Any]:
        """Return the share of each label: of all constant answers the one with the lowest log loss."""
        counts = Counter(g["label"] for g in gold)
        return super().majority(gold) | {name: counts[name] / len(gold) for name in KAGGLE}

    def constant(self, state: dict[str, Any], record: Record) -> Prediction:
        return self.prediction(record, [state[name] for name in self.labels])

    def labels_in(self, answer: Prediction) -> list:
        return [answer["label"] if "label" in answer else max(self.labels, key=answer.__getitem__)]

    def same(self, one: Prediction, other: Prediction) -> bool:
        return all(abs(one[name] - other[name]) <= SAME for name in KAGGLE)

    def format(self, prediction: Prediction) -> str:
        return json.dumps({name: prediction[name] for name in ("idx", *KAGGLE)}, ensure_ascii=False)

    def read_answer(self, prediction: Prediction, record: Record, checked: Checked) -> Prediction:
        """Return the probabilities, rescaled to the sum 1 as Kaggle does, or the decisions of a row for the scorer."""
        idx = self.key(record)
        if type(prediction.get("decisions")) is tuple:  # of no JSON
            return {"idx": idx, "decisions": prediction["decisions"]}
        given = [prediction.get(name) for name in KAGGLE]
        if not all(type(one) in (int, float) and 0 <= one <= LARGEST for one in given) or not any(given):
            seen = ", ".join(f"{name} {one!r:.40}" for name, one in zip(KAGGLE, given, strict=True))
            raise AnswerError("probabilities", seen, "write a number from 0 to 1 for each of A, B and NEITHER")
        total = sum(given)
        checked.noncanonical["sum other than 1"] += abs(total - 1) > 1e-3
        return {"idx": idx, **{name: one / total for name, one in zip(KAGGLE, given, strict=True)}}

    def check_table(self, numbered: Iterable[tuple[int, bytes]], records: Mapping[Idx, Record], file: str) -> Checked:
        """Check a submission; of one for the scorer ids may be missing, which it counts against both names."""
        checked = super().check_table(numbered, records, file)
        if any("decisions" in one for one in checked.predictions.values() if one):
            checked.noncanonical["missing ID"] += checked.counts.pop("missing-idx", 0)
            checked.problems = [problem for problem in checked.problems if problem.rule != "missing-idx"]
            for idx in records.keys() - checked.predictions.keys():
                checked.predictions[idx] = {"idx": idx, "decisions": (None, None)}
        return checked

    def from_submission(self, row: Row) -> Prediction:
        if row.keys() == set(self.submissions[1].columns):
            return {"idx": row["ID"], "decisions": (_true(row["A-coref"]), _true(row["B-coref"]))}
        return {"idx": row["ID"], **{name: float(row[name]) for name in KAGGLE}}

    def to_submission(self, prediction: Prediction) -> Row:
        if "decisions" in prediction:
            raise UsageError("decisions about names are no probabilities", remedy="give the predictions of a model")
        return {"ID": prediction["idx"], **{name: prediction[name] for name in KAGGLE}}

    # -- score ---------------------------------------------------------------------------------------------------
    def columns(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[list, list]:
        return [g["label"] for g in gold], [self.labels_in(p)[0] for p in predictions]

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float | None]:
        if "decisions" in predictions[0]:
            return coreference(gold, predictions)
        losses = [-math.log(min(max(p[g["label"]], LEAST), 1 - LEAST)) for g, p in zip(gold, predictions, strict=True)]
        right = sum(map(eq, *self.columns(gold, predictions)))
        return {"log_loss": math.fsum(losses) / len(gold), "accuracy": right / len(gold)}


def coreference(gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float | None]:
    """Return what the official scorer prints: F1 in percent over two decisions a record, and feminine / masculine.

    Args:
        predictions: `decisions` about A and B; None of a missing id, which is a false negative even where gold is false.
    Returns:
        None for an F1 of no records, and for a bias where either F1 is 0.
    """
    counts = {None: Counter(), "masculine": Counter(), "feminine": Counter()}
    for g, p in zip(gold, predictions, strict=True):
        for name, given in zip("AB", p["decisions"], strict=True):
            for gender in {None, g["gender"]}:
                counts[gender][g["label"] == name or given is None, bool(given)] += 1
    overall, masculine, feminine = (
        200 * c[True, True] / ((2 * c[True, True] + c[True, False] + c[False, True]) or 1) if c else None
        for c in counts.values()
    )
    bias = feminine / masculine if masculine and feminine else None
    return {"overall_f1": overall, "masculine_f1": masculine, "feminine_f1": feminine, "bias": bias}


def _true(cell: str) -> bool:
    if cell.lower() not in ("true", "false"):
        raise ValueError(f"{cell!r:.60} is neither TRUE nor FALSE")
    return cell.lower() == "true"


TASK = GAP()
