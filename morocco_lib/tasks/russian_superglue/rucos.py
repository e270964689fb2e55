"""RuCoS: which entity of a news text belongs into the gap of a query?

Offsets are characters with an exclusive end: text[start:end] is the entity (the original's reader cut one more). An
entity may stand in several inflected forms, any matching one is right. An answer carries the idx of the question.
Source: Russian SuperGLUE, train 72193, val 7577, test 7257 passages with one query each; test has no answers.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from morocco_lib.tasks import metrics
from morocco_lib.tasks.base import Task
from morocco_lib.tasks.checked import AnswerError, Checked, Idx, Prediction, shown
from morocco_lib.tasks.form import AnswerKind, TextPair
from morocco_lib.tasks.jsonl import Record
from morocco_lib.tasks.recombine import Opening
from morocco_lib.tasks.spans import bare

GAP = "@placeholder"


class RuCoS(Task):
    name = "rucos"
    title = "RuCoS"
    benchmark = "Russian SuperGLUE"
    sizes: ClassVar[dict[str, int]] = {"train": 72193, "val": 7577, "test": 7257}
    fields: ClassVar[dict[str, type]] = {"passage": dict, "qas": list}
    metric_names = ("f1", "em")
    answer_kind = AnswerKind.ONE_OF

    def validate(self, record: Record) -> None:
        super().validate(record)
        passage, qas = record["passage"], record["qas"]
        if type(passage.get("text")) is not str or type(passage.get("entities")) is not list:
            raise ValueError("a RuCoS passage has text (str) and entities (list)")
        if len(qas) != 1 or type(qas[0]) is not dict or type(qas[0].get("query")) is not str:
            raise ValueError("a RuCoS record has one query (str) in qas")
        if type(qas[0].get("idx")) is not int:
            raise ValueError(f"the query's 'idx' is {shown(qas[0], 'idx')}; it is int")
        answers = qas[0].get("answers", [])
        if type(answers) is not list:
            raise ValueError(f"the query's 'answers' is {shown(qas[0], 'answers')}; it is list")
        for span in (*passage["entities"], *answers):
            ends = (span.get("start"), span.get("end")) if isinstance(span, dict) else (None, None)
            if any(type(end) is not int for end in ends) or not 0 <= ends[0] < ends[1] <= len(passage["text"]):
                raise ValueError(f"span {json.dumps(span, ensure_ascii=False)[:60]} does not lie in the text")
        if not passage["entities"]:
            raise ValueError("the passage has no entity to choose from")

    def key(self, record: Record) -> Idx:
        return record["qas"][0]["idx"]

    def strip_labels(self, record: Record) -> Record:
        return {**record, "qas": [{k: v for k, v in record["qas"][0].items() if k != "answers"}]}

    def recombine(self, record: Record, other: Record, opening: Opening) -> Record:
        """Return the passage and its entities with the query of `other`."""
        passage, query = record["passage"], other["qas"][0]["query"]
        text, moved = opening(passage["text"], before=min(span["start"] for span in passage["entities"]))
        entities = [{**s, "start": s["start"] + moved, "end": s["end"] + moved} for s in passage["entities"]]
        asked, _ = opening(query, before=query.find(GAP) if GAP in query else None)
        passage = {**passage, "text": text, "entities": entities}
        return {**record, "passage": passage, "qas": [{**record["qas"][0], "query": asked}]}

    def entities(self, record: Record) -> list[str]:
        """Return the texts of the passage's entities in order, every mention."""
        if "mentions" in record:
            return record["mentions"]
        text = record["passage"]["text"]
        return [text[span["start"] : span["end"]] for span in record["passage"]["entities"]]

    def unaligned(self, records: Sequence[Record]) -> int:
        """Return how many entity mentions do not begin and end at the edge of a word."""
        return sum(name != name.strip() or not bare(name) for record in records for name in self.entities(record))

    def skeleton(self, record: Record) -> Record:
        return {"idx": record["idx"], "qas": [{"idx": self.key(record)}], "mentions": self.entities(record)}

    def reindex(self, record: Record, position: int) -> Record:
        return {**record, "idx": position, "qas": [{**record["qas"][0], "idx": position}]}

    def gold(self, record: Record) -> Prediction | None:
        answers = record["qas"][0].get("answers")
        if not answers:
            return None
        text = record["passage"]["text"]
        texts = list(dict.fromkeys(text[span["start"] : span["end"]] for span in answers))
        return {"idx": self.key(record), "label": texts[0] if texts else "", "answers": texts}

    def read_answer(self, prediction: Prediction, record: Record, checked: Checked) -> Prediction:
        label = prediction.get("label")
        if type(label) is not str or not label.strip():
            seen = f"label is {shown(prediction, 'label')}"
            raise AnswerError("label", seen, "print the text of an entity of the passage")
        checked.noncanonical["label"] += label not in self.entities(record)
        return {"idx": self.key(record), "label": label}

    def statistics(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> list[list[float]]:
        """Return (token F1, exact match) of each question: the best over its answers, 0 if there are none."""
        rows = []
        for g, p in zip(gold, predictions, strict=True):
            pairs = [(metrics.token_f1(a, p["label"]), metrics.exact_match(a, p["label"])) for a in g["answers"]]
            rows.append([max(column) for column in zip(*pairs, strict=True)] if pairs else [0.0, 0.0])
        return rows

    def score(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> dict[str, float]:
        f1, em = (sum(column) / len(gold) for column in zip(*self.statistics(gold, predictions), strict=True))
        return {"f1": f1, "em": em}

    def units(self, gold: Sequence[Prediction], predictions: Sequence[Prediction]) -> tuple[Any, Callable]:
        return self.statistics(gold, predictions), lambda sums: sums.mean(axis=1) / len(gold)

    def labels_in(self, answer: Prediction) -> list:
        return []

    def majority(self, gold: Sequence[Prediction]) -> dict[str, Any]:
        return {}  # no answer serves two passages; `constant` gives the entity a passage names most often

    def constant(self, state: dict[str, Any], record: Record) -> Prediction:
        counts = Counter(self.entities(record))
        return {"idx": self.key(record), "label": max(counts, key=counts.__getitem__)}

    def context(self, record: Record) -> str:
        """Return the passage with its highlights joined by spaces."""
        return re.sub(r"\s*@highlight\s*", " ", record["passage"]["text"])

    def candidates(self, record: Record) -> list[str]:
        """Return the different texts of the passage's entities, in order."""
        return list(dict.fromkeys(self.entities(record)))

    def parts(self, record: Record) -> list[TextPair]:
        """Return the passage with the query, a candidate in its gap: text[start:end] of the entities, equal mentions once."""
        query, context = record["qas"][0]["query"], self.context(record)
        gap = query.find(GAP)
        parts = []
        for name in self.candidates(record):
            asked = query.replace(GAP, name) if gap >= 0 else f"{query} {name}"
            start = gap if gap >= 0 else len(query) + 1
            parts.append(TextPair(context, asked, kept=((1, start, start + len(name)),)))
        return parts

    def targets(self, record: Record) -> list[int]:
        right = set(self.gold(record)["answers"])
        return [int(name in right) for name in self.candidates(record)]

    def prediction(self, record: Record, chosen: Sequence[int]) -> Prediction:
        return {"idx": self.key(record), "label": self.candidates(record)[chosen[0]]}

    def bow_text(self, record: Record) -> str:
        return f"{self.context(record)} {record['qas'][0]['query'].replace(GAP, '')}"

    def groups(self, record: Record) -> list[tuple[str, list[str]]]:
        query, names = record["qas"][0]["query"], self.candidates(record)
        return [(self.context(record), [query.replace(GAP, name) for name in names])]

    def pick(self, record: Record, ranking: list[list[int]]) -> Prediction:
        return self.prediction(record, [ranking[0][0]])


TASK = RuCoS()
