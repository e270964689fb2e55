"""TF-IDF and logistic regression: the original's baseline, answered from three arrays without scikit-learn.

A text's vector is count(term) x idf(term), scaled to length 1; the answer is the class with the highest
coef . vector + intercept (for two classes: the second if that is above 0). Fitted by scikit-learn's TfidfVectorizer
and LogisticRegression with their defaults, whose definitions of term, idf and decision are repeated here.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.records import Record

TERM = re.compile(r"(?u)\b\w\w+\b")  # scikit-learn's default token pattern, on lower-cased text


class Tfidf:
    """A fitted model.

    Args:
        labels: The classes, in the order of `coef`'s rows (two classes: one row, positive for the second).
        vocabulary: Term -> column.
        idf: Shape (terms,).
        coef: Shape (classes or 1, terms).
        intercept: Shape (classes or 1,).
    """

    kind = "tfidf"

    def __init__(self, task: Task, labels: list[str], vocabulary: dict[str, int], idf, coef, intercept):
        if idf.shape != (len(vocabulary),) or coef.shape != (len(intercept), len(vocabulary)):
            raise ValueError(
                f"{len(vocabulary)} terms, but idf {idf.shape}, coef {coef.shape}, intercept {intercept.shape}"
            )
        if len(intercept) != (1 if len(labels) == 2 else len(labels)) or not set(labels) <= set(task.labels):
            raise ValueError(f"labels {labels} do not fit {task.title} or the arrays")
        self.task, self.labels, self.vocabulary = task, labels, vocabulary
        self.idf, self.coef, self.intercept = idf, coef, intercept

    @classmethod
    def fit(cls, task: Task, records: Sequence[Record], seed: int) -> "Tfidf":
        """Fit vectoriser and classifier on labelled records; deterministic, so the seed changes nothing.

        Raises:
            UsageError: nothing can be learnt from these records.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        labels = [task.gold(record)["label"] for record in records]
        vectorizer, classifier = TfidfVectorizer(), LogisticRegression(random_state=seed)
        try:
            classifier.fit(vectorizer.fit_transform([task.bag_text(record) for record in records]), labels)
        except ValueError as error:  # one label only, or no term in any text
            raise UsageError(
                f"tfidf cannot be fitted: {error}",
                rule="training needs records of two labels at least, with words in them",
                remedy="give the whole train split",
            ) from None
        vocabulary = {term: int(column) for term, column in sorted(vectorizer.vocabulary_.items())}
        return cls(
            task, classifier.classes_.tolist(), vocabulary, vectorizer.idf_, classifier.coef_, classifier.intercept_
        )

    def state(self) -> tuple[dict, dict]:
        terms = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        return {"labels": self.labels, "terms": terms}, {
            "idf": self.idf,
            "coef": self.coef,
            "intercept": self.intercept,
        }

    @classmethod
    def from_state(cls, task: Task, values: dict, arrays: dict) -> "Tfidf":
        vocabulary = {term: column for column, term in enumerate(values["terms"])}
        return cls(task, values["labels"], vocabulary, arrays["idf"], arrays["coef"], arrays["intercept"])

    def decision(self, texts: Sequence[str]) -> np.ndarray:
        """Return the decision values, shape (texts, classes or 1), equal to scikit-learn's to 1e-9."""
        columns, counts, sizes = [], [], []
        known = self.vocabulary
        for text in texts:
            terms = Counter(known[term] for term in TERM.findall(text.lower()) if term in known)
            columns.extend(terms)
            counts.extend(terms.values())
            sizes.append(len(terms))
        column, row = np.array(columns, dtype=np.intp), np.repeat(np.arange(len(texts)), sizes)
        weight = np.array(counts, dtype=float) * self.idf[column]
        length = np.sqrt(np.bincount(row, weight * weight, minlength=len(texts)))
        length[length == 0] = 1.0  # no known term: the vector is zero, and so is its product
        products = [np.bincount(row, weight * coef[column], minlength=len(texts)) for coef in self.coef]
        return np.stack(products, axis=1) / length[:, None] + self.intercept

    def answer(self, records: Sequence[Record]) -> list[Prediction]:
        values = self.decision([self.task.bag_text(record) for record in records])
        best = (values[:, 0] > 0).astype(int) if len(self.labels) == 2 else values.argmax(axis=1)
        return [
            {"idx": record["idx"], "label": self.labels[k]} for record, k in zip(records, best.tolist(), strict=True)
        ]
