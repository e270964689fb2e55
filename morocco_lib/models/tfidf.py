"""TF-IDF and logistic regression: the original's baseline, answered from three arrays without scikit-learn.

A text's vector is count(term) x idf(term), scaled to length 1; the answer is the class with the highest
coef . vector + intercept (for two classes: the second if that is above 0). Fitted by scikit-learn's TfidfVectorizer
and LogisticRegression, with their defaults if not said otherwise, whose definitions of term, idf and decision are repeated here.

Where the answer is a number it is slope x cosine + intercept, of the vectors of a record's two texts, by least squares.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from morocco_lib.errors import UsageError
from morocco_lib.tasks.base import Prediction, Task
from morocco_lib.tasks.form import AnswerKind
from morocco_lib.tasks.jsonl import Record

WORD = re.compile(r"(?u)\b\w\w+\b")  # scikit-learn's default token pattern


class Tfidf:
    """A fitted model.

    Args:
        vocabulary: Term -> column.
        idf: Shape (terms,).
        labels: The classes, in the order of `coef`'s rows (two classes: one row, positive for the second); empty for
            tasks that compare texts of one record, which need no classifier, and for numbers.
        coef: Shape (classes or 1, terms), or (1, 1) for numbers; None where texts are compared.
        intercept: Shape (classes or 1,), or (1,) for numbers; None where texts are compared.
        ngrams: A term is up to so many words.
        lowercase: Whether texts are read in lower case.
    """

    kind = "tfidf"

    def __init__(
        self,
        task: Task,
        vocabulary: dict[str, int],
        idf,
        labels: list,
        coef=None,
        intercept=None,
        ngrams=1,
        lowercase=True,
    ):
        if idf.shape != (len(vocabulary),):
            raise ValueError(f"{len(vocabulary)} terms, but idf {idf.shape}")
        number = task.answer_kind is AnswerKind.NUMBER
        if bool(labels) == (compares(task) or number) or not set(labels) <= set(task.labels):
            raise ValueError(f"labels {labels} do not fit {task.title}")
        rows, columns = (1, 1) if number else (1 if len(labels) == 2 else len(labels), len(vocabulary))
        if not compares(task) and (coef.shape != (rows, columns) or intercept.shape != (rows,)):
            raise ValueError(f"{len(labels)} labels, but coef {coef.shape}, intercept {intercept.shape}")
        self.task, self.vocabulary, self.idf = task, vocabulary, idf
        self.labels, self.coef, self.intercept = labels, coef, intercept
        self.ngrams, self.lowercase = ngrams, lowercase

    def __repr__(self) -> str:
        return f"<Tfidf of {self.task.title}: {len(self.vocabulary)} terms>"

    @classmethod
    def fit(
        cls, task: Task, records: Sequence[Record], seed: int, *, ngrams=1, lowercase=True, min_df=1, max_df=1.0, c=1.0
    ) -> "Tfidf":
        """Fit vectoriser and, where the task has classes, classifier; deterministic, so the seed changes nothing.

        Args:
            ngrams, lowercase: See the class.
            min_df, max_df: Texts that a term is in: so many at least, this share of all at most.
            c: Inverse strength of the classifier's regularisation.
        Raises:
            UsageError: nothing can be learnt from these records.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression

        vectorizer = TfidfVectorizer(ngram_range=(1, ngrams), lowercase=lowercase, min_df=min_df, max_df=max_df)
        classifier = LogisticRegression(C=c, random_state=seed)
        try:
            matrix = vectorizer.fit_transform([task.bow_text(record) for record in records])
            number = task.answer_kind is AnswerKind.NUMBER
            if not compares(task) and not number:
                classifier.fit(matrix, [task.gold(record)["label"] for record in records])
        except ValueError as error:  # one label only, or no term in any text
            raise UsageError(
                f"tfidf cannot be fitted: {error}",
                rule="training needs records of two labels at least, with words in them",
                remedy="give the whole train split",
            ) from None
        vocabulary = {term: int(column) for term, column in sorted(vectorizer.vocabulary_.items())}
        if compares(task):
            return cls(task, vocabulary, vectorizer.idf_, [], ngrams=ngrams, lowercase=lowercase)
        if number:
            model = cls(task, vocabulary, vectorizer.idf_, [], np.zeros((1, 1)), np.zeros(1), ngrams, lowercase)
            cosines = model.cosines(records)
            slope, intercept = np.linalg.lstsq(
                np.stack([cosines, np.ones(len(cosines))], axis=1), [task.gold(r)["label"] for r in records], rcond=None
            )[0]
            model.coef[0, 0], model.intercept[0] = slope, intercept
            return model
        classes = classifier.classes_.tolist()
        return cls(
            task, vocabulary, vectorizer.idf_, classes, classifier.coef_, classifier.intercept_, ngrams, lowercase
        )

    def state(self) -> tuple[dict, dict]:
        terms = sorted(self.vocabulary, key=self.vocabulary.__getitem__)
        arrays = {"idf": self.idf, "coef": self.coef, "intercept": self.intercept}
        values = {"labels": self.labels, "terms": terms, "ngrams": self.ngrams, "lowercase": self.lowercase}
        return values, {k: v for k, v in arrays.items() if v is not None}

    @classmethod
    def from_state(cls, task: Task, values: dict, arrays: dict) -> "Tfidf":
        vocabulary = {term: column for column, term in enumerate(values["terms"])}
        labels = values["labels"]
        linear = (None, None) if compares(task) else (arrays["coef"], arrays["intercept"])
        reading = values.get("ngrams", 1), values.get("lowercase", True)
        return cls(task, vocabulary, arrays["idf"], labels, *linear, *reading)

    def terms(self, text: str) -> list[str]:
        """Return the terms of a text, known or not."""
        words = WORD.findall(text.lower() if self.lowercase else text)
        return [" ".join(words[k : k + n]) for n in range(1, self.ngrams + 1) for k in range(len(words) - n + 1)]

    def vectors(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return (row, column, value) of the texts' vectors, each of length 1, or 0 without a known term."""
        columns, counts, sizes = [], [], []
        known = self.vocabulary
        for text in texts:
            terms = Counter(known[term] for term in self.terms(text) if term in known)
            columns.extend(terms)
            counts.extend(terms.values())
            sizes.append(len(terms))
        column, row = np.array(columns, dtype=np.intp), np.repeat(np.arange(len(texts)), sizes)
        value = np.array(counts, dtype=float) * self.idf[column]
        length = np.sqrt(np.bincount(row, value * value, minlength=len(texts)))
        return row, column, value / length[row]

    def decision(self, texts: Sequence[str]) -> np.ndarray:
        """Return the decision values, shape (texts, classes or 1), equal to scikit-learn's to 1e-9."""
        row, column, value = self.vectors(texts)
        products = [np.bincount(row, value * coef[column], minlength=len(texts)) for coef in self.coef]
        return np.stack(products, axis=1) + self.intercept

    def similarities(self, context: str, options: Sequence[str]) -> np.ndarray:
        """Return the cosine of every option's vector with the context's, shape (options,)."""
        row, column, value = self.vectors([context, *options])
        of_context = row == 0
        dense = np.zeros(len(self.vocabulary))
        dense[column[of_context]] = value[of_context]
        return np.bincount(row, value * dense[column], minlength=len(options) + 1)[1:]

    def cosines(self, records: Sequence[Record]) -> np.ndarray:
        """Return the cosine of the two texts of each record, shape (records,)."""
        pairs = [self.task.parts(record)[0] for record in records]
        one, other = (self.vectors(texts) for texts in zip(*((pair.first, pair.second) for pair in pairs), strict=True))
        keys = (row * len(self.vocabulary) + column for row, column, _ in (one, other))
        _, here, there = np.intersect1d(*keys, assume_unique=True, return_indices=True)
        return np.bincount(one[0][here], one[2][here] * other[2][there], minlength=len(records))

    def answer(self, records: Sequence[Record]) -> list[Prediction]:
        if compares(self.task):
            return [self._compare(record) for record in records]
        if self.task.answer_kind is AnswerKind.NUMBER:
            numbers = self.coef[0, 0] * self.cosines(records) + self.intercept[0]
            return [self.task.prediction(record, [n]) for record, n in zip(records, numbers.tolist(), strict=True)]
        values = self.decision([self.task.bow_text(record) for record in records])
        if self.task.answer_kind is AnswerKind.PROBABILITIES:
            shares = self._probabilities(values).tolist()
            return [self.task.prediction(record, share) for record, share in zip(records, shares, strict=True)]
        best = (values[:, 0] > 0).astype(int) if len(self.labels) == 2 else values.argmax(axis=1)
        return [
            {"idx": self.task.key(record), "label": self.labels[k]}
            for record, k in zip(records, best.tolist(), strict=True)
        ]

    def _probabilities(self, values: np.ndarray) -> np.ndarray:
        """Return scikit-learn's probabilities of decision values, shape (texts, labels of the task); 0 for labels never seen."""
        if len(self.labels) == 2:
            values = np.concatenate([np.zeros_like(values), values], axis=1)
        powers = np.exp(values - values.max(axis=1, keepdims=True))
        shares = np.zeros((len(values), len(self.task.labels)))
        shares[:, [self.task.labels.index(label) for label in self.labels]] = powers / powers.sum(axis=1, keepdims=True)
        return shares

    def _compare(self, record: Record) -> Prediction:
        # A stable order: of equally similar options the first wins, as in the original.
        groups = self.task.groups(record)
        rankings = [np.argsort(-self.similarities(*group), kind="stable").tolist() for group in groups]
        return self.task.pick(record, rankings)


def compares(task: Task) -> bool:
    """Tell whether the task compares texts of one record (`groups` of tasks.base.Task) instead of classifying it."""
    return hasattr(task, "groups")
