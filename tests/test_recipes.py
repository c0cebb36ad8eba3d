"""Every recipe runs, on tiny input, as the script that a user starts."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from hf_ft.tasks.registry import task_names
from tests.training.test_loop import KINDS

RECIPES = sorted(Path(__file__).parent.parent.glob("recipes/*.py"))
TINY = ["--max_steps", "2", "--load_back_proof", "false"]


def load(path: Path) -> ModuleType:
    """Import a recipe by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def arguments(recipe: str, request: pytest.FixtureRequest) -> list[str]:
    """What a user would add to the recipe's own settings to run it here."""
    if recipe == "quickstart":
        return TINY
    task = recipe if recipe in task_names() else "image_classification"
    kind, model = next((kind, model) for kind, (name, model, _) in KINDS.items() if name == task)
    data = ["--dataset", request.getfixturevalue(f"{kind}_data")]
    own = [] if recipe == "pretrain_source" else ["--model", request.getfixturevalue(model)]
    return [*data, *own, *TINY]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe_runs(path: Path, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """It trains, saves a result folder, and its docstring shows the command."""
    recipe = load(path)
    assert f"python recipes/{path.name}" in (recipe.__doc__ or "")
    recipe.main([*arguments(path.stem, request), "--output_dir", str(tmp_path / "out")])
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("run.json")]
    if path.stem == "how_many_layers":
        records = json.loads((tmp_path / "out" / "compare.json").read_text())["runs"]
        assert len(records) == 5 * 2  # none to all of four blocks, two seeds
    assert records
    assert all(record["metrics"]["test"] for record in records)


def test_recipes_are_found() -> None:
    """One for each task, and four others; those of tasks fit a screen."""
    others = {"hot_dog", "how_many_layers", "pretrain_source", "quickstart"}
    assert {path.stem for path in RECIPES} == {*task_names(), *others}
    for path in RECIPES:
        if path.stem in task_names():
            assert len(path.read_text().splitlines()) <= 60
