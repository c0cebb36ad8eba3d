"""Custom heads, as far as a plain `from_pretrained` can rebuild them.

`from_pretrained` builds a head from the config alone. A hidden layer is therefore possible only if the config has an
entry for it, and a custom module only if it is the architecture's own head with other initial weights. Both are
verified on the model at hand. Anything else is refused: it would load as another head, with random weights and no more
than a warning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from hf_ft.errors import UserError, first_line, shorten
from hf_ft.models.grouping import DepthGroup
from hf_ft.models.head_option import check_head
from hf_ft.models.tracing import evaluating, example_inputs, full_precision

Factory = Callable[[int, int], nn.Module]
"""`head(in_features, num_labels)`."""
PLAIN = "A plain from_pretrained builds the head from config.json"


def configure_head(head: str | Factory | None, config: PreTrainedConfig, name: str) -> None:
    """Configure a hidden layer if `head` is `mlp:WIDTH`, which timm models with `head_hidden_size` support.

    Args:
        head: `mlp:WIDTH`, a function of (in_features, num_labels), or None.
        config: The model config, changed in place.
        name: The name of the model, for errors.

    Raises:
        UserError: The config does not support a hidden layer, or `head` is neither a width nor a function.
    """
    check_head(head)
    if not isinstance(head, str):
        return
    width = int(head.removeprefix("mlp:"))
    if config.model_type == "timm_wrapper" and _takes_width(config, width):
        arguments = dict(getattr(config, "model_args", None) or {})
        config.model_args = arguments | {"head_hidden_size": width}
        return
    raise UserError(
        f"head={head}: {PLAIN}, and that of '{name}' ({config.model_type}) has no entry for a hidden layer.",
        option="head",
        value=head,
        hint="timm models with head_hidden_size have one, such as convnext, metaformer and maxvit. Or leave out head.",
    )


def _takes_width(config: Any, width: int) -> bool:
    import timm

    try:
        with torch.device("meta"):
            built: Any = timm.create_model(config.architecture, num_classes=2, head_hidden_size=width)
    except (TypeError, ValueError, RuntimeError):  # TypeError: the timm model has no such argument
        return False
    head = built.get_classifier()
    return isinstance(head, nn.Linear) and head.in_features == width


def initialise_head(head: str | Factory | None, model: PreTrainedModel, groups: Sequence[DepthGroup]) -> None:
    """Copy the weights of the module that `head` returns into the model's head, if a plain load rebuilds it.

    Raises:
        UserError: The module differs from the architecture's head in parameters or output.
    """
    if head is None or isinstance(head, str):
        return
    path = _head_path(groups)
    plain = model.get_submodule(path)
    shapes = _shapes(plain)
    matrices = [value for value in plain.parameters() if value.ndim == 2]
    inputs, outputs = matrices[0].shape[1], matrices[-1].shape[0]
    try:
        own = head(inputs, outputs)
    except Exception as error:  # the caller's code may raise anything
        raise UserError(first_line(f"head= fails for ({inputs}, {outputs})", error), option="head") from error
    if not isinstance(own, nn.Module):
        hint = "Return a torch.nn.Module."
        raise UserError(f"head= returned an object of type {type(own).__name__}.", option="head", hint=hint)
    if _shapes(own) != shapes:
        raise _refused(f"has {shorten(_described(own), 4)}, and that of {type(model).__name__} has", plain)
    batch, forward = example_inputs(model), cast(Any, model)
    own.to(next(plain.parameters()).device)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    with torch.no_grad(), evaluating(model), full_precision():
        model.set_submodule(path, own.eval())
        wanted = forward(**batch).logits
        model.set_submodule(path, plain)
        plain.load_state_dict(own.state_dict())
        found = forward(**batch).logits
    if wanted.shape != found.shape or not torch.allclose(wanted, found, rtol=1e-4, atol=1e-5):
        plain.load_state_dict(before)
        raise _refused(f"computes something else than that of {type(model).__name__}", plain)


def _head_path(groups: Sequence[DepthGroup]) -> str:
    """Return the name of the smallest module that contains the whole head."""
    names = [name.split(".")[:-1] for group in groups if group.role == "head" for name in group.parameters]
    shared = []
    for parts in zip(*names, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def _described(module: nn.Module) -> list[str]:
    return [f"{name} {'x'.join(map(str, shape))}" for name, shape in _shapes(module).items()] or ["no parameters"]


def _refused(why: str, plain: nn.Module) -> UserError:
    listed = shorten(_described(plain), 4)
    return UserError(
        f"The module of head= {why} {listed}." if why.endswith("has") else f"The module of head= {why}.",
        option="head",
        hint=f"{PLAIN}, so only one with the architecture's own parameters and function loads back: {listed}.",
    )
