//! Why calls fail.
use polkadot_sdk::frame_support::pallet_macros::pallet_section;

/// Becomes part of the pallet's module.
#[pallet_section]
mod errors {
	/// Why a call failed. Names are upstream's where upstream has the case.
	#[pallet::error]
	#[derive(PartialEq)]
	pub enum Error<T> {
		/// There is no such subnet.
		SubnetNotExists,
		/// There is no subnet 0 to register on.
		RegistrationNotPermittedOnRootSubnet,
		/// The subnet accepts no registrations.
		SubNetRegistrationDisabled,
		/// The hotkey has a slot in the subnet already.
		HotKeyAlreadyRegisteredInSubNet,
		/// The price of the registration is above the caller's limit.
		RegistrationPriceLimitExceeded,
		/// The seal is for a block that is not one of the last four, or was used already.
		InvalidWorkBlock,
		/// The seal is not that of the nonce.
		InvalidSeal,
		/// The seal does not meet the difficulty.
		InvalidDifficulty,
		/// The block has as many registrations by work as it may.
		TooManyRegistrationsThisBlock,
		/// The balance is too low.
		NotEnoughBalanceToStake,
		/// The hotkey belongs to another coldkey.
		NonAssociatedColdKey,
		/// The coldkey owns as many hotkeys as it may.
		TooManyOwnedHotkeys,
		/// The subnet is full and no neuron can be pruned.
		NoNeuronIdAvailable,
		/// The hotkey was never registered anywhere, so it has no owner.
		HotKeyAccountNotExists,
		/// The amount, or the stake that would remain, is below the minimum.
		AmountTooLow,
		/// As many coldkeys as allowed stake on the hotkey already, none of them less.
		TooManyNominators,
		/// The price of a subnet's token, always 1, is beyond the limit.
		SlippageTooHigh,
		/// The stake is smaller than the amount.
		NotEnoughStakeToWithdraw,
		/// The hotkey has no slot in the subnet, so it cannot serve there.
		HotKeyNotRegisteredInNetwork,
		/// The type of the address is neither 4 nor 6.
		InvalidIpType,
		/// The address cannot be reached from the public internet.
		InvalidIpAddress,
		/// The port is 0.
		InvalidPort,
		/// The axon was published too recently.
		ServingRateLimitExceeded,
		/// There is no subnet 0 to vote on.
		CanNotSetRootNetworkWeights,
		/// Only mechanism 0 exists.
		MechanismDoesNotExist,
		/// Targets and weights differ in number.
		WeightVecNotEqualSize,
		/// There are more targets than neurons.
		UidsLengthExceedUidsInSubNet,
		/// The hotkey has no slot in the subnet, so it cannot vote there.
		HotKeyNotRegisteredInSubNet,
		/// The hotkey's stake is below the subnet's threshold.
		NotEnoughStakeToSetWeights,
		/// The version key is older than the subnet asks for.
		IncorrectWeightVersionKey,
		/// The last vote is too recent.
		SettingWeightsTooFast,
		/// The neuron has no validator permit.
		NeuronNoValidatorPermit,
		/// A target occurs twice.
		DuplicateUids,
		/// A target is not a neuron.
		UidVecContainInvalidOne,
		/// There are too few targets.
		WeightVecLengthIsLow,
		/// The subnet wants weights through commit and reveal.
		CommitRevealEnabled,
		/// The subnet wants weights without commit and reveal.
		CommitRevealDisabled,
		/// The last commit is too recent.
		CommittingWeightsTooFast,
		/// Ten commits wait for their reveal already.
		TooManyUnrevealedCommits,
		/// There is no commit to reveal.
		NoWeightsCommitFound,
		/// No commit has the hash of what was revealed.
		InvalidRevealCommitHashNotMatch,
		/// The commit can be revealed in a later epoch.
		RevealTooEarly,
		/// The commit could be revealed in an earlier epoch.
		ExpiredWeightCommit,
		/// Only the owner of the subnet may do this.
		NotSubnetOwner,
		/// This hyperparameter, alone or together with others, is out of bounds.
		HyperparamOutOfBounds(Hyperparam),
		/// A share names a missing subnet, or one twice, or all shares are 0.
		InvalidEmissionShares,
		/// The take is not lower, or not higher, than the hotkey's take now.
		DelegateTakeTooLow,
		/// The take is above the highest that is allowed.
		DelegateTakeTooHigh,
		/// The hotkey's take changed too recently to rise.
		DelegateTxRateLimitExceeded,
		/// Only root may change this hyperparameter.
		OnlyRootMaySet(Hyperparam),
		/// The owner changed this too recently.
		TxRateLimitExceeded,
		/// The epoch is too near for changes by the owner.
		AdminActionProhibitedDuringWeightsWindow,
		/// The lists of a batch differ in length, or are empty.
		InputLengthsUnequal,
		/// There are as many subnets as there may be.
		SubnetLimitReached,
		/// The balance is below the price of a subnet.
		CannotAffordLockCost,
		/// More neurons are immune, or the owner's, than 80 % of the slots that would remain.
		TrimmingWouldExceedMaxImmunePercentage,
		/// The name or the symbol of a subnet is not UTF-8.
		InvalidIdentity,
	}
}
