//! # Subnet pallet
//!
//! Registry, stake, consensus weights, emission and epochs of moesubnet's subnets.
//!
//! ## Pallet API
//!
//! See the [`pallet`] module for the storage, calls, events and errors.
//!
//! ## Overview
//!
//! A *subnet* has a number of slots (`uid`). A *neuron* is a hotkey that holds a slot, bought at a
//! price that doubles as spam protection. Coldkeys *stake* on hotkeys. Neurons with enough stake
//! hold a *validator permit* and vote *weights* on the other neurons. Every `tempo` blocks an
//! *epoch* turns stake-weighted votes into payments by Yuma consensus (crate [`yuma`]).
//!
//! * The coldkey signs and pays `register_limit`, `burned_register`, `add_stake`, `remove_stake`.
//! * The hotkey signs `serve_axon`, `set_mechanism_weights`, `commit_weights` and
//!   `reveal_weights`. These are free; [`CheckFreeCalls`] keeps those that would fail out of blocks.
//!
//! ### Money
//!
//! There is one token, counted in rao. Every block mints its emission into the pallet's account and
//! credits it to the subnets' pots; an epoch turns a pot into stake. So stakes and pots are claims
//! on that account, its balance covers them exactly, and the issuance known to the currency is the
//! issuance. What an epoch cannot divide stays in the pot. What strangers send to the account is
//! shared out with the next block's emission.
//!
//! ### Compatibility
//!
//! Names and shapes of calls, storage and errors follow subtensor's `pallet_subtensor` for the
//! subset that its clients need, so the runtime names this pallet `SubtensorModule`. It is
//! interface compatibility; the code is our own. It behaves differently on purpose where it says so:
//!
//! * Weight rows are stored sorted by uid, so liquid alpha sees every entry.
//! * A reveal stores 0 for targets registered at or after the commit ([`Pallet::reveal_weights`]).
//! * A commit remembers the epoch in which it can be revealed; changing the period moves no commit.
//! * Axons must be publicly routable, unless genesis says that the network is a local one.
//! * Subnet owners earn incentive like everyone, and bonds, weights and payments lose no dust.
//! * Events have named fields, and [`Event::EpochRan`] tells what every epoch paid.
//!
//! ## Low Level / Implementation Details
//!
//! | file | content |
//! |---|---|
//! | `hyperparams` | defaults and bounds |
//! | `genesis` | subnets at genesis |
//! | `registration` | price, slots, pruning |
//! | `consensus_weights` | votes: plain, and by commit and reveal |
//! | `serving` | axons |
//! | `staking` | who holds what on whom |
//! | `emission` | minting, pots, payment |
//! | `epoch` | scheduler; load, [`yuma::epoch`], store |
//! | `extension` | guard of the free calls |
//! | `queries` | read-only views for runtime APIs |
//! | `try_state` | the invariants |
//!
//! Two meanings of *weight*: FRAME's weight is the cost of a call, [`WeightInfo`]; what validators
//! vote are *consensus weights*.

#![cfg_attr(not(feature = "std"), no_std)]
#![deny(missing_docs)]
// Tests and benchmarks may panic; the build without them is held to the workspace's lints.
#![cfg_attr(
	any(test, feature = "runtime-benchmarks"),
	allow(
		clippy::arithmetic_side_effects,
		clippy::indexing_slicing,
		clippy::unwrap_used
	)
)]

extern crate alloc;

#[cfg(feature = "runtime-benchmarks")]
mod benchmarking;
mod consensus_weights;
mod emission;
mod epoch;
mod extension;
mod genesis;
mod hyperparams;
#[cfg(test)]
mod mock;
mod queries;
mod registration;
mod serving;
mod staking;
#[cfg(test)]
mod tests;
#[cfg(any(feature = "try-runtime", test))]
mod try_state;
mod types;
pub mod weights;

pub use emission::block_emission_rao;
pub use extension::CheckFreeCalls;
pub use genesis::GenesisSubnet;
pub use hyperparams::{Hyperparams, HyperparamsUpdate, Scalars};
pub use pallet::*;
pub use types::*;
pub use weights::WeightInfo;

use polkadot_sdk::{frame_support, frame_system, sp_core, sp_runtime};

#[frame_support::pallet]
// What the macros generate has no docs, expects, and takes the arguments that clients know.
#[allow(missing_docs, clippy::expect_used, clippy::too_many_arguments)]
pub mod pallet {
	use super::*;
	use alloc::vec::Vec;
	use frame_support::{
		pallet_prelude::*,
		traits::{fungible, ConstU16, ConstU8},
		PalletId,
	};
	use frame_system::pallet_prelude::*;
	use sp_core::H256;

	/// Shape of the storage; bumped with every migration.
	const STORAGE_VERSION: StorageVersion = StorageVersion::new(1);

	/// The configuration of the pallet.
	#[pallet::config]
	pub trait Config: polkadot_sdk::frame_system::Config {
		/// The token.
		type Currency: fungible::Mutate<Self::AccountId, Balance = u64>;

		/// Names the account that holds all stakes and pots.
		#[pallet::constant]
		type PalletId: Get<PalletId>;

		/// Most slots that a subnet can have.
		#[pallet::constant]
		type MaxUids: Get<u32>;

		/// Most subnets.
		#[pallet::constant]
		type MaxSubnets: Get<u32>;

		/// Most coldkeys that stake on one hotkey in one subnet; the hotkey's owner is not counted.
		#[pallet::constant]
		type MaxNominators: Get<u32>;

		/// Most hotkeys that one coldkey can own.
		#[pallet::constant]
		type MaxOwnedHotkeys: Get<u32>;

		/// The least that can be staked at once, in rao; no less than the existential deposit.
		#[pallet::constant]
		type MinStake: Get<u64>;

		/// What calls and hooks cost.
		type WeightInfo: WeightInfo;
	}

	#[pallet::pallet]
	#[pallet::storage_version(STORAGE_VERSION)]
	pub struct Pallet<T>(_);

	/// One value per neuron of a subnet, by uid.
	pub type Column<T, V> = BoundedVec<V, <T as Config>::MaxUids>;

	/// A row of weights or bonds, ascending by uid.
	pub type BoundedRow<T> = Column<T, (Uid, u16)>;

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

	/// Genesis of the pallet.
	#[pallet::genesis_config]
	#[derive(frame_support::DefaultNoBound)]
	pub struct GenesisConfig<T: Config> {
		/// The subnets.
		pub subnets: Vec<GenesisSubnet<T::AccountId>>,
		/// Allow private and loopback axons: for networks on one machine or in one building.
		pub allow_private_addresses: bool,
		/// Most epochs in one block; the default, 2, when absent.
		pub max_epochs_per_block: Option<u8>,
	}

	#[pallet::genesis_build]
	impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
		fn build(&self) {
			Pallet::<T>::build_genesis(self);
		}
	}

	/// What happened.
	#[pallet::event]
	#[pallet::generate_deposit(pub(crate) fn deposit_event)]
	pub enum Event<T: Config> {
		/// A hotkey took a slot.
		NeuronRegistered {
			netuid: NetUid,
			uid: Uid,
			hotkey: T::AccountId,
			price_rao: u64,
		},
		/// A hotkey lost its slot to another.
		NeuronPruned {
			netuid: NetUid,
			uid: Uid,
			hotkey: T::AccountId,
		},
		/// A neuron published its address.
		AxonServed {
			netuid: NetUid,
			hotkey: T::AccountId,
		},
		/// A neuron's weights were stored.
		WeightsSet { netuid: NetUid, uid: Uid },
		/// A hotkey promised weights.
		WeightsCommitted {
			netuid: NetUid,
			hotkey: T::AccountId,
			commit_hash: H256,
		},
		/// A hotkey revealed promised weights; `sniped` targets had changed hands since the commit
		/// and got 0.
		WeightsRevealed {
			netuid: NetUid,
			hotkey: T::AccountId,
			commit_hash: H256,
			sniped: u16,
		},
		/// A coldkey staked.
		StakeAdded {
			netuid: NetUid,
			hotkey: T::AccountId,
			coldkey: T::AccountId,
			amount_rao: u64,
		},
		/// A coldkey took stake back.
		StakeRemoved {
			netuid: NetUid,
			hotkey: T::AccountId,
			coldkey: T::AccountId,
			amount_rao: u64,
		},
		/// An epoch ran. `emission_rao` was in the pot and is the sum of what miners (`server_rao`)
		/// and validators (`validator_rao`) got and of what stays in it (`dust_rao`).
		EpochRan {
			netuid: NetUid,
			epoch: u64,
			block: u64,
			neurons: u16,
			emission_rao: u64,
			server_rao: u64,
			validator_rao: u64,
			dust_rao: u64,
			owner_rao: u64,
		},
		/// An epoch was due, but its block already ran as many as it may.
		EpochDeferred {
			netuid: NetUid,
			from_block: u64,
			to_block: u64,
		},
		/// An epoch was due, but the registry of the subnet is inconsistent; the pot is kept.
		EpochSkipped { netuid: NetUid, block: u64 },
		/// A subnet's owner published its spec.
		SubnetSpecSet {
			netuid: NetUid,
			hash: H256,
			from_epoch: u64,
		},
		/// The subnets' shares in the emission changed.
		EmissionSharesSet {
			shares: BoundedVec<(NetUid, u16), T::MaxSubnets>,
		},
		/// Hyperparameters of a subnet changed.
		HyperparamsSet {
			netuid: NetUid,
			update: HyperparamsUpdate,
		},
	}

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
		/// As many coldkeys as allowed stake on the hotkey already.
		TooManyNominators,
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
		/// A hyperparameter, or a combination, is out of bounds; the node's log names it.
		HyperparamOutOfBounds,
		/// A share names a missing subnet, or one twice, or all shares are 0.
		InvalidEmissionShares,
	}

	#[pallet::hooks]
	impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
		fn on_initialize(_: BlockNumberFor<T>) -> Weight {
			let now = Self::now();
			let netuids = Self::netuids();
			Self::decay_prices(&netuids, now);
			Self::collect_emission(&netuids);
			T::WeightInfo::on_initialize(netuids.len() as u32)
				.saturating_add(Self::run_due_epochs(&netuids, now))
		}

		fn integrity_test() {
			assert!(
				(1..=4_096).contains(&T::MaxUids::get()),
				"MaxUids is 1 to 4,096"
			);
			assert!(T::MaxSubnets::get() >= 1, "MaxSubnets is at least 1");
			assert!(
				T::MinStake::get() >= <T::Currency as fungible::Inspect<_>>::minimum_balance(),
				"MinStake covers the existential deposit"
			);
		}

		#[cfg(feature = "try-runtime")]
		fn try_state(_: BlockNumberFor<T>) -> Result<(), sp_runtime::TryRuntimeError> {
			Self::do_try_state()
		}
	}

	// Call indices are upstream's where upstream has the call; our own start at 200.
	#[pallet::call]
	impl<T: Config> Pallet<T> {
		/// Stakes tokens of the caller on a hotkey.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that stakes.
		///
		/// ## Errors
		/// `SubnetNotExists`, `HotKeyAccountNotExists`; `AmountTooLow` below `MinStake`;
		/// `NotEnoughBalanceToStake`; `TooManyNominators` for a new nominator of a full hotkey.
		///
		/// ## Events
		/// `StakeAdded`.
		#[pallet::call_index(2)]
		#[pallet::weight(T::WeightInfo::add_stake())]
		pub fn add_stake(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			netuid: NetUid,
			amount_staked: u64,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_add_stake(coldkey, hotkey, netuid, amount_staked)
		}

		/// Takes stake of the caller back from a hotkey, registered or not.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that staked.
		///
		/// ## Errors
		/// `NotEnoughStakeToWithdraw`; `AmountTooLow` for 0, or if less than `MinStake` would remain
		/// (take all instead).
		///
		/// ## Events
		/// `StakeRemoved`.
		#[pallet::call_index(3)]
		#[pallet::weight(T::WeightInfo::remove_stake())]
		pub fn remove_stake(
			origin: OriginFor<T>,
			hotkey: T::AccountId,
			netuid: NetUid,
			amount_unstaked: u64,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_remove_stake(coldkey, hotkey, netuid, amount_unstaked)
		}

		/// Publishes the address at which the caller serves. Free.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet.
		///
		/// ## Errors
		/// `HotKeyNotRegisteredInNetwork`, `InvalidIpType`; `InvalidIpAddress` if the address is not
		/// publicly routable and the network is not a local one; `ServingRateLimitExceeded`,
		/// `InvalidPort`.
		///
		/// ## Events
		/// `AxonServed`.
		#[pallet::call_index(4)]
		#[pallet::weight((T::WeightInfo::serve_axon(), DispatchClass::Normal, Pays::No))]
		pub fn serve_axon(
			origin: OriginFor<T>,
			netuid: NetUid,
			version: u32,
			ip: u128,
			port: u16,
			ip_type: u8,
			protocol: u8,
			placeholder1: u8,
			placeholder2: u8,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			let block = Self::now();
			let axon = AxonInfo {
				block,
				version,
				ip,
				port,
				ip_type,
				protocol,
				placeholder1,
				placeholder2,
			};
			Self::check_axon(&hotkey, netuid, &axon)?;
			Axons::<T>::insert(netuid, &hotkey, axon);
			Self::deposit_event(Event::AxonServed { netuid, hotkey });
			Ok(())
		}

		/// Registers a hotkey at the current price, whatever it is.
		///
		/// Prefer [`Pallet::register_limit`]. Otherwise the same.
		#[pallet::call_index(7)]
		#[pallet::weight(T::WeightInfo::register(T::MaxUids::get()))]
		pub fn burned_register(
			origin: OriginFor<T>,
			netuid: NetUid,
			hotkey: T::AccountId,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_register(coldkey, netuid, hotkey, u64::MAX)
		}

		/// Promises weights by their hash, BlakeTwo256 over the SCALE encoding of
		/// `(hotkey, netuid, uids, values, salt, version_key)`. Free. Counts as the neuron's vote.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet.
		///
		/// ## Errors
		/// `SubnetNotExists`, `CommitRevealDisabled`, `HotKeyNotRegisteredInSubNet`,
		/// `CommittingWeightsTooFast`; `TooManyUnrevealedCommits` with ten waiting.
		///
		/// ## Events
		/// `WeightsCommitted`.
		#[pallet::call_index(96)]
		#[pallet::weight((T::WeightInfo::commit_weights(), DispatchClass::Normal, Pays::No))]
		pub fn commit_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			commit_hash: H256,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_commit(hotkey, netuid, commit_hash)
		}

		/// Reveals promised weights, in the epoch that the commit named. Free.
		///
		/// Targets that were registered at or after the commit get 0: the voter meant their
		/// predecessor. Older commits of the hotkey are dropped. If the salt has at least 24 words,
		/// its first 16, little-endian, are recorded as the hash of the voter's score sheet.
		///
		/// ## Dispatch Origin
		/// Signed by the hotkey that committed.
		///
		/// ## Errors
		/// `CommitRevealDisabled`, `NoWeightsCommitFound`, `InvalidRevealCommitHashNotMatch`,
		/// `RevealTooEarly`, `ExpiredWeightCommit`, and all of
		/// [`Pallet::set_mechanism_weights`] on the weights.
		///
		/// ## Events
		/// `WeightsSet`, `WeightsRevealed`.
		#[pallet::call_index(97)]
		#[pallet::weight((
			T::WeightInfo::reveal_weights(uids.len() as u32),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn reveal_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			uids: Column<T, Uid>,
			values: Column<T, u16>,
			salt: Salt,
			version_key: u64,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_reveal(hotkey, netuid, &uids, &values, &salt, version_key)
		}

		/// Votes weights in the open. Free.
		///
		/// Values are relative; the largest is stored as 65,535. Explicit zeros are kept: with
		/// liquid alpha they let a bond decay that a missing entry would end.
		///
		/// ## Dispatch Origin
		/// Signed by a hotkey registered in the subnet, with a validator permit unless it owns the
		/// subnet or votes only for itself.
		///
		/// ## Errors
		/// `CommitRevealEnabled`, `WeightVecNotEqualSize`, `SubnetNotExists`,
		/// `MechanismDoesNotExist` unless `mecid` is 0, `UidsLengthExceedUidsInSubNet`,
		/// `HotKeyNotRegisteredInSubNet`, `NotEnoughStakeToSetWeights`,
		/// `IncorrectWeightVersionKey`, `SettingWeightsTooFast`, `NeuronNoValidatorPermit`,
		/// `DuplicateUids`, `UidVecContainInvalidOne`, `WeightVecLengthIsLow`.
		///
		/// ## Events
		/// `WeightsSet`.
		#[pallet::call_index(119)]
		#[pallet::weight((
			T::WeightInfo::set_mechanism_weights(dests.len() as u32),
			DispatchClass::Normal,
			Pays::No
		))]
		pub fn set_mechanism_weights(
			origin: OriginFor<T>,
			netuid: NetUid,
			mecid: u8,
			dests: Column<T, Uid>,
			weights: Column<T, u16>,
			version_key: u64,
		) -> DispatchResult {
			let hotkey = ensure_signed(origin)?;
			Self::do_set_weights(hotkey, netuid, mecid, &dests, &weights, version_key)
		}

		/// Registers a hotkey if the price is at most `limit_price` rao. The price is burned.
		///
		/// A full subnet prunes the neuron that earned least at the last epoch; ties fall on the
		/// older registration, then on the lower uid. Neurons in their immunity period are pruned
		/// only when few others can be, the owner's hotkey never.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that pays and owns the hotkey.
		///
		/// ## Errors
		/// `RegistrationNotPermittedOnRootSubnet`, `SubnetNotExists`, `SubNetRegistrationDisabled`,
		/// `HotKeyAlreadyRegisteredInSubNet`, `RegistrationPriceLimitExceeded`,
		/// `NotEnoughBalanceToStake`, `NonAssociatedColdKey`, `TooManyOwnedHotkeys`,
		/// `NoNeuronIdAvailable`.
		///
		/// ## Events
		/// `NeuronRegistered`, and `NeuronPruned` for the hotkey that lost the slot.
		#[pallet::call_index(134)]
		#[pallet::weight(T::WeightInfo::register(T::MaxUids::get()))]
		pub fn register_limit(
			origin: OriginFor<T>,
			netuid: NetUid,
			hotkey: T::AccountId,
			limit_price: u64,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			Self::do_register(coldkey, netuid, hotkey, limit_price)
		}

		/// Publishes hash and place of the subnet's spec. It holds from the next epoch.
		///
		/// ## Dispatch Origin
		/// Signed by the coldkey that owns the subnet.
		///
		/// ## Errors
		/// `SubnetNotExists`, `NotSubnetOwner`.
		///
		/// ## Events
		/// `SubnetSpecSet`.
		#[pallet::call_index(200)]
		#[pallet::weight(T::WeightInfo::set_subnet_spec())]
		pub fn set_subnet_spec(
			origin: OriginFor<T>,
			netuid: NetUid,
			hash: H256,
			url: Url,
		) -> DispatchResult {
			let coldkey = ensure_signed(origin)?;
			ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
			ensure!(
				SubnetOwner::<T>::get(netuid) == Some(coldkey),
				Error::<T>::NotSubnetOwner
			);
			let from_epoch = Self::current_epoch(netuid).saturating_add(1);
			SubnetSpecs::<T>::insert(
				netuid,
				Spec {
					hash,
					url,
					from_epoch,
				},
			);
			Self::deposit_event(Event::SubnetSpecSet {
				netuid,
				hash,
				from_epoch,
			});
			Ok(())
		}

		/// Sets the subnets' relative shares in the emission. An empty list shares evenly; a subnet
		/// that is not in a non-empty list gets nothing.
		///
		/// ## Dispatch Origin
		/// Root.
		///
		/// ## Errors
		/// `InvalidEmissionShares`.
		///
		/// ## Events
		/// `EmissionSharesSet`.
		#[pallet::call_index(201)]
		#[pallet::weight(T::WeightInfo::set_emission_shares(shares.len() as u32))]
		pub fn set_emission_shares(
			origin: OriginFor<T>,
			shares: BoundedVec<(NetUid, u16), T::MaxSubnets>,
		) -> DispatchResult {
			ensure_root(origin)?;
			Self::store_emission_shares(shares.clone())?;
			Self::deposit_event(Event::EmissionSharesSet { shares });
			Ok(())
		}

		/// Changes hyperparameters of a subnet; absent ones stay.
		///
		/// ## Dispatch Origin
		/// Root.
		///
		/// ## Errors
		/// `SubnetNotExists`, `HyperparamOutOfBounds`.
		///
		/// ## Events
		/// `HyperparamsSet`.
		#[pallet::call_index(202)]
		#[pallet::weight(T::WeightInfo::set_hyperparams())]
		pub fn set_hyperparams(
			origin: OriginFor<T>,
			netuid: NetUid,
			update: HyperparamsUpdate,
		) -> DispatchResult {
			ensure_root(origin)?;
			ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
			Self::store_hyperparams(netuid, Self::hyperparams(netuid), &update).map_err(
				|name| {
					log::debug!(target: "subnet", "hyperparameter {name} of subnet {netuid} is out of bounds");
					Error::<T>::HyperparamOutOfBounds
				},
			)?;
			Self::deposit_event(Event::HyperparamsSet { netuid, update });
			Ok(())
		}
	}

	impl<T: Config> Pallet<T> {
		/// The number of the block being built or validated for.
		pub fn now() -> u64 {
			use sp_runtime::traits::UniqueSaturatedInto;
			frame_system::Pallet::<T>::block_number().unique_saturated_into()
		}

		/// The subnets, ascending.
		pub fn netuids() -> Vec<NetUid> {
			let mut netuids: Vec<_> = NetworksAdded::<T>::iter_keys().collect();
			netuids.sort_unstable();
			netuids
		}

		/// The account that holds all stakes and pots.
		pub fn account_id() -> T::AccountId {
			use sp_runtime::traits::AccountIdConversion;
			T::PalletId::get().into_account_truncating()
		}
	}
}
