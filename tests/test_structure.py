"""The shape of the code: imports go downwards only, functions fit a screen, and no architecture is known by name."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from hf_ft.tasks import task_names

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "hf_ft"
LAYERS = {
    "values": (
        "__init__",
        "lookup",
        "ranges",
        "terminal",
        "finished",
        "output_folder",
        "resampling",
        "paired",
        "metrics",
        "target",
        "tasks",
        *(f"tasks.{name}" for name in task_names()),
        "installed",
        "peft_methods",
        "selectors",
        "plan",
        "plan_file",
        "dry_run",
        "config",
        "grid",
        "depths",
        "images",
        "feature_folders",
        "catalog",
        "sealed",
        "resuming",
        "signals",
    ),
    "inputs": (
        "features",
        "folders",
        "sources",
        "copies",
        "columns",
        "drawing",
        "data",
        "truncation",
        "labels",
        "classes",
    ),
    "model": (
        "tracing",
        "depth_groups",
        "freezing",
        "optim",
        "adapters",
        "vocabulary",
        "model",
        "precheck",
        "feature_store",
        "cutting",
        "boundaries",
        "layer_probes",
        "pooling",
        "cache",
        "prepared",
        "feature_cache",
        "probe",
        "exact",
        "heap",
        "order",
        "transferability",
        "candidates",
    ),
    "leaf": ("figures", "depth_picture", "report", "ranking_report", "leaks", "publishing", "fresh_process"),
    "run": (
        *("record", "checkpoints", "stage_trainer", "training", "head_input", "evaluation"),
        *("load_back", "hub", "arms", "evidence"),
    ),
    "product": ("inspection", "inference", "run", "comparison", "depth_search", "ranking", "cli", "__main__"),
}
"""Layer -> its modules, from the bottom to the top; docs/design.md says what each layer is for."""

LONGEST_FUNCTION, LONGEST_MODULE, LONGEST_RECIPE = 60, 800, 60


def modules() -> dict[str, Path]:
    """Every module of the package by its name within it; `tasks` is the package `tasks/__init__.py`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def tree_of(path: Path) -> ast.Module:
    """The parsed source of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def at_import(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports that run when a module is imported: not those in functions, nor those for type checkers only."""
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from at_import(node.orelse)
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.ClassDef):
            for part in ("body", "orelse", "finalbody"):
                yield from at_import(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from at_import(handler.body)


def imported(tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of the package that a module imports when it is imported."""
    found = set()
    for node in at_import(tree.body):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
        for name in names:
            if name.split(".")[0] != "hf_ft":
                continue
            inner = name.removeprefix("hf_ft").removeprefix(".")
            below = [f"{inner}.{alias.name}".removeprefix(".") for alias in node.names]
            whole = [module for module in below if isinstance(node, ast.ImportFrom) and module in known]
            found |= set(whole) if len(whole) == len(below) else {*whole, inner or "__init__"}
    return found


def test_the_reader_of_imports_sees_them() -> None:
    """Each way to write an import is read, and those that do not run at import are not."""
    source = (
        "import hf_ft.hub\nimport torch\nfrom hf_ft import cli, report\nfrom hf_ft import __version__\n"
        "from hf_ft.plan import METHODS\nfrom hf_ft.tasks import get_task\ntry:\n    import hf_ft.model\n"
        "except ImportError:\n    from hf_ft import run\n"
        "if TYPE_CHECKING:\n    from hf_ft.data import Splits\ndef f():\n    from hf_ft.training import train\n"
    )
    found = imported(ast.parse(source), set(modules()))
    assert found == {"hub", "cli", "report", "__init__", "plan", "tasks", "model", "run"}


def test_every_module_has_a_layer() -> None:
    """The table of layers and the files are the same, so a new module must find its place."""
    placed = [module for layer in LAYERS.values() for module in layer]
    assert len(placed) == len(set(placed))
    assert set(modules()) - set(placed) == set(), "these modules have no layer: write them into LAYERS"
    assert set(placed) - set(modules()) == set(), "LAYERS names modules that do not exist"
    assert {f"tasks.{name}" for name in task_names()} < set(placed)


def test_imports_go_downwards() -> None:
    """A module imports from its own layer and from those below it."""
    place = {module: number for number, layer in enumerate(LAYERS.values()) for module in layer}
    names = list(LAYERS)
    edges = {module: imported(tree_of(path), set(modules())) for module, path in modules().items()}
    assert set(edges) - set(place) == set(), "these modules have no layer: write them into LAYERS"
    upwards = [
        f"{module} ({names[place[module]]}) imports {other} ({names[place[other]]})"
        for module, others in edges.items()
        for other in sorted(others)
        if place[other] > place[module]
    ]
    assert upwards == []
    assert sum(map(len, edges.values())) >= 80


def test_imports_make_no_circle() -> None:
    """Within a layer, too, modules can be put in an order; otherwise `graphlib` names the circle."""
    edges = {module: imported(tree_of(path), set(modules())) - {module} for module, path in modules().items()}
    assert len(list(TopologicalSorter(edges).static_order())) == len(modules())


def test_values_and_leaves_import_nothing_heavy() -> None:
    """The bottom layer answers at once: `images`, imported when needed, has Pillow at its top, targets, tasks numpy."""
    heavy = ("torch", "transformers", "datasets", "peft", "timm", "numpy", "pandas", "PIL", "torchvision", "evaluate")
    seen: dict[str, set[str]] = {}
    for module in set(LAYERS["values"]) & set(modules()):
        for node in at_import(tree_of(modules()[module]).body):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            seen[module] = seen.get(module, set()) | {name.split(".")[0] for name in names if name.startswith(heavy)}
    tasks = {module: seen.pop(module) for module in [*seen] if module.startswith("tasks.")}
    assert len(tasks) == len(task_names())
    assert {module: names for module, names in tasks.items() if not names <= {"numpy"}} == {}
    assert len(seen) >= 7
    assert {module: names for module, names in seen.items() if names} == {
        "images": {"PIL"},
        "metrics": {"numpy"},
        "paired": {"numpy"},
        "resampling": {"numpy"},
        "target": {"numpy"},
    }


def functions(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods of a module, nested ones included."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def test_functions_fit_a_screen() -> None:
    """No function or method is longer than sixty lines."""
    sizes = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, path in modules().items()
        for node in functions(tree_of(path))
    }
    assert len(sizes) > 200
    assert {name: size for name, size in sizes.items() if size > LONGEST_FUNCTION} == {}


def test_modules_hold_one_thing() -> None:
    """No module is longer than eight hundred lines, none is a drawer for the rest, and each says what it holds."""
    sizes = {module: len(path.read_text(encoding="utf-8").splitlines()) for module, path in modules().items()}
    assert {module: size for module, size in sizes.items() if size > LONGEST_MODULE} == {}
    assert not {"utils", "util", "helpers", "common", "misc", "tools"} & {module.split(".")[-1] for module in sizes}
    assert [module for module, path in modules().items() if not ast.get_docstring(tree_of(path))] == []


def test_public_functions_say_what_they_do() -> None:
    """Every public function, method and class has a docstring, and its first line ends a sentence."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    bare, seen = [], 0
    for module, path in modules().items():
        tree = tree_of(path)
        holders = [node for node in tree.body if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]
        inner = [node for holder in holders for node in holder.body]
        for node in [*tree.body, *inner]:
            if not isinstance(node, kinds) or node.name.startswith("_") or _is_stub(node):
                continue
            seen += 1
            if not (ast.get_docstring(node) or "").strip():
                bare.append(f"{module}.{node.name}")
    assert seen > 100
    assert bare == []


def _is_stub(node: ast.AST) -> bool:
    """Whether a function is only declared: its body is `...`, as in protocols and overloads."""
    body = getattr(node, "body", [])
    return len(body) == 1 and isinstance(body[0], ast.Expr) and ast.unparse(body[0]) == "..."


# --- Architectures --------------------------------------------------------------------------------------------------

NAMELESS = ("tracing", "depth_groups", "freezing", "optim", "adapters")
"""The modules that find everything from the model itself."""

FAMILIES = re.compile(
    r"bert|resnet|swin|convnext|llama|mistral|qwen|xlnet|electra|regnet|mobilenet|efficientnet|dino"
    r"|(?<![a-z])(vit|deit|beit|bart|gpt|t5|levit|clip|siglip|opt_|bloom|gemma|phi\d)",
    re.IGNORECASE,
)
PARTS = {
    *("classifier", "score", "pooler", "fc", "out_proj", "dense", "encoder", "layer", "layers", "blocks", "stages"),
    *("query", "key", "value", "q_proj", "k_proj", "v_proj", "attention", "embeddings", "layernorm", "LayerNorm"),
}
"""What architectures call their parts: no list of these belongs into the code that must work on all of them."""


def code_of(source: str) -> str:
    """A source without its comments and docstrings, as one token a line."""
    tree = ast.parse(source)
    texts = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ]
    spoken = {(node.lineno, node.col_offset) for node in texts if isinstance(node.value, str)}
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    kept = [token.string for token in tokens if token.type != tokenize.COMMENT and token.start not in spoken]
    return "\n".join(kept)


def strings_of(source: str) -> set[str]:
    """The texts in a source that are values, with the words of dotted names apart."""
    tree = ast.parse(source)
    spoken = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    values = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in spoken]
    return {word for node in values if isinstance(node.value, str) for word in node.value.split(".")}


def test_the_readers_of_code_see_names() -> None:
    """A planted name is found in code, and not in a comment or a docstring."""
    planted = '"""About BERT."""\nx = 1  # as in ResNet\nif kind == "vit_base" or model.bert:\n    """T5."""\n'
    assert [match.group(0) for match in FAMILIES.finditer(code_of(planted))] == ["vit", "bert"]
    assert strings_of('"""classifier"""\nx = ["classifier", "a.query"]\n') == {"classifier", "a", "query"}


@pytest.mark.parametrize("module", NAMELESS)
def test_no_architecture_is_known_by_name(module: str) -> None:
    """Neither families nor what they call their parts stand in the code that finds blocks, heads and targets."""
    source = modules()[module].read_text(encoding="utf-8")
    assert [match.group(0) for match in FAMILIES.finditer(code_of(source))] == []
    assert strings_of(source) & PARTS == set()


# --- Recipes --------------------------------------------------------------------------------------------------------

SHORT = task_names()
"""The recipes that are held to sixty lines: one for each task."""


def recipes() -> dict[str, Path]:
    """Every recipe by name."""
    return {path.stem: path for path in sorted((ROOT / "recipes").glob("*.py"))}


def test_recipes_are_there() -> None:
    """Every task has one."""
    assert set(SHORT) <= set(recipes())
    assert len(recipes()) >= len(SHORT) >= 4


@pytest.mark.parametrize("name", recipes())
def test_recipes_say_how_they_are_run(name: str) -> None:
    """The docstring begins with a sentence and holds the command that runs this very file."""
    text = ast.get_docstring(tree_of(recipes()[name])) or ""
    assert text.splitlines()[0].endswith((".", ":"))
    assert re.search(rf"^ *(python|accelerate launch) recipes/{name}\.py( |$)", text, re.MULTILINE)
    for node in functions(tree_of(recipes()[name])):
        assert (node.end_lineno or 0) - node.lineno + 1 <= LONGEST_FUNCTION


@pytest.mark.parametrize("name", sorted(recipes().keys() & SHORT))
def test_recipes_are_short(name: str) -> None:
    """A recipe is read in one go: at most sixty lines, a `main`, and no function besides."""
    assert len(recipes()[name].read_text(encoding="utf-8").splitlines()) <= LONGEST_RECIPE
    assert [node.name for node in functions(tree_of(recipes()[name]))] == ["main"]
