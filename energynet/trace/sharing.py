"""Sums that contain other sums: what is added up already is not added up again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from energynet.trace.graph import Kind, Node, nodes_in


def shared_sums(outputs: Sequence[Node], free: Collection[str]) -> dict[Node, tuple[Any, ...]]:
    """Other arguments for combinations that contain another one, up to its sign.

    A prediction error and the force on its variable have most terms in common; so do a sum and its negative.

    Parameters
    ----------
    outputs
        Nodes that are computed.
    free
        Inputs that are not known: sums of what is known are computed once and for all.

    Returns
    -------
    dict
        The arguments of a combination, with another combination among its terms in place of what that is
        made of.
    """
    sums = [n for n in _reachable(outputs) if n.op is Kind.COMBINATION and not n.reads.isdisjoint(free)]
    sums.sort(key=lambda node: (len(node.args), node.number))
    by_term: dict[Node, list[Node]] = {}
    found: dict[Node, tuple[Any, ...]] = {}
    for node in sums:
        constant, *terms = node.args
        own = {term: coefficient for coefficient, term in terms}
        smaller = {part: None for term in own for part in by_term.get(term, ())}
        for part in sorted(smaller, key=lambda n: -len(n.args)):  # the largest that fits
            if part.shape != node.shape or part.dtype != node.dtype:
                continue
            sign = _sign(part, own)
            if sign:
                inner = {term for _, term in part.args[1:]}
                rest = [(c, term) for c, term in terms if term not in inner]
                found[node] = (constant - sign * part.args[0], (sign, part), *rest)
                break
        for term in own:
            by_term.setdefault(term, []).append(node)
    return found


def _sign(part: Node, own: dict[Node, float]) -> float:
    """1 or -1 where the terms of a sum are among these with equal or opposite coefficients, else 0."""
    terms = part.args[1:]
    if len(terms) < 2:
        return 0.0
    for sign in (1.0, -1.0):
        if all(own.get(term) == sign * coefficient for coefficient, term in terms):
            return sign
    return 0.0


def _reachable(outputs: Sequence[Node]) -> list[Node]:
    seen: dict[Node, None] = {}
    stack = list(outputs)
    while stack:
        node = stack.pop()
        if node not in seen:
            seen[node] = None
            stack += nodes_in((node.args, node.kwargs))
    return list(seen)
