"""`hf-ft export`: every kind of label and format, int8, the code beside the model, and what is never overwritten."""

from __future__ import annotations

import ast
import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from hf_ft import UserError, export_model, finetune
from hf_ft.cli.app import main
from hf_ft.export import parity
from hf_ft.records import ExportRecord, read_record
from hf_ft.storage import output_folder

TASKS = {
    "image": "image_classification",
    "text": "text_classification",
    "multi_label": "text_classification",
    "regression": "text_regression",
    "token": "token_classification",
}
Run = Callable[[str], Path]


@pytest.fixture(scope="module")
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Kind of data -> the folder of a short run on it, trained when it is first asked for."""
    folder, trained = tmp_path_factory.mktemp("runs"), dict[str, Path]()

    def find(kind: str) -> Path:
        if kind not in trained:
            model = request.getfixturevalue("image_model" if kind == "image" else "text_model")
            settings: dict[str, Any] = {"learning_rate": 1e-2, "max_steps": 20, "per_device_train_batch_size": 8}
            finetune(
                task=TASKS[kind],
                model=model,
                dataset=request.getfixturevalue(f"{kind}_data"),
                method="full",
                load_back_proof=False,
                output_dir=str(folder / kind),
                **settings,
            )
            trained[kind] = folder / kind
        return trained[kind]

    return find


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("format_name", ["onnx", "openvino", "torch_export"])
def test_the_exported_model_answers_alike(kind: str, format_name: str, run: Run, tmp_path: Path) -> None:
    """On test examples, one by one and padded; record, sizes and times are written beside the model."""
    out = tmp_path / "out"
    record = export_model(run(kind), format_name, output_dir=out)
    assert record == read_record(out, ExportRecord)
    assert record.parity.split == "test"
    assert record.parity.examples == {"image": 18, "multi_label": 20}.get(kind, 16)
    assert record.parity.largest_difference <= 1e-3 * record.parity.scale
    assert record.parity.batch_difference is not None
    assert record.parity.batch_difference <= 1e-3 * max(1.0, record.parity.scale)
    same = None if kind == "regression" else record.parity.examples
    assert record.parity.same_answers == same
    assert record.pytorch.metrics == pytest.approx(record.exported.metrics, abs=1e-3, rel=1e-3)
    assert min(side.ms_per_example for side in (record.pytorch, record.exported)) > 0
    assert record.exported.bytes > 0.5 * record.pytorch.bytes
    assert record.quantization == ""
    assert set(output_folder.files_of(out)) >= {"README.md", "config.json", "parity.json", "export.json"}
    assert str(tmp_path) not in (out / "parity.json").read_text() + (out / "README.md").read_text()


def code_of(out: Path) -> str:
    """The Python code on the page of an export."""
    return (out / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


def answer(out: Path, example: str, *missing: str) -> Any:
    """What the code of an export prints for an example, in a process where some packages are not installed."""
    tree = ast.parse(code_of(out))
    call = tree.body[-1]
    assert ast.unparse(call).startswith("print(predict(")
    without = f"import sys\nfor name in {missing!r}:\n    sys.modules[name] = None\n"
    program = without + ast.unparse(ast.Module(tree.body[:-1], [])) + f"\nprint(repr(predict({example})))"
    done = subprocess.run([sys.executable, "-c", program], cwd=out, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1500:]
    return ast.literal_eval(done.stdout.splitlines()[-1])


HEAVY = ("hf_ft", "torch", "transformers", "datasets")


def first_text(folder: str) -> str:
    """The text of the first test example of a table."""
    path = next(Path(folder).glob("test*"))
    if path.suffix == ".csv":
        with path.open(encoding="utf-8") as file:
            return next(csv.DictReader(file))["text"]
    return str(json.loads(path.read_text().splitlines()[0])["text"])


@pytest.mark.parametrize("kind", ["text", "multi_label", "regression"])
def test_the_code_for_texts_needs_no_torch(kind: str, run: Run, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The code on the page gives the scores of a plain pipeline, with numpy, tokenizers and the runtime alone."""
    out = tmp_path / "out"
    assert export_model(run(kind), "onnx", output_dir=out).input_code == ["tokenizers"]
    text = first_text(request.getfixturevalue(f"{kind}_data"))
    found = answer(out, repr(text), *HEAVY)
    plain = transformers.pipeline("text-classification", model=str(run(kind)), device="cpu")
    apply = {"function_to_apply": "none"} if kind == "regression" else {}
    wanted = {one["label"]: one["score"] for one in plain(text, top_k=None, **apply)}
    assert found == pytest.approx(wanted, rel=1e-3, abs=1e-4)


def test_the_code_for_images_needs_no_torch(run: Run, image_data: str, tmp_path: Path) -> None:
    """Pillow resizes and normalises as the processor does but for rounding."""
    out = tmp_path / "out"
    assert export_model(run("image"), "openvino", output_dir=out).input_code == ["pillow"]
    picture = next(Path(image_data).glob("test/*/*.png"))
    found = answer(out, repr(str(picture)), *HEAVY, "torchvision")
    plain = transformers.pipeline("image-classification", model=str(run("image")), device="cpu")
    wanted = {one["label"]: one["score"] for one in plain(str(picture))}
    assert found == pytest.approx(wanted, abs=0.05)
    assert max(found, key=found.get) == max(wanted, key=wanted.get)


def test_the_code_for_tags_needs_no_torch(run: Run, token_data: str, tmp_path: Path) -> None:
    """Each word has one tag: that of its first token."""
    out = tmp_path / "out"
    export_model(run("token"), "onnx", output_dir=out)
    row = json.loads(next(Path(token_data).glob("test*")).read_text().splitlines()[0])
    found = answer(out, repr(row["tokens"]), *HEAVY)
    assert [word for word, _ in found] == row["tokens"]
    plain = transformers.pipeline("token-classification", model=str(run("token")), device="cpu", ignore_labels=[])
    (tokens,) = plain([row["tokens"]], is_split_into_words=True)
    firsts = [one["entity"] for one in tokens if not one["word"].startswith("##")]
    assert [tag for _, tag in found] == firsts


def test_torch_export_needs_no_transformers(run: Run, tmp_path: Path, text_data: str) -> None:
    """The program of torch.export returns a plain dictionary, so torch alone loads it."""
    out = tmp_path / "out"
    export_model(run("text"), "torch_export", output_dir=out)
    found = answer(out, repr(first_text(text_data)), "hf_ft", "transformers", "datasets")
    assert sum(found.values()) == pytest.approx(1, abs=1e-6)


def test_transformers_loads_it(run: Run, tmp_path: Path) -> None:
    """`ExportedModel.from_pretrained` reads the folder, and answers as the model does."""
    from transformers.exporters import ExportedModel

    export_model(run("text"), "onnx", output_dir=tmp_path / "out")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    inputs = tokenizer(["a good film", "an awful and boring film again"], padding=True, return_tensors="pt")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run("text")).eval()
    found = ExportedModel.from_pretrained(tmp_path / "out")(**inputs)["logits"]
    np.testing.assert_allclose(found.numpy(), model(**inputs).logits.detach().numpy(), atol=1e-4)


# --- Int8 ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "format_name", "how"),
    [
        ("text", "onnx", "quantize_dynamic"),
        ("image", "onnx", "quantize_static"),
        ("text", "openvino", "nncf"),
        ("token", "onnx", "quantize_dynamic"),
    ],
)
def test_int8(kind: str, format_name: str, how: str, run: Run, tmp_path: Path) -> None:
    """It is smaller than in float32, and its accuracy is recorded beside that of PyTorch."""
    plain = export_model(run(kind), format_name, output_dir=tmp_path / "float")
    record = export_model(run(kind), format_name, quantize="int8", output_dir=tmp_path / "int8")
    assert how in record.quantization
    assert record.parity.tolerance is record.parity.batch_difference is None
    assert record.parity.same_answers is not None
    assert record.parity.same_answers >= 0.8 * record.parity.examples
    assert record.pytorch.metrics == pytest.approx(plain.pytorch.metrics)
    weights = {"onnx": "model.onnx.data", "openvino": "openvino_model.bin"}[format_name]
    small, large = ((tmp_path / name / weights).stat().st_size for name in ("int8", "float"))
    assert small < (0.9 if kind == "image" else 0.5) * large  # a small network is mostly graph
    assert record.quantization in " ".join((tmp_path / "int8" / "README.md").read_text().split())


def test_examples_that_are_compared_are_not_measured_on(run: Run, image_data: str, tmp_path: Path) -> None:
    """With a training split alone, its first part is compared and the rest calibrates."""
    only = tmp_path / "data"
    shutil.copytree(Path(image_data) / "train", only / "train")
    record = export_model(
        run("image"), "onnx", quantize="int8", dataset=str(only), examples=20, output_dir=tmp_path / "out"
    )
    total = len(list(only.glob("train/*/*.png")))
    assert record.parity.split == "train"
    assert record.parity.examples < total
    measured = int(record.quantization.split("ranges on ")[1].split()[0])
    assert record.parity.examples + measured == total


# --- Errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("format_name", "quantize", "package"),
    [("onnx", None, "onnxscript"), ("openvino", None, "openvino"), ("openvino", "int8", "nncf")],
)
def test_a_missing_package_is_named(
    format_name: str, quantize: str | None, package: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line with the package and what installs it; nothing is written."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        export_model(run("text"), format_name, quantize=quantize, output_dir=tmp_path / "out")
    assert package in error.value.problem
    assert "hf-ft[export]" in error.value.hint
    assert not (tmp_path / "out").exists()


def test_int8_that_a_format_does_not_have(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, with the formats that have it."""
    assert main(["export", str(run("text")), "--format", "torch_export", "--quantize", "int8"]) == 2
    assert "--format onnx or openvino" in capsys.readouterr().err


def test_a_copy_without_paths_needs_the_data(run: Run, text_data: str, tmp_path: Path) -> None:
    """What was published does not say where its data were; with `dataset` it is exported."""
    copy = shutil.copytree(run("text"), tmp_path / "copy", ignore=shutil.ignore_patterns(".local"))
    with pytest.raises(UserError) as error:
        export_model(copy, "torch_export", output_dir=tmp_path / "out")
    assert error.value.option == "dataset"
    assert not (tmp_path / "out").exists()
    record = export_model(copy, "torch_export", dataset=text_data, output_dir=tmp_path / "out", examples=4)
    assert record.parity.examples == 4


def test_other_logits_are_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An export that does not answer alike is not written: here nothing is near enough."""
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    with pytest.raises(UserError, match="its logits differ") as error:
        export_model(run("text"), "torch_export", output_dir=tmp_path / "out")
    assert error.value.option == "format"
    assert not (tmp_path / "out").exists()


def test_nothing_of_others_is_overwritten(run: Run, tmp_path: Path) -> None:
    """A folder with other files is refused, an export only replaced on request, and a file beside it stays."""
    before = {path: path.read_bytes() for path in run("text").rglob("*") if path.is_file()}
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "model.onnx").write_text("mine")
    with pytest.raises(UserError, match="did not write"):
        export_model(run("text"), "torch_export", output_dir=mine, overwrite_output_dir=True)
    assert [path.name for path in mine.iterdir()] == ["model.onnx"]
    for inside in (run("text"), run("text") / "export"):
        with pytest.raises(UserError, match="output folder"):
            export_model(run("text"), "torch_export", output_dir=inside)
    out = tmp_path / "out"
    export_model(run("text"), "torch_export", output_dir=out, examples=2)
    with pytest.raises(UserError, match="already holds an export"):
        export_model(run("text"), "torch_export", output_dir=out)
    (out / "notes.txt").write_text("mine")
    (out / "README.md").write_text("edited")
    export_model(run("text"), "onnx", output_dir=out, overwrite_output_dir=True, examples=2)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "README.md.kept").read_text() == "edited"
    assert not (out / "model.pt2").exists()
    assert (out / "model.onnx").exists()
    assert before == {path: path.read_bytes() for path in run("text").rglob("*") if path.is_file()}


def test_the_command_writes_beside_the_run(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default the export stands beside the run, and a table of both models is printed, in 80 columns."""
    copy = shutil.copytree(run("text"), tmp_path / "opinions")
    assert main(["export", str(copy), "--format", "torch_export", "--examples", "3"]) == 0
    assert (tmp_path / "opinions-torch_export" / "model.pt2").is_file()
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("PyTorch", "torch.export", "milliseconds an example", "megabytes"))
