"""Metrics of tags, one per word: whole entities as `conlleval` defines them, and word accuracy.

A test compares the values with `seqeval`. Own code, because `seqeval` scores one sample at a time, while here a
thousand resamples of the sentences are matrix products of counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from hf_ft.errors import UserError, shorten
from hf_ft.metrics.bootstrap import Floats, Score, Statistic, even_size, intervals, ratio, resample
from hf_ft.metrics.counts import Counts
from hf_ft.metrics.per_class import ClassScore

HIGHER_IS_BETTER: Mapping[str, bool] = MappingProxyType(
    dict.fromkeys(("f1", "precision", "recall", "f1_macro", "accuracy"), True)
)
"""Metric -> whether a greater value is better."""

Sentences = Sequence[Sequence[int]]
"""The tag ids of the words of each sentence."""


def score(predicted: Sentences, actual: Sentences, tags: Sequence[str]) -> dict[str, Score]:
    """Return every metric over all words, with its 95 % bootstrap interval over sentences."""
    counted, n = count_entities(predicted, actual, tags), len(actual)
    formulas = counted.statistics()
    return intervals(_at_once(formulas, n), resample(formulas, n), n, sizes=counted.sizes())


def bootstrap(predicted: Sentences, actual: Sentences, tags: Sequence[str], metric: str) -> Floats:
    """Return one metric over all words on 1,000 resamples of the sentences, `(resamples,)`."""
    formulas = count_entities(predicted, actual, tags).statistics()
    return resample({metric: formulas[metric]}, len(actual))[metric]


def type_scores(predicted: Sentences, actual: Sentences, tags: Sequence[str]) -> list[ClassScore]:
    """Return precision, recall, F1 and number of entities of each type."""
    counted = count_entities(predicted, actual, tags)
    counts = Counts(*(table.sum(axis=1, keepdims=True) for table in counted.entities))
    columns = (counts.precision[:, 0], counts.recall[:, 0], counts.f1[:, 0], counts.actual[:, 0])
    return [
        ClassScore(kind, float(precision), float(recall), float(f1), int(support))
        for kind, precision, recall, f1, support in zip(counted.types, *columns, strict=True)
    ]


@dataclass(frozen=True)
class EntityCounts:
    """Counts by sentence that all metrics are computed from.

    Args:
        types: The types of entities.
        entities: Right, predicted and actual entities, `(3, types, sentences)`.
        words: Words of each sentence, `(sentences,)`.
        right: Words with the right tag, `(sentences,)`.
    """

    types: tuple[str, ...]
    entities: Floats
    words: Floats
    right: Floats

    def statistics(self) -> dict[str, Statistic]:
        """Return every metric as a function of sentence weights `(sentences, resamples)`."""

        def counting(formula: Callable[[Counts], Floats]) -> Statistic:
            return lambda weights: formula(Counts(*(table @ weights for table in self.entities)))

        def one(i: int) -> Statistic:
            return lambda weights: Counts(*(table[i] @ weights for table in self.entities)).f1

        return {
            "f1": counting(lambda counts: counts.pooled.f1),
            "precision": counting(lambda counts: counts.pooled.precision),
            "recall": counting(lambda counts: counts.pooled.recall),
            "f1_macro": counting(lambda counts: counts.macro(counts.f1)),
            "accuracy": lambda weights: ratio(self.right @ weights, self.words @ weights),
        } | {f"f1_of_{kind}": one(i) for i, kind in enumerate(self.types)}

    def sizes(self) -> dict[str, float]:
        """Return the number of sentences that each metric averages: entities in a sentence are not independent."""
        _, predicted, actual = self.entities > 0
        having = (predicted | actual).sum(axis=1)
        return {
            "f1": float((predicted | actual).any(axis=0).sum()),
            "precision": float(predicted.any(axis=0).sum()),
            "recall": float(actual.any(axis=0).sum()),
            "f1_macro": even_size(having),
            "accuracy": float(len(self.words)),
        } | {f"f1_of_{kind}": float(count) for kind, count in zip(self.types, having, strict=True)}


def count_entities(
    predicted: Sequence[Sequence[int]], actual: Sequence[Sequence[int]], tags: Sequence[str]
) -> EntityCounts:
    """Count right, predicted and actual entities and words in each sentence.

    An entity is right if its type, first and last word are. `f1`, `precision` and `recall` pool all types, `f1_macro`
    averages the types that occur, `f1_of_TYPE` is for one type, and `accuracy` is the share of words with the right
    tag.
    """
    scheme = scheme_of(tags)
    place = {kind: i for i, kind in enumerate(scheme.types)}
    tables = np.zeros((3, len(place), len(actual)))
    for column, pair in enumerate(zip(predicted, actual, strict=True)):
        guessed, true = (set(entities([scheme.parts[code] for code in codes])) for codes in pair)
        for row, group in zip(tables, (guessed & true, guessed, true), strict=True):
            for kind, _, _ in group:
                row[place[kind], column] += 1
    words = np.array([len(codes) for codes in actual], dtype=np.float64)
    right = np.array([np.sum(np.asarray(a) == np.asarray(b)) for a, b in zip(predicted, actual, strict=True)])
    return EntityCounts(scheme.types, tables, words, right)


def metric_values(
    predicted: Sequence[Sequence[int]], actual: Sequence[Sequence[int]], tags: Sequence[str]
) -> dict[str, float]:
    """Return every metric, without intervals."""
    return _at_once(count_entities(predicted, actual, tags).statistics(), len(actual))


def _at_once(formulas: Mapping[str, Statistic], n: int) -> dict[str, float]:
    return {name: float(formula(np.ones((n, 1)))[0]) for name, formula in formulas.items()}


# --- Tags and the entities they mark --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """A tagging scheme: for each tag its position in an entity (B, I, E, S or O) and the entity's type."""

    name: str
    parts: tuple[tuple[str, str], ...]

    @property
    def types(self) -> tuple[str, ...]:
        """The types of entities, in the order of the tags."""
        return tuple(dict.fromkeys(kind for place, kind in self.parts if place != "O"))


PREFIXES = {"B": "B", "I": "I", "E": "E", "S": "S", "L": "E", "U": "S"}
"""Prefix of a tag -> position: BILOU's last and unit are IOBES's end and single."""


def scheme_of(tags: Sequence[str]) -> Scheme:
    """Return the scheme of a list of tags.

    Tags with prefixes are BIO (IOB1 and IOB2 are read alike), IOBES or BILOU. Tags without prefixes are types: with an
    `O` among them, consecutive words of one type form an entity; without (parts of speech), each word is an entity.

    Raises:
        UserError: Only some tags have a prefix, or prefixes of IOBES and BILOU are mixed.
    """
    marks = {tag: tag[0] for tag in tags if tag[:1] in PREFIXES and (len(tag) == 1 or tag[1] == "-")}
    plain = [tag for tag in tags if tag not in marks and tag != "O"]
    lone = plain and not any("-" in tag for tag in marks)  # single letters may be types as well
    if lone or not set("BI") & set(marks.values()):
        marks, plain = {}, [tag for tag in tags if tag != "O"]
    used = set(marks.values())
    if marks and plain:
        raise UserError(
            f"Some tags have a prefix ({shorten(marks, 3)}) and others have none ({shorten(plain, 3)}), so entities "
            "are ambiguous. Write B- and I- before all types, and O for the rest."
        )
    if used & set("ES") and used & set("LU"):
        raise UserError(
            f"The tags mix the prefixes of IOBES and of BILOU ({', '.join(sorted(used))}). Write them in one scheme."
        )
    if not marks:
        place, name = ("I", "types in runs") if "O" in tags else ("S", "a type for each word")
        return Scheme(name, tuple(("O", "") if tag == "O" else (place, tag) for tag in tags))
    name = "BILOU" if used & set("LU") else "IOBES" if used & set("ES") else "BIO"
    return Scheme(name, tuple(("O", "") if tag == "O" else (PREFIXES[tag[0]], tag[2:] or "_") for tag in tags))


def entities(tags: Sequence[tuple[str, str]]) -> list[tuple[str, int, int]]:
    """Return the entities in a sequence of (position, type): type, first word, and the word after the last.

    Malformed sequences are read as by `conlleval` of CoNLL-2000 and by `seqeval` in its default mode: an entity ends
    before B, S, O or another type and after E and S, and begins wherever none is open
    (https://www.cnts.ua.ac.be/conll2000/chunking/conlleval.txt).
    """
    found: list[tuple[str, int, int]] = []
    begin, before, open_kind = 0, "O", ""
    for i, (place, kind) in enumerate([*tags, ("O", "")]):
        ends = before != "O" and (before in "ES" or place in "BSO" or kind != open_kind)
        if ends:
            found.append((open_kind, begin, i))
        if place != "O" and (ends or before == "O"):
            begin = i
        before, open_kind = place, kind
    return found
