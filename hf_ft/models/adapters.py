"""PEFT adapters: the depth groups decide which layers are adapted and which head is saved with them.

PEFT's own defaults match names: its sequence classification task knows only heads called `classifier` and `score`, so
the heads of BART, T5 and XLNet are neither trained nor saved, and its target names are out of date for ViT. PEFT does
not document which layers a method supports and merges correctly, so each method is tested on a copy of one layer of
each class and size.
"""

from __future__ import annotations

import copy
import io
import logging
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, PeftType, get_peft_model, get_peft_model_state_dict
from peft.utils import ModulesToSaveWrapper
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback
from transformers.pytorch_utils import Conv1D

from hf_ft.errors import UserError
from hf_ft.methods import AppliedStage, check_name, configuration, mergeable, preset
from hf_ft.models.freezing import ensure_gradients, plain_name
from hf_ft.models.tracing import example_inputs
from hf_ft.storage import read_json, write_json

MERGE_TOLERANCE = 1e-3
"""Largest difference of an adapted layer's output after merging, relative to its scale, that counts as rounding."""


def attach(
    model: PreTrainedModel,
    stage: AppliedStage,
    name: str = "lora",
    options: Mapping[str, Any] | None = None,
    steps: int = 1000,
    seed: int = 0,
) -> PeftModel:
    """Attach the adapters of a PEFT method to the adapted groups; the head trains as a whole and is saved with them.

    Args:
        model: The classifier.
        stage: The stage, with the groups to adapt.
        name: The name of a PEFT method.
        options: Options of its config, such as `r`.
        steps: The number of training steps, which AdaLoRA's schedule needs.
        seed: The seed of the initial values, so that a resumed run starts from the same adapters.

    Raises:
        UserError: See `find_targets`; or the model's code does not work with PEFT's wrappers (MobileNet).
    """
    targets = find_targets(model, stage, name, options)
    trained = trained_modules(stage)
    config = configuration(name, options or {}, targets, trained, steps)
    inputs = example_inputs(model)
    with _quiet(seed):
        adapted = get_peft_model(model, config)
    for full, part in list(model.named_modules()):
        # PEFT (0.21) matches name endings: a `norm` beside the head matches every norm of the model. The wrappers must
        # stay, because loading the adapter creates them again, but they wrap the frozen module instead of a copy.
        if isinstance(part, ModulesToSaveWrapper) and full not in trained:
            part.modules_to_save["default"] = part.original_module.requires_grad_(False)
    ensure_gradients(adapted, stage, inputs)
    return adapted


def find_targets(
    model: PreTrainedModel,
    stage: AppliedStage,
    name: str,
    options: Mapping[str, Any] | None = None,
) -> list[str]:
    """Return the names of the layers in the adapted groups that a PEFT method supports.

    Raises:
        UserError: The method supports none of them (the message lists methods that do) or cannot be merged.
    """
    check_name(name)
    if taken := [full for full, part in model.named_modules() if hasattr(part, "base_layer")]:
        raise UserError(
            f"PEFT cannot merge adapters into {type(model).__name__}: it mistakes the `base_layer` of {taken[0]} for "
            "its own. Use another method, for example last_n:2 or full."
        )
    layers = _candidates(model, stage, name)
    _check_rank(layers, name, options or {})
    targets, reason = fitting(layers, name, options)
    if targets:
        return targets
    if options and fitting(layers, name)[0]:
        raise UserError(f"peft:{name} does not work with the options {dict(options)} ({reason}); without them it does.")
    others = [other for other in mergeable() if fitting(_candidates(model, stage, other), other)[0]]
    raise UserError(
        f"peft:{name} fits no layer in the blocks of {type(model).__name__} ({reason or 'there is none'}). "
        f"With their usual options these do: {', '.join(others) or 'none; use last_n:2 or full'}."
    )


def _check_rank(layers: Mapping[str, nn.Module], name: str, options: Mapping[str, Any]) -> None:
    """Raise `UserError` for a rank that makes adapters far larger than the layers: slow, or out of memory."""
    rank, widest = (
        options.get("r"),
        max((max(w.shape) for part in layers.values() for w in part.parameters()), default=0),
    )
    # Four times the width, because VeRA shares its matrices and is used with ranks above the width.
    if isinstance(rank, int) and widest and rank > 4 * widest:
        raise UserError(
            f"The rank r of peft:{name} is {rank:,}, and the widest layer that it would adapt has {widest:,} inputs or "
            f"outputs: a rank above that adds nothing. Use a smaller one."
        )


def _candidates(model: nn.Module, stage: AppliedStage, name: str) -> dict[str, nn.Module]:
    """Return the layers of the adapted groups that a method could adapt, by full name.

    Layers that share a weight are skipped: merging into one would change the others.
    """
    adapted = {module for group in stage.adapted for module in group.modules}
    norms = {full.rpartition(".")[0] for group in stage.groups for full in group.norms}
    uses = Counter(id(weight) for _, weight in model.named_parameters(remove_duplicate=False))

    def suits(full: str, part: nn.Module) -> bool:
        if preset(name).norms:
            return full in norms and getattr(part, "running_mean", None) is None
        return isinstance(part, nn.Linear | Conv1D | nn.Conv2d)

    return {
        full: part
        for full, part in model.named_modules()
        if _within(full, adapted) and suits(full, part) and all(uses[id(weight)] == 1 for weight in part.parameters())
    }


def _within(name: str, modules: set[str]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def fitting(
    candidates: Mapping[str, nn.Module], name: str, options: Mapping[str, Any] | None = None
) -> tuple[list[str], str]:
    """Return the layers that a PEFT method adapts and merges correctly, and why the first other layer fails.

    A copy of one layer of each class and size is tested: PEFT does not document which layers a method supports, its
    errors differ by method, and some merges are wrong (OFT's on convolutions with padding).
    """
    verdicts: dict[str, str] = {}
    for part in candidates.values():
        if (key := _kind(part)) not in verdicts:
            verdicts[key] = _try(part, name, options or {})
    fits = [full for full, part in candidates.items() if not verdicts[_kind(part)]]
    return fits, next((verdict for verdict in verdicts.values() if verdict), "")


def _kind(part: nn.Module) -> str:
    return f"{part!r} {[tuple(weight.shape) for weight in part.parameters()]}"


class _Alone(nn.Module):
    """A model of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.part = layer

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        """Return the layer's output."""
        return self.part(values)


def _try(part: nn.Module, name: str, options: Mapping[str, Any]) -> str:
    """Adapt a copy of a layer, change the adapter, merge it and compare; return the reason for failure, else ""."""
    config = configuration(name, options, ["part"], [], 1000)
    layer = copy.deepcopy(part).requires_grad_(True).eval()
    values = torch.randn(2, *_input_shape(layer), device=next(layer.parameters()).device)
    try:
        with _quiet(0), torch.no_grad():
            model: Any = get_peft_model(_Alone(layer), config).eval()
            trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
            for parameter in trained:
                parameter.add_(torch.randn_like(parameter) * 0.01)
            expected = model(values)
            merged = model.merge_and_unload(safe_merge=True)(values)
    except Exception as error:  # PEFT raises different errors for unsupported layers
        return " ".join(str(error).split())[:160] or type(error).__name__
    if not trained:
        return "nothing in it would train"
    if not isinstance(expected, torch.Tensor):
        return "it gives more than one tensor"
    largest = float((merged - expected).abs().max())
    scale = float(expected.abs().max())
    return "" if largest <= MERGE_TOLERANCE * max(scale, 1e-3) else "PEFT merges it wrongly"


def _input_shape(layer: Any) -> tuple[int, ...]:
    if isinstance(layer, nn.Conv2d):
        return (layer.in_channels, *(2 * size + 1 for size in layer.kernel_size))
    if isinstance(layer, nn.Linear):
        return (4, layer.in_features)
    weight = next(layer.parameters())
    return (4, weight.shape[0])  # Conv1D stores (in, out), a normalisation layer (features,)


@contextmanager
def _quiet(seed: int) -> Iterator[None]:
    """Within the block, seed a separate random state and silence PEFT."""
    with warnings.catch_warnings(), torch.random.fork_rng(), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def trained_modules(stage: AppliedStage) -> list[str]:
    """Return the names of the layers that train as a whole beside adapters: those of the head.

    Layers rather than the modules around them, because most PEFT methods (0.21) unwrap only modules with a `weight`
    when they are merged.
    """
    names = {name for group, setting in stage if setting.whole for name in group.parameters}
    return list(dict.fromkeys(name.rpartition(".")[0] for name in sorted(names)))


class Allocation(TrainerCallback):
    """Callback that calls AdaLoRA's `update_and_allocate` after each step, as PEFT requires of a training loop."""

    def __init__(self, model: PeftModel) -> None:
        self.model: Any = model

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Update the ranks after the step, before the gradients that their importance is computed from are cleared."""
        self.model.base_model.update_and_allocate(state.global_step)


def shared_tensors(model: PeftModel, stage: AppliedStage) -> bool:
    """Return whether adapters share tensors between layers (the bank of VB-LoRA, the projections of VeRA).

    Such a tensor has no single place in the upper part of a split model, so a checkpoint of that part alone would
    lack it or hold it several times.
    """
    base: nn.Module = model.get_base_model()
    inside = {id(parameter) for parameter in base.parameters()}
    if any(parameter.requires_grad and id(parameter) not in inside for parameter in model.parameters()):
        return True
    plain = {name for group in stage.groups for name in (*group.parameters, *group.buffers)}
    tensors = {name: tensor for name, tensor in base.state_dict().items() if tensor.numel()}
    places = Counter(tensor.data_ptr() for tensor in tensors.values())
    return any(places[tensor.data_ptr()] > 1 and plain_name(name) not in plain for name, tensor in tensors.items())


def allocates(model: nn.Module) -> bool:
    """Return whether a model has adapters whose ranks change during training (AdaLoRA)."""
    return isinstance(model, PeftModel) and hasattr(type(model.base_model), "update_and_allocate")


def merge(model: PeftModel) -> PreTrainedModel:
    """Merge the adapters into the weights and return the plain model.

    Raises:
        ValueError: The merged weights are not finite.
    """
    plain: Any = model.merge_and_unload(safe_merge=True)
    # LN tuning (peft 0.21) does not unwrap the modules that it saves.
    wrapped = [(name, part) for name, part in plain.named_modules() if isinstance(part, ModulesToSaveWrapper)]
    for name, part in wrapped:
        plain.set_submodule(name, part.modules_to_save[part.active_adapters[0]])
    return plain


def adapter_state(model: PeftModel) -> dict[str, torch.Tensor]:
    """Return copies of the tensors that are saved for an adapter."""
    return {name: tensor.detach().clone() for name, tensor in get_peft_model_state_dict(model).items()}


def convertible(model: PeftModel) -> bool:
    """Return whether `save_adapter` can convert an adapter that rewrites the base model: LoRA with a single rank."""
    config: Any = model.peft_config["default"]
    return config.peft_type == PeftType.LORA and not (config.rank_pattern or config.alpha_pattern)


def save_adapter(model: PeftModel, folder: Path, initial: Mapping[str, torch.Tensor] | None = None) -> None:
    """Save an adapter with its head, without the name of its base model, which `name_base` adds.

    Args:
        model: The adapted model.
        folder: Where to save the adapter.
        initial: The adapter before training. Initialisations such as PiSSA change the weights of the base model; with
            `initial`, the adapter is saved as a LoRA of twice the rank for the unchanged base model.
    """
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template contains the local path of the base model
    name_base(folder, None, None)
    if initial is not None:
        _subtract_initial(folder, initial)


def _subtract_initial(folder: Path, initial: Mapping[str, torch.Tensor]) -> None:
    """Convert BA to [B, -B0] [A; A0]. Own code, because PEFT's `subtract_mutated_init` loses the head."""
    weights, sides = load_file(folder / "adapter_model.safetensors"), {".lora_A.": (0, 1), ".lora_B.": (1, -1)}
    for name, tensor in weights.items():
        for side, (dim, sign) in sides.items():
            if side in name:
                weights[name] = torch.cat([tensor, sign * initial[name].to(tensor)], dim).contiguous()
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    path = folder / "adapter_config.json"
    config = read_json(path)
    scale = math.sqrt(2) if config["use_rslora"] else 2
    config |= {"r": 2 * config["r"], "lora_alpha": scale * config["lora_alpha"], "init_lora_weights": True}
    write_json(path, config)


def name_base(folder: Path, hub_id: str | None, commit: str | None) -> None:
    """Record the base model of a saved adapter by Hub id and commit, or as null if it is a local folder.

    PEFT writes the folder's path into `adapter_config.json`, and local paths must not be published.
    """
    path = folder / "adapter_config.json"
    written = read_json(path)
    written |= {"base_model_name_or_path": hub_id, "revision": commit}
    write_json(path, written)
