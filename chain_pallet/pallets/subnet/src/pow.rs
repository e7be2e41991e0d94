//! Registration by work, for wallets without tokens. Subnets have it off unless they ask for it.
//!
//! Work has no price in tokens that a chain could know, so it does not replace the burned price:
//! every registration, by either way, raises both the price and the difficulty by the same factor,
//! and both fall by half in the same time. Whoever works for many slots meets an exponentially
//! rising difficulty, and leaves a risen price behind. Slots, pruning and immunity are the same.
//!
//! A seal binds subnet, a recent block, hotkey and coldkey. It can be used once: its block must be
//! younger than the hotkey's last registration by work, whatever became of the coldkey's nonce.

use crate::*;
use alloc::vec::Vec;
use codec::Encode;
use frame_support::{ensure, pallet_macros::pallet_section};
use polkadot_sdk::sp_io;
use sp_core::U256;
use sp_runtime::{
	traits::{UniqueSaturatedInto, Zero},
	DispatchResult,
};

/// What the work is for: a seal is of no use elsewhere.
const DOMAIN: &[u8] = b"subtensor-pow-register-v1";
/// The block of a seal is at most this old.
pub(crate) const MAX_WORK_AGE_BLOCKS: u64 = 4;
/// Some seconds of one processor.
pub(crate) const DEFAULT_DIFFICULTY: u64 = 10_000_000;

/// Storage under the names that clients read. Becomes part of the pallet's module.
#[pallet_section]
mod pow_storage {
	/// Whether work may take the price's place.
	#[pallet::storage]
	pub type NetworkPowRegistrationAllowed<T> = StorageMap<_, Identity, NetUid, bool, ValueQuery>;

	/// How many seals must be tried, on average, until one is good enough now.
	#[pallet::storage]
	pub type Difficulty<T> =
		StorageMap<_, Identity, NetUid, u64, ValueQuery, ConstU64<{ pow::DEFAULT_DIFFICULTY }>>;

	/// The difficulty falls no lower.
	#[pallet::storage]
	pub type MinDifficulty<T> =
		StorageMap<_, Identity, NetUid, u64, ValueQuery, ConstU64<{ pow::DEFAULT_DIFFICULTY }>>;

	/// The difficulty rises no higher.
	#[pallet::storage]
	pub type MaxDifficulty<T> =
		StorageMap<_, Identity, NetUid, u64, ValueQuery, ConstU64<{ u64::MAX }>>;

	/// Most registrations by work in one block.
	#[pallet::storage]
	pub type MaxRegistrationsPerBlock<T> =
		StorageMap<_, Identity, NetUid, u16, ValueQuery, ConstU16<1>>;

	/// Registrations by work in the block being built.
	#[pallet::storage]
	pub type RegistrationsThisBlock<T> = StorageMap<_, Identity, NetUid, u16, ValueQuery>;

	/// Block of a hotkey's last registration by work. Never removed: a seal must be younger.
	#[pallet::storage]
	pub type LastPowRegistrationBlock<T: Config> =
		StorageMap<_, Blake2_128Concat, T::AccountId, u64>;
}

/// A nonce and the seal that it makes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work<'a> {
	/// The block that it is made for.
	pub block: u64,
	pub nonce: u64,
	/// keccak256 of SHA-256 of what it binds and the nonce.
	pub seal: &'a [u8],
}

impl<T: Config> Pallet<T> {
	pub(crate) fn do_pow_register(
		coldkey: T::AccountId,
		netuid: NetUid,
		hotkey: T::AccountId,
		work: Work,
	) -> DispatchResult {
		Self::check_pow_register(&coldkey, netuid, &hotkey, work)?;
		Self::associate(&coldkey, &hotkey)?;
		let uid = Self::take_slot(netuid)?;
		Self::occupy(netuid, uid, &hotkey);
		Self::raise_prices(netuid);
		LastPowRegistrationBlock::<T>::insert(&hotkey, Self::now());
		RegistrationsThisBlock::<T>::mutate(netuid, |count| *count = count.saturating_add(1));
		Self::deposit_event(Event::NeuronRegistered {
			netuid,
			uid,
			hotkey,
			price_rao: 0,
		});
		Ok(())
	}

	/// Every reason for which [`Pallet::pow_register`] fails; what costs least comes first.
	pub(crate) fn check_pow_register(
		coldkey: &T::AccountId,
		netuid: NetUid,
		hotkey: &T::AccountId,
		work: Work,
	) -> Result<(), Error<T>> {
		Self::check_registration(netuid, hotkey)?;
		ensure!(
			NetworkPowRegistrationAllowed::<T>::get(netuid),
			Error::<T>::SubNetRegistrationDisabled
		);
		let block_hash = Self::challenge(hotkey, work.block)?;
		let seal = seal(netuid, block_hash, hotkey, coldkey, work.nonce);
		ensure!(work.seal == seal, Error::<T>::InvalidSeal);
		ensure!(
			meets(&seal, Difficulty::<T>::get(netuid)),
			Error::<T>::InvalidDifficulty
		);
		ensure!(
			RegistrationsThisBlock::<T>::get(netuid) < MaxRegistrationsPerBlock::<T>::get(netuid),
			Error::<T>::TooManyRegistrationsThisBlock
		);
		Self::check_association(coldkey, hotkey)?;
		let is_free = SubnetworkN::<T>::get(netuid) < MaxAllowedUids::<T>::get(netuid);
		ensure!(
			is_free || Self::uid_to_prune(netuid).is_some(),
			Error::<T>::NoNeuronIdAvailable
		);
		Ok(())
	}

	/// The hash of the block that a seal is for: past, at most four blocks old, and younger than the
	/// hotkey's last registration by work.
	fn challenge(hotkey: &T::AccountId, block: u64) -> Result<T::Hash, Error<T>> {
		let age_blocks = Self::now().checked_sub(block);
		let is_recent = age_blocks.is_some_and(|age| (1..=MAX_WORK_AGE_BLOCKS).contains(&age));
		let is_unused = LastPowRegistrationBlock::<T>::get(hotkey).is_none_or(|last| block > last);
		let number: u32 = block.unique_saturated_into();
		let hash = frame_system::Pallet::<T>::block_hash(
			frame_system::pallet_prelude::BlockNumberFor::<T>::from(number),
		);
		ensure!(
			is_recent && is_unused && !is_zero(&hash),
			Error::<T>::InvalidWorkBlock
		);
		Ok(hash)
	}

	/// Raises what the next registration costs, by either way.
	pub(crate) fn raise_prices(netuid: NetUid) {
		let hyperparams = SubnetHyperparams::<T>::get(netuid);
		Burn::<T>::mutate(netuid, |price_rao| {
			*price_rao = registration::raised_price(*price_rao, &hyperparams);
		});
		if NetworkPowRegistrationAllowed::<T>::get(netuid) {
			Difficulty::<T>::mutate(netuid, |difficulty| {
				*difficulty = registration::raised(*difficulty, hyperparams.burn_increase_ppm)
					.min(MaxDifficulty::<T>::get(netuid));
			});
		}
	}

	/// Lets the difficulty fall by one block, where work counts; elsewhere it rests.
	pub(crate) fn decay_difficulty(netuid: NetUid, decay_factor_q32: u64) {
		if !NetworkPowRegistrationAllowed::<T>::get(netuid) {
			return;
		}
		let difficulty = Difficulty::<T>::get(netuid);
		let decayed = registration::mul_q32(difficulty, decay_factor_q32)
			.max(MinDifficulty::<T>::get(netuid));
		if decayed != difficulty {
			Difficulty::<T>::insert(netuid, decayed);
		}
	}
}

fn is_zero(hash: &impl AsRef<[u8]>) -> bool {
	hash.as_ref().iter().all(Zero::is_zero)
}

/// keccak256(SHA-256(domain, netuid, block hash, hotkey, coldkey, nonce)).
pub fn seal(
	netuid: NetUid,
	block_hash: impl AsRef<[u8]>,
	hotkey: &impl Encode,
	coldkey: &impl Encode,
	nonce: u64,
) -> [u8; 32] {
	let message: Vec<u8> = [
		DOMAIN,
		&netuid.to_le_bytes(),
		block_hash.as_ref(),
		&hotkey.encode(),
		&coldkey.encode(),
		&nonce.to_le_bytes(),
	]
	.concat();
	sp_io::hashing::keccak_256(&sp_io::hashing::sha2_256(&message))
}

/// Whether a seal, as a little-endian number, is in the lowest of `difficulty` equal parts.
pub(crate) fn meets(seal: &[u8; 32], difficulty: u64) -> bool {
	let limit = U256::MAX.checked_div(difficulty.into());
	limit.is_some_and(|limit| U256::from_little_endian(seal) <= limit)
}
