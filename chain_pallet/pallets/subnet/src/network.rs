//! Subnets: how one begins, and what it costs.

use crate::*;
use frame_support::{
	ensure,
	traits::{
		fungible::{Inspect, Mutate},
		tokens::{Fortitude, Precision, Preservation},
		Get,
	},
	BoundedVec,
};
use sp_runtime::DispatchResult;

impl<T: Config> Pallet<T> {
	/// What the next subnet costs now, in rao.
	pub fn network_lock_cost() -> u64 {
		let least_rao = NetworkMinLockCost::<T>::get();
		match NetworkLastRegistered::<T>::get() {
			None => least_rao,
			Some(last_block) => lock_cost_rao(
				least_rao,
				NetworkLastLockCost::<T>::get(),
				Self::now().saturating_sub(last_block),
				NetworkLockReductionInterval::<T>::get(),
			),
		}
	}

	pub(crate) fn do_register_network(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
	) -> DispatchResult {
		let netuids = Self::netuids();
		let most = T::MaxSubnets::get().min(SubnetLimit::<T>::get().into());
		let free = (1..=NetUid::MAX).find(|netuid| netuids.binary_search(netuid).is_err());
		let netuid = free
			.filter(|_| (netuids.len() as u32) < most)
			.ok_or(Error::<T>::SubnetLimitReached)?;
		let price_rao = Self::network_lock_cost();
		let (keep, polite) = (Preservation::Preserve, Fortitude::Polite);
		ensure!(
			T::Currency::reducible_balance(&coldkey, keep, polite) >= price_rao,
			Error::<T>::CannotAffordLockCost
		);
		Self::associate(&coldkey, &hotkey)?;
		T::Currency::burn_from(&coldkey, price_rao, keep, Precision::Exact, polite)?;
		NetworkLastLockCost::<T>::put(price_rao);
		NetworkLastRegistered::<T>::put(Self::now());
		SubnetLocked::<T>::insert(netuid, price_rao);

		Self::withhold_emission(&netuids, netuid);
		Self::add_subnet(netuid, &coldkey, &hotkey, &Default::default())
			.map_err(Error::<T>::HyperparamOutOfBounds)?;
		// Spread the subnets' first epochs, and so all later ones.
		let tempo = u64::from(Tempo::<T>::get(netuid));
		let lead = u64::from(netuid).checked_rem(tempo).unwrap_or(0);
		LastEpochBlock::<T>::insert(netuid, Self::now().saturating_sub(lead));
		SubnetworkN::<T>::insert(netuid, 1);
		Self::occupy(netuid, 0, &hotkey);
		Self::deposit_event(Event::NetworkAdded {
			netuid,
			coldkey,
			hotkey,
			price_rao,
		});
		Ok(())
	}

	pub(crate) fn do_name_subnet(
		owner: T::AccountId,
		netuid: NetUid,
		name: Label,
		symbol: Label,
	) -> DispatchResult {
		Self::check_owner(&owner, netuid)?;
		let is_text = [&name, &symbol]
			.iter()
			.all(|label| core::str::from_utf8(label).is_ok());
		ensure!(is_text, Error::<T>::InvalidIdentity);
		let subnet_name = name.clone();
		SubnetIdentitiesV3::<T>::insert(netuid, SubnetIdentity { subnet_name });
		TokenSymbol::<T>::insert(netuid, &symbol);
		Self::deposit_event(Event::SubnetNamed {
			netuid,
			name,
			symbol,
		});
		Ok(())
	}

	/// Writes what every subnet has from its first block on. The owner owns the hotkey.
	pub(crate) fn add_subnet(
		netuid: NetUid,
		owner: &T::AccountId,
		hotkey: &T::AccountId,
		update: &HyperparamsUpdate,
	) -> Result<(), Hyperparam> {
		NetworksAdded::<T>::insert(netuid, true);
		NetworkRegisteredAt::<T>::insert(netuid, Self::now());
		SubnetOwner::<T>::insert(netuid, owner);
		SubnetOwnerHotkey::<T>::insert(netuid, hotkey);
		Self::store_hyperparams(netuid, Default::default(), update)
	}

	/// Even shares become explicit ones of the subnets so far, so that a new one has none.
	fn withhold_emission(netuids: &[NetUid], newcomer: NetUid) {
		if EmissionShares::<T>::get().is_empty() {
			let mut shares: alloc::vec::Vec<_> =
				netuids.iter().map(|netuid| (*netuid, 1)).collect();
			shares.push((newcomer, 0));
			shares.sort_unstable();
			EmissionShares::<T>::put(BoundedVec::truncate_from(shares));
		}
	}
}

/// Twice the last price, less the last price for each interval that passed; at least `least_rao`.
pub(crate) fn lock_cost_rao(
	least_rao: u64,
	last_rao: u64,
	elapsed_blocks: u64,
	interval_blocks: u64,
) -> u64 {
	let fallen = u128::from(last_rao)
		.saturating_mul(elapsed_blocks.into())
		.checked_div(interval_blocks.into())
		.unwrap_or(u128::MAX);
	let left = u128::from(last_rao)
		.saturating_mul(2)
		.saturating_sub(fallen);
	u64::try_from(left).unwrap_or(u64::MAX).max(least_rao)
}
