"""Metrics of the `evaluate` library: the toolkit's own as such, and others by folder or id."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hf_ft.errors import UserError
from hf_ft.metrics.classification import METRICS, MULTI_LABEL, SINGLE_LABEL
from hf_ft.metrics.evaluate_metrics import (
    GREATER_IS_BETTER,
    as_evaluate_metric,
    cached_metrics,
    load_metric,
    with_direction,
)
from hf_ft.tasks.classes import MULTI, SINGLE
from hf_ft.tasks.text_regression import NUMBER
from hf_ft.tasks.token_classification import TAG
from tests.metrics.test_classification import PROBLEM_TYPES, THRESHOLD, by_scikit_learn, example

SCRIPT = """
import datasets
import evaluate

class Hits(evaluate.Metric):
    def _info(self):
        features = datasets.Features(predictions=datasets.Value("int64"), references=datasets.Value("int64"))
        return evaluate.MetricInfo(description="", citation="", features=features)

    def _compute(self, predictions, references, scale=1.0):
        hits = sum(p == r for p, r in zip(predictions, references))
        return {"hits": scale * hits, "misses": len(references) - hits, "by_class": [1, 2]}
"""


@pytest.fixture(scope="module")
def hits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a metric's script."""
    folder = tmp_path_factory.mktemp("metrics") / "hits"
    folder.mkdir()
    (folder / "hits.py").write_text(SCRIPT, encoding="utf-8")
    return folder


def test_a_metric_from_a_folder_scores_predictions(hits: Path) -> None:
    metric = load_metric(str(hits), greater_is_better=True, scale=10.0)
    assert (metric.name, metric.greater_is_better) == ("hits", True)
    assert metric.compute([0, 1, 1], [0, 1, 0]) == {"hits": 20.0, "misses": 1.0}
    misses = load_metric(str(hits / "hits.py"), greater_is_better=False, key="misses")
    assert misses.compute(np.array([0, 1, 1]), np.array([0, 1, 0]))[misses.name] == 1.0


def test_a_metric_is_what_trainer_calls(hits: Path) -> None:
    metric = load_metric(str(hits), greater_is_better=True)
    logits, references = np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0]]), np.array([0, 1, 0])
    compute = metric.for_trainer(lambda outputs, actual: SINGLE.decode(outputs, actual, ["a", "b"]))
    assert compute(SimpleNamespace(predictions=logits, label_ids=references))["hits"] == 2.0
    assert compute(SimpleNamespace(predictions=(logits, "hidden"), label_ids=references))["hits"] == 2.0


def test_mistakes_say_what_to_do(hits: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="greater_is_better=True") as found:
        load_metric(str(hits))
    assert found.value.option == "greater_is_better"
    with pytest.raises(UserError, match=r"NAME/NAME\.py"):
        load_metric(str(tmp_path / "nothing"), greater_is_better=True)
    with pytest.raises(UserError, match="local cache") as found:
        load_metric("accuracy")
    assert (found.value.option, found.value.value) == ("metric", "accuracy")
    with pytest.raises(UserError) as found:
        load_metric(str(hits), greater_is_better=True, key="hit").compute([0], [0])
    assert (found.value.nearest, found.value.choices) == ("hits", ("hits", "misses"))
    with pytest.raises(UserError, match="predicted classes"):
        load_metric(str(hits), greater_is_better=True).compute([[0.1, 0.9]], [0])
    with pytest.raises(UserError, match="not known") as found:
        load_metric("owner/unheard_of")
    assert found.value.option == "greater_is_better"
    with pytest.raises(UserError, match="not known"):
        with_direction(load_metric(str(hits), greater_is_better=True).module)
    assert with_direction(as_evaluate_metric("log_loss", SINGLE_LABEL)).greater_is_better is False


def test_a_broken_script_is_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "broken_metric"
    folder.mkdir()
    (folder / "broken_metric.py").write_text("import no_such_package_at_all\n", encoding="utf-8")
    with pytest.raises(UserError, match="no_such_package_at_all") as found:
        load_metric(str(folder), greater_is_better=True)
    assert "\n" not in str(found.value)


def test_directions_agree_with_those_of_the_targets() -> None:
    own = {name: more for target in (SINGLE, MULTI, NUMBER, TAG) for name, more in target.metrics.items()}
    shared = own.keys() & GREATER_IS_BETTER
    assert {"accuracy", "f1", "mse", "mae"} <= shared
    assert {name: GREATER_IS_BETTER[name] for name in shared} == {name: own[name] for name in shared}


def test_cached_metrics_are_listed_by_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("evaluate-metric--accuracy", "owner--mine"):
        (tmp_path / "evaluate_modules" / "metrics" / name).mkdir(parents=True)
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path))
    assert cached_metrics() == ["accuracy", "owner/mine"]


def test_targets_decode_their_outputs() -> None:
    logits = np.array([[3.0, -3.0], [1.0, 2.0]])
    assert [a.tolist() for a in MULTI.decode(logits, np.array([[1.0, 0.0], [1.0, 1.0]]), "ab", 0.5)] == [
        [[1, 0], [1, 1]],
        [[1, 0], [1, 1]],
    ]
    assert [a.tolist() for a in NUMBER.decode([[1.5], [2.0]], [1, 2], ["x"])] == [[1.5, 2.0], [1.0, 2.0]]
    sentences = [np.array([[1, 0.9], [0, 0.8]])]
    assert TAG.decode(sentences, [[1, 1]], ["O", "B-X"]) == ([["B-X", "O"]], [["B-X", "B-X"]])
    windows, references = np.array([[[1, 0.9], [-100, -100], [0, 0.8]]]), np.array([[1, -100, 1]])
    assert TAG.decode(windows, references, ["O", "B-X"]) == ([["B-X", "O"]], [["B-X", "B-X"]])


# The toolkit's own.


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_every_metric_is_an_evaluate_metric(problem_type: str) -> None:
    import evaluate

    logits, references = example(problem_type)
    expected = by_scikit_learn(references, logits, problem_type)
    checked = 0
    for name, spec in METRICS[problem_type].items():
        metric = as_evaluate_metric(name, problem_type)
        assert isinstance(metric, evaluate.Metric)
        assert (metric.name, metric.higher_is_better) == (name, spec.higher_is_better)
        assert metric.description == spec.description
        for half in (slice(0, 30), slice(30, None)):
            metric.add_batch(predictions=logits[half], references=references[half])
        assert metric.compute(threshold=THRESHOLD) == {name: pytest.approx(expected[name])}
        lists = {"predictions": logits.tolist(), "references": references.tolist()}
        assert metric.compute(**lists, threshold=THRESHOLD) == {name: pytest.approx(expected[name])}
        checked += 1
    assert checked == len(METRICS[problem_type])


def test_single_label_metrics_take_class_ids() -> None:
    logits, references = example(SINGLE_LABEL)
    expected = by_scikit_learn(references, logits, SINGLE_LABEL)
    by_ids = [name for name, spec in METRICS[SINGLE_LABEL].items() if spec.reads == "labels"]
    assert len(by_ids) >= 5
    for name in by_ids:
        metric = as_evaluate_metric(name, SINGLE_LABEL)
        result = metric.compute(predictions=logits.argmax(axis=1), references=references)
        assert result == {name: pytest.approx(expected[name])}
    with pytest.raises(ValueError, match="expected format"):
        as_evaluate_metric("ece", SINGLE_LABEL).compute(predictions=[0, 1], references=[0, 1])


def test_metrics_combine() -> None:
    import evaluate

    logits, references = example(SINGLE_LABEL)
    combined = evaluate.combine([as_evaluate_metric(name, SINGLE_LABEL) for name in ("accuracy", "ece")])
    assert set(combined.compute(predictions=logits, references=references)) == {"accuracy", "ece"}


@pytest.mark.parametrize(("name", "nearest"), [("f1_mikro", "f1_micro"), ("ece", None)])
def test_an_unknown_name_says_what_exists(name: str, nearest: str | None) -> None:
    with pytest.raises(UserError) as found:
        as_evaluate_metric(name, MULTI_LABEL)
    assert found.value.nearest == nearest
    assert set(found.value.choices) == set(METRICS[MULTI_LABEL])
