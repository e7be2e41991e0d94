//! Takes: what a hotkey's owner keeps of the dividends that its nominators' stake earned.

use crate::*;
use frame_support::ensure;
use sp_runtime::DispatchResult;

impl<T: Config> Pallet<T> {
	pub(crate) fn do_decrease_take(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
		take: u16,
	) -> DispatchResult {
		Self::check_ownership(&coldkey, &hotkey)?;
		ensure!(
			take < Delegates::<T>::get(&hotkey),
			Error::<T>::DelegateTakeTooLow
		);
		Self::store_take(&hotkey, take);
		Self::deposit_event(Event::TakeDecreased {
			coldkey,
			hotkey,
			take,
		});
		Ok(())
	}

	pub(crate) fn do_increase_take(
		coldkey: T::AccountId,
		hotkey: T::AccountId,
		take: u16,
	) -> DispatchResult {
		Self::check_ownership(&coldkey, &hotkey)?;
		ensure!(
			take > Delegates::<T>::get(&hotkey),
			Error::<T>::DelegateTakeTooLow
		);
		ensure!(take <= MAX_TAKE, Error::<T>::DelegateTakeTooHigh);
		let limit = TxDelegateTakeRateLimit::<T>::get();
		let is_fresh = LastTxBlockDelegateTake::<T>::get(&hotkey)
			.is_some_and(|last| Self::now().saturating_sub(last) < limit);
		ensure!(!is_fresh, Error::<T>::DelegateTxRateLimitExceeded);
		Self::store_take(&hotkey, take);
		Self::deposit_event(Event::TakeIncreased {
			coldkey,
			hotkey,
			take,
		});
		Ok(())
	}

	fn store_take(hotkey: &T::AccountId, take: u16) {
		Delegates::<T>::insert(hotkey, take);
		LastTxBlockDelegateTake::<T>::insert(hotkey, Self::now());
	}

	/// Whether the coldkey owns the hotkey.
	pub(crate) fn check_ownership(
		coldkey: &T::AccountId,
		hotkey: &T::AccountId,
	) -> Result<(), Error<T>> {
		let owner = Owner::<T>::get(hotkey).ok_or(Error::<T>::HotKeyAccountNotExists)?;
		ensure!(owner == *coldkey, Error::<T>::NonAssociatedColdKey);
		Ok(())
	}
}

/// What a nominator gets of a hotkey's dividends, in rao: its share by stake, less the take of it.
/// Rounds down twice, so the parts of all nominators never exceed the dividends.
pub(crate) fn nominator_part(dividends_rao: u64, stake_rao: u64, total_rao: u64, take: u16) -> u64 {
	let gross_rao = emission::mul_div(dividends_rao, stake_rao, total_rao);
	let kept = u16::MAX.saturating_sub(take);
	emission::mul_div(gross_rao, kept.into(), u16::MAX.into())
}
