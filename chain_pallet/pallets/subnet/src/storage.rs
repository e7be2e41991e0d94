//! What the pallet remembers.
use polkadot_sdk::frame_support::pallet_macros::pallet_section;

/// Becomes part of the pallet's module.
#[pallet_section]
mod storage {
	// Hashers: numbers of subnets and slots are handed out by the pallet, so `Identity` is safe for
	// them. Account ids are chosen by strangers and take `Blake2_128Concat`; `WeightCommits` keeps
	// upstream's `Twox64Concat`, whose keys must be registered (and so paid for).

	// --- subnets -----------------------------------------------------------------------------

	/// The subnets that exist.
	#[pallet::storage]
	pub type NetworksAdded<T> = StorageMap<_, Identity, NetUid, bool, ValueQuery>;

	/// Block in which a subnet was created.
	#[pallet::storage]
	pub type NetworkRegisteredAt<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Coldkey that owns a subnet.
	#[pallet::storage]
	pub type SubnetOwner<T: Config> = StorageMap<_, Identity, NetUid, T::AccountId>;

	/// Hotkey of the owner: receives the owner's cut and is never pruned.
	#[pallet::storage]
	pub type SubnetOwnerHotkey<T: Config> = StorageMap<_, Identity, NetUid, T::AccountId>;

	/// Name of a subnet.
	#[pallet::storage]
	pub type SubnetIdentitiesV3<T> = StorageMap<_, Identity, NetUid, SubnetIdentity>;

	/// Symbol of a subnet's token.
	#[pallet::storage]
	pub type TokenSymbol<T> = StorageMap<_, Identity, NetUid, Label, ValueQuery>;

	/// What a subnet does, by hash.
	#[pallet::storage]
	pub type SubnetSpecs<T> = StorageMap<_, Identity, NetUid, Spec>;

	// --- hyperparameters: nine that clients read one by one, and the rest --------------------

	/// Blocks per epoch; 0 pauses the subnet.
	#[pallet::storage]
	pub type Tempo<T> = StorageMap<_, Identity, NetUid, u16, ValueQuery>;

	/// Price of a registration now, in rao.
	#[pallet::storage]
	pub type Burn<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Slots of a subnet.
	#[pallet::storage]
	pub type MaxAllowedUids<T> = StorageMap<_, Identity, NetUid, u16, ValueQuery>;

	/// Whether weights go through commit and reveal.
	#[pallet::storage]
	pub type CommitRevealWeightsEnabled<T> = StorageMap<_, Identity, NetUid, bool, ValueQuery>;

	/// Blocks between two votes of one neuron.
	#[pallet::storage]
	pub type WeightsSetRateLimit<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Least entries of a weights row.
	#[pallet::storage]
	pub type MinAllowedWeights<T> = StorageMap<_, Identity, NetUid, u16, ValueQuery>;

	/// Epochs from commit to reveal.
	#[pallet::storage]
	pub type RevealPeriodEpochs<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Largest share of one weight, of 65,535. A constant: clients read it, nothing limits.
	#[pallet::storage]
	pub type MaxWeightsLimit<T> =
		StorageMap<_, Identity, NetUid, u16, ValueQuery, ConstU16<{ u16::MAX }>>;

	/// How a subnet reaches consensus. A constant: clients read it.
	#[pallet::storage]
	pub type SubnetEpochConsensus<T> = StorageMap<_, Identity, NetUid, EpochConsensus, ValueQuery>;

	/// All other hyperparameters.
	#[pallet::storage]
	pub type SubnetHyperparams<T> = StorageMap<_, Identity, NetUid, Hyperparams, ValueQuery>;

	// --- neurons -----------------------------------------------------------------------------

	/// Number of neurons of a subnet; their uids are 0 up to it.
	#[pallet::storage]
	pub type SubnetworkN<T> = StorageMap<_, Identity, NetUid, u16, ValueQuery>;

	/// Slot of a hotkey.
	#[pallet::storage]
	pub type Uids<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, Uid>;

	/// Hotkey in a slot.
	#[pallet::storage]
	pub type Keys<T: Config> = StorageDoubleMap<_, Identity, NetUid, Identity, Uid, T::AccountId>;

	/// Whether a hotkey has a slot in a subnet.
	#[pallet::storage]
	pub type IsNetworkMember<T: Config> =
		StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, NetUid, bool, ValueQuery>;

	/// Coldkey that owns a hotkey; settled by the first registration, for good.
	#[pallet::storage]
	pub type Owner<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, T::AccountId>;

	/// Hotkeys of a coldkey.
	#[pallet::storage]
	pub type OwnedHotkeys<T: Config> = StorageMap<
		_,
		Blake2_128Concat,
		T::AccountId,
		BoundedVec<T::AccountId, T::MaxOwnedHotkeys>,
		ValueQuery,
	>;

	/// Block in which a slot was last taken.
	#[pallet::storage]
	pub type BlockAtRegistration<T> =
		StorageDoubleMap<_, Identity, NetUid, Identity, Uid, u64, ValueQuery>;

	/// Where a hotkey serves.
	#[pallet::storage]
	pub type Axons<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, AxonInfo>;

	/// Which model a hotkey says it serves.
	#[pallet::storage]
	pub type Models<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, Model>;

	/// Whether axons may have addresses that only this network can reach; set by genesis.
	#[pallet::storage]
	pub type AllowPrivateAddresses<T> = StorageValue<_, bool, ValueQuery>;

	/// Block of each neuron's last vote (with commit and reveal: of the commit), or registration.
	#[pallet::storage]
	pub type LastUpdate<T: Config> = StorageMap<_, Identity, NetUid, Column<T, u64>, ValueQuery>;

	/// Whether each neuron voted recently enough at the last epoch.
	#[pallet::storage]
	pub type Active<T: Config> = StorageMap<_, Identity, NetUid, Column<T, bool>, ValueQuery>;

	/// Whether each neuron may vote.
	#[pallet::storage]
	pub type ValidatorPermit<T: Config> =
		StorageMap<_, Identity, NetUid, Column<T, bool>, ValueQuery>;

	/// Each neuron's consensus weight at the last epoch, of 65,535.
	#[pallet::storage]
	pub type Consensus<T: Config> = StorageMap<_, Identity, NetUid, Column<T, u16>, ValueQuery>;

	/// Each neuron's share of the miners' emission at the last epoch, of 65,535.
	#[pallet::storage]
	pub type Incentive<T: Config> = StorageMap<_, Identity, NetUid, Column<T, u16>, ValueQuery>;

	/// Each neuron's share of the validators' emission at the last epoch, of 65,535.
	#[pallet::storage]
	pub type Dividends<T: Config> = StorageMap<_, Identity, NetUid, Column<T, u16>, ValueQuery>;

	/// The part of each neuron's weights that consensus kept at the last epoch, of 65,535.
	#[pallet::storage]
	pub type ValidatorTrust<T: Config> =
		StorageMap<_, Identity, NetUid, Column<T, u16>, ValueQuery>;

	/// Each neuron's share of the stake at the last epoch, of 65,535.
	#[pallet::storage]
	pub type StakeWeight<T: Config> = StorageMap<_, Identity, NetUid, Column<T, u16>, ValueQuery>;

	/// What each neuron earned at the last epoch, in rao.
	#[pallet::storage]
	pub type Emission<T: Config> = StorageMap<_, Identity, NetUid, Column<T, u64>, ValueQuery>;

	// --- consensus weights -------------------------------------------------------------------

	/// Weights given by a neuron.
	#[pallet::storage]
	pub type Weights<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Identity, Uid, BoundedRow<T>, ValueQuery>;

	/// Bonds of a validator on the others.
	#[pallet::storage]
	pub type Bonds<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Identity, Uid, BoundedRow<T>, ValueQuery>;

	/// Commits that wait for their reveal.
	#[pallet::storage]
	pub type WeightCommits<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Twox64Concat, T::AccountId, CommitQueue, ValueQuery>;

	/// The last weights that a hotkey revealed.
	#[pallet::storage]
	pub type LastReveal<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, Reveal>;

	/// For whom a hotkey vouched when it last revealed weights, if it did.
	#[pallet::storage]
	pub type LastVouches<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, Vouches>;

	// --- scheduler ---------------------------------------------------------------------------

	/// Block in which a subnet's last epoch was due and handled.
	#[pallet::storage]
	pub type LastEpochBlock<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Block of the next epoch when it is not `LastEpochBlock + Tempo`; 0 otherwise.
	#[pallet::storage]
	pub type PendingEpochAt<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Number of epochs of a subnet so far.
	#[pallet::storage]
	pub type SubnetEpochIndex<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Blocks since a subnet's last epoch that ran.
	#[pallet::storage]
	pub type BlocksSinceLastStep<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Block of a subnet's last epoch that ran; 0 is never. (Upstream's spelling.)
	#[pallet::storage]
	pub type LastMechansimStepBlock<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Most epochs in one block; the others wait for the next.
	#[pallet::storage]
	pub type MaxEpochsPerBlock<T> = StorageValue<_, u8, ValueQuery, ConstU8<2>>;

	// --- money -------------------------------------------------------------------------------

	/// Stake of a coldkey on a hotkey in a subnet, in rao. In this key order an epoch can walk the
	/// coldkeys of one hotkey.
	#[pallet::storage]
	pub type Stake<T: Config> = StorageNMap<
		_,
		(
			NMapKey<Identity, NetUid>,
			NMapKey<Blake2_128Concat, T::AccountId>,
			NMapKey<Blake2_128Concat, T::AccountId>,
		),
		u64,
		ValueQuery,
	>;

	/// The hotkeys and subnets on which a coldkey has stake.
	#[pallet::storage]
	pub type StakingHotkeys<T: Config> = StorageDoubleMap<
		_,
		Blake2_128Concat,
		T::AccountId,
		Blake2_128Concat,
		(NetUid, T::AccountId),
		(),
	>;

	/// All stake on a hotkey in a subnet, in rao.
	#[pallet::storage]
	pub type TotalHotkeyAlpha<T: Config> =
		StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, NetUid, u64, ValueQuery>;

	/// How many coldkeys other than its owner have stake on a hotkey in a subnet.
	#[pallet::storage]
	pub type NominatorCount<T: Config> =
		StorageDoubleMap<_, Blake2_128Concat, T::AccountId, Identity, NetUid, u32, ValueQuery>;

	/// All stake, in rao.
	#[pallet::storage]
	pub type TotalStake<T> = StorageValue<_, u64, ValueQuery>;

	/// What a subnet's neurons will be paid at its next epoch, in rao.
	#[pallet::storage]
	pub type PendingEmission<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// What a subnet's owner will be paid at its next epoch, in rao.
	#[pallet::storage]
	pub type PendingOwnerCut<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Relative shares of the subnets in the emission, ascending by netuid; empty shares evenly.
	#[pallet::storage]
	pub type EmissionShares<T: Config> =
		StorageValue<_, BoundedVec<(NetUid, u16), T::MaxSubnets>, ValueQuery>;

	// --- delegation --------------------------------------------------------------------------

	/// The part of its nominators' dividends that a hotkey's owner takes, of 65,535.
	#[pallet::storage]
	pub type Delegates<T: Config> =
		StorageMap<_, Blake2_128Concat, T::AccountId, u16, ValueQuery, ConstU16<MAX_TAKE>>;

	/// Block of the last change of a hotkey's take.
	#[pallet::storage]
	pub type LastTxBlockDelegateTake<T: Config> =
		StorageMap<_, Blake2_128Concat, T::AccountId, u64>;

	/// Blocks from a change of a take to its increase.
	#[pallet::storage]
	pub type TxDelegateTakeRateLimit<T> = StorageValue<_, u64, ValueQuery, ConstU64<216_000>>;

	// --- what owners may do, and when --------------------------------------------------------

	/// So many blocks before an epoch owners change no hyperparameters.
	#[pallet::storage]
	pub type AdminFreezeWindow<T> = StorageValue<_, u16, ValueQuery, ConstU16<10>>;

	/// Tempos between two changes of one hyperparameter by the owner.
	#[pallet::storage]
	pub type OwnerHyperparamRateLimit<T> = StorageValue<_, u16, ValueQuery, ConstU16<2>>;

	/// The shortest tempo that an owner may set.
	#[pallet::storage]
	pub type MinOwnerTempo<T> = StorageValue<_, u16, ValueQuery, ConstU16<360>>;

	/// The least number of slots that an owner may set.
	#[pallet::storage]
	pub type MinOwnerUids<T> = StorageValue<_, u16, ValueQuery, ConstU16<64>>;

	/// Block in which a subnet's owner last changed a hyperparameter.
	#[pallet::storage]
	pub type LastOwnerChange<T> = StorageDoubleMap<_, Identity, NetUid, Identity, Hyperparam, u64>;

	/// Blocks between two trims of a subnet.
	#[pallet::storage]
	pub type TrimRateLimit<T> = StorageValue<_, u64, ValueQuery, ConstU64<216_000>>;

	/// A subnet's last trim.
	#[pallet::storage]
	pub type LastTrim<T: Config> = StorageMap<_, Identity, NetUid, Trim<T::MaxUids>>;

	// --- buying a subnet ---------------------------------------------------------------------

	/// A subnet never costs less, in rao.
	#[pallet::storage]
	pub type NetworkMinLockCost<T> = StorageValue<_, u64, ValueQuery, ConstU64<1_000_000_000_000>>;

	/// What the last subnet that was bought cost, in rao.
	#[pallet::storage]
	pub type NetworkLastLockCost<T> = StorageValue<_, u64, ValueQuery>;

	/// Block in which a subnet was last bought.
	#[pallet::storage]
	pub type NetworkLastRegistered<T> = StorageValue<_, u64>;

	/// Blocks in which the price of a subnet falls by what the last one cost.
	#[pallet::storage]
	pub type NetworkLockReductionInterval<T> = StorageValue<_, u64, ValueQuery, ConstU64<100_800>>;

	/// Most subnets that there may be, if `MaxSubnets` is not less.
	#[pallet::storage]
	pub type SubnetLimit<T> = StorageValue<_, u16, ValueQuery, ConstU16<128>>;

	/// What was burned for a subnet, in rao.
	#[pallet::storage]
	pub type SubnetLocked<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;
}
