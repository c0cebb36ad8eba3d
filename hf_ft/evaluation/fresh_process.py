"""A script that asks saved models as a stranger would: with the plain `pipeline` of `transformers`, on raw inputs.

It is run by path in a process of its own, where hf_ft must not be imported; see `load_back`. Each line of standard
input is a request in JSON, and each line of standard output its answer.
"""

import json
import os
import re
import sys
from typing import Any

ARRAY = "array of float32"
"""The key of an input that is an array, which JSON does not know."""


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """What `AutoConfig` calls the outputs of the model in `folder`, and what its `pipeline` says of each input.

    `answers` are pairs of label and score for each example: of every class, by name, or of every word, in order (None
    where no token begins in a word). `logits` are those of the same passes; those of words are left out.
    """
    import transformers

    folder, words = request["folder"], request["pipeline"] == "token-classification"
    names = transformers.AutoConfig.from_pretrained(folder).id2label
    classify = transformers.pipeline(request["pipeline"], model=folder, device="cpu")
    if "hf_ft" in sys.modules:
        raise RuntimeError("hf_ft was imported: this proves nothing")
    logits: list[Any] = []
    classify.model.register_forward_hook(lambda model, given, output: logits.append(output.logits[0].float().tolist()))
    # `top_k=None` would mean five to the pipeline of images, and all to that of texts.
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
    """An input as `pipeline` takes it: `{ARRAY: numbers}` is an array of float32."""
    import numpy as np

    return np.asarray(given[ARRAY], dtype=np.float32) if isinstance(given, dict) and set(given) == {ARRAY} else given


def first_of_each_word(tokens: list[dict[str, Any]], words: list[str]) -> list[Any]:
    """Tag and score of the first token of each word; the pipeline joins the words by blanks to tell characters."""
    found, start = [], 0
    for word in words:
        inside = [token for token in tokens if start <= token["start"] < start + max(1, len(word))]
        found.append([inside[0]["entity"], float(inside[0]["score"])] if inside else None)
        start += len(word) + 1
    return found


def reason(error: Exception) -> str:
    """One line of an error; `pipeline` packs the errors of all classes that it tried into the text of one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    packed = [line for line in lines[1:] if re.match(r"\w+(Error|Exception): ", line)]
    return packed[0] if packed else f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def main() -> None:
    """Answer request after request; a request that fails is answered by its error."""
    # What libraries print must not get between the answers.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            found = answer(json.loads(line))
        except Exception as error:  # whatever a folder's own content raises is what has to be told
            found = {"error": reason(error)}
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    # Python puts the script's own folder first on the path, where hf_ft's modules would shadow others.
    sys.path.pop(0)
    main()
