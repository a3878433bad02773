"""Reading texts that are Python literals, as published architectures are, without executing them."""

import ast
import re
from itertools import islice
from typing import Any

_NAMED = re.compile(r"\s*[A-Za-z_]\w*\s*[:=]\s*(?=\S)")
_COMMENT = re.compile(r"^\s*#.*$", re.MULTILINE)
_MOST_NUMBERS = 1000


def without_name(text: str) -> str:
    """Remove what may stand around a text: comments, a name (``NAME = text``, ``name: text``), quotes.

    Args:
        text: The text.
    """
    text = _COMMENT.sub("", text)
    found = _NAMED.match(text)
    bare = text[found.end() :] if found else text
    bare = bare.strip().rstrip(",;")
    return bare[1:-1] if len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "'\"" else bare


def expression(text: str) -> ast.expr:
    """Parse a text that is one Python expression.

    Args:
        text: The text.

    Raises:
        SyntaxError: It is not one.
        ValueError: It has a null byte.
        RecursionError: It is nested too deeply.
        MemoryError: The same, in older versions of Python.
    """
    return _PlainNumbers().visit(ast.parse(text, mode="eval")).body  # type: ignore[no-any-return]


class _PlainNumbers(ast.NodeTransformer):
    """Replaces numbers as NumPy prints them, such as ``np.int64(3)``, by their values."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        numpy = isinstance(node.func, ast.Attribute) and ast.unparse(node.func).startswith(("np.", "numpy."))
        if numpy and len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and not node.keywords:
            return node.args[0]
        return self.generic_visit(node)


def literal(node: ast.expr) -> Any:
    """Evaluate a literal, or a ``range`` of literals, of which at most 1000 numbers are taken.

    Args:
        node: The expression.

    Raises:
        ValueError: It is something else.
        TypeError: A range is not of integers.
    """
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id in ("list", "tuple") and len(node.args) == 1:
            return literal(node.args[0])
        if node.func.id == "range":
            return list(islice(range(*(ast.literal_eval(a) for a in node.args)), _MOST_NUMBERS))
    if not isinstance(node, (ast.List, ast.Tuple, ast.Dict, ast.Set, ast.Constant, ast.UnaryOp)):
        raise ValueError(f"a part of it, {type(node).__name__}, is not a literal")
    return ast.literal_eval(node)
