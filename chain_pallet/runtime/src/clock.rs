//! The slot duration, written once by genesis.
//!
//! Storage instead of a constant, so that one blob serves chains of any block time. Nothing writes
//! it after genesis: Aura derives the slot from the time, and a change would break that order.

pub use pallet::*;
use polkadot_sdk::*;

#[frame_support::pallet]
#[allow(clippy::expect_used)] // in what the macro generates for storage
pub mod pallet {
	use super::*;
	use frame_support::{pallet_prelude::*, traits::ConstU64};

	/// 12 s, the block time of the production networks.
	pub const DEFAULT_SLOT_DURATION_MS: u64 = 12_000;

	#[pallet::pallet]
	pub struct Pallet<T>(_);

	#[pallet::config]
	pub trait Config: polkadot_sdk::frame_system::Config {}

	#[pallet::storage]
	pub type SlotDurationMs<T> =
		StorageValue<_, u64, ValueQuery, ConstU64<DEFAULT_SLOT_DURATION_MS>>;

	#[pallet::genesis_config]
	pub struct GenesisConfig<T> {
		pub slot_duration_ms: u64,
		#[serde(skip)]
		pub _config: PhantomData<T>,
	}

	impl<T> Default for GenesisConfig<T> {
		fn default() -> Self {
			Self {
				slot_duration_ms: DEFAULT_SLOT_DURATION_MS,
				_config: PhantomData,
			}
		}
	}

	#[pallet::genesis_build]
	impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
		fn build(&self) {
			assert!(self.slot_duration_ms >= 2, "a slot lasts at least 2 ms");
			SlotDurationMs::<T>::put(self.slot_duration_ms);
		}
	}
}

use core::marker::PhantomData;
use frame_support::traits::Get;

/// The slot duration in milliseconds, for Aura.
pub struct SlotDuration<T>(PhantomData<T>);

impl<T: Config> Get<u64> for SlotDuration<T> {
	fn get() -> u64 {
		SlotDurationMs::<T>::get()
	}
}

/// Half a slot in milliseconds: the least time between two blocks.
pub struct MinimumPeriod<T>(PhantomData<T>);

impl<T: Config> Get<u64> for MinimumPeriod<T> {
	fn get() -> u64 {
		SlotDurationMs::<T>::get() / 2
	}
}
