"""The house: rooms import one way, analysis of any model knows nothing of the dish, and names are unambiguous."""

import ast
import importlib
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

import unifylens as ul

FOLDER = Path(ul.__file__).parent

FLOORS = (
    ("seeds", "errors", "arguments", "cards", "environment", "hardware"),
    ("config", "measures", "modular", "native", "tables"),
    ("corpus", "model", "patching"),
    ("edits",),
    ("crosslingual", "pretrained"),
    ("training",),
    ("evidence", "designs"),
    ("reproduce",),
)
"""Rooms by floor: a room imports from floors below its own, and from itself."""
FLOOR_OF = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ALIASES = {"hooks": "patching", "subspaces": "patching", "interventions": "corpus", "influence": "training"}
"""Modules that are other names, for `import unifylens.hooks`."""


@cache
def modules():
    return {
        path.relative_to(FOLDER).with_suffix(""): ast.parse(path.read_text()) for path in sorted(FOLDER.rglob("*.py"))
    }


def imported_rooms(tree):
    """Rooms that a module imports from, whether at its top or inside a function, but for annotations alone."""
    for_annotations = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test) == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in for_annotations:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "unifylens":
            _, *inside = node.module.split(".")
            yield from [inside[0]] if inside else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("unifylens."))


def wrong_ways(path, tree):
    """Imports of a module that go up, or across to a room of the same floor."""
    room = path.parts[0]
    own = FLOOR_OF[ALIASES.get(room, room)]
    rooms = {ALIASES.get(other, other) for other in imported_rooms(tree)}
    return [other for other in rooms if other != room and ALIASES.get(room) != other and FLOOR_OF[other] >= own]


@pytest.mark.parametrize("path", [path for path in modules() if path.name != "__init__"], ids=str)
def test_imports_go_one_way(path):
    assert not wrong_ways(path, modules()[path]), f"unifylens/{path}.py reaches back or sideways"


@pytest.mark.parametrize(
    ("room", "code", "wrong"),
    [
        ("measures", "from unifylens.corpus.corpus import Corpus", ["corpus"]),
        ("patching", "def f():\n    from unifylens import training", ["training"]),
        ("patching", "import unifylens.crosslingual.evaluate", ["crosslingual"]),
        ("corpus", "from unifylens import hooks", ["patching"]),
        ("corpus", "from unifylens.measures import scores\nfrom unifylens.seeds import rng", []),
    ],
)
def test_a_wrong_way_is_found(room, code, wrong):
    assert wrong_ways(Path(room) / "example", ast.parse(code)) == wrong


def test_every_module_has_a_room():
    assert {path.parts[0] for path in modules()} == {*FLOOR_OF, *ALIASES, "__init__"}


def test_within_a_room_no_module_needs_another_that_needs_it():
    """Circles inside a room; between rooms the floors exclude them."""
    needs = {}
    for path, tree in modules().items():
        if len(path.parts) == 2 and path.name != "__init__":
            room = f"unifylens.{path.parts[0]}"
            inside = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module]
            direct = {node.module.split(".")[2] for node in inside if node.module.startswith(f"{room}.")}
            whole = {alias.name for node in inside if node.module == room for alias in node.names}
            needs[path.parts[0], path.name] = {(path.parts[0], name) for name in direct | whole}

    def way(start, here, seen):
        for other in needs.get(here, ()):
            if other == start:
                return [*seen, other]
            if other not in seen and (found := way(start, other, [*seen, other])):
                return found
        return None

    circles = [circle for module in needs if (circle := way(module, module, [module]))]
    assert not circles, circles[0]


@pytest.mark.parametrize("package", ["", *(room for rooms in FLOORS for room in rooms if (FOLDER / room).is_dir())])
def test_no_module_has_the_name_of_what_its_package_exports(package):
    whole = importlib.import_module(f"unifylens.{package}".rstrip("."))
    folder = FOLDER / package
    modules_inside = {p.stem for p in folder.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    for name in modules_inside & set(getattr(whole, "__all__", ())):
        value = getattr(whole, name)
        assert type(value).__name__ == "module" and value.__name__.split(".")[-1] == name, f"{name} hides a module"


def test_public_names_are_there():
    for whole in (ul, *(getattr(ul, room) for rooms in FLOORS for room in rooms if (FOLDER / room).is_dir())):
        for name in getattr(whole, "__all__", ()):
            assert getattr(whole, name) is not None, f"{whole.__name__}.{name}"


def test_other_names_are_the_modules_themselves():
    for alias, room in ALIASES.items():
        module = importlib.import_module(f"unifylens.{alias}")
        assert module is getattr(ul, alias) is importlib.import_module(f"unifylens.{room}.{alias}")
    assert importlib.import_module("unifylens.patching") is ul.patching
    assert importlib.import_module("unifylens.measures") is ul.measures


def test_floors_are_told_apart():
    assert all(set(low).isdisjoint(high) for low, high in pairwise(FLOORS))
