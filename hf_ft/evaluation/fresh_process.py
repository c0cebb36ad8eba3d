"""A script that runs saved models without hf_ft: with the plain `pipeline` of `transformers`, on raw inputs.

It is run by path in its own process, where hf_ft must not be imported; see `load_back`. Each line of standard input is
a request in JSON, and each line of standard output the answer. Arguments name modules that it imports before the first
request comes, and so may a line, which is not answered.
"""

import importlib
import json
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

ARRAY = "array of float32"
"""The key that marks an array, for which JSON has no type."""

IMPORTS = "import"
"""The key of a line that names modules."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Return the output names in the config of a saved model, and what its `pipeline` returns for each input.

    Returns:
        `names` by `AutoConfig`; `answers`, for each example pairs of label and score: of every class, sorted by name,
        or of every word, in order (None if no token begins in a word); `logits` of the same passes, None for words.
    """
    import transformers

    folder, words = request["folder"], request["pipeline"] == "token-classification"
    names = transformers.AutoConfig.from_pretrained(folder).id2label
    classify = transformers.pipeline(request["pipeline"], model=folder, device="cpu")
    if "hf_ft" in sys.modules:
        raise RuntimeError("hf_ft was imported: this proves nothing")
    logits: list[Any] = []
    classify.model.register_forward_hook(lambda model, given, output: logits.append(output.logits[0].float().tolist()))
    # `top_k=None` means five classes in the image pipeline and all classes in the text pipeline.
    options = {**request["options"], **({} if words else {"top_k": len(names)})}
    answers = [classify(restored(given), **options) for given in request["inputs"]]
    return {
        "names": [names[i] for i in range(len(names))],
        "answers": [
            first_of_each_word(found[0], given) if words else sorted([one["label"], one["score"]] for one in found)
            for found, given in zip(answers, request["inputs"], strict=True)
        ],
        "logits": None if words else logits,
    }


def restored(given: Any) -> Any:
    """Return an input as `pipeline` takes it: `{ARRAY: numbers}` becomes a float32 array."""
    import numpy as np

    return np.asarray(given[ARRAY], dtype=np.float32) if isinstance(given, dict) and set(given) == {ARRAY} else given


def first_of_each_word(tokens: list[dict[str, Any]], words: list[str]) -> list[Any]:
    """Return tag and score of the first token of each word; the pipeline joins the words by blanks."""
    found, start = [], 0
    for word in words:
        inside = [token for token in tokens if start <= token["start"] < start + max(1, len(word))]
        found.append([inside[0]["entity"], float(inside[0]["score"])] if inside else None)
        start += len(word) + 1
    return found


def reason(error: Exception) -> str:
    """Return one line of an error: `pipeline` packs the errors of all classes that it tried into a single message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    packed = [line for line in lines[1:] if re.match(r"\w+(Error|Exception): ", line)]
    return packed[0] if packed else f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def prepare(modules: Sequence[str]) -> None:
    """Import what requests will need; what cannot be imported is reported by the request that needs it."""
    for name in ("transformers.pipelines", *modules):
        with suppress(Exception):
            importlib.import_module(name)


def main(modules: Sequence[str]) -> None:
    """Answer one request after another; answer a request that fails with its error."""
    # Output of libraries must not mix with the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    prepare(modules)
    for line in sys.stdin:
        request = json.loads(line)
        if IMPORTS in request:
            prepare(request[IMPORTS])
            continue
        try:
            found = answer(request)
        except Exception as error:  # the content of a folder may raise anything, which is the answer
            found = {"error": reason(error)}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    # Python puts the script's own folder first on the path, where its modules would shadow others.
    sys.path.pop(0)
    main(sys.argv[1:])
