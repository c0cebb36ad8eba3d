"""The head solver: a linear head on fixed features, fitted to convergence in place of many epochs.

On frozen layers, a linear head with an L2 penalty is a convex problem with one solution. `fit_linear` finds it by
L-BFGS for any loss of a task (softmax, one-vs-rest, squared error, tags with gaps, weighted or smoothed), because it
needs nothing of the loss but its derivatives with respect to the logits. All sums are in float64: with a loss rounded
to float32 the line search gives up before the gradient is small.

scikit-learn's `LogisticRegression` has other losses, wants all features in memory and fits one penalty at a time, so
this stays our own code over SciPy's L-BFGS.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.linalg import cholesky, solve_triangular

from hf_ft.errors import UserError, shorten

Chunks = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Features `(..., d)` and labels as the loss takes them, a chunk at a time; called again for every pass.

Float32, on the CPU, all finite, even where the label is -100. Logits have the leading shape of the features, so tags
need `(sentences, tokens, d)`; one "sentence" of all tokens will do. Chunks of 1,000 rows or more are fastest.
"""

PENALTIES = tuple(10.0**power for power in range(2, -7, -1))
"""From what 50 examples of 4,096 features need, to what is negligible for 50,000 examples of 64 features."""

IN_MEMORY = 32 * 2**20
"""Bytes of float64 up to which features stay in memory instead of being read in every iteration."""

IGNORED = -100
EPSILON = torch.finfo(torch.float64).eps
MAX_ITERATIONS = 1000
"""At one penalty."""


@dataclass(frozen=True)
class Fit:
    """A fitted head for raw features.

    Attributes:
        weight: `(outputs, d)`, float32.
        bias: `(outputs,)`, float32.
        penalty: the chosen one; `objective`, `iterations` and `converged` are those of its fit.
        path: an entry for each penalty tried, the strongest first: penalty, objective, validation loss, iterations,
            converged.
    """

    weight: Tensor
    bias: Tensor | None
    penalty: float
    objective: float
    iterations: int
    converged: bool
    path: list[dict[str, Any]]


def fit_linear(
    train: Chunks,
    outputs: int,
    loss: Callable[..., Tensor],
    validate: Callable[[Tensor, Tensor | None], float],
    bias: bool = True,
    penalties: Sequence[float] = PENALTIES,
    tolerance: float = 1e-7,
    finetuned_next: bool = False,
    prior: tuple[Tensor, Tensor | None] | None = None,
) -> Fit:
    """Fit a linear head at each penalty and return the one with the lowest validation loss.

    The objective is the mean of `loss` (that of `hf_ft.tasks.target.Learning`) over all labels that are not -100, plus
    `penalty / 2` times the squared weights on standardised features. The bias is not penalised. A fit has converged
    when no entry of the preconditioned gradient exceeds `tolerance` times the largest one at zero weights.

    Penalties are tried from the strongest to the weakest, each fit starting from the one before. The path ends when
    the validation loss has risen twice in a row: it falls, then rises, and weak penalties take longest; a single rise
    may be the noise of a small validation split. Then the penalties half-way to the neighbours of the best are tried.

    Args:
        train: the features and labels.
        outputs: logits of the head.
        loss: takes an object with `logits`, the labels, and `num_items_in_batch`.
        validate: the validation loss of a weight and bias, which are those of the `Fit`.
        bias: whether the head has one.
        penalties: the grid.
        tolerance: of the gradient, relative to that at zero.
        finetuned_next: the layers below train in a later stage, so features that hardly vary get no large weights (see
            `_robust_scale`).
        prior: A weight and bias; what is penalised is the difference from this weight, not the weight itself.

    Raises:
        UserError: features or validation losses that are not finite, no labelled row, penalties that are not positive.
    """
    if not penalties or not all(0 < penalty < math.inf for penalty in penalties):
        raise UserError(f"Penalties must be positive numbers, at least one; given: {shorten(penalties, 20) or 'none'}.")
    problem = _problem(train, outputs, loss, bias, finetuned_next, prior)
    # The optimizer's vectors are short, and BLAS threads that spin while they wait keep torch's threads from working:
    # 600 rows took thirty times as long on two cores as on one. Data that are read in chunks are large enough for both.
    with threadpool_limits(1, user_api=None if problem.in_memory else "blas"):
        return _search_path(problem, validate, penalties, tolerance)


def _search_path(
    problem: _Problem,
    validate: Callable[[Tensor, Tensor | None], float],
    penalties: Sequence[float],
    tolerance: float,
) -> Fit:
    """Fit at one penalty after another, as described in `fit_linear`."""
    weights = torch.zeros(len(problem.slope), len(problem.scale), dtype=torch.float64)
    path: list[dict[str, Any]] = []
    best, start, lowest, previous, rises = None, weights, math.inf, math.inf, 0
    for penalty in sorted(penalties, reverse=True):
        weights, fit = _fitted(problem, weights, penalty, tolerance)
        validation = _validated(fit, validate, path)
        if validation < lowest:
            best, start, lowest = fit, weights, validation
        rises = rises + 1 if validation > previous else 0
        if rises == 2:
            break
        previous = validation
    assert best is not None
    for penalty in halfway(best.penalty, penalties):
        _, fit = _fitted(problem, start, penalty, tolerance)
        validation = _validated(fit, validate, path)
        if validation < lowest:
            best, lowest = fit, validation
    return dataclasses.replace(best, path=sorted(path, key=lambda entry: -entry["penalty"]))


def halfway(best: float, penalties: Sequence[float]) -> list[float]:
    """The penalties between the best one and its neighbours in the grid, on a scale of logarithms."""
    above = min((penalty for penalty in penalties if penalty > best), default=None)
    below = max((penalty for penalty in penalties if penalty < best), default=None)
    return [math.sqrt(best * neighbour) for neighbour in (above, below) if neighbour is not None]


def _validated(fit: Fit, validate: Callable[[Tensor, Tensor | None], float], path: list[dict[str, Any]]) -> float:
    """The validation loss of a fit, noted in the path.

    Raises:
        UserError: it is not finite.
    """
    validation = validate(fit.weight, fit.bias)
    if not math.isfinite(validation):
        raise UserError(
            f"The validation loss is {validation} with the head fitted at penalty {fit.penalty:g}. Look for features "
            "or labels of validation that are not finite."
        )
    about = {"objective": fit.objective, "validation": validation, "iterations": fit.iterations}
    path.append({"penalty": fit.penalty, **about, "converged": fit.converged})
    return validation


# --- The problem ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Problem:
    """What is fitted: a matrix `(outputs, columns)`, whose last column is the bias if there is one.

    `chunks` are features about `centre`. `scale`, `penalised` (0 for the bias, else 1) and `correlation`, the mean
    products of standardised features, are by column.
    """

    chunks: Chunks
    loss: Callable[..., Tensor]
    items: int
    centre: Tensor
    scale: Tensor
    penalised: Tensor
    correlation: Tensor
    slope: Tensor
    """The gradient at zero."""
    lift: Tensor | None = None
    """What columns without the bias are made of, `(columns, d)`, where they are not the features themselves."""
    in_memory: bool = False
    prior: Tensor | float = 0.0
    """The matrix that the fitted one is added to; the penalty is on what is added."""

    @property
    def width(self) -> int:
        """The columns without the bias."""
        return int(self.penalised.sum())

    def loss_and_slope(self, weights: Tensor) -> tuple[float, Tensor]:
        """The mean loss and its gradient `(outputs, columns)`."""
        total, slope = 0.0, torch.zeros_like(weights)
        for rows, _, value, gradient in self._by_logits(weights):
            flat = gradient.flatten(0, -2)
            total += value.item()
            slope[:, : self.width] += flat.T @ rows.flatten(0, -2)
            slope[:, self.width :] += flat.sum(0)[:, None]
        return total, slope

    def curvature(self, weights: Tensor) -> float:
        """The second derivative of the mean loss by one output of all rows.

        It is taken where outputs move up and down in turn, since a softmax does not notice when all move alike.
        """
        signs = 1.0 - 2.0 * (torch.arange(len(weights), dtype=torch.float64) % 2)
        total = 0.0
        for _, logits, _, gradient in self._by_logits(weights, again=True):
            with torch.enable_grad():
                (bent,) = torch.autograd.grad((gradient * signs).sum(), logits)
            total += (bent * signs).sum().item()
        return total / len(weights)

    def _by_logits(self, weights: Tensor, again: bool = False) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Of each chunk its rows, its logits, its loss and the gradient by the logits; `again` to derive once more."""
        width = self.width
        for rows, labels in self.chunks():
            # There is one column behind the features or none: its sum is the bias, or zero.
            products = (weights[:, :width] @ rows.flatten(0, -2).T).T + weights[:, width:].sum(1)
            logits = products.view(*rows.shape[:-1], -1).requires_grad_()
            with torch.enable_grad():
                value = self.loss(SimpleNamespace(logits=logits), labels, self.items)
                (gradient,) = torch.autograd.grad(value, logits, create_graph=again)
            yield rows, logits, value, gradient


def _problem(
    train: Chunks,
    outputs: int,
    loss: Callable[..., Tensor],
    bias: bool,
    finetuned_next: bool,
    prior: tuple[Tensor, Tensor | None] | None,
) -> _Problem:
    """Read the features once for their moments, and once more if they stay in memory."""
    seen, rows, items, mean, scatter = _moments(train)
    scale = (scatter.diagonal() / rows).sqrt()
    # A column that varies by less than float32 rounding is constant; scaling would blow its noise up.
    scale = torch.where(scale > torch.finfo(torch.float32).eps * mean.abs(), scale, 1.0)
    scale = _robust_scale(scale, mean) if finetuned_next else scale
    centre = mean if bias else torch.zeros_like(mean)
    if not bias:
        scatter = scatter + rows * torch.outer(mean, mean)

    def centred() -> Iterable[tuple[Tensor, Tensor]]:
        # Binary cross entropy answers in the precision of the labels.
        return (
            (features - centre, labels.double() if labels.is_floating_point() else labels)
            for features, labels in train()
        )

    in_memory = seen * len(mean) * 8 <= IN_MEMORY
    kept = list(centred()) if in_memory else []
    one = torch.ones(int(bias), dtype=torch.float64)
    problem = _Problem(
        (lambda: kept) if in_memory else centred,
        loss,
        items,
        centre,
        torch.cat([scale, one]),
        torch.cat([torch.ones_like(scale), 0 * one]),
        torch.block_diag(scatter / rows / torch.outer(scale, scale), *one[:, None, None]),
        torch.empty(0),
        in_memory=in_memory,
        prior=0.0 if prior is None else _about(centre, *prior, bias),
    )
    if in_memory and seen < len(mean) and prior is None:  # the prior may lie outside of the span
        problem = _within_span(problem)
    at_zero = torch.zeros(outputs, len(problem.scale), dtype=torch.float64)
    return dataclasses.replace(problem, slope=problem.loss_and_slope(at_zero + problem.prior)[1])


def _about(centre: Tensor, weight: Tensor, offset: Tensor | None, bias: bool) -> Tensor:
    """A head for raw features as the matrix for features about `centre`."""
    weight = weight.double()
    moved = weight @ centre + (0.0 if offset is None else offset.double())
    return torch.cat([weight, moved[:, None]], dim=1) if bias else weight


DROPOUT_NOISE = 1 / 3
"""Standard deviation over size of a feature under dropout of a tenth, the usual rate: the root of 0.1 / 0.9."""


def _robust_scale(scale: Tensor, mean: Tensor) -> Tensor:
    """Scales of features for a head whose lower layers train next.

    In training mode BatchNorm uses the statistics of the batch and dropout is on, so features that hardly vary in
    evaluation mode do vary. Standardised by their small variance they would get weights that make the loss explode:
    from 0.06 to 771 with the built-in ResNet on a hundred digits. So no feature counts as varying less than the
    features do on average, nor less than dropout makes it vary.
    """
    average = scale.square().mean().sqrt()
    return torch.maximum(scale, DROPOUT_NOISE * (scale.square() + mean.square()).sqrt()).clamp(min=average)


def _within_span(problem: _Problem) -> _Problem:
    """The same problem in coordinates of the span of the rows, as many as there are rows; the minimum lies in it.

    Weights orthogonal to it change no logit and are penalised. So the time for few examples does not depend on the
    number of features.
    """
    scale = problem.scale[: problem.width]
    basis = torch.linalg.qr(torch.cat([rows.flatten(0, -2) for rows, _ in problem.chunks()]).div(scale).T).Q
    kept = [(rows / scale @ basis, labels) for rows, labels in problem.chunks()]
    turn = torch.block_diag(basis, torch.eye(len(problem.scale) - problem.width, dtype=torch.float64))
    correlation = turn.T @ problem.correlation @ turn
    return dataclasses.replace(
        problem,
        chunks=lambda: kept,
        correlation=correlation,
        scale=torch.ones(len(correlation), dtype=torch.float64),
        penalised=problem.penalised[-len(correlation) :],
        lift=basis.T / scale,
    )


def _moments(train: Chunks) -> tuple[int, int, int, Tensor, Tensor]:
    """How many rows, labelled rows and labels there are; mean and sum of products `(d, d)` about it of labelled rows.

    Merges chunks by Chan, Golub and LeVeque 1983, https://doi.org/10.1080/00031305.1983.10483115, which loses no digits
    where means are large.

    Raises:
        UserError: features are not finite, or no row has a label.
    """
    seen = rows = items = broken = 0
    mean: Tensor = torch.zeros((), dtype=torch.float64)
    scatter: Tensor = torch.zeros((), dtype=torch.float64)
    for features, labels in train():
        labelled = labels != IGNORED
        every = features.flatten(0, -2).double()
        seen, broken = seen + len(every), broken + int((~every.isfinite().all(1)).sum())
        found = every[labelled.reshape(len(every), -1).any(1)]
        if not len(found):
            continue
        items += int(labelled.sum())
        middle = found.mean(0)
        apart, about = middle - mean, found - middle
        total = rows + len(found)
        scatter = scatter + about.T @ about + torch.outer(apart, apart) * (rows * len(found) / total)
        mean = mean + apart * (len(found) / total)
        rows = total
    if broken:
        raise UserError(
            f"{broken:,} of {seen:,} rows of features hold values that are not finite (NaN or infinite): the model "
            "overflows on these inputs. Compute the features in float32, or take these examples out."
        )
    if not rows:
        raise UserError(f"None of {seen:,} rows of features has a label. Give labelled examples.")
    return seen, rows, items, mean, scatter


# --- One penalty ----------------------------------------------------------------------------------------------------


def _fitted(problem: _Problem, start: Tensor, penalty: float, tolerance: float) -> tuple[Tensor, Fit]:
    """Minimise the objective by L-BFGS from `start`; the weights on centred features, and the head that they make.

    The features of a network are strongly correlated, and plain L-BFGS would need hundreds of iterations. So it works
    on the weights times the root of the Hessian that a quadratic loss would have (which for squared error is exact).
    """
    ridge = penalty * problem.penalised * problem.scale**2
    curvature = problem.curvature(start + problem.prior)
    hessian = curvature * problem.correlation + torch.diag(penalty * problem.penalised)
    # Rounding or saturated outputs must not make it indefinite. The preconditioner does not move the minimum.
    hessian += torch.eye(len(hessian)) * max(len(hessian) * EPSILON * hessian.trace().item(), EPSILON)
    root = problem.scale[:, None] * cholesky(hessian)

    def preconditioned(slope: Tensor) -> NDArray[np.float64]:
        return solve_triangular(root.T, slope, upper=True, left=False).numpy().ravel()

    def plain(flat: NDArray[np.float64]) -> Tensor:
        return solve_triangular(root, torch.from_numpy(flat).view_as(start), upper=False, left=False)

    def objective(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        weights = plain(flat)
        value, slope = problem.loss_and_slope(weights + problem.prior)
        return value + 0.5 * (ridge * weights**2).sum().item(), preconditioned(slope + ridge * weights)

    limit = tolerance * float(np.abs(preconditioned(problem.slope)).max())
    options = {"gtol": limit, "ftol": 0.0, "maxiter": MAX_ITERATIONS}
    found = minimize(objective, (start @ root).numpy().ravel(), jac=True, method="L-BFGS-B", options=options)
    weights, width = plain(found.x), problem.width
    whole = weights + problem.prior
    weight = whole[:, :width] if problem.lift is None else whole[:, :width] @ problem.lift
    offset = (whole[:, width:] - (weight @ problem.centre)[:, None]).flatten()
    head = weight.float(), offset.float() if weights.shape[1] > width else None
    converged = bool(np.abs(found.jac).max() <= limit)
    return weights, Fit(*head, penalty, float(found.fun), int(found.nit), converged, [])
