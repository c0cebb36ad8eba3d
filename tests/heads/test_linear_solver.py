"""The fitted head is the exact minimum, whatever the loss, the chunks and the shape of the data."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from torch.nn.functional import mse_loss

from hf_ft import UserError
from hf_ft.heads import linear_solver as probe
from hf_ft.heads.linear_solver import PENALTIES, Fit, fit_linear
from hf_ft.settings import TrainingSettings
from hf_ft.tasks.classes import MULTI, SINGLE
from hf_ft.tasks.losses import LossSpec, summed_loss
from hf_ft.tasks.token_classification import TAG

EXACT: dict[str, Any] = {"tol": 1e-12, "max_iter": 100_000}

PLAIN = SINGLE.loss(LossSpec(), None, 0, ())
ONE_VS_REST = MULTI.loss(LossSpec(), None, 0, ())
SQUARED = summed_loss(lambda logits, numbers: mse_loss(logits.flatten(), numbers.to(logits), reduction="sum"))
"""As text_regression has it; the target itself asks for a whole model."""
UNCOUNTED = TrainingSettings(), SimpleNamespace(label_smoothing_factor=0.0)
TAGS: Any = TAG.learning(None, None, (), *UNCOUNTED).loss  # type: ignore[arg-type]


class Reader:
    """Features and labels in chunks of `size` rows; counts how often they were read."""

    def __init__(self, features: Tensor, labels: Tensor, size: int = 10_000) -> None:
        self.features, self.labels, self.size, self.passes = features, labels, size, 0

    def __call__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.passes += 1
        return zip(self.features.split(self.size), self.labels.split(self.size), strict=True)


def fitted(
    features: Tensor, labels: Tensor, outputs: int, loss: Any = PLAIN, penalty: float = 0.01, **more: Any
) -> Fit:
    """The fit at one penalty."""
    return fit_linear(Reader(features, labels), outputs, loss, lambda weight, bias: 0.0, penalties=[penalty], **more)


def standard(features: Tensor, labels: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Standardised features and labels for scikit-learn; its scaler gives constant columns scale 1, too."""
    return StandardScaler().fit_transform(features.double().numpy()), labels.numpy()


def bundled(load: Callable[..., Any]) -> tuple[Tensor, Tensor]:
    """A data set that ships with scikit-learn."""
    features, labels = load(return_X_y=True)
    return torch.tensor(features, dtype=torch.float32), torch.tensor(labels)


def blobs(n: int, d: int, classes: int, noise: float = 1.0, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Correlated features with means far from zero, and classes that follow them but for `noise`."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=generator) / d**0.5
    features = torch.randn(n, d, generator=generator) @ mixing
    truth = features @ torch.randn(d, classes, generator=generator)
    logits = truth / truth.std() + noise * torch.randn(n, classes, generator=generator)
    return features * 3 + 10, logits.argmax(1)


def objective(
    weight: Tensor, bias: Tensor, features: Tensor, total: Callable[[Tensor], Tensor], penalty: float
) -> Tensor:
    """The objective of weights on standardised features, in float64; `total` is the mean loss of logits."""
    return total(features @ weight.T + bias) + penalty / 2 * (weight**2).sum()


def on_standardised(fit: Fit, features: Tensor) -> tuple[Tensor, Tensor]:
    """The fitted head as it acts on standardised features."""
    assert fit.bias is not None
    scaler = StandardScaler().fit(features.double().numpy())
    weight = fit.weight.double() * torch.tensor(scaler.scale_)
    return weight, fit.bias.double() + fit.weight.double() @ torch.tensor(scaler.mean_)


# --- The same as others find ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 0.01, 0.0001])
@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer])
def test_softmax_is_that_of_scikit_learn(load: Callable[..., Any], penalty: float) -> None:
    """Digits has constant columns; two classes are two outputs here and one there, which halves the penalty."""
    features, labels = bundled(load)
    classes = int(labels.max()) + 1
    fit = fitted(features, labels, classes, penalty=penalty)
    inputs, targets = standard(features, labels)
    strength = (2 if classes == 2 else 1) / (penalty * len(features))
    theirs = LogisticRegression(C=strength, **EXACT).fit(inputs, targets)
    weight, bias = torch.tensor(theirs.coef_), torch.tensor(theirs.intercept_)
    if classes == 2:
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    x = torch.tensor(inputs)
    reached = objective(weight, bias, x, lambda logits: torch.nn.functional.cross_entropy(logits, labels), penalty)
    assert fit.converged
    assert fit.objective == pytest.approx(reached.item(), rel=1e-6)
    assert fit.objective <= reached.item() + 1e-9
    ours = (features @ fit.weight.T + fit.bias).argmax(1)
    assert np.array_equal(ours.numpy(), theirs.predict(inputs))
    assert fit.weight.dtype == torch.float32
    assert fit.weight.shape == (classes, features.shape[1])


def test_one_vs_rest_is_that_of_scikit_learn() -> None:
    """Each label as if it were fitted alone; the mean runs over rows and labels."""
    features, digits = bundled(load_digits)
    labels = torch.stack([digits % 2 == 0, digits > 4, digits % 3 == 0], 1).float()
    fit = fitted(features, labels, 3, ONE_VS_REST, penalty=0.001)
    weight, bias = on_standardised(fit, features)
    inputs, targets = standard(features, labels)
    for i in range(3):
        theirs = LogisticRegression(C=1 / (0.001 * labels.numel()), **EXACT).fit(inputs, targets[:, i])
        torch.testing.assert_close(weight[i], torch.tensor(theirs.coef_[0]), rtol=1e-4, atol=1e-5)
        assert bias[i].item() == pytest.approx(theirs.intercept_[0], abs=1e-5)
        ours = features @ fit.weight[i] + fit.bias[i] > 0  # type: ignore[index]
        assert np.array_equal(ours.numpy(), theirs.predict(inputs) == 1)


def test_squared_error_is_the_closed_form() -> None:
    """The preconditioner is then the Hessian itself, so that a few iterations do, whatever the penalty."""
    features, numbers = bundled(load_diabetes)
    numbers = ((numbers - numbers.mean()) / numbers.std()).float()
    inputs, targets = standard(features, numbers.double())
    for penalty in (1.0, 1e-3, 1e-6):
        fit = fitted(features, numbers, 1, SQUARED, penalty)
        weight, bias = on_standardised(fit, features)
        n, d = inputs.shape
        closed = np.linalg.solve(inputs.T @ inputs + penalty * n / 2 * np.eye(d), inputs.T @ (targets - targets.mean()))
        theirs = Ridge(alpha=penalty * n / 2, solver="svd").fit(inputs, targets)
        np.testing.assert_allclose(weight[0].numpy(), closed, atol=1e-6)
        np.testing.assert_allclose(weight[0].numpy(), theirs.coef_, atol=1e-6)
        assert bias.item() == pytest.approx(theirs.intercept_, abs=1e-6)
        expected = ((inputs @ closed + targets.mean() - targets) ** 2).mean() + penalty / 2 * (closed**2).sum()
        assert fit.objective == pytest.approx(expected, rel=1e-9)
        assert fit.iterations <= 10


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_no_descent_gets_below(optimizer: Any) -> None:
    """Thousands of steps of descent on the same objective end close above the exact minimum."""
    features, labels = blobs(300, 20, 3)
    fit = fitted(features, labels, 3, penalty=0.01)
    x = torch.tensor(standard(features, labels)[0])
    weight = torch.zeros(3, 20, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    settings = {"lr": 0.3, "momentum": 0.9} if optimizer is torch.optim.SGD else {"lr": 0.01, "weight_decay": 0.0}
    steps = optimizer([weight, bias], **settings)
    lowest = float("inf")
    for _ in range(2000):
        steps.zero_grad()
        value = objective(weight, bias, x, lambda z: torch.nn.functional.cross_entropy(z, labels), 0.01)
        value.backward()
        lowest = min(lowest, value.item())
        steps.step()
    assert lowest == pytest.approx(fit.objective, abs=1e-4)
    assert fit.objective <= lowest + 1e-9


# --- Whatever the loss says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_smoothing_and_weights_are_those_of_the_loss(weighted: bool, smoothing: float) -> None:
    """The objective is the loss as its definition says, and its gradient at the head is zero."""
    features, labels = blobs(400, 12, 3)
    rare = (labels != 2) | (torch.arange(400) % 4 == 0)
    features, labels = features[rare], labels[rare]
    counts = torch.bincount(labels).tolist()
    spec = LossSpec(weights="balanced" if weighted else "none", smoothing=smoothing)
    fit = fitted(features, labels, 3, SINGLE.loss(spec, counts, len(labels), ("a", "b", "c")))

    def total(logits: Tensor) -> Tensor:
        weights = len(labels) / (3 * torch.tensor(counts).double()) if weighted else torch.ones(3).double()
        shares = torch.nn.functional.one_hot(labels, 3).double() * (1 - smoothing) + smoothing / 3
        return -(shares * weights * logits.log_softmax(1)).sum(1).mean()

    weight, bias = (tensor.requires_grad_() for tensor in on_standardised(fit, features))
    value = objective(weight, bias, torch.tensor(standard(features, labels)[0]), total, 0.01)
    value.backward()
    assert fit.objective == pytest.approx(value.item(), rel=1e-7)
    assert torch.cat([weight.grad.flatten(), bias.grad.flatten()]).abs().max() < 1e-6
    plain = fitted(features, labels, 3)
    changed = not torch.allclose(plain.weight, fit.weight, rtol=1e-3, atol=1e-4)
    assert changed == (weighted or smoothing > 0)


def test_balanced_classes_are_those_of_scikit_learn() -> None:
    """The weights of the target are those that scikit-learn calls balanced."""
    features, labels = bundled(load_wine)
    spec, counts = LossSpec(weights="balanced"), torch.bincount(labels).tolist()
    fit = fitted(features, labels, 3, SINGLE.loss(spec, counts, len(labels), ("a", "b", "c")))
    inputs, targets = standard(features, labels)
    theirs = LogisticRegression(C=1 / (0.01 * len(labels)), class_weight="balanced", **EXACT).fit(inputs, targets)
    torch.testing.assert_close(on_standardised(fit, features)[0], torch.tensor(theirs.coef_), rtol=1e-4, atol=1e-5)


def test_tokens_without_tag_do_not_count() -> None:
    """Neither in the loss, nor in the mean, nor in the scale: the head is that of the tagged tokens alone."""
    features, tags = blobs(240, 8, 3)
    gaps = torch.arange(240) % 3 == 0
    expected = fitted(features[~gaps], tags[~gaps], 3)
    wild = torch.where(gaps[:, None], 1e4 * torch.ones_like(features), features)
    marked = torch.where(gaps, -100, tags)
    windows = fitted(wild.view(12, 20, 8), marked.view(12, 20), 3, TAGS)
    in_one = fitted(wild[None], marked[None], 3, TAGS)
    for found in (windows, in_one):
        assert found.objective == pytest.approx(expected.objective, rel=1e-9)
        torch.testing.assert_close(found.weight, expected.weight, rtol=1e-4, atol=1e-5)
    counted = fitted(wild.view(12, 20, 8), tags.view(12, 20), 3, TAGS)
    assert not torch.allclose(counted.weight, expected.weight, rtol=0.1)


# --- However it is read ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 100])
def test_chunks_change_nothing(size: int) -> None:
    """One row at a time or all at once, with means that are large beside the spread."""
    features, labels = blobs(150, 6, 3)
    whole = fitted(features + 1000, labels, 3)
    parts = fit_linear(Reader(features + 1000, labels, size), 3, PLAIN, lambda weight, bias: 0.0, penalties=[0.01])
    assert parts.objective == pytest.approx(whole.objective, rel=1e-9)
    torch.testing.assert_close(parts.weight, whole.weight, rtol=1e-4, atol=1e-5)


def test_streaming_is_the_same_as_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory features are read twice; beyond the budget in every iteration, with the same result."""
    features, labels = blobs(500, 16, 4)
    fits, passes = [], []
    for budget in (features.numel() * 8, features.numel() * 8 - 1):
        monkeypatch.setattr(probe, "IN_MEMORY", budget)
        reader = Reader(features, labels, 64)
        fits.append(fit_linear(reader, 4, PLAIN, validation(*blobs(500, 16, 4, seed=1))))
        passes.append(reader.passes)
    assert passes[0] == 2
    assert passes[1] > sum(step["iterations"] for step in fits[1].path)
    assert torch.equal(fits[0].weight, fits[1].weight)
    assert fits[0].path == fits[1].path


def validation(features: Tensor, labels: Tensor) -> Callable[[Tensor, Tensor | None], float]:
    """The cross entropy of a head on other rows."""
    return lambda weight, bias: torch.nn.functional.cross_entropy(features @ weight.T + bias, labels).item()


# --- The penalty ----------------------------------------------------------------------------------------------------


def test_validation_chooses_the_penalty() -> None:
    """Few noisy rows of many features need a stronger penalty than many clean rows of few."""
    chosen = {}
    for name, n, d, noise in (("noisy and wide", 60, 200, 1.0), ("clean", 2000, 10, 0.1)):
        features, labels = blobs(n + 1000, d, 2, noise)
        train = Reader(features[:n], labels[:n])
        fit = fit_linear(train, 2, PLAIN, validation(features[n:], labels[n:]))
        lowest = min(fit.path, key=lambda step: step["validation"])
        assert fit.penalty == lowest["penalty"]
        assert fit.objective == lowest["objective"]
        assert fit.iterations == lowest["iterations"]
        assert all(step["converged"] for step in fit.path)
        assert validation(features[n:], labels[n:])(fit.weight, fit.bias) == lowest["validation"]
        chosen[name] = fit.penalty
    assert chosen["noisy and wide"] >= 100 * chosen["clean"]


@pytest.mark.parametrize(
    ("losses", "steps", "best"),
    [
        ([5, 4, 3, 2, 1, 0.9, 0.8, 0.7, 0.6], 9, 8),  # falls to the end
        ([5, 4, 4.5, 4.6, 1], 4, 1),  # worse twice in a row: the rest is not tried
        ([5, 4, 4.5, 3, 3.5, 2, 2.5, 2.6, 0], 8, 5),  # single rises do not end it
        ([5, 5, 5, 5, 5, 5, 5, 5, 5], 9, 0),  # of equals the strongest
    ],
)
def test_the_walk_ends_after_two_rises(losses: Sequence[float], steps: int, best: int) -> None:
    """From the strongest penalty on, in whatever order they are given."""
    features, labels = blobs(80, 4, 2)
    worse = [99.0, 98.0]  # of the two half-way to the best one's neighbours
    answers = iter([*losses[:steps], *worse])
    fit = fit_linear(Reader(features, labels), 2, PLAIN, lambda *head: next(answers), penalties=PENALTIES[::-1])
    walked = [step for step in fit.path if step["validation"] not in worse]
    assert [step["penalty"] for step in walked] == list(PENALTIES[:steps])
    assert [step["validation"] for step in walked] == list(losses[:steps])
    assert fit.penalty == PENALTIES[best]
    between = [step["penalty"] for step in fit.path if step["validation"] in worse]
    neighbours = [PENALTIES[place] for place in (best - 1, best + 1) if 0 <= place < len(PENALTIES)]
    assert between == pytest.approx([math.sqrt(PENALTIES[best] * other) for other in neighbours])


def test_a_penalty_between_two_may_be_the_best() -> None:
    """Half-way between the best of the walk and a neighbour, validation may be lower still."""
    features, labels = blobs(80, 4, 2)
    answers = iter([3.0, 1.0, 2.0, 2.5, 1.5, 0.5])
    fit = fit_linear(Reader(features, labels), 2, PLAIN, lambda *head: next(answers), penalties=[10, 1, 0.1, 0.01])
    assert fit.penalty == pytest.approx(math.sqrt(0.1))
    assert [step["penalty"] for step in fit.path] == pytest.approx([10, math.sqrt(10), 1, math.sqrt(0.1), 0.1, 0.01])


def test_a_warm_start_changes_nothing() -> None:
    """The last fit of a walk is that of its penalty alone."""
    features, labels = blobs(300, 30, 3)
    alone = fitted(features, labels, 3, penalty=PENALTIES[-1])
    falling = iter(range(0, -100, -1))
    last = fit_linear(Reader(features, labels), 3, PLAIN, lambda *head: next(falling))
    found = next(step for step in last.path if step["penalty"] == alone.penalty)
    assert found["objective"] == pytest.approx(alone.objective, rel=1e-6)


# --- Data that are not nice -----------------------------------------------------------------------------------------


def test_separable_data_converge() -> None:
    """Only the penalty holds the weights; the loss falls with it, and nothing overflows."""
    labels = torch.arange(100) % 2
    features = torch.randn(100, 3, generator=torch.Generator().manual_seed(0)) + 50.0 * labels[:, None]
    falling = iter(range(0, -100, -1))
    fit = fit_linear(Reader(features, labels), 2, PLAIN, lambda *head: next(falling))
    assert len(fit.path) == len(PENALTIES) + 1
    assert all(step["converged"] for step in fit.path)
    assert all(after["objective"] < before["objective"] for before, after in zip(fit.path, fit.path[1:], strict=False))
    assert fit.weight.isfinite().all()
    assert torch.equal((features @ fit.weight.T + fit.bias).argmax(1), labels)


def test_what_has_not_converged_says_so() -> None:
    """Nothing reaches a gradient of exactly zero; the fit is returned, and says that it did not."""
    features, labels = blobs(100, 5, 3)
    strict = fitted(features, labels, 3, tolerance=0.0)
    assert not strict.converged
    assert strict.path[0]["converged"] is False
    assert strict.objective == pytest.approx(fitted(features, labels, 3).objective, rel=1e-9)


@pytest.mark.parametrize("value", [0.0, 1e6, 0.1])
def test_a_constant_column_weighs_nothing(value: float) -> None:
    """The bias holds what it says; the other weights are those without it."""
    features, labels = blobs(120, 5, 3)
    constant = torch.full((120, 1), value)
    fit, without = fitted(torch.cat([features, constant], 1), labels, 3), fitted(features, labels, 3)
    assert fit.weight[:, 5].abs().max() < 1e-9
    torch.testing.assert_close(fit.weight[:, :5], without.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fit.bias, without.bias, rtol=1e-4, atol=1e-4)


def test_fewer_rows_than_features() -> None:
    """The penalty makes the answer unique."""
    features, labels = blobs(40, 100, 3)
    fit = fitted(features, labels, 3, penalty=0.1)
    inputs, targets = standard(features, labels)
    theirs = LogisticRegression(C=1 / (0.1 * 40), **EXACT).fit(inputs, targets)
    assert fit.converged
    torch.testing.assert_close(on_standardised(fit, features)[0], torch.tensor(theirs.coef_), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("bias", [True, False])
def test_the_span_of_few_rows_holds_the_minimum(monkeypatch: pytest.MonkeyPatch, bias: bool) -> None:
    """In memory few rows are fitted in coordinates of their span; read again and again, in all features."""
    features, labels = blobs(40, 100, 3)
    tokens, tags = features.view(4, 10, 100), labels.view(4, 10)
    short = fitted(tokens, tags, 3, TAGS, bias=bias)
    monkeypatch.setattr(probe, "IN_MEMORY", 0)
    whole = fitted(tokens, tags, 3, TAGS, bias=bias)
    assert short.converged
    assert short.objective == pytest.approx(whole.objective, rel=1e-9)
    torch.testing.assert_close(short.weight, whole.weight, rtol=1e-3, atol=1e-6)


def test_a_class_without_examples_is_never_predicted() -> None:
    """Its bias alone could fall for ever; it falls until the gradient is small. The others are as without it."""
    features, labels = blobs(200, 6, 2)
    fit, without = fitted(features, labels * 2, 3), fitted(features, labels, 2)
    assert fit.converged
    assert fit.weight.isfinite().all()
    predicted = (features @ fit.weight.T + fit.bias).argmax(1)
    assert not (predicted == 1).any()
    torch.testing.assert_close(fit.weight[::2], without.weight, rtol=1e-2, atol=1e-4)


def test_without_bias() -> None:
    """The mean stays in the features: scaled only, they give scikit-learn the same head."""
    features, labels = bundled(load_wine)
    fit = fitted(features, labels, 3, bias=False)
    scaler = StandardScaler(with_mean=False).fit(features.double().numpy())
    inputs = scaler.transform(features.double().numpy())
    theirs = LogisticRegression(C=1 / (0.01 * len(labels)), fit_intercept=False, **EXACT).fit(inputs, labels.numpy())
    assert fit.bias is None
    assert fit.converged
    weight = fit.weight.double() * torch.tensor(scaler.scale_)
    torch.testing.assert_close(weight, torch.tensor(theirs.coef_), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e5])
def test_without_bias_means_may_be_large(mean: float) -> None:
    """The Hessian is then nearly singular; the minimum is below that of weights which are all zero."""
    features, labels = blobs(200, 6, 3)
    fit = fitted(features + mean, labels, 3, bias=False)
    assert fit.weight.isfinite().all()
    assert fit.converged
    assert fit.objective < np.log(3) - 0.1


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_features_that_are_not_finite_are_counted() -> None:
    """All chunks are looked at; two rows hold such values, one of them two."""
    features, labels = blobs(50, 4, 2)
    features[3, 1], features[3, 2], features[40, 0] = float("nan"), float("inf"), float("-inf")
    with pytest.raises(UserError, match=r"^2 of 50 rows of features hold values that are not finite .*float32"):
        fit_linear(Reader(features, labels, 8), 2, PLAIN, lambda weight, bias: 0.0)


def test_no_label_at_all() -> None:
    """There is nothing to fit."""
    features, labels = blobs(50, 4, 2)
    with pytest.raises(UserError, match=r"^None of 50 rows of features has a label"):
        fitted(features[None], torch.full_like(labels, -100)[None], 2, TAGS)


def test_a_validation_loss_that_is_no_number() -> None:
    """It would choose a penalty by accident."""
    features, labels = blobs(50, 4, 2)
    with pytest.raises(UserError, match=r"^The validation loss is nan .* penalty 100\b"):
        fit_linear(Reader(features, labels), 2, PLAIN, lambda weight, bias: float("nan"))


@pytest.mark.parametrize(
    ("penalties", "given"), [([], "none"), ([1.0, 0.0], "1.0, 0.0"), ([-1.0], "-1.0"), ([float("nan")], "nan")]
)
def test_penalties_must_be_positive(penalties: list[float], given: str) -> None:
    """Without one, separable data have no answer."""
    with pytest.raises(UserError, match=rf"positive.*given: {re.escape(given)}\.$"):
        fit_linear(Reader(*blobs(50, 4, 2)), 2, PLAIN, lambda weight, bias: 0.0, penalties=penalties)


def test_a_head_before_fine_tuning_has_no_large_weights() -> None:
    """A column that hardly varies while features are computed, and does once the layers below train."""
    features, labels = blobs(200, 8, 3)
    asleep = 1e-3 * (labels + torch.randn(200, generator=torch.Generator().manual_seed(0)))
    before = torch.cat([features, asleep[:, None].to(features)], dim=1)
    awake = before.clone()
    awake[:, -1] += torch.randn(200, generator=torch.Generator().manual_seed(1)).to(features)

    def loss_of(finetuned_next: bool) -> float:
        validate = validation(before, labels)
        fit = fit_linear(Reader(before, labels), 3, PLAIN, validate, penalties=[1e-3], finetuned_next=finetuned_next)
        return validation(awake, labels)(fit.weight, fit.bias)

    assert loss_of(False) > 10
    assert loss_of(True) < 1


@pytest.mark.parametrize("bias", [True, False])
def test_a_prior_takes_the_place_of_zero(bias: bool) -> None:
    """The penalty pulls to the prior: all of it where it is strong, and for squared error it is a change of labels."""
    features, numbers = bundled(load_diabetes)
    numbers = (numbers / numbers.std()).float()
    weight, offset = torch.linspace(-1, 1, features.shape[1])[None], torch.tensor([0.5]) if bias else None
    at = {"bias": bias, "prior": (weight, offset)}
    strong = fitted(features, numbers, 1, SQUARED, 1e9, **at)
    torch.testing.assert_close(strong.weight, weight, rtol=1e-4, atol=1e-4)
    left = numbers - (features @ weight.T).flatten()
    for penalty in (1.0, 1e-3):
        fit, rest = (
            fitted(features, numbers, 1, SQUARED, penalty, **at),
            fitted(features, left, 1, SQUARED, penalty, bias=bias),
        )
        torch.testing.assert_close(fit.weight, weight + rest.weight, rtol=1e-3, atol=1e-3)
        assert fit.objective == pytest.approx(rest.objective, rel=1e-6)
        plain = fitted(features, numbers, 1, SQUARED, penalty, bias=bias)
        assert (fit.weight - plain.weight).abs().max() > 1e-3
