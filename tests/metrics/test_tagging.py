"""Metrics of tags: entities as `conlleval` and `seqeval` read them, scores by hand, resampled values against a loop."""

from __future__ import annotations

import importlib
import importlib.util

import numpy as np
import pytest

from hf_ft import UserError
from hf_ft.metrics.bootstrap import resample, resampling_weights
from hf_ft.metrics.tagging import count_entities, entities, metric_values, scheme_of
from hf_ft.tasks.token_classification import TAG

Spans = list[tuple[str, int, int]]

# --- Entities -------------------------------------------------------------------------------------------------------

# Tags, and the entities in them worked out by hand from the rules of conlleval.
BY_HAND: dict[str, tuple[str, Spans]] = {
    "IOB2": ("B-A I-A O B-B", [("A", 0, 2), ("B", 3, 4)]),
    "IOB1": ("I-A I-A O I-B B-B I-A", [("A", 0, 2), ("B", 3, 4), ("B", 4, 5), ("A", 5, 6)]),
    "two that touch": ("B-A B-A I-A", [("A", 0, 1), ("A", 1, 3)]),
    "inside of another type": ("B-A I-B I-B", [("A", 0, 1), ("B", 1, 3)]),
    "inside after nothing": ("O I-A I-A", [("A", 1, 3)]),
    "IOBES": ("S-A B-B I-B E-B S-B O", [("A", 0, 1), ("B", 1, 4), ("B", 4, 5)]),
    "inside after the end": ("B-A E-A I-A E-A", [("A", 0, 2), ("A", 2, 4)]),
    "never ended": ("B-A I-A O E-A", [("A", 0, 2), ("A", 3, 4)]),
    "BILOU": ("U-A B-B L-B B-A I-A L-A", [("A", 0, 1), ("B", 1, 3), ("A", 3, 6)]),
    "hyphens in the type": ("B-A-x I-A-x I-A-y", [("A-x", 0, 2), ("A-y", 2, 3)]),
    "no type": ("B I O B", [("_", 0, 2), ("_", 3, 4)]),
    "types in runs": ("A A O B A", [("A", 0, 2), ("B", 3, 4), ("A", 4, 5)]),
    "parts of speech": ("DET NOUN NOUN", [("DET", 0, 1), ("NOUN", 1, 2), ("NOUN", 2, 3)]),
    "nothing": ("O O", []),
}


def read(line: str) -> Spans:
    tags = line.split()
    scheme = scheme_of(list(dict.fromkeys(tags)))
    parts = dict(zip(dict.fromkeys(tags), scheme.parts, strict=True))
    return entities([parts[tag] for tag in tags])


@pytest.mark.parametrize("case", BY_HAND)
def test_entities_by_hand(case: str) -> None:
    assert len(BY_HAND) == 14
    line, expected = BY_HAND[case]
    assert read(line) == expected


def test_entities_as_seqeval_reads_them() -> None:
    """Random sequences, malformed ones among them; seqeval knows no L and U, and its ends are inclusive."""
    get_entities = importlib.import_module("seqeval.metrics.sequence_labeling").get_entities
    random = np.random.default_rng(0)
    for _ in range(300):
        tags = ["B-A", "I-A", *random.choice(["O", "B-A", "I-A", "E-A", "S-A", "B-B", "I-B"], 12)]
        assert read(" ".join(tags)) == [(kind, a, b + 1) for kind, a, b in get_entities(tags)]


def iob1(random: np.random.Generator, size: int) -> list[str]:
    """A random sequence in IOB1: B- only where an entity follows one of its own type."""
    tags: list[str] = []
    before = ""
    while len(tags) < size:
        kind = str(random.choice(["", "A", "B"]))
        if kind:
            tags += [f"{'B' if kind == before else 'I'}-{kind}", *[f"I-{kind}"] * int(random.integers(0, 3))]
        else:
            tags.append("O")
        before = kind
    return tags[:size]


def test_scores_of_iob1_are_those_of_seqeval() -> None:
    """In its strict mode on sequences in IOB1, in its default mode on anything that a model may predict."""
    seqeval, scheme = importlib.import_module("seqeval.metrics"), importlib.import_module("seqeval.scheme").IOB1
    random, tags = np.random.default_rng(0), ["O", "B-A", "I-A", "B-B", "I-B"]
    number = {tag: i for i, tag in enumerate(tags)}
    different = 0
    for _ in range(60):
        actual = [iob1(random, int(random.integers(1, 12))) for _ in range(10)]
        strict = [one if random.random() < 0.4 else iob1(random, len(one)) for one in actual]
        loose = [[tag if random.random() < 0.7 else str(random.choice(tags)) for tag in one] for one in actual]
        for predicted, options in ((strict, {"mode": "strict", "scheme": scheme}), (loose, {}), (strict, {})):
            found = metric_values(
                *([[number[tag] for tag in one] for one in split] for split in (predicted, actual)), tags
            )
            for name in ("f1", "precision", "recall"):
                theirs = getattr(seqeval, f"{name}_score")(actual, predicted, zero_division=0, **options)
                assert found[name] == pytest.approx(theirs), (name, options)
            different += 0 < found["f1"] < 1
    assert different > 100


def test_schemes_are_found_from_the_tags() -> None:
    found = {name: scheme_of(list(dict.fromkeys(line.split()))).name for name, (line, _) in BY_HAND.items()}
    assert set(found.values()) == {"BIO", "IOBES", "BILOU", "types in runs", "a type for each word"}
    assert {name: found[name] for name in ("IOB2", "IOB1", "IOBES", "BILOU")} == {
        **{"IOB2": "BIO", "IOB1": "BIO"},
        **{"IOBES": "IOBES", "BILOU": "BILOU"},
    }
    assert scheme_of(["S", "NP", "O"]).name == "types in runs"  # letters alone are types, too


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "B-PER", "I-PER", "LOC"], r"Some tags have a prefix \(B-PER, I-PER\) and others have none \(LOC\)"),
        (["O", "B-PER", "E-PER", "U-PER"], r"mix the prefixes of IOBES and of BILOU \(B, E, U\)"),
    ],
)
def test_tags_that_cannot_be_read(tags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        scheme_of(tags)


# --- Metrics --------------------------------------------------------------------------------------------------------

TAGS = ("O", "B-A", "I-A", "B-B", "I-B")


def test_scores_by_hand() -> None:
    """Three entities predicted, four actual, two right: one of two A (of three there), and B wholly."""
    actual = [[1, 2, 0, 3], [1, 0, 1]]
    predicted = [[1, 2, 0, 3], [1, 2, 0]]
    found = metric_values(predicted, actual, TAGS)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["f1_of_A"] == pytest.approx(2 * 1 / (2 + 3))
    assert found["f1_of_B"] == 1
    assert found["f1_macro"] == pytest.approx((0.4 + 1) / 2)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert len(found) == 7
    perfect = metric_values(actual, actual, TAGS)
    assert set(perfect.values()) == {1}
    assert metric_values([[0, 0]], [[0, 0]], TAGS)["f1"] == 0  # nothing there and nothing found


def test_resampling_equals_a_loop() -> None:
    random = np.random.default_rng(0)
    actual = [random.integers(0, 5, size).tolist() for size in random.integers(1, 9, 25)]
    predicted = [[code if random.random() < 0.7 else int(random.integers(5)) for code in row] for row in actual]
    drawn = resample(count_entities(predicted, actual, TAGS).statistics(), 25, resamples=40, seed=3)
    weights = np.concatenate(list(resampling_weights(25, 40, 3)), axis=1).astype(int)
    assert set(TAG.metrics) < set(drawn)
    for i, counts in enumerate(weights.T):
        chosen = np.repeat(np.arange(25), counts)
        single = metric_values([predicted[k] for k in chosen], [actual[k] for k in chosen], TAGS)
        assert {name: array[i] for name, array in drawn.items()} == pytest.approx(single)


def test_intervals_hold_where_all_tags_are_right() -> None:
    """Of 40 sentences, 30 with an X and 10 with a Y: the exact interval of as many sentences as a score is made of."""
    tags = ["O", "B-X", "B-Y"]
    actual = [[0, 1, 0]] * 30 + [[2, 0]] * 10
    outputs = [np.array([[code, 0.9] for code in codes]) for codes in actual]
    scores = TAG.score(outputs, actual, tags)
    assert {score.value for score in scores.values()} == {1.0}
    assert {score.high for score in scores.values()} == {1.0}
    sentences = {"f1": 40, "precision": 40, "recall": 40, "accuracy": 40, "f1_of_X": 30, "f1_of_Y": 10}
    for name, n in (sentences | {"f1_macro": 4 / (1 / 30 + 1 / 10)}).items():
        assert scores[name].low == pytest.approx(0.025 ** (1 / n)), name
    wrong = TAG.score([np.array([[0, 0.9]] * len(codes)) for codes in actual], actual, tags)
    assert wrong["recall"].high == pytest.approx(1 - 0.025 ** (1 / 40))
    assert (wrong["precision"].low, wrong["precision"].high) == (0, 1)  # nothing was predicted: nothing is known
