//! Who holds how much on whom. All stake sits in the pallet's account.

use crate::*;
use alloc::vec::Vec;
use frame_support::{
	ensure,
	traits::{
		fungible::{Inspect, Mutate},
		tokens::{Fortitude, Preservation},
		Get,
	},
};
use sp_runtime::DispatchResult;

impl<T: Config> Pallet<T> {
	pub(crate) fn do_add_stake(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
		netuid: NetUid,
		amount_rao: u64,
	) -> DispatchResult {
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		let owner = Owner::<T>::get(&hotkey).ok_or(Error::<T>::HotKeyAccountNotExists)?;
		ensure!(amount_rao >= T::MinStake::get(), Error::<T>::AmountTooLow);
		let keep = Preservation::Preserve;
		ensure!(
			T::Currency::reducible_balance(&coldkey, keep, Fortitude::Polite) >= amount_rao,
			Error::<T>::NotEnoughBalanceToStake
		);
		T::Currency::transfer(&coldkey, &Self::account_id(), amount_rao, keep)?;
		// The owner always finds room: earnings of the hotkey are paid to it.
		let is_new = coldkey != owner && !Stake::<T>::contains_key((netuid, &hotkey, &coldkey));
		if is_new && NominatorCount::<T>::get(&hotkey, netuid) >= T::MaxNominators::get() {
			Self::make_room(netuid, &hotkey, &owner, amount_rao)?;
		}
		Self::credit(netuid, &hotkey, &coldkey, amount_rao);
		Self::deposit_event(Event::StakeAdded {
			netuid,
			hotkey,
			coldkey,
			amount_rao,
		});
		Ok(())
	}

	/// Gives the least nominator of a hotkey its stake back, if it has less than `amount_rao`. So
	/// keeping others out costs as much as they would stake, and not a list of least stakes.
	fn make_room(
		netuid: NetUid,
		hotkey: &T::AccountId,
		owner: &T::AccountId,
		amount_rao: u64,
	) -> DispatchResult {
		let (stake_rao, coldkey) = Self::stakers(netuid, hotkey)
			.into_iter()
			.filter(|(coldkey, _)| coldkey != owner)
			.map(|(coldkey, stake_rao)| (stake_rao, coldkey))
			.min()
			.filter(|(stake_rao, _)| *stake_rao < amount_rao)
			.ok_or(Error::<T>::TooManyNominators)?;
		Self::do_remove_stake(coldkey, hotkey.clone(), netuid, stake_rao)
	}

	pub(crate) fn do_remove_stake(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
		netuid: NetUid,
		amount_rao: u64,
	) -> DispatchResult {
		let stake_rao = Stake::<T>::get((netuid, &hotkey, &coldkey));
		let left_rao = stake_rao
			.checked_sub(amount_rao)
			.ok_or(Error::<T>::NotEnoughStakeToWithdraw)?;
		ensure!(
			amount_rao > 0 && (left_rao == 0 || left_rao >= T::MinStake::get()),
			Error::<T>::AmountTooLow
		);
		// The account outlives its last stake, or its dust would be lost to the books.
		T::Currency::transfer(
			&Self::account_id(),
			&coldkey,
			amount_rao,
			Preservation::Preserve,
		)?;
		Self::debit(netuid, &hotkey, &coldkey, amount_rao);
		Self::deposit_event(Event::StakeRemoved {
			netuid,
			hotkey,
			coldkey,
			amount_rao,
		});
		Ok(())
	}

	/// Books tokens that are in the pallet's account as stake. Sums stay below the issuance, so
	/// nothing saturates.
	pub(crate) fn credit(
		netuid: NetUid,
		hotkey: &T::AccountId,
		coldkey: &T::AccountId,
		amount_rao: u64,
	) {
		if amount_rao == 0 {
			return;
		}
		let is_new = Stake::<T>::mutate((netuid, hotkey, coldkey), |stake_rao| {
			let is_new = *stake_rao == 0;
			*stake_rao = stake_rao.saturating_add(amount_rao);
			is_new
		});
		if is_new {
			StakingHotkeys::<T>::insert(coldkey, (netuid, hotkey), ());
			if Owner::<T>::get(hotkey).as_ref() != Some(coldkey) {
				NominatorCount::<T>::mutate(hotkey, netuid, |n| *n = n.saturating_add(1));
			}
		}
		TotalHotkeyAlpha::<T>::mutate(hotkey, netuid, |s| *s = s.saturating_add(amount_rao));
		TotalStake::<T>::mutate(|total_rao| *total_rao = total_rao.saturating_add(amount_rao));
	}

	/// The opposite of [`Self::credit`]; the caller checked that the stake suffices.
	pub(crate) fn debit(
		netuid: NetUid,
		hotkey: &T::AccountId,
		coldkey: &T::AccountId,
		amount_rao: u64,
	) {
		let is_gone = Stake::<T>::mutate_exists((netuid, hotkey, coldkey), |stake_rao| {
			*stake_rao = stake_rao
				.map(|stake_rao| stake_rao.saturating_sub(amount_rao))
				.filter(|left_rao| *left_rao > 0);
			stake_rao.is_none()
		});
		if is_gone {
			StakingHotkeys::<T>::remove(coldkey, (netuid, hotkey));
			if Owner::<T>::get(hotkey).as_ref() != Some(coldkey) {
				match NominatorCount::<T>::get(hotkey, netuid).saturating_sub(1) {
					0 => NominatorCount::<T>::remove(hotkey, netuid),
					left => NominatorCount::<T>::insert(hotkey, netuid, left),
				}
			}
		}
		match TotalHotkeyAlpha::<T>::get(hotkey, netuid).saturating_sub(amount_rao) {
			0 => TotalHotkeyAlpha::<T>::remove(hotkey, netuid),
			left_rao => TotalHotkeyAlpha::<T>::insert(hotkey, netuid, left_rao),
		}
		TotalStake::<T>::mutate(|total_rao| *total_rao = total_rao.saturating_sub(amount_rao));
	}

	/// Coldkeys with stake on a hotkey in a subnet, and how much each has.
	pub fn stakers(netuid: NetUid, hotkey: &T::AccountId) -> Vec<(T::AccountId, u64)> {
		Stake::<T>::iter_prefix((netuid, hotkey)).collect()
	}
}
