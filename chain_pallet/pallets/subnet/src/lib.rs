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
//! * The coldkey signs and pays `register_limit`, `burned_register`, `add_stake`, `remove_stake`,
//!   `decrease_take`, `increase_take`; and it signs `pow_register`, which is free.
//! * The hotkey signs `serve_axon`, `commit_model`, `set_mechanism_weights`, `commit_weights` and
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
//! * A trim keeps the uids that still exist, and promises from before it follow their targets.
//! * A commit remembers the epoch in which it can be revealed; changing the period moves no commit.
//! * No change of the owner's makes a commit unrevealable, or inactive who votes every epoch.
//! * A larger stake displaces the least nominator of a hotkey that has as many as it may.
//! * Axons must be publicly routable, unless genesis says that the network is a local one.
//! * Subnet owners earn incentive like everyone, and bonds, weights and payments lose no dust.
//! * Events have named fields, and [`Event::EpochRan`] tells what every epoch paid.
//!
//! ## Low Level / Implementation Details
//!
//! | file | content |
//! |---|---|
//! | `storage`, `calls`, `events`, `errors` | sections of the pallet's module |
//! | `hyperparams` | defaults and bounds |
//! | `genesis` | subnets at genesis |
//! | `registration` | price, slots, pruning |
//! | `pow` | registration by work |
//! | `consensus_weights` | votes: plain, and by commit and reveal |
//! | `serving` | axons, and models |
//! | `staking` | who holds what on whom |
//! | `delegation` | what a hotkey's owner takes of its nominators' dividends |
//! | `network` | buying a subnet |
//! | `owner` | what the owner of a subnet may change, and when |
//! | `trimming` | taking slots away from a subnet |
//! | `emission` | minting, pots, payment |
//! | `epoch` | scheduler; load, [`yuma::epoch`], store |
//! | `compat` | what only the official client needs |
//! | `extension` | guard of the free calls |
//! | `nonce` | the nonce check, open to registration by work |
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
mod calls;
mod compat;
mod consensus_weights;
mod delegation;
mod emission;
mod epoch;
mod errors;
mod events;
mod extension;
mod genesis;
mod hyperparams;
#[cfg(test)]
mod mock;
mod network;
mod nonce;
mod owner;
mod pow;
mod queries;
mod registration;
mod serving;
mod staking;
mod storage;
#[cfg(test)]
mod tests;
mod trimming;
#[cfg(any(feature = "try-runtime", test))]
mod try_state;
mod types;
pub mod weights;

pub use compat::PRICE_RAO;
pub use emission::block_emission_rao;
pub use extension::CheckFreeCalls;
pub use genesis::{GenesisLimits, GenesisSubnet};
pub use hyperparams::{Hyperparam, Hyperparams, HyperparamsUpdate, Scalars};
pub use nonce::CheckNonce;
pub use pallet::*;
pub use pow::seal as pow_seal;
pub use types::*;
pub use weights::WeightInfo;

use polkadot_sdk::{frame_support, frame_system, sp_core, sp_runtime};

use frame_support::pallet_macros::import_section;

#[import_section(calls::calls)]
#[import_section(compat::compat_storage)]
#[import_section(errors::errors)]
#[import_section(events::events)]
#[import_section(pow::pow_storage)]
#[import_section(storage::storage)]
#[frame_support::pallet]
// What the macros generate has no docs, expects, and takes the arguments that clients know.
#[allow(
	missing_docs,
	clippy::expect_used,
	clippy::large_enum_variant,
	clippy::too_many_arguments
)]
pub mod pallet {
	use super::*;
	use alloc::vec::Vec;
	use frame_support::{
		pallet_prelude::*,
		traits::{fungible, ConstU16, ConstU64, ConstU8},
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
		/// Limits of the whole chain.
		#[serde(default)]
		pub limits: GenesisLimits,
	}

	#[pallet::genesis_build]
	impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
		fn build(&self) {
			Pallet::<T>::build_genesis(self);
		}
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

		fn on_finalize(_: BlockNumberFor<T>) {
			RegistrationsThisBlock::<T>::drain().for_each(drop);
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
