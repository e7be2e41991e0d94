//! Tier 2 of the compatibility with the official client: what it reads and sends only because
//! upstream has more than this chain. Upstream gives every subnet a token of its own with a pool;
//! here the one token is staked as it is, so the price is 1 and no limit can be half reached.
//! Nothing else in the pallet depends on this file.

use crate::*;
use frame_support::{ensure, pallet_macros::pallet_section};
use sp_runtime::DispatchResult;

/// Rao for 10⁹ units of a subnet's token: there is one token.
pub const PRICE_RAO: u64 = 1_000_000_000;

/// Storage that clients query and nothing here reads. Becomes part of the pallet's module.
#[pallet_section]
mod compat_storage {
	/// Share of a registration's price that is locked instead of burned: 0.
	#[pallet::storage]
	pub type CollateralLockShare<T> = StorageMap<_, Identity, NetUid, u16, ValueQuery>;

	/// What a subnet got in the last block, in rao: upstream's pools take in what is emitted, and
	/// clients show it as the subnet's emission.
	#[pallet::storage]
	pub type SubnetTaoInEmission<T> = StorageMap<_, Identity, NetUid, u64, ValueQuery>;

	/// Averages of flows into pools: there are none.
	#[pallet::storage]
	pub type SubnetEmaTaoFlow<T> = StorageMap<_, Identity, NetUid, (u64, i128)>;

	/// The least take of a hotkey's owner: 0.
	#[pallet::storage]
	pub type MinDelegateTake<T> = StorageValue<_, u16, ValueQuery>;

	/// The largest take of a hotkey's owner. A constant.
	#[pallet::storage]
	pub type MaxDelegateTake<T> = StorageValue<_, u16, ValueQuery, ConstU16<MAX_TAKE>>;

	/// Locked stake: none.
	#[pallet::storage]
	pub type Lock<T: Config> = StorageNMap<
		_,
		(
			NMapKey<Blake2_128Concat, T::AccountId>,
			NMapKey<Identity, NetUid>,
			NMapKey<Blake2_128Concat, T::AccountId>,
		),
		u64,
	>;

	/// Names of coldkeys: none.
	#[pallet::storage]
	pub type IdentitiesV2<T: Config> = StorageMap<_, Blake2_128Concat, T::AccountId, Label>;
}

impl<T: Config> Pallet<T> {
	/// Writes what each subnet gets in this block where it differs from the last.
	pub(crate) fn show_emission(netuids: &[NetUid], parts: &[(NetUid, u64)]) {
		for netuid in netuids {
			let part = parts.iter().find(|(of, _)| of == netuid);
			let rao = part.map_or(0, |(_, rao)| *rao);
			if rao != SubnetTaoInEmission::<T>::get(netuid) {
				SubnetTaoInEmission::<T>::insert(netuid, rao);
			}
		}
	}

	pub(crate) fn do_add_stake_limit(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
		netuid: NetUid,
		amount_rao: u64,
		limit_price_rao: u64,
	) -> DispatchResult {
		ensure!(limit_price_rao >= PRICE_RAO, Error::<T>::SlippageTooHigh);
		Self::do_add_stake(coldkey, hotkey, netuid, amount_rao)
	}

	pub(crate) fn do_remove_stake_limit(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
		netuid: NetUid,
		amount_rao: u64,
		limit_price_rao: u64,
	) -> DispatchResult {
		ensure!(limit_price_rao <= PRICE_RAO, Error::<T>::SlippageTooHigh);
		Self::do_remove_stake(coldkey, hotkey, netuid, amount_rao)
	}
}
