"""The card of real runs of every kind: its metadata are the Hub's, its code runs, its words come from `run.json`."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, metadata_eval_result, metadata_load
from huggingface_hub.repocard_data import model_index_to_eval_results
from PIL import Image

from hf_ft import finetune
from hf_ft.environment import Energy
from hf_ft.records import RunRecord, read_record
from hf_ft.reports.card import adapter_card, card, cards, published_card
from hf_ft.reports.model_card.hand_edits import merged
from hf_ft.reports.model_card.licences import IDENTIFIERS, licence_metadata
from hf_ft.reports.model_card.metadata import METRICS, metadata
from tests.support.cards import code_blocks, run_blocks

KINDS = {
    "image": ("image_classification", "image_model", "lp_ft"),
    "text": ("text_classification", "text_model", "lora"),
    "multi_label": ("text_classification", "text_model", "full"),
    "regression": ("text_regression", "text_model", "full"),
    "token": ("token_classification", "text_model", "full"),
}
SECTIONS = ["Use", "Results", "Training", "Data", "Limits", "Proofs"]
TASKS = {"image-classification", "text-classification", "token-classification"}
"""Those of the Hub that the tasks of this package have (huggingface.js/packages/tasks/src/pipelines.ts)."""
OF_EVALUATE = {
    *("accuracy", "f1", "precision", "recall", "matthews_correlation", "roc_auc", "average_precision"),
    *("mse", "mae", "r_squared", "pearsonr", "spearmanr"),
}


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each kind; that of texts shows two examples, the others none."""
    found = {}
    for kind, (task, model, method) in KINDS.items():
        out = tmp_path_factory.mktemp("cards") / kind
        finetune(
            task=task,
            model=request.getfixturevalue(model),
            dataset=request.getfixturevalue(f"{kind}_data"),
            method=method,
            max_steps=3,
            per_device_train_batch_size=8,
            output_dir=out,
            load_back_proof=False,
            card_examples=2 if kind == "text" else 0,
        )
        found[kind] = out
    return found


def card_text(folder: Path) -> str:
    """The card in a result folder."""
    return (folder / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", KINDS)
def test_metadata_are_those_of_the_hub(kind: str, runs: dict[str, Path]) -> None:
    """`huggingface_hub` reads them, writes the same again, and finds the scores of `run.json` in them."""
    record, loaded = read_record(runs[kind], RunRecord), ModelCard.load(runs[kind] / "README.md")
    written = loaded.data.to_dict()
    assert metadata_load(runs[kind] / "README.md") == written
    assert written["library_name"] == "transformers"
    assert written["pipeline_tag"] in TASKS
    assert {"hf_ft", "transfer-learning"} < set(written["tags"])
    assert ("peft" in written["tags"]) is (kind == "text")
    assert "base_model" not in written  # a local folder
    assert "license" not in written
    name, results = model_index_to_eval_results(written["model-index"])
    assert name == f"{record.model.name} fine-tuned on {record.data.name}"
    scores = record.metrics["test"]
    assert [one.metric_value for one in results] == [round(score.value, 4) for score in scores.values()]
    assert {one.dataset_split for one in results} == {"test"}
    assert {one.task_type for one in results} == {written["pipeline_tag"]}
    assert len({(one.metric_type, one.metric_name) for one in results}) == len(scores)


def test_an_eval_result_is_what_the_client_makes(runs: dict[str, Path]) -> None:
    """`metadata_eval_result`, the client's own function for one score, gives the same entry."""
    entry = metadata_load(runs["text"] / "README.md")["model-index"][0]["results"][0]
    first = entry["metrics"][0]
    made = metadata_eval_result(
        model_pretty_name="x",
        task_pretty_name=entry["task"]["name"],
        task_id=entry["task"]["type"],
        metrics_pretty_name=first["name"],
        metrics_id=first["type"],
        metrics_value=first["value"],
        dataset_pretty_name=entry["dataset"]["name"],
        dataset_id=entry["dataset"]["type"],
        dataset_split=entry["dataset"]["split"],
    )["model-index"][0]["results"][0]
    assert made["metrics"][0].pop("verified") is False  # which only the Hub sets to true
    assert made == {**entry, "metrics": [{name: first[name] for name in ("type", "value", "name")}]}


def test_metrics_have_names_that_evaluate_knows() -> None:
    """Averages and the like are arguments of a metric, and its identifier is the one of `evaluate`."""
    assert {identifier for identifier, _ in METRICS.values()} <= OF_EVALUATE
    assert METRICS["f1_macro"] == ("f1", {"average": "macro"})


def test_code_on_cards_runs_without_hf_ft(runs: dict[str, Path], tmp_path: Path) -> None:
    """Every block of every card, in its folder and in one fresh process."""
    asked = []
    for kind, folder in runs.items():
        copy = Path(shutil.copytree(folder, tmp_path / kind))
        Image.new("RGB", (40, 40), "red").save(copy / "photo.jpg")
        blocks = code_blocks(card_text(copy))
        assert len(blocks) == 1
        assert 'model="."' in blocks[0]
        asked.append((copy, blocks))
    answers = dict(zip(runs, run_blocks(asked), strict=True))
    assert {one["label"] for one in answers["image"]} == {"blue", "green", "red"}
    assert answers["text"][0]["label"] in ("negative", "positive")
    assert len(answers["multi_label"]) == 3 or len(answers["multi_label"][0]) == 3
    assert 1000 < answers["regression"][0]["score"] < 4000
    assert isinstance(answers["token"], list)


def test_the_id_of_the_repository_is_in_the_code(runs: dict[str, Path]) -> None:
    """A published card loads from the Hub, also where its use was edited, and its sections are still known."""
    here = card(read_record(runs["text"], RunRecord))
    there = published_card(here, "me/opinions")
    assert 'pipeline("text-classification", model="me/opinions")' in code_blocks(there)[0]
    assert '"."' not in there
    assert merged(there, here).text == here
    edited = here.replace("## Use\n", "## Use\n\nAsk me first.\n")
    page = published_card(edited, "me/opinions")
    assert "Ask me first." in page
    assert 'model="me/opinions")' in page
    assert merged(page, here).edited == ["Use"]
    own = '# Mine\n\n```python\nload(".")\n```\n\nAlone ".", as it was.\n'
    assert published_card(own, "me/x") == own.replace('load(".")', 'load("me/x")')


@pytest.mark.parametrize("kind", KINDS)
def test_sections_say_what_the_record_has(kind: str, runs: dict[str, Path]) -> None:
    record, text = read_record(runs[kind], RunRecord), card_text(runs[kind])
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings == SECTIONS if kind != "text" else [*SECTIONS[:2], "Examples", *SECTIONS[2:]]
    for figure in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text):
        assert (runs[kind] / figure).stat().st_size > 500
    assert record.data.fingerprint in text
    assert f"{record.data.sizes['train']:,} train" in text
    assert f"torch `{record.versions['torch']}`" in text
    assert "--output_dir OUT" in text
    if kind == "regression":
        assert set(record.data.numbers) == {"train", "validation", "test"}
        assert record.data.numbers["train"].smallest >= 2000
        assert "extrapolations" in text
    else:
        counts = record.data.counts
        assert set(counts) == {"train", "validation", "test"}
        if kind in ("image", "text"):
            assert {name: sum(one.values()) for name, one in counts.items()} == record.data.sizes
    assert ("Probabilities" in text) is (kind in ("image", "text", "multi_label"))


def test_examples_are_shown_only_if_asked_for(runs: dict[str, Path]) -> None:
    """The user's texts are not published by default: neither on the card nor in `run.json`."""
    for kind, folder in runs.items():
        content = (folder / "run.json").read_text() + card_text(folder)
        assert ("film number" in content) is (kind == "text")
        assert "visited" not in content
        assert "about art" not in content
    found = read_record(runs["text"], RunRecord).examples
    assert found is not None
    assert found.split == "test"
    assert len(found.sample) == 2
    assert len(found.mistakes) <= min(2, found.wrong or 0)
    assert all(one.true != one.predicted for one in found.mistakes)
    assert [one["text"] for one in metadata_load(runs["text"] / "README.md")["widget"]] == [
        one.input for one in found.sample
    ]


def test_texts_of_examples_make_no_links(runs: dict[str, Path]) -> None:
    """Addresses, mentions and formulas stand as code, where a page makes nothing of them; other texts as text."""
    record = read_record(runs["text"], RunRecord)
    assert record.examples is not None
    one = record.examples.sample[0]
    for text in ("see https://evil.example", "www.evil.example", "ask @someone", "$$x$$", "plain"):
        shown = replace(record, examples=replace(record.examples, sample=[replace(one, input=text)], mistakes=[]))
        assert (f"| `{text}` |" in card(shown)) is (text != "plain")
        assert text in card(shown)


def test_a_hub_model_is_named_with_licence_and_commit(runs: dict[str, Path]) -> None:
    """What a run from the Hub records: base model, relation, data set with configuration, split and commit."""
    record = read_record(runs["text"], RunRecord)
    model = replace(record.model, hub_id="org/base", commit="a" * 40, licence="mit", languages=["en"])
    data = replace(
        record.data,
        hub_id="org/films",
        config="reviews",
        revision="b" * 40,
        source_splits={"train": "train", "test": "dev"},
    )
    record = replace(record, model=model, data=data)
    found = metadata(record).to_dict()
    assert (found["base_model"], found["base_model_relation"]) == ("org/base", "finetune")
    assert (found["license"], found["language"], found["datasets"]) == ("mit", ["en"], ["org/films"])
    about = {"type": "org/films", "config": "reviews", "split": "dev", "revision": "b" * 40}
    assert about.items() <= found["model-index"][0]["results"][0]["dataset"].items()
    assert set(cards(record)) == {"README.md", "adapter/README.md"}
    blocks = code_blocks(published_card(card(record), "me/opinions"))
    assert f'"org/base", revision="{"a" * 40}", num_labels=2' in blocks[1]
    assert '"me/opinions", subfolder="adapter"' in blocks[1]
    alone = adapter_card(record)
    assert "figures/" not in alone
    assert 'PeftModel.from_pretrained(base, "me/lora")' in code_blocks(published_card(alone, "me/lora"))[0]
    front = yaml.safe_load(alone.split("---\n")[1])
    assert (front["library_name"], front["base_model_relation"]) == ("peft", "adapter")
    scratch = replace(record, proofs=replace(record.proofs, only_head_new=None))
    assert not {"base_model", "license"} & set(metadata(scratch).to_dict())


def test_languages_are_those_of_the_data(runs: dict[str, Path]) -> None:
    """A base model of many languages does not make a model of many; images are in none."""
    text, image = (read_record(runs[kind], RunRecord) for kind in ("text", "image"))
    for record, data, model, wanted in (
        (text, ["de"], ["en"], ["de"]),
        (text, [], ["en"], ["en"]),
        (text, [], ["de", "en", "fr"], None),
        (image, ["en"], ["en"], None),
    ):
        changed = replace(
            record, data=replace(record.data, languages=data), model=replace(record.model, languages=model)
        )
        assert metadata(changed).to_dict().get("language") == wanted


@pytest.mark.parametrize(
    ("licence", "wanted"),
    [
        (None, {}),
        ("mit", {"license": "mit"}),
        ("other", {"license": "other", "license_name": "unnamed"}),
        ("dinov3-license", {"license": "other", "license_name": "dinov3-license"}),
    ],
)
def test_licences_without_an_identifier_have_a_name(licence: str | None, wanted: dict[str, str]) -> None:
    """The Hub refuses an identifier that it does not know; `other` needs a name."""
    assert licence_metadata(licence, None, None) == wanted
    assert {"other", "apache-2.0", "cc-by-nc-4.0"} <= IDENTIFIERS


def test_a_named_licence_keeps_name_and_link() -> None:
    found = licence_metadata("other", "own-1.0", "https://own.example/licence")
    assert found == {"license": "other", "license_name": "own-1.0", "license_link": "https://own.example/licence"}


def test_energy_is_on_the_card_with_how_it_was_found(runs: dict[str, Path]) -> None:
    """CO2 is in the metadata only where the country is known."""
    record = read_record(runs["text"], RunRecord)
    energy = Energy(0.002, 60.0, {"processor": 0.002}, "Some CPU", "rapl", "FRA", 0.11, "3.0.0")
    known, unknown = (replace(record, energy=one) for one in (energy, replace(energy, country=None, grams=None)))
    assert metadata(known).to_dict()["co2_eq_emissions"]["emissions"] == 0.11
    assert "co2_eq_emissions" not in metadata(unknown).to_dict()
    assert "2.000 Wh" in card(known)
    assert "CO2" not in card(unknown)
    assert "codecarbon" not in card(record)


def test_the_command_is_that_of_the_run(runs: dict[str, Path]) -> None:
    """Parsed again it gives the settings of the run, and no path."""
    from hf_ft.cli.app import module_of
    from hf_ft.settings.argument_parser import Parser

    for kind, folder in runs.items():
        record = read_record(folder, RunRecord)
        assert str(folder.parent) not in record.command
        words = shlex.split(record.command)
        assert words[:2] == ["hf-ft", "train"]
        parser = Parser("train")
        module_of("train").add_arguments(parser)
        options, rest = parser.parse_known_args(words[2:])
        parser.refuse(rest)
        given: dict[str, Any] = vars(options)
        assert (given["task"], given["method"]) == (KINDS[kind][0], KINDS[kind][2])
        assert (given["max_steps"], given["per_device_train_batch_size"]) == ("3", "8")
        assert "load_back_proof" not in given


def test_records_of_before_have_a_card(runs: dict[str, Path], tmp_path: Path) -> None:
    """A record without what the card now says as well is read, and drawn."""
    content = json.loads((runs["image"] / "run.json").read_text())
    for name in ("command", "adapter", "energy", "examples"):
        del content[name]
    for name in ("config", "revision", "source_splits", "counts", "numbers", "languages", "licence"):
        del content["data"][name]
    for name in ("licence_name", "licence_link", "languages"):
        del content["model"][name]
    (tmp_path / "run.json").write_text(json.dumps(content))
    text = card(read_record(tmp_path, RunRecord))
    assert "## Data" in text
    assert "--output_dir" not in text
