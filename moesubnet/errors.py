"""The error tree. Every error that leaves a public function is one of these.

MoesubnetError
├── ConfigError          what the user typed or wrote into a file cannot work
├── SpecError            a subnet spec or one of its files is missing, altered or malformed
├── PromptError          a conversation cannot become token ids under the subnet's template
├── Declined             a person was asked and did not agree
├── WalletError          a key file cannot be read, decrypted or written
│   └── WrongPassword        the password does not open it
├── ChainError           the chain refused, or could not be reached
│   ├── ChainUnavailable     no connection within the deadline; safe to retry
│   ├── CallRejected         the pool or the pallet refused a call; `.name` is its error name
│   └── StaleMetagraph       the snapshot is too old to trust
├── AuthError            a request or receipt is not proven to come from who it says
│   ├── MalformedAuth  ├── WrongReceiver  ├── StaleRequest  ├── BadSignature
│   ├── ReplayedRequest
│   └── Forbidden            who it says, but not welcome here
├── WireError            a peer's bytes break the protocol
│   ├── FrameError           malformed, oversize or lying frame
│   ├── BadDistribution      log-probabilities that are not a distribution
│   └── BadReveal            an opened leaf that is not the one committed to
├── PeerError            an expert answered with an error, or not at all
│   ├── PeerUnavailable      refused, timed out or died; drop it and go on
│   │   ├── PeerLate             the others had answered long before
│   │   ├── PeerResting          failed a moment ago, so it was not asked at all
│   │   └── RelayLost            a router brought nothing that proves anything about the expert
│   ├── NobodyAnswers        not one of all the experts that could be asked; ask again later
│   ├── PeerRefused          a 4xx/5xx status; `.status` and `.code` say which
│   └── UnknownBase          409: the expert lost the base; `.held_tokens` per sequence
├── FetchError           a file from a stranger's server cannot be had, or is another
├── BadReceipts          what is said to prove an answer does not
├── PoolSpent            private text is used up; it is never used twice
├── Overloaded           we have too much to do already; ask again later
├── StateUnavailable     a database does not answer; nothing was changed, ask again later
└── EngineError          a model cannot be loaded or run
"""

from __future__ import annotations


class MoesubnetError(Exception):
    """Root of the tree. The text is for the person who has to act on it."""


class ConfigError(MoesubnetError):
    """What the user typed, or wrote into a file, cannot work."""


class SpecError(MoesubnetError):
    """A subnet spec or one of its files is missing, altered or malformed."""


class PromptError(MoesubnetError):
    """A conversation or text that cannot become token ids under the subnet's template."""


class Declined(MoesubnetError):
    """A person was asked whether to go on, and did not agree."""


class WalletError(MoesubnetError):
    """A key file cannot be read, decrypted or written."""


class WrongPassword(WalletError):
    """The password does not open the key file (or the file is damaged: nobody can tell)."""


class ChainError(MoesubnetError):
    """The chain refused, or could not be reached."""


class ChainUnavailable(ChainError):
    """No connection within the deadline. Safe to retry."""


class CallRejected(ChainError):
    """The transaction pool or the pallet refused a call.

    `name` is the error's name in the chain's metadata (for example `RevealTooEarly`), or the
    pool's text where there is none.
    """

    def __init__(self, name: str, text: str = "") -> None:
        super().__init__(f"{name}: {text}" if text else name)
        self.name = name

    @property
    def is_of_address(self) -> bool:
        """Whether the chain will never take that address of anybody."""
        return self.name in ("InvalidIpAddress", "InvalidIpType", "InvalidPort")


class StaleMetagraph(ChainError):
    """The snapshot is older than its owner allows; nothing may be decided on it."""


class AuthError(MoesubnetError):
    """A request or receipt is not proven to come from who it says."""


class MalformedAuth(AuthError):
    """An authentication header is missing, repeated or not of its form."""


class WrongReceiver(AuthError):
    """Signed for somebody else."""


class StaleRequest(AuthError):
    """The nonce is outside the time window."""


class BadSignature(AuthError):
    """The signature does not verify."""


class ReplayedRequest(AuthError):
    """This nonce of this sender was seen before."""


class Forbidden(AuthError):
    """The caller is not registered, or its stake is too small."""


class WireError(MoesubnetError):
    """A peer's bytes break the protocol."""


class FrameError(WireError):
    """A malformed, oversize or lying frame."""


class BadDistribution(WireError):
    """Log-probabilities that are not finite, not ≤ 0, or sum to more than one."""


class BadReveal(WireError):
    """What was opened is not what the peer had committed to."""


class FetchError(MoesubnetError):
    """A file from a stranger's server cannot be had, or is another."""


class BadReceipts(MoesubnetError):
    """What is said to prove an answer does not."""


class PeerError(MoesubnetError):
    """An expert answered with an error, or not at all."""


class PeerUnavailable(PeerError):
    """Connection refused, timed out or broken."""


class PeerLate(PeerUnavailable):
    """The others had answered, and their patience was over."""


class PeerResting(PeerUnavailable):
    """It failed a moment ago, so it was not asked."""


class RelayLost(PeerUnavailable):
    """A router did not bring an answer that proves anything: the expert is not to blame."""


class NobodyAnswers(PeerError):
    """Not one of all the experts that could be asked answers. Safe to retry."""


class PeerRefused(PeerError):
    """The expert answered with an HTTP error status, and perhaps with a code."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(f"{status}: {code}" if code else str(status))
        self.status, self.code = status, code

    @property
    def is_stale(self) -> bool:
        """It says that our signature was too old, or not yet of its time, when it came."""
        return self.code == "stale_request"


class UnknownBase(PeerError):
    """409: the expert no longer holds the base of some sequence.

    `held_tokens[i]` is how many ids of sequence i it still holds.
    """

    def __init__(self, held_tokens: tuple[int, ...]) -> None:
        super().__init__(f"held {held_tokens}")
        self.held_tokens = held_tokens


class PoolSpent(MoesubnetError):
    """Private text is used up. It is never used twice."""


class Overloaded(MoesubnetError):
    """Too much is waiting already, in all or from this caller. Safe to retry."""


class EngineError(MoesubnetError):
    """A model cannot be loaded or run."""


class StateUnavailable(MoesubnetError):
    """A database does not answer. What was asked of it has not been done; ask again later."""
