"""Export a trained model as ONNX, OpenVINO or torch.export, in int8 if asked.

Compares answers, size and speed with the PyTorch model on real examples, and writes code that uses the result.
"""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

from hf_ft.cli.result_argument import check_result

if TYPE_CHECKING:
    from hf_ft.settings import Parser

EXAMPLE = """\
hf-ft export beans --format onnx
hf-ft export beans --format openvino --quantize int8 --output_dir beans-int8"""


def add_arguments(parser: Parser) -> None:
    """The result, the format, and the examples to compare on."""
    from hf_ft.export import FORMATS, QUANTIZED

    parser.add_argument("folder", metavar="OUT", help="output folder of a training run")
    parser.add_argument("--format", required=True, choices=FORMATS, help="format of the exported model")
    parser.add_argument("--quantize", choices=QUANTIZED, help="quantise weights and activations")
    output = parser.add_argument_group("output")
    output.add_argument("--output_dir", metavar="DIR", help="folder of the export (default: OUT-FORMAT, beside OUT)")
    output.add_argument("--overwrite_output_dir", action="store_true", help="replace an export that is there")
    compared = parser.add_argument_group("comparison")
    compared.add_argument("--dataset", metavar="D", help="where the data are (default: where the run read them)")
    compared.add_argument("--split", help="split to compare on (default: test, else validation, else train)")
    compared.add_argument("--examples", type=int, metavar="N", default=200, help="examples to compare on")


def run(options: Namespace) -> None:
    """Check the options, then export."""
    from hf_ft.export import check_format
    from hf_ft.settings import check_range

    check_result(options.folder)
    check_format(options.format, options.quantize)
    check_range("max_eval_examples", options.examples, "--examples")
    from hf_ft.export import export_model

    export_model(
        options.folder,
        options.format,
        quantize=options.quantize,
        output_dir=options.output_dir,
        dataset=options.dataset,
        split=options.split,
        examples=options.examples,
        overwrite_output_dir=options.overwrite_output_dir,
    )
