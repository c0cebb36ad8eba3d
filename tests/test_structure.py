"""The shape of the code: imports go downwards only, functions fit a screen, and no architecture is known by name."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

from hf_ft.tasks import task_names
from tests.support.structure import (
    PACKAGE,
    arrows,
    between_rooms,
    circles,
    doors,
    floors,
    imports,
    modules,
    room_of,
    tree_of,
)

ROOT = PACKAGE.parent
FLOORS = 10
"""Most floors of rooms, the lowest included."""
LONGEST_FUNCTION, LONGEST_MODULE, LONGEST_RECIPE = 60, 800, 60
HEAVY = {"torch", "transformers", "datasets", "peft", "timm", "pandas", "PIL", "torchvision", "evaluate", "matplotlib"}
LIGHT = ("errors", "settings", "methods", "cli", "storage")
"""Rooms that answer at once: help, and every mistake in an option, come before torch is imported."""


def test_the_reader_of_imports_sees_them() -> None:
    """Each way to write an import is read, wherever it stands, and those for type checkers are told from the rest."""
    source = (
        "import hf_ft.data.load\nimport torch\nfrom hf_ft import cli\ntry:\n    from hf_ft.models import a, b\n"
        "except ImportError:\n    from hf_ft.tasks import c\nif TYPE_CHECKING:\n    from hf_ft.data import Splits\n"
        "def f():\n    with x:\n        from hf_ft.training import train\nclass K:\n    def g(self):\n"
        "        import hf_ft.heads\n"
    )
    found = {(i.module, i.name, i.typing_only, i.in_function) for i in imports(ast.parse(source))}
    assert found == {
        ("data.load", None, False, False),
        ("", "cli", False, False),
        ("models", "a", False, False),
        ("models", "b", False, False),
        ("tasks", "c", False, False),
        ("data", "Splits", True, False),
        ("training", "train", False, True),
        ("heads", None, False, True),
    }


def test_circles_and_floors_are_found() -> None:
    """A circle is found however long it is, and its members share a floor."""
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"a"}}
    assert circles(graph) == [["a", "b", "c"]]
    assert floors(graph) == {"d": 0, "a": 1, "b": 1, "c": 1, "e": 2}


def test_modules_make_no_circle() -> None:
    """No module imports itself in the end, imports inside functions included."""
    graph = arrows()
    assert sum(map(len, graph.values())) >= 300
    assert circles(graph) == []


def test_rooms_make_no_circle_and_few_floors() -> None:
    """Rooms stand on floors: each imports from lower ones alone, also inside functions."""
    rooms = between_rooms(arrows())
    assert len(rooms) >= 18
    assert circles(rooms) == []
    assert max(floors(rooms).values()) < FLOORS


def test_rooms_are_entered_through_their_doors() -> None:
    """What one room uses of another is named in its `__init__.pyi`; inner modules are imported within a room only."""
    offered, past, used = doors(), [], set()
    for module, path in modules().items():
        for found in imports(tree_of(path)):
            room, _, inner = found.module.partition(".")
            if room not in offered or (module not in ("", "__main__") and room_of(module) == room):
                continue
            if inner or not found.name or found.name not in offered[room]:
                past.append(f"{module}:{found.line}: {found.module} {found.name}")
            used.add((room, found.name))
    assert past == []
    public = {node.names[0].name for node in tree_of(PACKAGE / "__init__.pyi").body if isinstance(node, ast.ImportFrom)}
    idle = {(room, name) for room, names in offered.items() for name in names if name not in public} - used
    assert idle == set(), "no other room uses these names: take them out of the door"


def test_every_room_says_what_it_is_for() -> None:
    """Each room has a docstring, a door, and no name in it that is a module's as well, which would hide it."""
    offered = doors()
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(offered)
    for room, names in offered.items():
        assert ast.get_docstring(tree_of(PACKAGE / room / "__init__.py"))
        inner = {path.stem for path in (PACKAGE / room).glob("*.py")}
        assert {name for name, home in names.items() if name in inner and home != f"{room}.{name}"} == set()


def test_light_rooms_import_nothing_heavy() -> None:
    """The modules of light rooms import heavy packages inside functions only."""
    seen = {}
    for module, path in modules().items():
        if room_of(module) in LIGHT:
            tree = tree_of(path)
            top = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            names = [name for node in top for name in _names_of(node)]
            seen[module] = {name.split(".")[0] for name in names} & HEAVY
    assert len(seen) >= 10
    assert {module: names for module, names in seen.items() if names} == {}


def _names_of(node: ast.Import | ast.ImportFrom) -> list[str]:
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]


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

NAMELESS = tuple(f"models.{name}" for name in ("tracing", "grouping", "freezing", "optimizer_groups", "adapters"))
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
