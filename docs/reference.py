"""Pages of the API reference, made from what the library says is public, so that no name can be missing."""

import ast
import inspect
import sys
from functools import cache
from importlib import import_module
from itertools import pairwise
from types import ModuleType

import unifylens as ul

ROOMS = {
    "config": "what an experiment is",
    "corpus": "worlds, words, tokens, and who sees what how often",
    "training": "many models at once, and the store of their runs",
    "crosslingual": "models of the dish, asked in every language",
    "pretrained": "models that others trained",
    "measures": "tensors in, numbers out",
    "patching": "interventions in any model with TransformerLens hook names",
    "edits": "other answers, written into weights or states",
    "evidence": "claims, records, figures, exercises",
    "designs": "what the notebooks train",
}
"""In the order of one fact's way, each with what it is for."""
GROUND = {
    "model": "the only place that builds a model",
    "environment": "folders and settings",
    "reproduce": "all notebooks, run and compared",
}


def public(module: ModuleType) -> dict[str, object]:
    """Names that a module offers: its `__all__`, or what it defines without an underscore before it."""
    if hasattr(module, "__all__"):
        names = list(module.__all__)
    else:
        inside = f"{module.__name__}."
        names = [
            name
            for name, found in vars(module).items()
            if not name.startswith("_") and f"{getattr(found, '__module__', None)}.".startswith(inside)
        ]
    return {name: getattr(module, name) for name in sorted(set(names), key=str.lower)}


@cache
def modules() -> dict[str, ModuleType]:
    """Every module that has a page, by its full name: the face, its rooms, and the modules that these offer."""
    rooms = [import_module(f"unifylens.{name}") for name in (*ROOMS, *GROUND)]
    inner = [found for room in (ul, *rooms) for found in public(room).values() if isinstance(found, ModuleType)]
    return {module.__name__: module for module in (ul, *rooms, *inner)}


def _is_code(thing: object) -> bool:
    return inspect.isclass(thing) or inspect.isfunction(inspect.unwrap(thing) if callable(thing) else thing)


def _told(module: ModuleType) -> set[str]:
    """Names that a module assigns and says something of, in a string on the next lines."""
    body = ast.parse(inspect.getsource(module)).body
    assigned = [
        node for node, after in pairwise(body) if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    ]
    targets = [t for node in assigned for t in getattr(node, "targets", [getattr(node, "target", None)])]
    return {target.id for target in targets if isinstance(target, ast.Name)}


def constants(module: ModuleType) -> list[str]:
    """Full names of what else a module's `__all__` offers, where they are defined, as there stands what they are."""
    offered = {name: t for name, t in public(module).items() if not (_is_code(t) or isinstance(t, ModuleType))}
    room = ".".join(module.__name__.split(".")[:2])
    inside = [m for name, m in sorted(sys.modules.items()) if name == room or name.startswith(f"{room}.")]
    homes = {name: m.__name__ for m in inside for name in _told(m) if vars(m)[name] is offered.get(name)}
    return [f"{home}.{name}" for name, home in sorted(homes.items()) if hasattr(module, "__all__")]


@cache
def entries() -> dict[str, dict[str, object]]:
    """By module, the names that are described on its page: each thing where users meet it first."""
    described: set[int] = set()
    by_module: dict[str, dict[str, object]] = {}
    for module_name, module in modules().items():
        by_module[module_name] = {}
        for name, found in public(module).items():
            if not _is_code(found):
                continue
            if id(found) not in described and str(found.__module__).startswith("unifylens"):
                described.add(id(found))
                by_module[module_name][name] = found
    return by_module


@cache
def documented() -> dict[str, object]:
    """Everything with an entry, by the name under which it stands there, and public methods of classes."""
    found: dict[str, object] = dict(modules())
    for module_name, names in entries().items():
        for name, thing in names.items():
            found[f"{module_name}.{name}"] = thing
            if inspect.isclass(thing):
                found |= {f"{module_name}.{name}.{method}": own for method, own in _methods(thing).items()}
    return found


@cache
def _places() -> dict[int, str]:
    return {id(thing): path for path, thing in documented().items()}


def place(thing: object) -> str | None:
    """The name under which something has an entry, if it has one."""
    return _places().get(id(thing))


def scopes(name: str) -> list[object]:
    """Where to look for a name that the docstring of `name` mentions: its class, its module, the library."""
    thing, around = ul, [ul]
    for part in name.split(".")[1:]:
        thing = getattr(thing, part, None)
        if thing is None:
            break
        around.append(thing)
    home = inspect.getmodule(around[-1])
    return [*reversed(around), *([home] if home else [])]


def short(module: ModuleType) -> str:
    """What users write for a module: `ul.hooks`, or its full name where the face does not offer it."""
    face = module.__name__.rpartition(".")[2]
    if getattr(ul, face, None) is module:
        return f"ul.{face}"
    return module.__name__.replace("unifylens.", "ul.", 1)


def _summary(thing: object) -> str:
    text = (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ")
    return text.split(". ")[0].rstrip(".") + "." if text else ""


def _methods(kind: type) -> dict[str, object]:
    return {name: found for name, found in vars(kind).items() if inspect.isfunction(found) and not name.startswith("_")}


def _entry(path: str, thing: object) -> str:
    kind = "autofunction"
    options = ""
    if inspect.isclass(thing):
        # The docstring of settings lists them all; other classes are told by their methods.
        kind = "autoexception" if issubclass(thing, BaseException) else "autoclass"
        settings = issubclass(thing, ul.config.Config)
        if not settings or _methods(thing):
            options = f"   :members: {', '.join(_methods(thing)) * settings}".rstrip() + "\n"
    return f".. {kind}:: {path}\n{options}"


def page(module_name: str) -> str:
    """The page of a module: what it is for, its modules, and an entry for each name."""
    module, names = modules()[module_name], entries()[module_name]
    title = "The face: `unifylens`" if module is ul else f"`{short(module)}`"
    inside = [m for m in public(module).values() if isinstance(m, ModuleType) and m.__name__ != module_name]
    own = [m for m in inside if m.__name__.startswith(f"{module_name}.") and module is not ul]
    lines = [f"# {title}\n"]
    if module is ul:
        lines.append("`import unifylens as ul` gives these names; all else is a module of the rooms below.\n")
    lines += ["```{eval-rst}", f".. automodule:: {module_name}", "```\n"]
    if own:
        lines += ["| module | what for |", "| --- | --- |"]
        lines += [f"| [`{short(m)}`]({m.__name__}.md) | {_summary(m).replace('|', '&#124;')} |" for m in own]
        lines += ["", "```{toctree}", ":hidden:", *(m.__name__ for m in own), "```\n"]
    others = [thing for name, thing in public(module).items() if not (name in names or isinstance(thing, ModuleType))]
    elsewhere = sorted({path for path in map(place, others) if path})
    if elsewhere and module is not ul:
        links = ", ".join(f"{{py:obj}}`{path.replace('unifylens.', 'ul.', 1)} <{path}>`" for path in elsewhere)
        lines.append(f"Described where users meet them first: {links}.\n")
    described = [_entry(f"{module_name}.{name}", thing) for name, thing in names.items()]
    described += [f".. autodata:: {path}\n   :no-value:\n" for path in constants(module)]
    if described:
        lines += ["```{eval-rst}", *described, "```\n"]
    return "\n".join(lines)


def index() -> str:
    """The first page: the rooms in order."""
    rooms = {f"unifylens.{name}": what for name, what in (ROOMS | GROUND).items()}
    rooms = {"unifylens": "the face: `import unifylens as ul`"} | rooms
    table = [f"| [`{name}`]({name}.md) | {what} |" for name, what in rooms.items()]
    return "\n".join(
        [
            "# API reference\n",
            "Rooms stand in the order of one fact's way, and none reaches back (see the "
            "[floor plan](../contributing.md)). Shapes stand in the types: "
            '`Float[Tensor, "fact d_model"]` is a tensor of floats with a row for each fact. '
            "*Layer* l is the residual stream, 0 the embedding and l what comes out of block l - 1, everywhere.\n",
            "| room | what for |",
            "| --- | --- |",
            *table,
            "",
            "```{toctree}",
            ":hidden:",
            *rooms,
            "```",
            "",
        ]
    )


def pages() -> dict[str, str]:
    """All pages, by file name."""
    return {"index.md": index()} | {f"{name}.md": page(name) for name in modules()}
