//! Pallets that exist so that the official client finds what it looks up. They have no calls and
//! nothing ever writes their storage.
//!
//! * [`commitments`]: its metagraph reads two maps of published commitments. Ours are in the
//!   subnet's spec, in score sheets and in `SubtensorModule.Models`.
//! * [`mev_shield`]: it encrypts some transactions to the block author's next key. None means that
//!   there is no shield, and it says so and submits in the open.

use polkadot_sdk::*;

/// What the client reads of upstream's pallet of the same name.
#[frame_support::pallet]
#[allow(clippy::expect_used)] // in what the macro generates for storage
pub mod commitments {
	use frame_support::pallet_prelude::*;
	use pallet_subnet::NetUid;
	use polkadot_sdk::*;

	#[pallet::pallet]
	pub struct Pallet<T>(_);

	#[pallet::config]
	pub trait Config: polkadot_sdk::frame_system::Config {}

	type Bytes = BoundedVec<u8, ConstU32<128>>;

	/// Always empty.
	#[pallet::storage]
	pub type CommitmentOf<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, Bytes>;

	/// Always empty.
	#[pallet::storage]
	pub type RevealedCommitments<T: Config> =
		StorageDoubleMap<_, Identity, NetUid, Blake2_128Concat, T::AccountId, Bytes>;
}

/// What the client reads of upstream's pallet of the same name.
#[frame_support::pallet]
#[allow(clippy::expect_used)] // in what the macro generates for storage
pub mod mev_shield {
	use frame_support::pallet_prelude::*;
	use polkadot_sdk::*;

	#[pallet::pallet]
	pub struct Pallet<T>(_);

	#[pallet::config]
	pub trait Config: polkadot_sdk::frame_system::Config {}

	/// Always none.
	#[pallet::storage]
	pub type NextKey<T: Config> = StorageValue<_, BoundedVec<u8, ConstU32<2_048>>>;
}
