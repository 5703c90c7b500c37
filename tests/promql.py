"""Which series and labels a PromQL expression asks for: as much of its grammar as that takes.

Whether an expression is valid is promtool's to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

_TOKEN: Final = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<range>\[[^\]]*\])|(?P<number>\d[\w.]*)"""
    r"""|(?P<name>[A-Za-z_:][\w:]*)|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/%^<>=(){},]))"""
)
_GROUPING: Final = frozenset({"by", "without", "on", "ignoring", "group_left", "group_right"})
_WORDS: Final = frozenset({"and", "or", "unless", "bool", "offset"})
_AGGREGATIONS: Final = frozenset(
    {"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "stddev"}
)


class Asked(NamedTuple):
    """A selector: a name, and the labels between its braces with the values they are compared to."""

    name: str
    labels: Sequence[tuple[str, str]]


class Expression(NamedTuple):
    """What an expression asks for."""

    selectors: Sequence[Asked]
    #: Labels after `by`, `on` and the like.
    grouping: frozenset[str]


def read(text: str) -> Expression:
    """Find the selectors and the grouping labels.

    >>> found = read('sum by (p, le) (rate(a_bucket{p=~"x|y",q="1"}[5m])) > 0 and on (p) b')
    >>> for selector in found.selectors:
    ...     print(selector.name, selector.labels)
    a_bucket [('p', 'x|y'), ('q', '1')]
    b []
    >>> sorted(found.grouping)
    ['le', 'p']
    """
    tokens = list(_tokens(text))
    selectors: list[Asked] = []
    grouping: set[str] = set()
    at = 0
    while at < len(tokens):
        kind, token = tokens[at]
        after = tokens[at + 1][1] if at + 1 < len(tokens) else ""
        at += 1
        if kind != "name" or token in _WORDS or token in _AGGREGATIONS:
            continue
        if token in _GROUPING:
            if after == "(":
                end = tokens.index(("sign", ")"), at)
                grouping |= {word for sort, word in tokens[at:end] if sort == "name"}
                at = end
        elif after == "{":
            end = tokens.index(("sign", "}"), at)
            inside = tokens[at + 1 : end]
            labels = [
                (inside[place][1], inside[place + 2][1][1:-1])
                for place in range(len(inside) - 2)
                if inside[place][0] == "name" and inside[place + 2][0] == "string"
            ]
            selectors.append(Asked(token, labels))
            at = end
        elif after != "(":
            selectors.append(Asked(token, []))
    return Expression(selectors, frozenset(grouping))


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    at, text = 0, text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match is not None, f"not understood: {text[at:]!r} in {text!r}"
        at = match.end()
        assert match.lastgroup is not None
        yield match.lastgroup, match[match.lastgroup]
