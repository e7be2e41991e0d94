"""The law of a text's next byte, from a model's laws of its next token.

Token sequences that spell a text and perhaps more, and that the tokenizer would write, are a tree:
its inner nodes end at or before the text's end, its leaves are last tokens that reach beyond (the
valid covering tree of Hayase et al., arXiv 2506.14123). Of a model's laws only those at inner nodes
are needed, and of these only those that carry mass: the rest is spread as what follows a token.

    q(b | σ) ∝ Σ p(n) · p(t | n)   over nodes n that spell σ[:k], any k, and the tokens t that may
                                   follow n and spell something that begins with σ[k:]·b
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from moesubnet.engine.bytes_borders import Borders, Cuts, parted_utf8
from moesubnet.engine.bytes_lexicon import Lexicon
from moesubnet.spec.content import BYTE_END as END
from moesubnet.spec.content import BYTE_SYMBOLS as SYMBOLS

SKIPPED_SHARE = 1e-3  # a node with less of the mass is not asked for
CHECKED_SHARE = 1e-3  # nor is a last token with less checked
FLOOR = 1e-6  # of every law is even: no byte is impossible
LONGEST_BYTES = 64  # of what is kept open, beside twice the longest token

Law = npt.NDArray[np.float64]
_Path = list[tuple[int, int]]


@dataclass(slots=True, eq=False)
class TokenLaw:
    """A model's law at a node. shares: [T] of the tokens that spell, in the lexicon's order; ends:
    the mass of all that end a text."""

    shares: npt.NDArray[np.float32]
    ends: float
    _first: Law | None = None

    @classmethod
    def of(
        cls, lexicon: Lexicon, logprobs: npt.NDArray[np.float32], stops: Sequence[int]
    ) -> TokenLaw:
        """logprobs: float32 [V]."""
        ends = float(np.exp(logprobs[list(stops)]).sum())
        return cls(np.exp(logprobs[lexicon.order]), ends)

    def first(self, lexicon: Lexicon) -> Law:
        """float64 [257] of what the next token begins with; how a text goes on, roughly."""
        if self._first is None:
            begins = lexicon.next_bytes(*lexicon.beyond(b""), 0)
            law = np.bincount(begins, self.shares, SYMBOLS).astype(np.float64)
            law[END] = self.ends
            self._first = law / law.sum()
        return self._first


@dataclass(slots=True, eq=False)
class Node:
    """Tokens up to byte `end`. law: None until somebody asks the model."""

    parent: Node | None
    token: int
    start: int
    end: int
    depth: int
    law: TokenLaw | None = None
    _log_share: float | None = field(default=None)

    def log_share(self, lexicon: Lexicon) -> float | None:
        """Log-probability from the root; None below a node without a law."""
        if self._log_share is None:
            if self.parent is None:
                self._log_share = 0.0
            elif self.parent.law is not None:
                above = self.parent.log_share(lexicon)
                share = float(self.parent.law.shares[lexicon.place(self.token)])
                if above is not None:
                    self._log_share = above + float(np.log(max(share, 1e-30)))
        return self._log_share

    @property
    def is_weighed(self) -> bool:
        return self._log_share is not None

    def path(self) -> list[int]:
        """The tokens from the root."""
        tokens = []
        node: Node = self
        while node.parent is not None:
            tokens.append(node.token)
            node = node.parent
        return tokens[::-1]


@dataclass(frozen=True, slots=True)
class _Base:
    """Before byte `at` nothing is open any more: every later path leads over `node`, which ends
    there. is_border: no token would reach over it."""

    node: Node
    at: int
    is_border: bool


class Cover:
    """The tree over one text that grows and shrinks. `begin`: bytes that count as read, such as
    the space that a tokenizer puts before texts. checked: see CHECKED_SHARE."""

    def __init__(
        self,
        lexicon: Lexicon,
        borders: Borders,
        begin: bytes = b"",
        *,
        skipped: float = SKIPPED_SHARE,
        checked: float = CHECKED_SHARE,
    ) -> None:
        self.lexicon, self._borders = lexicon, borders
        self._skipped, self._checked = skipped, checked
        self._reach = lexicon.longest_bytes
        self.text = bytearray()
        self.root = Node(None, -1, 0, 0, 0)
        self._nodes: list[list[Node]] = [[self.root]]
        self._bases = [_Base(self.root, 0, True)]
        self._read = len(begin)
        for byte in begin:
            self.push(byte)

    def fork(self) -> Cover:
        """Another that begins with the same text; the nodes are shared."""
        other = Cover.__new__(Cover)
        other.__dict__ |= self.__dict__
        other.text = bytearray(self.text)
        other._nodes, other._bases = list(self._nodes), list(self._bases)
        return other

    def push(self, byte: int) -> bool:
        """One byte more. False, and nothing is changed, if no text of this tokenizer goes so."""
        self.text.append(byte)
        end, base = len(self.text), self._bases[-1]
        ways = self._borders.possible(bytes(self.text[base.at :]))
        nodes = [
            Node(node, token, node.end, end, node.depth + 1)
            for node in self._open(end - 1, base)
            for token in self.lexicon.spelling(bytes(self.text[node.end : end]))
            if self._is_valid(node, token, base)
        ]
        self._nodes.append(nodes)
        if not nodes and not self._is_open(end, base):
            self.text.pop()
            self._nodes.pop()
            return False
        self._bases.append(self._moved(base, end, ways))
        return True

    def truncate(self, size: int) -> None:
        """Back to the first `size` bytes."""
        del self.text[size:], self._nodes[size + 1 :], self._bases[size + 1 :]

    def missing(self, end: int) -> list[Node]:
        """Nodes whose laws the law after `end` bytes needs next, the heaviest first; none when it
        can be made."""
        shares, missing = self._shares(end)
        total = sum(share for _, share in shares) + sum(share for _, share in missing)
        return [node for node, share in missing if share > self._skipped * total]

    def law(self, end: int) -> Law:
        """float64 [257] of the symbol after the first `end` bytes, given the laws of all nodes that
        `missing` names. Sums to one, no symbol is impossible."""
        base, lexicon = self._bases[end], self.lexicon
        known, unknown = self._shares(end)
        least = self._checked * sum(share for _, share in [*known, *unknown])
        law = np.zeros(SYMBOLS)
        for node, weight in self._weights(end):
            if node.law is None:
                continue
            prefix = bytes(self.text[node.end : end])
            low, high = lexicon.beyond(prefix)
            shares = node.law.shares[low:high] * weight
            for place in np.nonzero(shares > least)[0]:
                if not self._is_valid(node, int(lexicon.order[low + place]), base):
                    shares[place] = 0.0
            law += np.bincount(lexicon.next_bytes(low, high, len(prefix)), shares, SYMBOLS)
            if self._may_end(node, end, base):
                law[END] += node.law.ends * weight
        for node, share in unknown:
            if node.parent is not None and node.parent.law is not None:
                law += share * node.parent.law.first(lexicon)
        total = law.sum()
        law = law / total if total > 0 else np.full(SYMBOLS, 1 / SYMBOLS)
        return (1 - FLOOR) * law + FLOOR / SYMBOLS

    def canonical(self, end: int) -> Node | None:
        """Of the nodes that end here that of a text which ends here."""
        base = self._bases[end]
        return next((node for node in self._nodes[end] if self._may_end(node, end, base)), None)

    def spine(self, end: int) -> Node:
        """The last node over which every way to write the first `end` bytes and more leads."""
        return self._bases[end].node

    def nodes(self, end: int) -> list[Node]:
        return self._nodes[end]

    def _shares(self, end: int) -> tuple[list[tuple[Node, float]], list[tuple[Node, float]]]:
        """Nodes with a law and the mass that goes beyond `end` under each; those without, and the
        most that it can be."""
        known, unknown = [], []
        for node, weight in self._weights(end):
            low, high = self.lexicon.beyond(bytes(self.text[node.end : end]))
            if node.law is None:
                unknown.append((node, weight))
                continue
            share = float(node.law.shares[low:high].sum(dtype=np.float64)) * weight
            known.append((node, share + node.law.ends * weight * (node.end == end)))
        return known, sorted(unknown, key=lambda item: -item[1])

    def _weights(self, end: int) -> list[tuple[Node, float]]:
        """The open nodes at `end` with their relative probabilities; in place of those below a
        node without a law, that node."""
        found: dict[int, tuple[Node, float]] = {}
        for opened in self._open(end, self._bases[end]):
            node = opened
            while (share := node.log_share(self.lexicon)) is None:
                assert node.parent is not None  # the root has a share
                node = node.parent
            found[id(node)] = node, share
        top = max((share for _, share in found.values()), default=0.0)
        return [(node, float(np.exp(share - top))) for node, share in found.values()]

    def _open(self, end: int, base: _Base) -> Iterator[Node]:
        """Nodes from which some token reaches beyond `end`, the latest first."""
        for at in range(end, max(base.at, end - self._reach) - 1, -1):
            if self._nodes[at]:
                low, high = self.lexicon.beyond(bytes(self.text[at:end]))
                if low < high:
                    yield from (node for node in self._nodes[at] if _leads_over(node, base))

    def _is_open(self, end: int, base: _Base) -> bool:
        """Whether some valid token reaches beyond `end`."""
        for node in self._open(end, base):
            low, high = self.lexicon.beyond(bytes(self.text[node.end : end]))
            if any(self._is_valid(node, int(t), base) for t in self.lexicon.order[low:high]):
                return True
        return False

    def _is_valid(self, node: Node, token: int, base: _Base) -> bool:
        """Whether some text begins with this path and token."""
        spelled = self.lexicon.bytes_of[token]
        raw = bytes(self.text[base.at : node.end]) + spelled
        if self.lexicon.is_byte_token(token) and not self._may_fall_back(raw):
            return False
        path = [*self._since(node, base), (token, len(raw))]
        return any(self._is_written(raw, path, cuts, base) for cuts in self._borders.ways(raw))

    def _may_end(self, node: Node, end: int, base: _Base) -> bool:
        """Whether these tokens are how the tokenizer writes just the text up to `end`."""
        if end == self._read:
            return node is self.root  # of no text there is no first space
        if node.end != end:
            return False
        raw = bytes(self.text[base.at : node.end])
        parted = parted_utf8(raw)
        if parted is None or parted[1]:
            return False
        path, cuts = self._since(node, base), self._borders.of(parted[0])
        return self._is_written(raw, path, cuts, base)

    def _may_fall_back(self, raw: bytes) -> bool:
        parted = parted_utf8(raw)
        if parted is None:
            return False
        text, begun = parted
        return bool(begun) or self.lexicon.falls_back(text[-1])

    def _since(self, node: Node, base: _Base) -> _Path:
        """The tokens behind the base, each with where it ends."""
        path: _Path = []
        while node.end > base.at and node.parent is not None:
            path.append((node.token, node.end - base.at))
            node = node.parent
        return path[::-1]

    def _is_written(self, raw: bytes, path: _Path, cuts: Cuts, base: _Base) -> bool:
        """Whether the tokenizer writes this path where it cuts the text so."""
        begin, tokens = 0, [] if base.is_border or base.node.token < 0 else [base.node.token]
        is_begun, at = base.is_border, 0
        for cut in cuts:
            while at < len(path) and path[at][1] <= cut:
                tokens.append(path[at][0])
                at += 1
            if not at or path[at - 1][1] != cut:
                return False  # a token reaches over the border
            alone = self.lexicon.whole(raw[begin:cut]) if is_begun else None
            if tokens != [alone] if alone is not None else not self.lexicon.spell(tokens):
                return False
            begin, tokens, is_begun = cut, [], True
        return self.lexicon.spell([*tokens, *(token for token, _ in path[at:])])

    def _moved(self, base: _Base, end: int, ways: frozenset[Cuts]) -> _Base:
        """The base as far on as what is read allows."""
        certain = frozenset.intersection(*map(frozenset, ways)) if ways else frozenset()
        for cut in sorted(certain, reverse=True):
            possible = [
                node
                for node in self._nodes[base.at + cut]
                if _leads_over(node, base)
                and any(self._is_written_until(node, cut, cuts, base) for cuts in ways)
            ]
            if len(possible) == 1:
                return _Base(possible[0], base.at + cut, True)
        if end - base.at > 2 * self._reach + LONGEST_BYTES:
            return self._common(base, end)
        return base

    def _is_written_until(self, node: Node, cut: int, cuts: Cuts, base: _Base) -> bool:
        raw = bytes(self.text[base.at : base.at + cut])
        within = tuple(border for border in cuts if border <= cut)
        return self._is_written(raw, self._since(node, base), within, base)

    def _common(self, base: _Base, end: int) -> _Base:
        """Where a piece is too long to be kept open: the last node that all open paths share."""
        paths = []
        for node in self._open(end, base):
            path = []
            while node.end > base.at and node.parent is not None:
                path.append(node)
                node = node.parent
            paths.append(path[::-1])
        shared = base.node
        for nodes in zip(*paths, strict=False):
            if any(node is not nodes[0] for node in nodes):
                break
            parted = parted_utf8(bytes(self.text[base.at : nodes[0].end]))
            if parted is not None and not parted[1]:
                shared = nodes[0]
        return _Base(shared, shared.end, False) if shared is not base.node else base


def _leads_over(node: Node, base: _Base) -> bool:
    """Whether it is the base's node or below it; others were cut off by what came since."""
    while node.end > base.at and node.parent is not None:
        node = node.parent
    return node is base.node
