"""A modality: one value that answers all that depends on the kind of input, such as images or texts.

A task names its modality, and the rest of the package asks that value instead of asking whether something is an image.
A new kind of input is a module in this folder with the value `MODALITY`, and a task that says
`modality=get_modality("<module>")`. These modules import nothing heavy at the top: the command line asks them for
options and defaults before torch is loaded.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from hf_ft.errors import UserError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclass(frozen=True)
class ColumnType:
    """What a column must hold to play an input role.

    Args:
        fits: Whether a column with this feature of `datasets` can play it.
        description: What such a column holds, for errors: "images or paths of images".
    """

    fits: Callable[[Any], bool]
    description: str


class FileDigests(NamedTuple):
    """Two hashes of an input file: of its bytes, and of its decoded content, which is equal for duplicates."""

    encoded: bytes
    content: bytes


@dataclass(frozen=True)
class FileInput:
    """Inputs that are files, one example each, in class folders or named in a table.

    Args:
        role: The input role that they play, which is also the name of their column. A column of paths can play it too.
        noun: What one is called: "image".
        extensions: Their extensions in lower case, with the dot.
        feature: Makes the feature of `datasets` that stores them; rows keep them encoded, and decode when read.
        check: Reads one encoded cell (`bytes`, `path`) completely: its digests, or why it cannot be read.
        layout: An example of a file in a class folder: "CLASS/*.jpg".
        encode: Makes a cell of an input in memory, such as an image of Pillow or an array; None if it is no such input.
    """

    role: str
    noun: str
    extensions: tuple[str, ...]
    feature: Callable[[], Any]
    check: Callable[[Mapping[str, Any]], FileDigests | str]
    layout: str
    encode: Callable[[Any], Mapping[str, Any] | None]


class LoadProcessor(Protocol):
    """How `Modality.load_processor` is called."""

    def __call__(self, folder: str, config: PreTrainedConfig, name: str, **options: Any) -> tuple[Any, list[str]]:
        """The processor of a source model, and notes on what had to be chosen for the user.

        Args:
            folder: A folder or Hub id.
            config: The model's; may be changed where it has to say how inputs are prepared.
            name: What the user calls the model, for errors.
            options: `revision` and `trust_remote_code`.
        """


@dataclass(frozen=True)
class InputCode:
    """Python code that prepares an input: a function `inputs` from a raw input to arrays of a batch of one.

    It may use `np` and `FOLDER`, the folder of the exported model. For lists of words it also defines `word_ids`.

    Args:
        packages: What it imports beside numpy, by the names of PyPI.
    """

    packages: tuple[str, ...]
    text: str


@dataclass(frozen=True)
class Modality:
    """All that depends on the kind of input.

    Args:
        name: The name of its module: "image".
        plural: What inputs are called in headings: "images".
        unit: What `hf-ft models` counts the size of an input in.
        example: An input as Python code, for the example of the card.
        options: The settings that make sense for this modality alone.
        columns: Input role -> the columns that can play it.
        method_defaults: The modality whose defaults a method uses: "image" or "text", which are the two that they
            were tuned on.
        load_processor: Loads the processor or tokenizer of a source model.
        load_saved_processor: Loads that of a result folder, given the model's config.
        example_inputs: One small batch that a model accepts, None for a model of another modality.
        model_inputs: Names of all tensors that the task's batches hold; None where models differ in what they take.
        files: How inputs are read that are files; None where they are texts in tables or lines.
        views: `views(n)` returns n functions of one raw input, the first of which changes nothing, for test-time
            augmentation; None where an input has no views. `most_views` is the greatest n.
        padding_trial: One input and the same with padding, `(alone, padded)`, to see whether a model's answer depends
            on padding; None where nothing is padded.
        at_once: For a processor, how many inputs run through a model at once on a CPU where nothing trains; None where
            their length decides.
        sentence_encoders: Whether the source may be a sentence encoder, which names the pooling it was trained for.
        input_code: `input_code(processor, limit, words)` returns code that prepares inputs for an exported model, the
            plainest first: texts of up to `limit` tokens, or lists of words.
        quantization: How ONNX Runtime quantises activations: `dynamic` while the model runs, or `static`, by ranges
            that are measured on examples before.
    """

    name: str
    plural: str
    unit: str
    example: str
    options: tuple[str, ...]
    columns: Mapping[str, ColumnType]
    method_defaults: str
    load_processor: LoadProcessor
    load_saved_processor: Callable[[str, PreTrainedConfig], Any]
    example_inputs: Callable[[PreTrainedModel], dict[str, torch.Tensor] | None]
    model_inputs: frozenset[str] | None = None
    files: FileInput | None = None
    views: Callable[[int], Sequence[Callable[[Any], Any]]] | None = None
    most_views: int = 1
    padding_trial: Callable[[PreTrainedModel], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]] | None] = (
        lambda model: None
    )
    at_once: Callable[[Any], int | None] = lambda processor: None
    sentence_encoders: bool = False
    input_code: Callable[[Any, int, bool], Sequence[InputCode]] = lambda processor, limit, words: ()
    quantization: str = "dynamic"

    def check_views(self, number: int) -> None:
        """Check that an input has so many views; 1 is the input itself.

        Raises:
            UserError: It has none, or another number of them.
        """
        if number == 1:
            return
        if self.views is None:
            problem = f"--tta averages over views of an image, and this model reads {self.plural}."
            raise UserError(problem, option="tta", value=number, hint="Leave it out.")
        choices = [str(even) for even in range(2, self.most_views + 1, 2)]
        if str(number) not in choices:
            problem = f"--tta takes an even number of views, not {number}."
            raise UserError(problem, option="tta", value=number, choices=choices)


def get_modality(name: str) -> Modality:
    """The value `MODALITY` of the module of that name in this folder."""
    modality: Modality = importlib.import_module(f"hf_ft.modalities.{name}").MODALITY
    return modality
