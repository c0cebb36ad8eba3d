"""Losses for unequal classes equal their definitions, and libraries that have them; so do class weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy, one_hot
from torchvision.ops import sigmoid_focal_loss

from hf_ft.errors import UserError
from hf_ft.settings import TrainingSettings
from hf_ft.tasks.class_balance import class_weights, effective_beta, is_unequal, positive_weights
from hf_ft.tasks.classes import MULTI, SINGLE
from hf_ft.tasks.losses import LossSpec, exclusive_loss, independent_loss
from hf_ft.tasks.token_classification import TAG

COUNTS, LABELS = (6, 3, 1), ("ham", "news", "spam")
RULES: list[Any] = ["none", "balanced", "sqrt", "effective", {"spam": 4}]


def batch(n: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of ten examples, and classes as frequent as in `COUNTS`."""
    torch.manual_seed(0)
    return torch.randn(n, 3, dtype=torch.float64), torch.tensor([0] * 6 + [1] * 3 + [2])


# Weights.


@pytest.mark.parametrize("rule", RULES[1:], ids=str)
def test_class_weights_have_mean_one_over_the_examples(rule: Any) -> None:
    """So the size of the loss, and with it the learning rate, keeps its meaning."""
    weights = class_weights(rule, COUNTS, LABELS)
    assert weights is not None
    assert (weights * COUNTS).sum() / 10 == pytest.approx(1)
    assert weights[2] > weights[1] >= weights[0]


def test_class_weights_equal_their_definitions() -> None:
    """`balanced` is scikit-learn's; `effective` lies between it and `sqrt` here; weights by name keep their ratio."""
    found = {str(rule): class_weights(rule, COUNTS, LABELS) for rule in RULES}
    assert found["none"] is None
    ids = np.repeat([0, 1, 2], COUNTS)
    np.testing.assert_allclose(found["balanced"], compute_class_weight("balanced", classes=np.arange(3), y=ids))
    np.testing.assert_allclose(found["sqrt"] / found["sqrt"][0], np.sqrt(6 / np.array(COUNTS)))
    beta = effective_beta(10, 3)
    assert beta == pytest.approx(1 - 3 / 10)
    effective = (1 - beta) / (1 - beta ** np.array(COUNTS))
    np.testing.assert_allclose(found["effective"] / found["effective"][0], effective / effective[0])
    np.testing.assert_allclose(found["{'spam': 4}"] / found["{'spam': 4}"][0], [1, 1, 4])
    large = [class_weights(rule, (9500, 500), LABELS[:2]) for rule in ("sqrt", "effective", "balanced")]
    ratios = [float(one[1] / one[0]) for one in large if one is not None]
    assert ratios == sorted(ratios)
    assert class_weights("effective", (1, 1), LABELS[:2]) == pytest.approx([1, 1])  # beta is 0


def test_weights_of_several_labels_are_those_of_positive_examples() -> None:
    """Each label is a problem of two classes."""
    assert positive_weights("balanced", (5, 1), 10, LABELS[:2]) == pytest.approx([1, 9])
    assert positive_weights("sqrt", (5, 1), 10, LABELS[:2]) == pytest.approx([1, 3])
    assert positive_weights({"news": 7}, (5, 1), 10, LABELS[:2]) == pytest.approx([1, 7])
    sides = positive_weights("effective", (5, 1), 10, LABELS[:2])
    assert sides is not None
    assert sides[0] == pytest.approx(1)
    assert 3 < sides[1] < 9
    assert positive_weights("none", (5, 1), 10, LABELS[:2]) is None


@pytest.mark.parametrize("target", [SINGLE, MULTI, TAG], ids=lambda target: str(target.name))
def test_a_weight_for_no_class_names_the_nearest(target: Any) -> None:
    """Found once the data are read, before anything is trained."""
    rows = {SINGLE: [0, 1, 2], MULTI: np.eye(3).tolist(), TAG: [[0], [1], [2]]}[target]
    config: Any = TrainingSettings(class_weights={"spma": 4})
    args: Any = SimpleNamespace(label_smoothing_factor=0)
    with pytest.raises(UserError) as found:
        target.learning(None, Dataset.from_dict({"labels": rows}), LABELS, config, args)
    assert (found.value.option, found.value.value, found.value.nearest) == ("class_weights", "spma", "spam")


def test_when_classes_are_unequal() -> None:
    """Below a quarter of the average share: an eighth of the examples, of two classes."""
    assert [is_unequal(counts) for counts in ((50, 50), (87, 13), (875, 125), (876, 124), (12, 88))] == [
        *(False, False, False, True, True)
    ]
    assert is_unequal((100, 100, 100, 19))
    assert not is_unequal((5,))
    rows = Dataset.from_dict({"labels": [0] * 19 + [1]})
    assert SINGLE.default_metric_of(rows, LABELS[:2]) == "f1_macro"
    assert SINGLE.default_metric_of(rows.select([0, 19]), LABELS[:2]) == "accuracy"
    assert MULTI.default_metric_of(rows, LABELS) == MULTI.default_metric


# Losses.


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_focal_loss_by_its_definition(rule: Any) -> None:
    """-(1 - p)^gamma log p, weighted by class; ids and shares of one class alike; gamma 0 is cross entropy."""
    logits, wanted = batch()
    weights = torch.tensor(1.0 if rule == "none" else class_weights(rule, COUNTS, LABELS))[..., None]
    each = weights.flatten()[wanted] if rule != "none" else torch.ones(10)
    chance = logits.softmax(-1)[range(10), wanted]
    total = exclusive_loss(LossSpec("focal", rule, gamma=1.5), COUNTS, LABELS)
    assert total(logits, wanted) == pytest.approx(float(-(each * (1 - chance) ** 1.5 * chance.log()).sum()))
    assert total(logits, one_hot(wanted, 3).double()) == pytest.approx(float(total(logits, wanted)))
    plain = exclusive_loss(LossSpec("focal", rule, gamma=0.0), COUNTS, LABELS)(logits, wanted)
    assert plain == pytest.approx(float(exclusive_loss(LossSpec(weights=rule), COUNTS, LABELS)(logits, wanted)))


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_sure_predictions_has_a_finite_gradient(gamma: float) -> None:
    """The derivative of (1 - p)^0.5 at 1 is infinite; ignored labels do not count."""
    logits = torch.tensor([[200.0, 0, 0], [0.0, 0, 200], [5.0, 1, 1]], requires_grad=True)
    total = exclusive_loss(LossSpec("focal", gamma=gamma), None, LABELS)
    total(logits, torch.tensor([0, 0, -100])).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[2].abs().max() == 0
    assert logits.grad[1].abs().max() > 0.5


def test_focal_loss_of_several_labels_is_that_of_torchvision() -> None:
    """And weights count for positive labels alone."""
    logits, ids = batch()
    wanted = one_hot(ids, 3).double()
    plain = independent_loss(LossSpec("focal"), None, 10, LABELS)(logits, wanted)
    assert plain == pytest.approx(float(sigmoid_focal_loss(logits, wanted, alpha=-1, gamma=2, reduction="sum")))
    each = sigmoid_focal_loss(logits, wanted, alpha=-1, gamma=2)
    weighted = independent_loss(LossSpec("focal", {"spam": 3}), (6, 3, 1), 10, LABELS)(logits, wanted)
    assert weighted == pytest.approx(float(each.sum() + 2 * (each * wanted)[:, 2].sum()))


def test_logit_adjustment_adds_log_frequencies() -> None:
    """Cross entropy of logits plus tau log prior: so the logits alone are those for equal classes."""
    logits, wanted = batch()
    prior = torch.tensor([0.6, 0.3, 0.1])
    total = exclusive_loss(LossSpec("logit_adjusted", tau=0.5), COUNTS, LABELS)
    expected = cross_entropy(logits + 0.5 * prior.log(), wanted, reduction="sum")
    assert total(logits, wanted) == pytest.approx(float(expected))
    odds = (torch.tensor([0.6, 0.3, 0.1]) / torch.tensor([0.4, 0.7, 0.9])).log()
    several = independent_loss(LossSpec("logit_adjusted"), COUNTS, 10, LABELS)(logits, one_hot(wanted, 3).double())
    plain = independent_loss(LossSpec(), None, 10, LABELS)(logits + odds, one_hot(wanted, 3).double())
    assert several == pytest.approx(float(plain))


def test_a_solved_head_has_weights_for_a_sampler_and_a_convex_loss() -> None:
    """Whose own loss is not changed; without either, a solved head has the same loss."""
    rows, args = Dataset.from_dict({"labels": batch()[1].tolist()}), SimpleNamespace(label_smoothing_factor=0)
    outputs = SimpleNamespace(logits=batch()[0])

    def values(**settings: Any) -> tuple[float, float]:
        config: Any = TrainingSettings(**settings)
        learning = SINGLE.learning(None, rows, LABELS, config, args)  # type: ignore[arg-type]
        assert learning.loss is not None
        assert learning.of_fixed_features is not None
        both = (loss(outputs, batch()[1]) for loss in (learning.loss, learning.of_fixed_features))
        return tuple(map(float, both))  # type: ignore[return-value]

    plain, balanced = values()[0], values(class_weights="balanced")[0]
    assert values() == (plain, plain)
    assert values(sampler="balanced") == (plain, pytest.approx(balanced))
    assert values(loss="focal")[0] < values(loss="focal")[1] == plain
    assert len({plain, balanced, *values(loss="logit_adjusted")}) == 3


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "logit_adjusted"])
def test_accumulated_batches_add_up_to_the_whole(name: str) -> None:
    """Halves, each divided by the labels of both; and words that carry no tag count for nothing."""
    logits, wanted = batch()
    spec = LossSpec(name, "none" if name == "logit_adjusted" else "sqrt")
    loss = SINGLE.loss(spec, list(COUNTS), 10, LABELS)
    halves = [loss(SimpleNamespace(logits=logits[i : i + 5]), wanted[i : i + 5], 10) for i in (0, 5)]
    assert float(sum(halves)) == pytest.approx(float(loss(SimpleNamespace(logits=logits), wanted)))
    config: Any = TrainingSettings(loss=name)
    tags, args = Dataset.from_dict({"labels": [[0] * 6, [1] * 3, [2]]}), SimpleNamespace(label_smoothing_factor=0)
    of_words = TAG.learning(None, tags, LABELS, config, args).loss  # type: ignore[arg-type]
    assert of_words is not None
    padded = torch.cat([wanted, torch.tensor([-100] * 2)]).view(2, 6)
    ragged = torch.cat([logits, torch.full((2, 3), 9.0)]).view(2, 6, 3)
    plain = SINGLE.loss(LossSpec(name), list(COUNTS), 10, LABELS)(SimpleNamespace(logits=logits), wanted)
    assert float(of_words(SimpleNamespace(logits=ragged), padded)) == pytest.approx(float(plain))
