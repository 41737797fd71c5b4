"""What a module is made of: its own statements, and the parts of other files that it uses. Nothing is imported."""

from __future__ import annotations

import ast
import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

CORE = "rlfamily.core"
SHARED = (CORE, "rlfamily.streams")
WATCHED = tuple(f"rlfamily.{folder}" for folder in (
    "algorithms", "values", "rewards", "shaping", "curricula", "decoding", "tasks", "judges", "metrics",
    "stages.kinds"))
_REPEATED = {"ctx", "kind", "type_comment", "type_params"}  # said by the place in the tree, or nothing of numbers


class Part(NamedTuple):
    """A definition of a module, or with `name` empty the whole module."""

    module: str
    name: str


class Present(NamedTuple):
    """What stands in a file now; `parts` are the hashes of all that the fingerprint is made of, by name."""

    version: str
    fingerprint: str
    parts: dict[str, str]


class _Strip(ast.NodeTransformer):
    """Takes out what cannot change numbers, and the imports, which it keeps as `targets` of the names they bind."""

    def __init__(self) -> None:
        self.targets: dict[str, set[str]] = defaultdict(set)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            first = alias.name.split(".")[0]
            self.targets[alias.asname or first].add(alias.name if alias.asname else first)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        assert node.level == 0, f"line {node.lineno}: a relative import cannot be followed"
        for alias in node.names:
            self.targets[alias.asname or alias.name].add(f"{node.module}.{alias.name}")

    def visit_If(self, node: ast.If) -> Any:
        if ast.unparse(node.test) not in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return self.generic_visit(node)
        other = ast.Module(node.orelse, [])
        self.generic_visit(other)
        return other.body

    def visit_Expr(self, node: ast.Expr) -> Any:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        if node.value is not None:
            return self.generic_visit(ast.Assign([node.target], node.value))
        node.annotation = ast.Constant(None)  # a field without a default: its name and place stay
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: Any) -> Any:
        node.returns = None
        return self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef


class _Chains(ast.NodeVisitor):
    """Names used, each with the attributes read of it: `core.masked` is one chain."""

    def __init__(self) -> None:
        self.found: set[tuple[str, ...]] = set()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        chain: list[str] = []
        inner: ast.expr = node
        while isinstance(inner, ast.Attribute):
            chain, inner = [inner.attr, *chain], inner.value
        if isinstance(inner, ast.Name):
            self.found.add((inner.id, *chain))
        else:
            self.visit(inner)

    def visit_Name(self, node: ast.Name) -> None:
        self.found.add((node.id,))


def _version(statement: ast.stmt) -> str | None:
    """What a statement sets VERSION to, None when it does not. Raises ValueError when that is not a plain value."""
    if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value and _bound(statement) == {"VERSION"}:
        return str(ast.literal_eval(statement.value))
    return None


def _bound(statement: ast.stmt) -> set[str]:
    """Names that a statement defines; one without any (it changes something in place) counts for all, as ""."""
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    nodes = list(ast.walk(statement))
    stored = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    defined = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return stored | defined or {""}


def _plain(value: Any) -> Any:
    """A tree as tuples; unlike `ast.dump` the same in every Python."""
    if isinstance(value, ast.AST):
        fields = ((name, _plain(child)) for name, child in ast.iter_fields(value)
                  if name not in _REPEATED and child is not None and child != [])
        return (type(value).__name__, *fields)
    return [_plain(child) for child in value] if isinstance(value, list) else value


def hash_of(value: Any) -> str:
    """A fingerprint of plain data."""
    digest = hashlib.sha256(repr(value).encode()).hexdigest()
    return f"{digest[:8]}.{digest[8:16]}"  # in two, so that nothing takes it for a secret


class _Module:
    """A file, parsed once: its VERSION (None without), and its statements without what does not count."""

    def __init__(self, path: Path) -> None:
        tree, strip = ast.parse(path.read_text(), str(path)), _Strip()
        self.version = next((found for statement in tree.body if (found := _version(statement)) is not None), None)
        tree.body = [statement for statement in tree.body if _version(statement) is None]
        self.body: list[ast.stmt] = strip.visit(tree).body
        self.targets = strip.targets
        self.definitions: dict[str, list[ast.stmt]] = {}
        for statement in self.body:
            for name in _bound(statement):
                self.definitions.setdefault(name, []).append(statement)

    def statements(self, name: str) -> list[ast.stmt]:
        """Those that define `name` and those that may change anything; all for the empty name."""
        return self.definitions[name] + self.definitions.get("", []) if name else self.body

    def used(self, statements: list[ast.stmt]) -> tuple[set[str], set[str]]:
        """What statements use: imported things by their full names, and names of the module's own."""
        chains = _Chains()
        for statement in statements:
            chains.visit(statement)
        imported = {".".join([target, *rest]) for name, *rest in chains.found for target in self.targets.get(name, ())}
        return imported, {chain[0] for chain in chains.found} & set(self.definitions)


@dataclass
class Sources:
    """The files under `root` that may count, by module name, and what each part of them is made of."""

    root: Path
    modules: dict[str, _Module] = field(default_factory=dict)
    uses: dict[Part, tuple[str, set[Part]]] = field(default_factory=dict)

    @cached_property
    def paths(self) -> dict[str, Path]:
        """The files that may count, by module."""
        found = {}
        for path in sorted((self.root / "rlfamily").rglob("*.py")):
            module = ".".join(path.relative_to(self.root).with_suffix("").parts).removesuffix(".__init__")
            if folder_of(module) or _shared(module):
                found[module] = path
        return found

    @cached_property
    def exports(self) -> dict[str, str]:
        """core's public names, each with its module."""
        [statement] = self.module(CORE).definitions["_EXPORTS"]
        assert isinstance(statement, ast.Assign)
        exported = ast.literal_eval(statement.value)
        return {name: f"{CORE}.{module}" for module, names in exported.items() for name in names}

    def present(self, module: str) -> Present | None:
        """The fingerprint of a module that has a VERSION and is watched; None for any other.

        Raises LookupError, SyntaxError or AssertionError for code that cannot be followed.
        """
        if not folder_of(module) or module not in self.paths or self.module(module).version is None:
            return None
        parts = self.closure(module)
        return Present(str(self.module(module).version), hash_of(sorted(parts.items())), parts)

    def module(self, name: str) -> _Module:
        """A file, parsed."""
        if name not in self.modules:
            self.modules[name] = _Module(self.paths[name])
        return self.modules[name]

    def file(self, module: str) -> str:
        """A module's file, seen from the root."""
        return self.paths[module].relative_to(self.root).as_posix()

    def label(self, part: Part) -> str:
        """What a part is called in the record."""
        return f"{part.module}.{part.name}" if part.name else self.file(part.module)

    def closure(self, module: str) -> dict[str, str]:
        """Every part that counts for a module, itself included, with its hash."""
        found, waiting = {}, [Part(module, "")]
        while waiting:
            part = waiting.pop()
            if self.label(part) in found:
                continue
            found[self.label(part)], needed = self._read(part)
            waiting += needed
        return found

    def _read(self, part: Part) -> tuple[str, set[Part]]:
        if part not in self.uses:
            module = self.module(part.module)
            statements = module.statements(part.name)
            imported, own = module.used(statements)
            needed = {found for name in imported for found in self._parts(name, part.module)}
            if part.name:
                needed |= {Part(part.module, name) for name in own - {part.name}}
            self.uses[part] = hash_of((_plain(statements), sorted(imported))), needed
        return self.uses[part]

    def _parts(self, dotted: str, user: str) -> Iterator[Part]:
        """What `dotted` means in the module `user`. Raises LookupError when core or a registry has no such name."""
        module, rest = dotted, ""
        while module and module not in self.paths:
            module, _, name = module.rpartition(".")
            rest = name
        if not module or module == user:
            return
        if module == CORE:
            for name in [rest] if rest else self.exports:
                yield from self._definition(self.exports.get(name, CORE), name)
        elif _shared(module) or module == folder_of(user):
            yield from self._definition(module, rest)
        elif module not in WATCHED and (folder_of(module) == folder_of(user) or self.module(module).version is None):
            yield Part(module, "")

    def _definition(self, module: str, name: str) -> Iterator[Part]:
        known = self.module(module)
        if name and name not in known.definitions:  # imported there, from elsewhere
            if name not in known.targets:
                raise LookupError(f"{module} has no '{name}'")
            for target in known.targets[name]:
                yield from self._parts(target, module)
        else:
            yield Part(module, name)


def folder_of(module: str) -> str | None:
    """The watched folder that a module is in."""
    return next((folder for folder in WATCHED if f"{module}.".startswith(f"{folder}.")), None)


def _shared(module: str) -> bool:
    return any(f"{module}.".startswith(f"{shared}.") for shared in SHARED)
