"""The card of a run whose model and data are on the Hub: licence, languages and commits are theirs."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import metadata_load

from hf_ft.records import RunRecord, read_record
from tests.hub import LocalHub
from tests.support.processes import python
from tests.support.structure import PACKAGE

MODEL_CARD = b"---\nlicense: other\nlicense_name: own-1.0\nlicense_link: LICENSE\nlanguage: [de, en]\n---\n# Base\n"
DATA_CARD = b"---\nlicense: cc-by-4.0\nlanguage: de\n---\n# Films\n"


def test_what_the_hub_says(local_hub: LocalHub, text_model: str, text_data: str, tmp_path: Path) -> None:
    """Base model with relation and licence, data set with commit and language, and the licence of the data."""
    files = {path.name: path.read_bytes() for path in Path(text_model).iterdir()}
    local_hub.create("me/base", files={**files, "README.md": MODEL_CARD})
    tables = {path.name: path.read_bytes() for path in Path(text_data).glob("*.csv")}
    films = local_hub.create("me/films", type="dataset", files={**tables, "README.md": DATA_CARD})
    out = tmp_path / "out"
    words = ["train", "--task=text_classification", "--model=me/base", "--dataset=me/films", "--method=lora"]
    words += ["--max_steps=1", "--load_back_proof=false", "--cache=off", f"--output_dir={out}"]
    home = tmp_path / "home"
    home.mkdir()
    environment = local_hub.environment(None, home) | {"PYTHONPATH": str(PACKAGE.parent)}
    done = python("-m", "hf_ft", *words, environment=environment)
    assert done.returncode == 0, done.stderr
    record, found = read_record(out, RunRecord), metadata_load(out / "README.md")
    assert record.model.hub_id == "me/base"
    assert (record.data.hub_id, record.data.revision) == ("me/films", films.commits()[0].id)
    assert (found["base_model"], found["base_model_relation"]) == ("me/base", "finetune")
    named = (found["license"], found["license_name"], found["license_link"])
    assert named == ("other", "own-1.0", "LICENSE")
    assert (found["language"], found["datasets"]) == (["de"], ["me/films"])
    about = found["model-index"][0]["results"][0]["dataset"]
    assert (about["type"], about["split"], about["revision"]) == ("me/films", "test", record.data.revision)
    text = (out / "README.md").read_text()
    assert "Licence of the data: cc-by-4.0" in text
    assert '"./adapter"' in text
    assert metadata_load(out / "adapter/README.md")["library_name"] == "peft"
