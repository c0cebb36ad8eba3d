"""A script that loads a saved model as a stranger would, with `transformers` alone, and prints its logits.

It is run by path in a process of its own, where hf_ft must not be imported; see `evaluation.prove_load_back`.
"""

import json
import sys
from typing import Any


def encode(processor: Any, inputs: list[Any], modality: str, max_length: int | None) -> Any:
    """Turn image files, or lists of one or two texts (or of one list of words), into one batch."""
    if modality == "image":
        from PIL import Image

        return processor([Image.open(path) for path in inputs], return_tensors="pt")
    columns = [list(column) for column in zip(*inputs, strict=True)]
    limit = min(max_length or 512, processor.model_max_length)
    words = isinstance(columns[0][0], list)
    options = {"padding": True, "truncation": True, "max_length": limit, "return_tensors": "pt"}
    return processor(*columns, is_split_into_words=words, **options)


def main() -> None:
    """Read a request from standard input, load the model it names and print the logits as JSON."""
    import torch
    import transformers

    request = json.load(sys.stdin)
    processor_class = "AutoImageProcessor" if request["modality"] == "image" else "AutoTokenizer"
    processor = getattr(transformers, processor_class).from_pretrained(request["folder"])
    model = getattr(transformers, request["auto_class"]).from_pretrained(request["folder"]).eval()
    if "hf_ft" in sys.modules:
        sys.exit("hf_ft was imported: this proves nothing")
    with torch.inference_mode():
        logits = model(**encode(processor, request["inputs"], request["modality"], request["max_length"])).logits
    print(json.dumps(logits.float().tolist()))


if __name__ == "__main__":
    # Python puts the script's own folder first on the path, where hf_ft's modules would shadow others.
    sys.path.pop(0)
    main()
