"""A miner is bound to every token's probability before it knows which one will count.

A row lists its likeliest tokens; the others, up to 262,144 of them, are only a tail mass. Scoring
needs the exact value of one token, which may not be named before the row is in our hands. So the
miner sends, with the row, the root of a Merkle sum tree over the *tail*: every token's
log-probability, the listed ones blanked out. When the token is known and was not listed, one leaf
of the tree and its path show what the miner had said of it.

**Code.** A log-probability is a u16 in steps of 1/2,048 nat, down to -31.9990, which stands for
everything below too; 65,535 is probability zero: a listed token, or none. (float16 is too coarse
where tails live: near e^-12 it rounds by 0.4 %, and all tokens of a flat row the same way, so an
honest row may miss a mass of 1 by that much. This code misses by 1/4,096 at most.) Every code is
a probability, so there is no NaN, no infinity and nothing above one to refuse. `mass_table` holds
ceil(2^39 · e^(-code/2,048)), by integer arithmetic: the same on every machine. Rounded up, so that
no claim is free of mass.

**Tree.** Leaves are LEAF_TOKENS codes. A node is its mass (u64, the sum below it) and a SHA-256:

    leaf   SHA-256(u32 0 | u32 V | u32 leaf's number | LEAF_TOKENS × u16 codes)
    inner  SHA-256(u32 1 | left mass u64, left hash | right mass u64, right hash)

All little-endian. Beyond V the last leaf holds 65,535; a node without a right neighbour is paired
with mass 0 and a hash of zeros. Depth and so a proof's size follow from V alone. The root's hash
stands in the answer, and the root's mass *is* the row's tail mass.

**What that proves.** Let q(y) be the listed value where y is listed, else what the leaf says that
can be opened for y. Opened paths that meet share a preimage, so the same masses; a leaf's mass is
the sum of its codes' and a node's that of its children. By induction the leaves that can be opened
at all hold at most the root's mass, whatever the miner hashed. Hence Σ q ≤ Σ listed + tail, which
the receiver divides by. So q is a law, fixed before y: the log score is proper for it, and lying
in the tree, in the list, or in one against the other gains nothing.

Blanking the listed tokens is what closes the gap between the two. Over the *whole* row a miner
could list 0.95 and spend the tree's whole mass on leaves in which nothing is listed: laws of mass
1.95, and to check that opened leaves agree with the list would not show it. Here a value for a
listed token is never read from the tree, and mass that is put there is lost to the miner.

**What it does not prove.** That the law is the model's; a forecast needs no such proof. That a leaf
can be opened: a miner may lose or withhold one, after it has seen y. Whoever scores then takes
`Commitment.withheld`, or withholding would be an option that only winners leave unused. Somebody
who gives probability 0 to all that he does not list and shows no leaf has V · e^-20 (5e-4 at
V = 262,144) of mass for nothing that way, and a failure each time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

from moesubnet.errors import BadDistribution, BadReveal
from moesubnet.wire.distributions import LOWEST, Ids, Rows

LEAF_TOKENS = 1_024
STEPS_A_NAT = 2_048
ZERO = 65_535  # the code of probability zero
ONE = 2**39  # the mass of probability one: 2^24 tokens of it fit a u64
MOST = 2 * ONE  # no law's tree holds more
MASS_TOLERANCE = 1e-3
WITHHELD_NATS = -20.0
_BLOCK_LEAVES = 32  # whose values, codes and masses stay in the cache together

Codes = NDArray[np.uint16]
_NODE = np.dtype([("mass", "<u8"), ("hash", "V32")])
_LEAF = np.dtype([("tag", "<u4"), ("vocab", "<u4"), ("index", "<u4"),
                  ("codes", "<u2", (LEAF_TOKENS,))])  # fmt: skip
_PAIR = np.dtype([("tag", "<u4"), ("nodes", _NODE, (2,))])
_PACKED, _LEAF_HEAD, _PAIR_HEAD = struct.Struct("<Q32s"), struct.Struct("<3I"), struct.Struct("<I")


@cache
def mass_table() -> NDArray[np.uint64]:
    """u64 [65,536]: the mass of each code. 256 bits of fixed point: exact after rounding up."""
    bits = 256
    step = term = 1 << bits  # e^(-1/2,048), by its series
    for n in range(1, 40):
        term = -term // (n * STEPS_A_NAT)
        step += term
    masses, power = np.zeros(ZERO + 1, "<u8"), ONE << bits
    for code in range(ZERO):
        masses[code] = -(-power >> bits)
        power = power * step >> bits
    masses.flags.writeable = False
    return masses


def leaves_of(vocab_size: int) -> int:
    return -(-vocab_size // LEAF_TOKENS)


def proof_bytes(vocab_size: int) -> int:
    """How large every proof is: 2,368 at V = 262,144."""
    depth = (leaves_of(vocab_size) - 1).bit_length()
    return 2 * LEAF_TOKENS + depth * _NODE.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class CommittedTail:
    """One row's tail as its miner keeps it: 532 kB at V = 262,144.

    codes: u16 [leaves, LEAF_TOKENS]. levels: the tree's nodes from the leaves to the root, each
    level but the last of even length.
    """

    codes: Codes
    levels: tuple[NDArray[np.void], ...]

    @property
    def root(self) -> bytes:
        """32 bytes: what the answer carries."""
        return self.levels[-1]["hash"].tobytes()

    @property
    def tail_mass(self) -> np.float32:
        """Probability of all tokens that are not listed: what the row says beside the root."""
        return _probability(int(self.levels[-1]["mass"][0]))

    @property
    def nbytes(self) -> int:
        return self.codes.nbytes + sum(level.nbytes for level in self.levels)

    def open(self, token_id: int) -> bytes:
        """The proof of one token's value: its leaf, then its neighbours up to the root."""
        index = token_id // LEAF_TOKENS
        path = [self.levels[k][(index >> k) ^ 1].tobytes() for k in range(len(self.levels) - 1)]
        return b"".join([self.codes[index].tobytes(), *path])


def commit(logprobs: Rows, listed: Sequence[Ids]) -> list[CommittedTail]:
    """The committed tails of rows.

    logprobs: f32 [rows, V], each a law of mass 1 ± MASS_TOLERANCE; -inf is allowed. listed: the
    ids that each row's answer lists, and so its tail does not hold. Raises BadDistribution.
    """
    return [_commit(row, ids) for row, ids in zip(logprobs, listed, strict=True)]


def _commit(logprobs: Rows, listed: Ids) -> CommittedTail:
    vocab_size = len(logprobs)
    leaves = np.empty(leaves_of(vocab_size), _LEAF)
    leaves["tag"], leaves["vocab"], leaves["index"] = 0, vocab_size, np.arange(len(leaves))
    codes = leaves["codes"]
    masses = _encode(logprobs, codes)
    total = int(masses.sum()) / ONE
    if abs(total - 1.0) > MASS_TOLERANCE:
        raise BadDistribution(f"a row to commit to has mass {total:.6f}")
    rows, columns = np.divmod(np.unique(listed).astype(np.intp), LEAF_TOKENS)
    np.subtract.at(masses, rows, mass_table()[codes[rows, columns]])
    codes[rows, columns] = ZERO
    level = _nodes(masses, leaves)
    levels = []
    while len(level) > 1:
        if len(level) % 2:
            level = np.concatenate([level, np.zeros(1, _NODE)])
        levels.append(level)
        pairs = np.empty(len(level) // 2, _PAIR)
        pairs["tag"], pairs["nodes"] = 1, level.reshape(-1, 2)
        level = _nodes(level["mass"].reshape(-1, 2).sum(axis=1), pairs)
    return CommittedTail(np.ascontiguousarray(codes), (*levels, level))


def _encode(logprobs: Rows, codes: Codes) -> NDArray[np.uint64]:
    """Fill `codes` [leaves, LEAF_TOKENS]; u64 [leaves], their masses."""
    table, masses = mass_table(), np.empty(len(codes), "<u8")
    steps = np.empty((min(_BLOCK_LEAVES, len(codes)), LEAF_TOKENS), np.float32)
    parts = np.empty(steps.shape, "<u8")
    for begin in range(0, len(codes), _BLOCK_LEAVES):
        block = codes[begin : begin + _BLOCK_LEAVES]
        values = logprobs[begin * LEAF_TOKENS : (begin + len(block)) * LEAF_TOKENS]
        flat = steps.reshape(-1)[: block.size]
        np.multiply(values, -STEPS_A_NAT, out=flat[: len(values)])
        flat[len(values) :] = 0
        np.rint(flat, out=flat)
        if not flat.min() >= 0.0:  # NaN too
            raise BadDistribution("a log-probability to commit to is positive or not a number")
        np.minimum(flat, ZERO - 1, out=flat)
        flat[len(values) :] = ZERO
        block[:] = flat.reshape(block.shape)
        table.take(block, out=parts[: len(block)], mode="clip")
        parts[: len(block)].sum(axis=1, out=masses[begin : begin + len(block)])
    return masses


def _nodes(masses: NDArray[np.uint64], preimages: NDArray[np.void]) -> NDArray[np.void]:
    """Hash each preimage: the nodes of one level."""
    size, raw = preimages.itemsize, preimages.data.cast("B")
    nodes = np.empty(len(preimages), _NODE)
    nodes["mass"] = masses
    hashes = [sha256(raw[i : i + size]).digest() for i in range(0, len(raw), size)]
    nodes["hash"] = np.frombuffer(b"".join(hashes), "V32")
    return nodes


def verify(
    root: bytes, tail_mass: float, vocab_size: int, token_id: int, proof: bytes | memoryview
) -> float:
    """The log-probability that `proof` shows for a token that the row did not list.

    root and tail_mass (float32, as received, before normalising) stood in the answer. Probability
    zero is LOWEST. Raises BadReveal when the proof is not one of this token under this root.
    """
    if not 0 <= token_id < vocab_size or len(proof) != proof_bytes(vocab_size):
        raise BadReveal("a proof of another size than this vocabulary's")
    index, column = divmod(token_id, LEAF_TOKENS)
    codes = np.frombuffer(proof, "<u2", LEAF_TOKENS)
    if bool((codes[vocab_size - index * LEAF_TOKENS :] != ZERO).any()):
        raise BadReveal("a leaf goes on beyond the vocabulary")
    mass = int(mass_table()[codes].sum())
    digest = sha256(_LEAF_HEAD.pack(0, vocab_size, index) + codes.tobytes()).digest()
    head = _PAIR_HEAD.pack(1)
    for begin in range(codes.nbytes, len(proof), _PACKED.size):
        own, other = _PACKED.pack(mass, digest), bytes(proof[begin : begin + _PACKED.size])
        digest = sha256(head + (other + own if index & 1 else own + other)).digest()
        mass += int.from_bytes(other[:8], "little")
        index >>= 1
        if mass > MOST:
            raise BadReveal("a tree of more mass than any law")
    if digest != root:
        raise BadReveal("a leaf that is not the committed one")
    if _probability(mass) != np.float32(tail_mass):
        raise BadReveal("a tree of another mass than the row's tail")
    code = int(codes[column])
    return LOWEST if code == ZERO else -code / STEPS_A_NAT


@dataclass(frozen=True, slots=True)
class Commitment:
    """What an answer bound its miner to, as the caller remembers it.

    tail_mass: as received. log_mass: of the whole row as received, which it is divided by.
    """

    root: bytes
    tail_mass: float
    log_mass: float
    vocab_size: int

    def shown(self, token_id: int, proof: bytes) -> float:
        """The log-probability of an unlisted token. Raises BadReveal."""
        value = verify(self.root, self.tail_mass, self.vocab_size, token_id, proof)
        return max(value - self.log_mass, LOWEST)

    def withheld(self) -> float:
        """What an unlisted token scores while its leaf is not shown: the tail's even share, and
        never more than e^-20."""
        if self.tail_mass <= 0.0:
            return LOWEST
        share = math.log(self.tail_mass / self.vocab_size) - self.log_mass
        return max(LOWEST, min(share, WITHHELD_NATS))


def _probability(mass: int) -> np.float32:
    return np.float32(mass / ONE)
