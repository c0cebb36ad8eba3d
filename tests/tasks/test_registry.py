"""The contract of every task and every target, whatever they learn."""

from __future__ import annotations

import pytest
import transformers
from transformers.pipelines import SUPPORTED_TASKS

from hf_ft import UserError
from hf_ft.reports.tables import TITLES
from hf_ft.settings.schema import config_fields
from hf_ft.settings.training_arguments import training_fields
from hf_ft.tasks.class_options import CLASS_OPTIONS
from hf_ft.tasks.registry import get_task, task_names
from hf_ft.tasks.target import Target

TARGETS = {target.name: target for name in task_names() for target in get_task(name).targets()}


def test_tasks_and_targets_are_counted() -> None:
    """Each was written on purpose; the two kinds of classes are shared by images and texts."""
    assert task_names() == ["image_classification", "text_classification", "text_regression", "token_classification"]
    assert list(TARGETS) == [
        "single_label_classification",
        "multi_label_classification",
        "regression",
        "token_classification",
    ]


@pytest.mark.parametrize("name", task_names())
def test_task_goes_with_transformers(name: str) -> None:
    """Its class exists and is the one that its pipeline loads; its input columns can be named by an option."""
    task = get_task(name)
    assert task.name == name
    assert getattr(transformers, task.auto_class) in SUPPORTED_TASKS[task.pipeline]["pt"]
    assert {f"{role}_column" for role in task.inputs} <= set(config_fields())
    assert set(task.optional_inputs) < set(task.inputs)
    assert set(task.training) <= set(training_fields())
    for target in task.targets():
        assert task.target(target.name) is target
    with pytest.raises(UserError, match=f"Unknown kind of labels for {name}: 'nothing'"):
        task.target("nothing")


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
def test_target_is_whole(target: Target) -> None:
    """Every metric has a direction and a title, the default is one of them, and what is refused can be given."""
    assert len(target.metrics) >= 5
    assert target.default_metric in target.metrics
    assert set(target.metrics) <= set(TITLES)
    assert not target.higher_is_better("loss")
    for name, higher in target.metrics.items():
        assert target.higher_is_better(name) is higher
        assert ("lower is better" in TITLES[name]) is not higher
    assert set(target.refused) <= set(CLASS_OPTIONS) <= {*config_fields(), *training_fields()}
    assert all(why.startswith(option.removeprefix("val_")) or option in why for option, why in target.refused.items())
    with pytest.raises(UserError, match=f"Unknown metric of {target.name}: 'nothing'"):
        target.higher_is_better("nothing")
    assert target.baseline_name in target.baseline_note
    assert target.columns(("a", "b"))[0] == "input"
    transformers.PreTrainedConfig(problem_type=target.problem_type)  # refuses what it does not know
