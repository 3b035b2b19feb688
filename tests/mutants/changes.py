"""The changes that are made: each a small edit of one place of a source file, everything around it kept as it is.

`edits_of` finds all places in a file by its syntax tree and its tokens. Left alone are: assertions, docstrings and
other text, annotations, names that only the type checker reads, and what is traced.
"""

import ast
import io
import tokenize
from typing import NamedTuple

COMPARE, ARITHMETIC, NUMBER, LOGIC, NEGATE = "compare", "arithmetic", "number", "and/or", "negate"
LEFT_OUT, SWAP, SYNC, TRUTH = "left out", "swap", "sync left out", "true/false"

SHARES = {COMPARE: 18, NUMBER: 12, ARITHMETIC: 8, LOGIC: 10, NEGATE: 14, LEFT_OUT: 20, SWAP: 8, SYNC: 4, TRUTH: 6}
"""How often each kind is drawn, in percent, whatever number of places it has."""

_COMPARED = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is"}
_COMPARED |= {"in": "not in", "not in": "in"}
_COMPUTED = {"+": "-", "-": "+", "*": "//", "//": "*", "%": "*", "<<": ">>", ">>": "<<", "&": "|", "|": "&"}
_LOGGERS = {"_logger", "_log", "logger", "trace", "tracef"}
_LEAVABLE = (ast.Raise, ast.Continue, ast.Break, ast.Delete, ast.AugAssign, ast.Return)
_TEXT_METHODS = {"__repr__", "__str__"}


class Edit(NamedTuple):
    """Characters `begin` to `end` of the file at `path` become `text`.

    `where` is the dotted name of what surrounds the place, `first` and `last` are the lines whose execution matters.
    """

    path: str
    kind: str
    where: str
    first: int
    last: int
    begin: int
    end: int
    text: str

    def apply(self, source: str) -> str:
        """Return the changed source."""
        return source[: self.begin] + self.text + source[self.end :]

    def lines(self, source: str) -> tuple[list[str], list[str]]:
        """Return the lines that the change touches, without indentation, as they were and as they become."""
        begin = source.rfind("\n", 0, self.begin) + 1
        end = source.find("\n", self.end)
        end = len(source) if end < 0 else end
        changed = source[begin : self.begin] + self.text + source[self.end : end]
        return [line.strip() for line in source[begin:end].split("\n")], [line.strip() for line in changed.split("\n")]


def edits_of(path: str, source: str) -> list[Edit]:
    """Return every change that can be made to a file."""
    finder = _Finder(path, source)
    finder.visit(ast.parse(source))
    return finder.edits


def is_program(source: str) -> bool:
    """Return whether a changed source can be compiled; one in some thousand cannot."""
    try:
        compile(source, "mutant", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    return True


class _Finder(ast.NodeVisitor):
    """Collects the edits of one file."""

    def __init__(self, path: str, source: str) -> None:
        self.path = path
        self.source = source
        self.edits: list[Edit] = []
        self._names: list[str] = []
        self._end: ast.stmt | None = None  # of the function: nothing is left to do when its return is left out
        self._lines = source.splitlines(keepends=True)
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))
        self._tokens = [
            (token.string, self._starts[token.start[0] - 1] + token.start[1])
            for token in tokenize.generate_tokens(io.StringIO(source).readline)
            if token.type in (tokenize.OP, tokenize.NAME)
        ]

    # Places.

    def _offset(self, line: int, column: int) -> int:
        """Return the place in the text of a place in the tree, which counts bytes."""
        text = self._lines[line - 1]
        return self._starts[line - 1] + (
            column if text.isascii() else len(text.encode()[:column].decode(errors="ignore"))
        )

    def _span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._offset(node.lineno, node.col_offset), self._offset(node.end_lineno, node.end_col_offset)

    def _add(self, kind: str, node: ast.expr | ast.stmt, begin: int, end: int, text: str) -> None:
        assert node.end_lineno is not None
        where = ".".join(self._names) or "the module"
        self.edits.append(Edit(self.path, kind, where, node.lineno, node.end_lineno, begin, end, text))

    def _operator(self, kind: str, node: ast.expr, left: ast.expr, right: ast.expr, table: dict[str, str]) -> None:
        """Replace the operator that stands between two expressions."""
        gap = self._span(left)[1], self._span(right)[0]
        found = [(text, at) for text, at in self._tokens if gap[0] <= at < gap[1] and text not in "()"]
        text = " ".join(text for text, _ in found)
        if text in table:
            self._add(kind, node, found[0][1], found[-1][1] + len(found[-1][0]), table[text])

    # Parts that are left alone.

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        """Text, and places in it are not told before Python 3.12."""

    def visit_Assert(self, node: ast.Assert) -> None:
        """An assertion that does not hold any more tests nothing."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_arguments(self, node: ast.arguments) -> None:
        for default in (*node.defaults, *node.kw_defaults):
            if default is not None:
                self.visit(default)

    def visit_Call(self, node: ast.Call) -> None:
        if ast.unparse(node.func) == "isinstance":  # what follows is types
            self.visit(node.args[0])
        else:
            self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._inside(node.name, node.body)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.visit(node.args)
        if node.name not in _TEXT_METHODS:
            self._inside(node.name, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self.visit(node.args)
        self._inside(node.name, node.body)

    def _inside(self, name: str, body: list[ast.stmt]) -> None:
        self._names.append(name)
        self._end = body[-1]
        self._block(body)
        self._names.pop()

    def visit_Assign(self, node: ast.Assign) -> None:
        if not any(isinstance(target, ast.Name) and target.id.startswith("__") for target in node.targets):
            self.generic_visit(node)

    # The changes.

    def generic_visit(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list):
                if value and isinstance(value[0], ast.stmt):
                    self._block(value)
                else:
                    for item in value:
                        if isinstance(item, ast.AST):
                            self.visit(item)
            elif isinstance(value, ast.AST):
                self.visit(value)

    def _block(self, body: list[ast.stmt]) -> None:
        for i, statement in enumerate(body):
            if _is_text(statement) or "TYPE_CHECKING" in _test_of(statement):
                continue
            self._leave_out(statement)
            if i + 1 < len(body) and _may_swap(statement, body[i + 1]):
                self._swap(statement, body[i + 1])
            if not _is_logged(statement):
                self.visit(statement)

    def _leave_out(self, node: ast.stmt) -> None:
        kind = LEFT_OUT
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            called = ast.unparse(node.value.func).split(".")[-1]
            if "trace" in called:
                return
            if "sync" in called:
                kind = SYNC
        elif isinstance(node, ast.Assign):
            if not isinstance(node.targets[0], (ast.Attribute, ast.Subscript)):
                return
        elif not isinstance(node, _LEAVABLE) or (isinstance(node, ast.Return) and node is self._end):
            return
        if "NotImplementedError" not in ast.unparse(node):
            self._add(kind, node, *self._span(node), "pass")

    def _swap(self, first: ast.stmt, second: ast.stmt) -> None:
        (a, b), (c, d) = self._span(first), self._span(second)
        text = self.source[c:d] + self.source[b:c] + self.source[a:b]
        assert second.end_lineno is not None
        where = ".".join(self._names) or "the module"
        self.edits.append(Edit(self.path, SWAP, where, first.lineno, second.end_lineno, a, d, text))

    def visit_Compare(self, node: ast.Compare) -> None:
        for left, right in zip([node.left, *node.comparators], node.comparators, strict=False):
            self._operator(COMPARE, node, left, right, _COMPARED)
        self.generic_visit(node)

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if not any(isinstance(side, ast.JoinedStr) or _is_string(side) for side in (node.left, node.right)):
            self._operator(ARITHMETIC, node, node.left, node.right, _COMPUTED)
        self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        for left, right in zip(node.values, node.values[1:], strict=False):
            self._operator(LOGIC, node, left, right, {"and": "or", "or": "and"})
        self.generic_visit(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._add(NEGATE, node, self._span(node)[0], self._span(node.operand)[0], "")
        self.generic_visit(node)

    def visit_If(self, node: ast.If) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_While(self, node: ast.While) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._negate(node.test)
        self.generic_visit(node)

    def _negate(self, test: ast.expr) -> None:
        if not isinstance(test, (ast.Constant, ast.UnaryOp)) and "tracer.enabled" not in ast.unparse(test):
            begin, end = self._span(test)
            self._add(NEGATE, test, begin, end, f"not ({self.source[begin:end]})")

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._add(TRUTH, node, *self._span(node), str(not node.value))
        elif isinstance(node.value, (int, float)):
            self._add(NUMBER, node, *self._span(node), repr(node.value + 1))
            if node.value:
                self._add(NUMBER, node, *self._span(node), repr(node.value - 1))


def _is_string(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _is_logged(node: ast.stmt) -> bool:
    if not isinstance(node, ast.Expr) or not isinstance(node.value, ast.Call):
        return False
    return ast.unparse(node.value.func).split(".")[0] in _LOGGERS


def _test_of(node: ast.stmt) -> str:
    return ast.unparse(node.test) if isinstance(node, ast.If) else ""


def _acts(node: ast.stmt) -> bool:
    """Whether a statement does something that others can see."""
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Call) and not _is_logged(node)
    if isinstance(node, ast.Assign):
        return isinstance(node.targets[0], (ast.Attribute, ast.Subscript))
    return isinstance(node, ast.AugAssign) and isinstance(node.target, (ast.Attribute, ast.Subscript))


def _may_swap(first: ast.stmt, second: ast.stmt) -> bool:
    """Whether the order of two statements may matter: two plain assignments to different places do not."""
    if not _acts(first) or not _acts(second) or first.end_lineno == second.lineno:
        return False
    return any(isinstance(node, ast.Call) for both in (first, second) for node in ast.walk(both))
