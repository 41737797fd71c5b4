"""Mutants of a module: its source with one small mistake each, which the module's tests should notice.

A mutant changes one place and keeps every other byte. Left alone is what no number depends on: annotations, docstrings,
decorators, messages of errors, internal assertions, VERSION constants, tables of tables (colours, say), `strict` and
`frozen`, and `device`, which no machine without a GPU can tell from its default.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS = {ast.Lt: ("<", "<="), ast.LtE: ("<=", "<"), ast.Gt: (">", ">="), ast.GtE: (">=", ">"),
               ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"), ast.IsNot: ("is not", "is"),
               ast.In: ("in", "not in"), ast.NotIn: ("not in", "in")}
OPERATORS = {ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
             ast.FloorDiv: ("//", "*"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"), ast.BitAnd: ("&", "|"),
             ast.BitOr: ("|", "&")}
NAMES = {"min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any",
         "argmin": "argmax", "argmax": "argmin", "ceil": "floor", "floor": "ceil"}
QUIET = {"strict", "frozen", "device"}


@dataclass(frozen=True)
class Mutant:
    """One mistake: bytes `start` to `end` of the source replaced; `line` and both texts for the reader."""

    line: int
    start: int
    end: int
    before: str
    after: str

    def applied(self, source: str) -> str:
        """The whole source with the mistake in it."""
        raw = source.encode()
        return (raw[:self.start] + self.after.encode() + raw[self.end:]).decode()


class _Finder:
    """Walks a tree and yields the edits of each node."""

    def __init__(self, source: str) -> None:
        self.raw = source.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.bound = {one.id for one in ast.walk(ast.parse(source))
                      if isinstance(one, ast.Name) and isinstance(one.ctx, ast.Store)}

    def begin(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        return self.starts[node.lineno - 1] + node.col_offset

    def finish(self, node: ast.expr | ast.stmt | ast.keyword) -> int:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.starts[node.end_lineno - 1] + node.end_col_offset

    def edit(self, start: int, end: int, after: str) -> Mutant:
        line = self.raw[:start].count(b"\n") + 1
        return Mutant(line, start, end, self.raw[start:end].decode(), after)

    def between(self, left: ast.expr, right: ast.expr, before: str, after: str) -> Iterator[Mutant]:
        """The operator that stands between two operands."""
        start, end = self.finish(left), self.begin(right)
        word = rf"\b{before}\b".replace(" ", r"\s+") if before.isidentifier() or " " in before else re.escape(before)
        if found := re.search(word.encode(), self.raw[start:end]):
            yield self.edit(start + found.start(), start + found.end(), after)

    def walk(self, node: ast.AST) -> Iterator[Mutant]:
        if isinstance(node, ast.expr | ast.stmt):
            yield from self.here(node)
        for child in _children(node):
            yield from self.walk(child)

    def here(self, node: ast.expr | ast.stmt) -> Iterator[Mutant]:
        match node:
            case ast.Compare():
                for left, kind, right in zip([node.left, *node.comparators], node.ops, node.comparators, strict=False):
                    yield from self.between(left, right, *COMPARISONS[type(kind)])
            case ast.BinOp() if type(node.op) in OPERATORS and not _is_text(node.left):
                yield from self.between(node.left, node.right, *OPERATORS[type(node.op)])
            case ast.BoolOp():
                words = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
                for left, right in zip(node.values, node.values[1:], strict=False):
                    yield from self.between(left, right, *words)
            case ast.UnaryOp():
                if isinstance(node.op, ast.Not | ast.USub | ast.Invert):
                    yield self.edit(self.begin(node), self.begin(node.operand), "")
            case ast.Constant():
                if (after := _other(node.value)) is not None:
                    yield self.edit(self.begin(node), self.finish(node), after)
            case ast.Name(id=name) if name in NAMES and name not in self.bound:
                yield self.edit(self.begin(node), self.finish(node), NAMES[name])
            case ast.Attribute(attr=name) if name in NAMES:
                yield self.edit(self.finish(node) - len(name), self.finish(node), NAMES[name])
            case ast.Call():
                yield from self.fewer_arguments(node)
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test):
                if not isinstance(test, ast.Compare | ast.BoolOp | ast.UnaryOp):
                    yield self.edit(self.begin(test), self.finish(test), f"not ({ast.unparse(test)})")
            case ast.AugAssign() if type(node.op) in OPERATORS:
                before, after = OPERATORS[type(node.op)]
                yield from self.between(node.target, node.value, before + "=", after + "=")
                yield self.edit(self.begin(node), self.finish(node), "pass")
            case _ if _deletable(node):
                yield self.edit(self.begin(node), self.finish(node), "pass")

    def fewer_arguments(self, call: ast.Call) -> Iterator[Mutant]:
        """The call without each of its keywords, which then has its default, if it has one."""
        arguments = sorted([*call.args, *call.keywords], key=self.begin)
        for position, argument in enumerate(arguments):
            if not isinstance(argument, ast.keyword) or argument.arg in {None, *QUIET}:
                continue
            start, end = self.begin(argument), self.finish(argument)
            if position:
                start = self.finish(arguments[position - 1])
                start += self.raw[start:].index(b",")  # behind the brackets around the one before
            elif len(arguments) > 1:
                end = self.begin(arguments[1])
            yield self.edit(start, end, "")


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What may be mutated below a node."""
    if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
        return
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        named = any(isinstance(one, ast.Name) and one.id in {"VERSION", "__version__", "__all__"} for one in targets)
        if named or _is_table(node.value):
            return
    for name, field in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list", "bases"} or (name == "args" and _signature(node)):
            continue
        for child in field if isinstance(field, list) else [field]:
            quiet = isinstance(child, ast.keyword) and child.arg in QUIET
            typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
            if isinstance(child, ast.AST) and not quiet and not typing:
                yield child
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        yield from (one for one in [*node.args.defaults, *node.args.kw_defaults] if one is not None)


def _signature(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def _is_table(node: ast.expr | None) -> bool:
    """Constants in containers in a container: data, of which no test knows every number."""
    parts = node.values if isinstance(node, ast.Dict) else node.elts if isinstance(node, ast.List | ast.Tuple) else []
    containers = [part for part in parts if isinstance(part, ast.Dict | ast.List | ast.Tuple)]
    return bool(containers) and all(isinstance(one, ast.Constant | ast.Dict | ast.List | ast.Tuple | ast.expr_context)
                                    for part in parts for one in ast.walk(part))


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _other(value: object) -> str | None:
    """Another constant of the same kind; None where there is no telling one."""
    if isinstance(value, bool):
        return str(not value)
    if isinstance(value, int):
        return str(value + 1)
    if isinstance(value, float):
        return repr(value / 2 if 0 < value < 1 else value + 1)
    return None


def _deletable(node: ast.expr | ast.stmt) -> bool:
    """A statement whose absence leaves valid code that may run."""
    if isinstance(node, ast.Assign):
        return any(isinstance(one, ast.Attribute | ast.Subscript) for one in node.targets)
    return isinstance(node, ast.Raise | ast.Continue | ast.Break) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant | ast.Yield | ast.YieldFrom))


def mutants(source: str) -> list[Mutant]:
    """Every mutant of a module, top to bottom; each of them compiles."""
    found = sorted(_Finder(source).walk(ast.parse(source)), key=lambda one: (one.start, one.end, one.after))
    return [one for one in dict.fromkeys(found) if _compiles(one.applied(source))]


def _compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True
