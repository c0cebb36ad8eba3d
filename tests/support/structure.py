"""Rooms, floors and arrows of the package, read from its source; run as a script, it prints them.

python tests/support/structure.py [hf_ft] [--page]

An arrow is an import of one module of the package by another, at its top or inside a function; imports for type
checkers alone are none. A name that comes through the door of a room (`__init__.pyi`) is traced to the module that
holds it. The floor of a room is one more than that of the highest room it imports from.
"""

from __future__ import annotations

import argparse
import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "hf_ft"
Graph = dict[str, set[str]]


@dataclass(frozen=True)
class Import:
    """One import of something in the package: where it stands, the module written there, and the name taken from it."""

    line: int
    module: str
    name: str | None
    typing_only: bool
    in_function: bool


def tree_of(path: Path) -> ast.Module:
    """The parsed source of a file."""
    return ast.parse(path.read_text(encoding="utf-8"))


def modules(package: Path = PACKAGE) -> dict[str, Path]:
    """Every module of the package by its dotted name within it; a room goes by its own name, the package by `""`."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(tree: ast.Module, package: str = "hf_ft") -> Iterator[Import]:
    """The imports of a module that name something in the package, wherever in the module they stand."""
    yield from _imports(tree.body, package, False, False)


def _imports(body: list[ast.stmt], package: str, typing_only: bool, in_function: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == package and not node.level:
            inner = (node.module or "").removeprefix(package).removeprefix(".")
            for alias in node.names:
                yield Import(node.lineno, inner, alias.name, typing_only, in_function)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == package:
                    inner = alias.name.removeprefix(package).removeprefix(".")
                    yield Import(node.lineno, inner, None, typing_only, in_function)
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        checked = typing_only or (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
        yield from _imports(getattr(node, "body", []), package, checked, inside)
        for part in ("orelse", "finalbody"):
            yield from _imports(getattr(node, part, []), package, typing_only, inside)
        for handler in [*getattr(node, "handlers", []), *getattr(node, "cases", [])]:
            yield from _imports(handler.body, package, typing_only, inside)


def doors(package: Path = PACKAGE) -> dict[str, dict[str, str]]:
    """Room -> the names that its door offers -> the module that holds each."""
    found: dict[str, dict[str, str]] = {}
    for stub in sorted(package.glob("*/__init__.pyi")):
        room = stub.parent.name
        names = found.setdefault(room, {})
        for node in tree_of(stub).body:
            if isinstance(node, ast.ImportFrom) and node.level == 1:
                for alias in node.names:
                    names[alias.name] = f"{room}.{node.module or alias.name}"
    return found


def arrows(package: Path = PACKAGE) -> Graph:
    """Each module and those that it imports, through doors too."""
    known, offered = modules(package), doors(package)
    graph: Graph = {}
    for module, path in known.items():
        graph[module] = set()
        for found in imports(tree_of(path)):
            if found.typing_only:
                continue
            whole = f"{found.module}.{found.name}".removeprefix(".")
            target = found.module
            if found.name and whole in known:
                target = whole
            elif found.name:
                target = offered.get(found.module, {}).get(found.name, found.module)
            if target not in (module, ""):
                graph[module].add(target)
    return graph


def room_of(module: str) -> str:
    """The room that a module is in; a module beside the rooms is one by itself, and `__main__` belongs to `cli`."""
    return "cli" if module == "__main__" else module.split(".")[0]


def between_rooms(graph: Graph) -> Graph:
    """The arrows from room to room."""
    rooms: Graph = {room_of(module): set() for module in graph}
    for module, others in graph.items():
        rooms[room_of(module)] |= {room_of(other) for other in others} - {room_of(module)}
    return rooms


def circles(graph: Graph) -> list[list[str]]:
    """The sets of modules that import one another in a circle (strongly connected, two or more), by Tarjan."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph.get(node, ())):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            place = stack.index(node)
            circle, stack[place:] = stack[place:], []
            if len(circle) > 1:
                found.append(sorted(circle))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each node: 0 for those that import nothing; the nodes of a circle share one."""
    circle = {node: "+".join(nodes) for nodes in circles(graph) for node in nodes}
    merged: Graph = {}
    for node, others in graph.items():
        here = circle.get(node, node)
        merged.setdefault(here, set()).update({circle.get(other, other) for other in others} - {here})
    level: dict[str, int] = {}

    def height(node: str) -> int:
        if node not in level:
            level[node] = max((height(other) + 1 for other in merged.get(node, ())), default=0)
        return level[node]

    return {node: height(circle.get(node, node)) for node in graph}


def table(levels: Mapping[str, int]) -> str:
    """Floors from the top down, each with what stands on it."""
    rooms = {floor: sorted(name for name in levels if levels[name] == floor) for floor in set(levels.values())}
    return "\n".join(f"{floor:3}  {', '.join(rooms[floor])}" for floor in sorted(rooms, reverse=True))


def page_table(package: Path = PACKAGE) -> str:
    """The table of rooms in docs/design.md: floors downwards, each room with its first docstring line."""
    levels = floors(between_rooms(arrows(package)))
    rows = []
    for room in sorted(filter(None, levels), key=lambda room: (-levels[room], room)):
        path = package / room / "__init__.py"
        text = ast.get_docstring(tree_of(path if path.exists() else package / f"{room}.py")) or ""
        rows.append(f"| {levels[room]} | `{room}` | {text.splitlines()[0].rstrip('.')} |")
    return "\n".join(rows)


def main() -> None:
    """Print rooms, floors, arrows and circles."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("package", nargs="?", type=Path, default=PACKAGE, help="folder of the package")
    parser.add_argument("--page", action="store_true", help="only the table of rooms as docs/design.md shows it")
    options = parser.parse_args()
    package: Path = options.package
    if options.page:
        print(page_table(package))
        return
    graph = {module: others for module, others in arrows(package).items() if module}
    rooms = between_rooms(graph)
    inner = [module for module in graph if module not in doors(package)]
    print(f"{len(inner)} modules, {sum(map(len, graph.values()))} arrows, {max(floors(graph).values()) + 1} floors")
    print(f"circles of modules: {circles(graph) or 'none'}")
    print(f"{len(rooms)} rooms, {sum(map(len, rooms.values()))} arrows, {max(floors(rooms).values()) + 1} floors")
    print(f"circles of rooms: {circles(rooms) or 'none'}\n")
    print(table(floors(rooms)))


if __name__ == "__main__":
    main()
