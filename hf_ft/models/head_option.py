"""The check of a custom head, without importing torch: before anything is loaded."""

from __future__ import annotations

import inspect
import re
import sys
from typing import Any

from hf_ft.errors import UserError


def check_head(head: Any) -> None:
    """Check that a custom head is `mlp:WIDTH` or a function of two numbers.

    Raises:
        UserError: It is neither.
    """
    if head is None or (isinstance(head, str) and re.fullmatch(r"mlp:[1-9]\d*", head)):
        return
    torch = sys.modules.get("torch")  # a caller that passes a module has imported torch
    module = torch is not None and isinstance(head, torch.nn.Module)
    try:
        fits = callable(head) and not module and bool(inspect.signature(head).bind(1, 2))
    except (TypeError, ValueError):
        fits = False
    if not fits:
        said = f"'{head}'" if isinstance(head, str) else f"an object of type {type(head).__name__}"
        raise UserError(
            f"head= does not take {said}.",
            option="head",
            value=said,
            hint="Pass 'mlp:WIDTH', such as 'mlp:512', or a function of (in_features, num_labels) to a module.",
        )
