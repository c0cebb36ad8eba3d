"""The scores of features against their definitions, and the correlation of rankings against a published table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import permutations, product

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import weightedtau
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hf_ft.heads.labels import label_columns
from hf_ft.heads.logme import logme
from hf_ft.heads.rank_correlation import agreement, ranks
from hf_ft.heads.transferability import assign_folds, constant_score, knn, measure, ridge_probe, transferability_scores

# --- LogME ------------------------------------------------------------------------------------------------------------


def evidence(features: np.ndarray, column: np.ndarray) -> float:
    """The largest log evidence of a column by example, found by trying: the definition, with its full covariance."""
    n = len(features)

    def negative(logs: np.ndarray) -> float:
        alpha, beta = np.exp(np.clip(logs, -20, 20))
        covariance = np.eye(n) / beta + features @ features.T / alpha
        _, size = np.linalg.slogdet(2 * np.pi * covariance)
        return 0.5 * float(size + column @ np.linalg.solve(covariance, column)) / n

    starts = [(a, b) for a in (-12.0, -6.0, -2.0, 2.0, 6.0) for b in (0.0, 2.0)]
    options = {"xatol": 1e-7, "fatol": 1e-11, "maxiter": 2000}
    return -min(minimize(negative, start, method="Nelder-Mead", options=options).fun for start in starts)


def drawn(n: int, d: int, seed: int, signal: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Features of unlike scales, and numbers that depend on them but for noise."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(n, d)) * np.geomspace(0.3, 3, d)
    return features, signal * features @ random.normal(size=d) / d**0.5 + random.normal(size=n)


@pytest.mark.parametrize(("n", "d"), [(40, 5), (30, 30), (20, 50)])
def test_logme_of_numbers_is_the_largest_evidence(n: int, d: int) -> None:
    """More examples than features, as many, and fewer; numbers are standardised before."""
    features, numbers = drawn(n, d, seed=n)
    standard = (numbers - numbers.mean()) / numbers.std()
    assert logme(features, numbers) == pytest.approx(evidence(features, standard), abs=1e-5)


def test_logme_where_features_hardly_differ_from_their_mean() -> None:
    """There are two maxima then, and a fixed point that begins at a ratio of 1 stops at the lesser one."""
    features, numbers = drawn(60, 6, seed=9, signal=2.0)
    nearly = np.column_stack([np.full(60, 8.0), 1e-3 * features])
    classes = (numbers > 0).astype(int)
    column = classes.astype(float)
    alone = evidence(nearly[:, :1], column)
    best = evidence(nearly, column)
    assert best > alone + 0.1
    assert logme(nearly, classes) == pytest.approx((best + evidence(nearly, 1 - column)) / 2, abs=1e-5)


def test_logme_of_classes_is_the_mean_over_one_against_the_rest() -> None:
    """Three classes make three columns; what the classes are called does not matter."""
    features, numbers = drawn(45, 6, seed=3)
    classes = np.digitize(numbers, np.quantile(numbers, [0.3, 0.7]))
    expected = np.mean([evidence(features, (classes == k).astype(float)) for k in range(3)])
    assert logme(features, classes) == pytest.approx(expected, abs=1e-5)
    assert logme(features, 10 - 4 * classes) == pytest.approx(expected, abs=1e-5)


def test_logme_of_several_labels_is_the_mean_over_labels() -> None:
    """Each label is a column; one that no example carries is left out."""
    features, numbers = drawn(40, 6, seed=4)
    labels = np.stack([numbers > 0, numbers > 1, np.zeros(40)], axis=1).astype(float)
    expected = np.mean([evidence(features, labels[:, k]) for k in range(2)])
    assert logme(features, labels) == pytest.approx(expected, abs=1e-5)


def test_logme_without_any_signal_is_that_of_no_features() -> None:
    """Features that say nothing are given no weight: what is left is the evidence of a normal about zero."""
    random = np.random.default_rng(0)
    features, numbers = random.normal(size=(400, 3)), random.normal(size=400)
    numbers -= features @ np.linalg.lstsq(features, numbers, rcond=None)[0]
    assert logme(features, numbers) == pytest.approx(-0.5 * (math.log(2 * math.pi) + 1), abs=1e-3)


def test_logme_does_not_change_with_the_scale_of_features() -> None:
    """Networks differ in the scale of what they give, which says nothing about them."""
    features, numbers = drawn(60, 8, seed=5)
    assert logme(1e3 * features, numbers) == pytest.approx(logme(features, numbers), abs=1e-6)
    assert logme(features[:, :4], numbers) < logme(features, numbers) - 0.01


def test_logme_of_an_exact_fit_is_finite() -> None:
    """Labels that features give exactly have no largest evidence."""
    features, _ = drawn(30, 4, seed=6)
    assert math.isfinite(logme(features, features[:, 0].copy()))
    assert logme(features, features[:, 0].copy()) > logme(features, drawn(30, 4, seed=7)[1])


# --- k-NN and probe ---------------------------------------------------------------------------------------------------


def blobs(apart: float, seed: int = 0, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Three classes around centres that are so far apart."""
    random = np.random.default_rng(seed)
    classes = random.integers(3, size=n)
    return random.normal(size=(n, 12)) + apart * random.normal(size=(3, 12))[classes], classes


def test_knn_is_that_of_scikit_learn() -> None:
    """The same standardising, cosine, weights and folds give the same accuracy."""
    features, classes = blobs(0.5)
    folds = assign_folds(classes)
    voters = KNeighborsClassifier(10, metric="cosine", algorithm="brute", weights=lambda d: np.maximum(1 - d, 1e-6))
    found = cross_val_predict(make_pipeline(StandardScaler(), voters), features, classes, cv=PredefinedSplit(folds))
    score = knn(features, classes, folds, "accuracy")
    assert score == pytest.approx((found == classes).mean())
    assert 0.5 < score < 0.98


@pytest.mark.parametrize("score", [knn, ridge_probe])
def test_scores_tell_features_with_signal(score: object) -> None:
    """Classes far apart are told; labels dealt at random are not, which they would be if folds leaked."""
    assert callable(score)
    features, classes = blobs(3.0)
    folds = assign_folds(classes)
    shuffled = np.random.default_rng(1).permutation(classes)
    assert score(features, classes, folds, "accuracy") > 0.97
    assert score(features, shuffled, assign_folds(shuffled), "accuracy") < constant_score(shuffled, "accuracy") + 0.15


def test_probe_of_numbers_and_of_several_labels() -> None:
    """R2 near what the noise leaves; mean average precision far above that of no features."""
    features, numbers = drawn(300, 8, seed=8, signal=3.0)
    folds = assign_folds(numbers)
    assert constant_score(numbers, "r2") == pytest.approx(0)
    assert ridge_probe(features, numbers, folds, "r2") == pytest.approx(1 - 1 / numbers.var(), abs=0.05)
    labels = np.stack([numbers > 0, numbers > 2], axis=1).astype(float)
    assert constant_score(labels, "map") == pytest.approx(labels.mean())
    assert ridge_probe(features, labels, assign_folds(labels), "map") > 0.9


def test_more_features_than_examples() -> None:
    """What a large backbone gives for few examples is scored as well."""
    random = np.random.default_rng(2)
    classes = np.arange(30) % 3
    features = random.normal(size=(30, 500)) + np.eye(3)[classes] @ random.normal(size=(3, 500))
    scores = transferability_scores(features, classes, "accuracy")
    assert set(scores) == {"logme", "knn", "probe"}
    assert all(math.isfinite(value) for value in scores.values())
    assert scores["probe"] > 0.9


def test_folds_share_out_classes_and_keep_groups() -> None:
    """Each fold has its share of each class and of large numbers; the words of a sentence stay together."""
    classes = np.repeat([0, 1], [80, 20])
    folds = assign_folds(classes)
    assert [[int(((folds == f) & (classes == k)).sum()) for f in range(5)] for k in (0, 1)] == [[16] * 5, [4] * 5]
    assert not np.array_equal(folds, assign_folds(classes, seed=1))
    numbers = np.random.default_rng(0).normal(size=100)
    assert np.ptp([numbers[assign_folds(numbers) == f].mean() for f in range(5)]) < 0.25
    groups = np.repeat(np.arange(20), 6)
    grouped = assign_folds(np.zeros(120, dtype=int), groups)
    assert all(len(np.unique(grouped[groups == g])) == 1 for g in range(20))
    assert np.bincount(grouped).tolist() == [24] * 5


def test_measures() -> None:
    """On three examples, by hand."""
    found, columns = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), label_columns(np.array([0, 1, 1]))
    assert measure(found, columns, "accuracy") == pytest.approx(2 / 3)
    assert measure(found, columns, "f1_macro") == pytest.approx(2 / 3)
    assert measure(found, columns, "map") == pytest.approx(1.0)
    assert measure(np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]]), "r2") == pytest.approx(1 - 4 / 4.5)


# --- Rankings ---------------------------------------------------------------------------------------------------------

# What fine-tuning gave for GoogleNet, Inception V3, ResNet50, 101, 152, DenseNet121, 169, 201, MobileNet V2, MNasNet,
# how each score rates them, and the weighted tau of the two, by data set. From the README of examples/model_selection
# in https://github.com/thuml/Transfer-Learning-Library.
ACCURACY = {
    "Aircraft": (82.7, 88.8, 86.6, 85.6, 85.3, 85.4, 84.5, 84.6, 82.8, 72.8),
    "Caltech101": (91.7, 94.3, 91.8, 93.1, 93.2, 91.9, 92.5, 93.4, 89.1, 91.5),
    "CIFAR10": (96.2, 97.5, 96.8, 97.7, 97.9, 97.2, 97.4, 97.4, 95.7, 96.8),
    "CIFAR100": (83.2, 86.6, 84.5, 87.0, 87.6, 84.8, 85.0, 86.0, 80.8, 83.9),
    "DTD": (73.6, 77.2, 75.2, 76.2, 75.4, 74.9, 74.8, 74.5, 72.9, 72.8),
    "Pets": (91.9, 93.5, 92.5, 94.0, 94.5, 92.9, 93.1, 92.8, 90.5, 89.4),
    "Cars": (91.0, 92.3, 91.7, 91.7, 92.0, 91.5, 91.5, 91.0, 91.0, 88.5),
    "SUN397": (62.0, 65.7, 64.7, 64.8, 66.0, 62.3, 63.0, 64.7, 60.5, 60.7),
}
PUBLISHED = {
    ("Aircraft", "H-score"): (0.664, (28.37, 43.89, 46.23, 46.13, 46.25, 31.53, 41.81, 46.01, 34.43, 35.28)),
    ("Caltech101", "H-score"): (0.721, (75.88, 93.73, 91.65, 92.54, 92.91, 75.02, 86.37, 89.9, 75.82, 77.0)),
    ("CIFAR10", "H-score"): (0.8, (5.911, 6.363, 6.567, 6.901, 6.945, 6.21, 6.547, 6.706, 5.928, 6.018)),
    ("CIFAR100", "H-score"): (0.775, (29.33, 36.47, 40.2, 43.8, 44.19, 32.13, 37.51, 39.75, 30.36, 32.05)),
    ("DTD", "H-score"): (0.416, (34.61, 57.17, 78.26, 117.23, 32.3, 35.23, 43.36, 45.96, 37.99, 38.03)),
    ("Pets", "H-score"): (0.425, (28.02, 33.29, 32.55, 32.76, 32.86, 27.09, 30.09, 31.25, 27.83, 27.95)),
    ("Cars", "H-score"): (0.638, (41.47, 73.68, 72.94, 73.98, 76.17, 45.82, 63.4, 70.5, 51.12, 51.91)),
    ("SUN397", "H-score"): (0.918, (71.35, 114.21, 110.39, 113.63, 116.51, 72.16, 95.8, 103.09, 75.9, 80.91)),
    ("Aircraft", "LEEP"): (-0.264, (-4.31, -4.202, -4.215, -4.23, -4.23, -4.228, -4.245, -4.206, -4.198, -4.192)),
    ("Caltech101", "LEEP"): (0.127, (-1.462, -1.119, -1.02, -0.899, -0.875, -0.979, -0.864, -0.914, -1.115, -1.043)),
    ("CIFAR10", "LEEP"): (0.638, (-1.385, -1.259, -1.01, -0.829, -0.838, -1.035, -0.934, -0.888, -1.1, -1.066)),
    ("CIFAR100", "LEEP"): (0.659, (-3.234, -2.995, -2.612, -2.365, -2.41, -2.665, -2.494, -2.47, -2.8, -2.732)),
    ("DTD", "LEEP"): (-0.004, (-2.333, -2.135, -1.985, -1.974, -1.924, -2.001, -1.817, -1.926, -2.098, -2.033)),
    ("Pets", "LEEP"): (-0.143, (-1.064, -0.888, -0.805, -0.769, -0.732, -0.837, -0.779, -0.81, -0.902, -0.854)),
    ("Cars", "LEEP"): (0.703, (-4.612, -4.268, -4.366, -4.281, -4.215, -4.437, -4.286, -4.319, -4.463, -4.423)),
    ("SUN397", "LEEP"): (0.581, (-3.744, -3.372, -3.198, -3.103, -3.056, -3.311, -3.165, -3.205, -3.338, -3.234)),
    ("Aircraft", "LogME"): (0.595, (0.934, 0.953, 0.946, 0.948, 0.95, 0.938, 0.943, 0.942, 0.941, 0.948)),
    ("Caltech101", "LogME"): (0.697, (1.228, 1.387, 1.262, 1.305, 1.324, 1.172, 1.212, 1.228, 1.15, 1.178)),
    ("CIFAR10", "LogME"): (0.785, (0.293, 0.349, 0.388, 0.463, 0.469, 0.302, 0.343, 0.369, 0.291, 0.304)),
    ("CIFAR100", "LogME"): (0.79, (1.037, 1.07, 1.099, 1.13, 1.133, 1.029, 1.051, 1.061, 1.039, 1.051)),
    ("DTD", "LogME"): (0.55, (0.682, 0.691, 0.695, 0.689, 0.698, 0.67, 0.686, 0.689, 0.664, 0.679)),
    ("Pets", "LogME"): (0.502, (0.854, 1.119, 0.952, 0.985, 1.009, 0.797, 0.829, 0.86, 0.765, 0.785)),
    ("Cars", "LogME"): (0.654, (1.246, 1.259, 1.253, 1.255, 1.26, 1.249, 1.252, 1.251, 1.25, 1.254)),
    ("SUN397", "LogME"): (0.748, (1.621, 1.648, 1.638, 1.642, 1.646, 1.614, 1.623, 1.624, 1.617, 1.625)),
    ("Aircraft", "NCE"): (0.002, (-4.248, -4.17, -4.201, -4.222, -4.229, -4.215, -4.27, -4.189, -4.208, -4.195)),
    ("Caltech101", "NCE"): (0.81, (-0.665, -0.56, -0.616, -0.603, -0.605, -0.609, -0.58, -0.59, -0.693, -0.69)),
    ("CIFAR10", "NCE"): (0.714, (-1.139, -1.06, -1.007, -0.838, -0.851, -1.006, -0.946, -0.866, -1.089, -1.086)),
    ("CIFAR100", "NCE"): (0.654, (-2.751, -2.615, -2.516, -2.285, -2.369, -2.504, -2.418, -2.305, -2.653, -2.643)),
    ("Pets", "NCE"): (0.119, (-0.815, -0.711, -0.721, -0.717, -0.679, -0.753, -0.699, -0.716, -0.822, -0.812)),
    ("Cars", "NCE"): (0.75, (-4.312, -4.11, -4.221, -4.218, -4.142, -4.271, -4.175, -4.151, -4.306, -4.338)),
    ("SUN397", "NCE"): (0.873, (-3.055, -2.844, -2.894, -2.837, -2.822, -2.945, -2.903, -2.896, -2.968, -2.933)),
}
"""(data set, score) -> weighted tau, ratings; without NCE on DTD, where the table repeats the ratings of LogME."""
INCONSISTENT = {"Aircraft", "Pets"}
"""Where neither the weighted tau nor the Pearson correlation that is printed follows from what is printed above it."""


def untied(values: Sequence[float]) -> Iterator[list[float]]:
    """The values with those that rounding made equal in every order."""
    equal = [[i for i, value in enumerate(values) if value == one] for one in sorted(set(values))]
    for orders in product(*(permutations(group) for group in equal)):
        moved = list(values)
        for order in orders:
            for step, i in enumerate(order):
                moved[i] += 1e-6 * step
        yield moved


def test_published_table() -> None:
    """SciPy's weighted tau of the printed values is the printed one, up to the order of what rounding made equal."""
    assert len(PUBLISHED) == 31
    differ = set()
    for (data, score), (expected, ratings) in PUBLISHED.items():
        found = [weightedtau(ACCURACY[data], one).statistic for one in (ratings, *untied(ratings))]
        if min(abs(value - expected) for value in found) > 0.001:
            differ.add((data, score))
    assert differ == {(data, score) for data, score in PUBLISHED if data in INCONSISTENT}


def test_ranks_and_agreement() -> None:
    """Places from the largest on, ties shared; the same order, the opposite one, and one that says nothing."""
    assert ranks([0.1, 0.9, 0.5, 0.9]).tolist() == [4.0, 1.5, 3.0, 1.5]
    found = agreement({"a": [1, 2, 3], "b": [10, 20, 30], "c": [3, 2, 1], "d": [1, 1, 1]})
    assert found[("a", "b")] == pytest.approx(1)
    assert found[("a", "c")] == pytest.approx(-1)
    assert found[("a", "d")] is None
    assert len(found) == 6
