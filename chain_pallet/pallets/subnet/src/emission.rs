//! Money from nothing to stake: minting, the split into pots, and an epoch's payments.

use crate::*;
use alloc::vec::Vec;
use frame_support::{
	ensure,
	traits::fungible::{Inspect, Mutate},
	BoundedVec,
};
use sp_runtime::traits::Zero;

/// Supply at which emission ends, in rao.
const MAX_SUPPLY_RAO: u64 = 21_000_000_000_000_000;
/// Emission of a block until half of the supply is out, in rao.
const INITIAL_BLOCK_EMISSION_RAO: u64 = 1_000_000_000;

/// What an epoch paid, in rao.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Paid {
	/// To miners.
	pub server_rao: u64,
	/// To validators and those who stake on them.
	pub validator_rao: u64,
	/// Nominators among the paid, for the weight.
	pub nominators: u32,
}

/// Emission of one block, in rao, at a given issuance: it halves when a half, three quarters,
/// seven eighths, … of the supply are out.
pub fn block_emission_rao(issuance_rao: u64) -> u64 {
	let left_rao = MAX_SUPPLY_RAO.saturating_sub(issuance_rao);
	// floor(log2(supply / left))
	match MAX_SUPPLY_RAO
		.checked_div(left_rao)
		.and_then(u64::checked_ilog2)
	{
		Some(halvings) => INITIAL_BLOCK_EMISSION_RAO
			.checked_shr(halvings)
			.unwrap_or(0),
		None => 0,
	}
}

impl<T: Config> Pallet<T> {
	/// Mints the block's emission and puts it into the subnets' pots, along with whatever else in
	/// the pallet's account belongs to nobody.
	pub(crate) fn collect_emission(netuids: &[NetUid]) {
		// Nobody to mint for.
		if Self::shares(netuids).is_empty() {
			return;
		}
		let account = Self::account_id();
		let emission_rao = block_emission_rao(T::Currency::total_issuance());
		if let Err(error) = T::Currency::mint_into(&account, emission_rao) {
			log::error!(target: "subnet", "the block's emission was not minted: {error:?}");
		}
		let owed_rao = netuids
			.iter()
			.fold(TotalStake::<T>::get(), |owed_rao, netuid| {
				owed_rao
					.saturating_add(PendingEmission::<T>::get(netuid))
					.saturating_add(PendingOwnerCut::<T>::get(netuid))
			});
		let free_rao = T::Currency::total_balance(&account).saturating_sub(owed_rao);
		let parts = Self::split(netuids, free_rao);
		Self::show_emission(netuids, &parts);
		for (netuid, amount_rao) in parts {
			let cut_rao = mul_div(
				amount_rao,
				SubnetHyperparams::<T>::get(netuid).owner_cut.into(),
				u16::MAX.into(),
			);
			PendingOwnerCut::<T>::mutate(netuid, |pot| *pot = pot.saturating_add(cut_rao));
			PendingEmission::<T>::mutate(netuid, |pot| {
				*pot = pot.saturating_add(amount_rao.saturating_sub(cut_rao))
			});
		}
	}

	/// Divides an amount by the subnets' shares; the lowest netuid with a share takes what is left.
	pub(crate) fn split(netuids: &[NetUid], amount_rao: u64) -> Vec<(NetUid, u64)> {
		let shares = Self::shares(netuids);
		let total = shares
			.iter()
			.fold(0u64, |sum, (_, share)| sum.saturating_add((*share).into()));
		let mut parts: Vec<_> = shares
			.into_iter()
			.map(|(netuid, share)| (netuid, mul_div(amount_rao, share.into(), total)))
			.collect();
		let given_rao = parts
			.iter()
			.fold(0u64, |sum, (_, part)| sum.saturating_add(*part));
		if let Some((_, part)) = parts.first_mut() {
			*part = part.saturating_add(amount_rao.saturating_sub(given_rao));
		}
		parts
	}

	/// The subnets with a share in the emission, ascending.
	fn shares(netuids: &[NetUid]) -> Vec<(NetUid, u16)> {
		let mut shares = EmissionShares::<T>::get().into_inner();
		if shares.is_empty() {
			shares = netuids.iter().map(|netuid| (*netuid, 1)).collect();
		}
		shares.retain(|(_, share)| *share > 0);
		shares
	}

	/// Stores the subnets' shares, ascending by netuid.
	pub(crate) fn store_emission_shares(
		mut shares: BoundedVec<(NetUid, u16), T::MaxSubnets>,
	) -> Result<(), Error<T>> {
		shares.sort();
		let is_unique = shares
			.iter()
			.zip(shares.iter().skip(1))
			.all(|((a, _), (b, _))| a != b);
		let exist = shares
			.iter()
			.all(|(netuid, _)| NetworksAdded::<T>::get(netuid));
		let any = shares.is_empty() || shares.iter().any(|(_, share)| !share.is_zero());
		ensure!(is_unique && exist && any, Error::<T>::InvalidEmissionShares);
		EmissionShares::<T>::put(shares);
		Ok(())
	}

	/// Pays an epoch's amounts as stake, out of `pot_rao` and never more.
	///
	/// Incentive goes to the hotkey's owner. Dividends go to those who staked on the hotkey before
	/// this epoch, pro rata; the owner gets its take of the others' part, and what does not divide.
	pub(crate) fn pay(
		netuid: NetUid,
		hotkeys: &[T::AccountId],
		outcome: &yuma::Outcome,
		pot_rao: u64,
	) -> Paid {
		let mut paid = Paid::default();
		let mut left_rao = pot_rao;
		let amounts = outcome.server_rao.iter().zip(&outcome.validator_rao);
		for (hotkey, (server_rao, validator_rao)) in hotkeys.iter().zip(amounts) {
			let Some(owner) = Owner::<T>::get(hotkey) else {
				continue;
			};
			let server_rao = (*server_rao).min(left_rao);
			left_rao = left_rao.saturating_sub(server_rao);
			let validator_rao = (*validator_rao).min(left_rao);
			left_rao = left_rao.saturating_sub(validator_rao);

			let mut to_owner_rao = server_rao.saturating_add(validator_rao);
			if validator_rao > 0 {
				let total_rao = TotalHotkeyAlpha::<T>::get(hotkey, netuid);
				let take = Delegates::<T>::get(hotkey);
				for (coldkey, stake_rao) in Self::stakers(netuid, hotkey) {
					if coldkey != owner {
						let part_rao =
							delegation::nominator_part(validator_rao, stake_rao, total_rao, take);
						to_owner_rao = to_owner_rao.saturating_sub(part_rao);
						Self::credit(netuid, hotkey, &coldkey, part_rao);
						paid.nominators = paid.nominators.saturating_add(1);
					}
				}
			}
			Self::credit(netuid, hotkey, &owner, to_owner_rao);
			paid.server_rao = paid.server_rao.saturating_add(server_rao);
			paid.validator_rao = paid.validator_rao.saturating_add(validator_rao);
		}
		paid
	}

	/// Pays the owner's cut as stake on the owner's hotkey; without an owner it stays in the pot.
	pub(crate) fn pay_owner(netuid: NetUid) -> u64 {
		let owner = SubnetOwner::<T>::get(netuid).zip(SubnetOwnerHotkey::<T>::get(netuid));
		let Some((coldkey, hotkey)) = owner else {
			return 0;
		};
		let cut_rao = PendingOwnerCut::<T>::take(netuid);
		Self::credit(netuid, &hotkey, &coldkey, cut_rao);
		cut_rao
	}
}

/// `floor(amount * part / whole)`, 0 if `whole` is 0; exact for `part <= whole`.
pub(crate) fn mul_div(amount: u64, part: u64, whole: u64) -> u64 {
	let product = u128::from(amount).saturating_mul(part.into());
	product
		.checked_div(whole.into())
		.and_then(|part| u64::try_from(part).ok())
		.unwrap_or(0)
}

#[cfg(test)]
mod curve_tests {
	use super::*;

	#[test]
	fn emission_halves_at_a_half_three_quarters_and_seven_eighths() {
		let half = MAX_SUPPLY_RAO / 2;
		assert_eq!(block_emission_rao(0), 1_000_000_000);
		assert_eq!(block_emission_rao(half - 1), 1_000_000_000);
		assert_eq!(block_emission_rao(half), 500_000_000);
		assert_eq!(block_emission_rao(half + half / 2 - 1), 500_000_000);
		assert_eq!(block_emission_rao(half + half / 2), 250_000_000);
		assert_eq!(block_emission_rao(half + half / 2 + half / 4), 125_000_000);
	}

	#[test]
	fn emission_never_passes_the_supply() {
		for left in [0, 1, 2, 1_000, 39_000_000, 1_000_000_000] {
			assert!(block_emission_rao(MAX_SUPPLY_RAO - left) <= left);
		}
		assert_eq!(block_emission_rao(u64::MAX), 0);
	}
}
