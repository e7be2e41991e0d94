"""What to do about each reason for which the chain refuses a call, by the reason's name.

Names are those of the chain's metadata (upstream's where upstream has the case) and of
Substrate's pool.
"""

from __future__ import annotations

_FUND = "fund it: `moesubnet faucet` on a development chain, `moesubnet transfer` elsewhere"
_REGISTER = "register it first: `moesubnet register`"
_LATER = "wait some blocks and send it again"
_OWNERS = "`moesubnet subnet info` says who that is"
ADVICE = {
    "AdminActionProhibitedDuringWeightsWindow": "the epoch is too near, and nobody's vote may meet "
    "rules that changed a moment before; send it again once the epoch has run "
    "(`moesubnet subnet info` counts the blocks)",
    "AlreadyImported": "the node has this very transaction already; wait for its block",
    "AmountTooLow": "stake more at once; when unstaking, take all rather than leave a crumb",
    "AncientBirthBlock": "it waited too long before it was sent; send it again",
    "Arithmetic.DivisionByZero": "the runtime divided by zero, which is its fault; report it",
    "Arithmetic.Overflow": "an amount is larger than the chain can count; write a smaller one",
    "Arithmetic.Underflow": f"the balance is too low; {_FUND}",
    "BadMandatory": "this call is for block authors, nobody can send it; choose another one",
    "BadOrigin": "this key may not make this call; only root may",
    "BadProof": "the signature is not the signer's for this chain; is the client as new as it?",
    "BadRequest": "it would fail now. To vote, a hotkey needs a validator permit (stake more and "
    "wait for the next epoch), targets that are neurons, and the subnet's way of voting; "
    "a commit can be revealed in its one epoch only",
    "BadSigner": "this kind of key cannot sign here; use an sr25519 key",
    "Banned": "the node refused this very transaction a moment ago; wait a minute",
    "Call": "the pool does not take this call at all; choose another one",
    "CallFiltered": "this chain has switched the call off; choose another one",
    "CanNotSetRootNetworkWeights": "there is no subnet 0 to vote on; name another netuid",
    "CannotAffordLockCost": f"the coldkey cannot pay the price of a subnet; {_FUND}, or wait: "
    "the price falls with time (`moesubnet subnet list`)",
    "CannotLookup": "the account or block is not known here; name another, or another --chain",
    "CommitRevealDisabled": "this subnet takes weights without commit and reveal; set them openly",
    "CommitRevealEnabled": "this subnet takes weights through commit and reveal only",
    "CommittingWeightsTooFast": "wait for the subnet's weights rate limit",
    "ConsumerRemaining": "the account is still in use; leave a balance on it",
    "DeadAccount": f"the account does not exist; {_FUND}",
    "DelegateTakeTooHigh": "no take may be above 18 %; ask for less",
    "DelegateTakeTooLow": "the take is that already, or on its other side; `moesubnet stake take` "
    "shows it and chooses the call",
    "DelegateTxRateLimitExceeded": "the take changed too recently to rise; `moesubnet stake take` "
    "says from which block on it may",
    "DeltaZero": "that would change nothing; write another amount",
    "DuplicateUids": "a target occurs twice; name each uid once",
    "Exhausted": "the call is too heavy for a block; split it",
    "ExhaustsResources": "the block is full; send it again",
    "ExistentialDeposit": "the account would hold less than one must; send more",
    "ExistingVestingSchedule": "the account has a vesting schedule; use another one",
    "Expendability": "the rest would be less than an account must hold; send less",
    "Expired": "no block included it in time; it is safe to send again",
    "ExpiredWeightCommit": "the epoch for this reveal is over; commit again",
    "FailedToExtractRuntimeVersion": "that is no runtime; name the right WASM file",
    "Future": "an earlier transaction of this key is missing; send that one first",
    "HotKeyAccountNotExists": f"the hotkey was never registered; {_REGISTER}",
    "HotKeyAlreadyRegisteredInSubNet": "the hotkey has a slot already; nothing to do",
    "HotKeyNotRegisteredInNetwork": f"the hotkey has no slot in this subnet; {_REGISTER}",
    "HotKeyNotRegisteredInSubNet": f"the hotkey has no slot in this subnet; {_REGISTER}",
    "HyperparamOutOfBounds": "the value, alone or beside the others, is out of bounds; "
    "`moesubnet subnet hyperparams` says what each may be",
    "IncorrectWeightVersionKey": "the subnet asks for newer validators; update this one",
    "IndeterminateImplicit": "it was made for another chain; is --chain the right one?",
    "InputLengthsUnequal": "the lists of a batch must be of one length, and not empty",
    "InsufficientBalance": f"the balance is too low; {_FUND}",
    "InsufficientLiquidity": "less is available; ask for a smaller amount",
    "InvalidDifficulty": "the seal does not meet the difficulty, which may have risen; "
    "work again with the difficulty of now",
    "InvalidEmissionShares": "name existing subnets, each once, with at least one share above 0",
    "InvalidIdentity": "names and symbols must be UTF-8 of at most 64 bytes",
    "InvalidIpAddress": "others cannot reach this address; publish a public one (`--external-ip`). "
    "Private ones are taken by chains of the development preset",
    "InvalidIpType": "an address is of type 4 or 6; publish it as one of them",
    "InvalidPort": "port 0 cannot be reached; publish the real one",
    "InvalidRevealCommitHashNotMatch": "what was revealed is not what was committed; reveal the "
    "very uids, values, salt and version key",
    "InvalidRevealRound": "reveal it in the epoch after the commit's",
    "InvalidSeal": "the seal is not that of this nonce, hotkey and coldkey; work again",
    "InvalidSpecName": "that runtime is another chain's; name the right WASM file",
    "InvalidWorkBlock": "work on one of the last four blocks, a younger one than last time",
    "IssuanceDeactivated": "this chain has switched the call off",
    "LiquidityRestrictions": "part of the balance is locked; send less",
    "MandatoryValidation": "this call is for block authors, nobody can send it; choose another one",
    "MechanismDoesNotExist": "only mechanism 0 exists; vote on that",
    "MultiBlockMigrationsOngoing": f"the chain is upgrading itself; {_LATER}",
    "NeuronNoValidatorPermit": "only the neurons with most stake may vote: stake more on the "
    "hotkey (`moesubnet stake add`) and wait for the next epoch",
    "NoNeuronIdAvailable": "the subnet is full of neurons in their immunity period; try later",
    "NoProviders": f"the account does not exist yet; {_FUND}",
    "NoTags": "the pool cannot keep this transaction apart from others; send it again",
    "NoUnsignedValidator": "the transaction is not signed; sign it",
    "NoWeightsCommitFound": "nothing is committed, or it has been revealed already; commit again",
    "NonAssociatedColdKey": "another coldkey owns this hotkey; use that one or a new hotkey",
    "NonDefaultComposite": "the account is still in use; leave it as it is",
    "NonZeroRefCount": "the account is still in use; leave it as it is",
    "NotEnoughBalanceToStake": f"the coldkey's balance is too low; {_FUND}",
    "NotEnoughStakeToSetWeights": "stake more on the hotkey: `moesubnet stake add`",
    "NotEnoughStakeToWithdraw": "the stake is smaller; see `moesubnet stake list`",
    "NotSubnetOwner": f"only the coldkey that owns the subnet may do this; {_OWNERS}",
    "NothingAuthorized": "no upgrade was authorised; root has to do that first",
    "OnlyRootMaySet": "it protects voters, payers or the chain, so only root may change it; "
    "leave it out",
    "Payment": f"the key cannot pay the fee, or is unknown to the chain; {_FUND}",
    "PoolFull": "the node has too many transactions waiting; send it again",
    "PriorityTooLow": "another transaction of this key has its place; send it again",
    "RateLimitExceeded": f"too soon after the last one; {_LATER}",
    "RegistrationNotPermittedOnRootSubnet": "there is no subnet 0 to register on; "
    "name another netuid",
    "RegistrationPriceLimitExceeded": "the price rose above the limit; run it again",
    "RequireSudo": "only the chain's root key may do this",
    "RevealTooEarly": "reveal it in the epoch after the commit's",
    "ServingRateLimitExceeded": f"the address, or the model, was published a moment ago; {_LATER}",
    "SettingWeightsTooFast": "wait for the subnet's weights rate limit",
    "SlippageTooHigh": "a subnet's token always costs 10⁹ rao; ask for that limit",
    "SpecVersionNeedsToIncrease": "that runtime is not newer than the chain's; raise its version",
    "StakeAmountTooLow": "stake more on the hotkey: `moesubnet stake add`",
    "Stale": "another transaction of this key took its place; send it again",
    "SubNetRegistrationDisabled": "this subnet takes no registrations of that kind; "
    f"ask its owner ({_OWNERS})",
    "SubnetLimitReached": "there are as many subnets as there may be, and none is dissolved",
    "SubnetNotExists": "there is no such subnet; `moesubnet subnet list` shows those that exist",
    "Token.BelowMinimum": "the receiver would hold less than an account must; send more",
    "Token.Blocked": "the receiver's account takes nothing; send it to another",
    "Token.CannotCreate": "the receiver's account cannot be made; send more",
    "Token.CannotCreateHold": "nothing can be held on that account; use another",
    "Token.Frozen": "the balance is frozen; use another account",
    "Token.FundsUnavailable": f"the balance is too low; {_FUND}",
    "Token.NotExpendable": "the rest would be less than an account must hold; send less",
    "Token.OnlyProvider": "the rest would be less than an account must hold; send less",
    "Token.UnknownAsset": "there is only one token here",
    "Token.Unsupported": "tokens cannot do that here",
    "TooManyCalls": "the batch is too long; split it",
    "TooManyConsumers": "the account is in use too often; use another",
    "TooManyFreezes": "the account has as many freezes as it may; use another",
    "TooManyHolds": "the account has as many holds as it may; use another",
    "TooManyNominators": "as many coldkeys as may stake on this hotkey already; choose another",
    "TooManyOwnedHotkeys": "this coldkey owns as many hotkeys as it may; use another coldkey",
    "TooManyRegistrationsThisBlock": "others were faster; work again for the next block",
    "TooManyReserves": "the account has as many reserves as it may; use another",
    "TooManyUnrevealedCommits": "reveal, or let old commits expire",
    "TransferDisallowed": "this subnet's stake cannot be moved so; take it back first",
    "TrimmingWouldExceedMaxImmunePercentage": "too many neurons are immune or the owner's: keep "
    "more slots, or wait for immunities to end",
    "TxRateLimitExceeded": "the owner changed this too recently; `moesubnet subnet hyperparams` "
    "says how often each may change, and slots may be trimmed more rarely still",
    "UidVecContainInvalidOne": "a target is not a neuron; see `moesubnet subnet metagraph`",
    "UidsLengthExceedUidsInSubNet": "there are fewer neurons than targets; "
    "see `moesubnet subnet metagraph`",
    "Unauthorized": "that is not the runtime that was authorised; name the right WASM file",
    "UnknownOrigin": "the transaction is not signed; sign it",
    "VestingBalance": "part of the balance is not yours yet; send less",
    "WeightVecLengthIsLow": "name more targets: `min_allowed_weights` of "
    "`moesubnet subnet hyperparams`, or all neurons",
    "WeightVecNotEqualSize": "name one weight for each target",
}
