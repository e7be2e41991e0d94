//! Registration: its price, the slots, and who loses one.

use crate::*;
use alloc::vec::Vec;
use frame_support::{
	ensure,
	traits::{
		fungible::{Inspect, Mutate},
		tokens::{Fortitude, Precision, Preservation},
	},
};
use sp_runtime::{traits::Get, DispatchError, DispatchResult};

/// 1 in 32 fractional bits.
const ONE_Q32: u64 = 1 << 32;

/// Neurons that may lose their slots, by emission at the last epoch in rao, block of registration,
/// and uid: the order in which they go.
pub(crate) struct Prunable {
	/// Those registered too recently to go before others.
	pub immune: Vec<(u64, u64, Uid)>,
	/// The others.
	pub mortal: Vec<(u64, u64, Uid)>,
}

impl<T: Config> Pallet<T> {
	pub(crate) fn do_register(
		coldkey: T::AccountId,
		netuid: NetUid,
		hotkey: T::AccountId,
		limit_price_rao: u64,
	) -> DispatchResult {
		Self::check_registration(netuid, &hotkey)?;
		let price_rao = Burn::<T>::get(netuid);
		ensure!(
			price_rao <= limit_price_rao,
			Error::<T>::RegistrationPriceLimitExceeded
		);
		let (keep, polite) = (Preservation::Preserve, Fortitude::Polite);
		ensure!(
			T::Currency::reducible_balance(&coldkey, keep, polite) >= price_rao,
			Error::<T>::NotEnoughBalanceToStake
		);
		Self::associate(&coldkey, &hotkey)?;

		let uid = Self::take_slot(netuid)?;
		T::Currency::burn_from(&coldkey, price_rao, keep, Precision::Exact, polite)?;
		Self::occupy(netuid, uid, &hotkey);
		Self::raise_prices(netuid);
		Self::deposit_event(Event::NeuronRegistered {
			netuid,
			uid,
			hotkey,
			price_rao,
		});
		Ok(())
	}

	/// Whether the subnet takes the hotkey at all.
	pub(crate) fn check_registration(
		netuid: NetUid,
		hotkey: &T::AccountId,
	) -> Result<(), Error<T>> {
		ensure!(
			netuid != 0,
			Error::<T>::RegistrationNotPermittedOnRootSubnet
		);
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		ensure!(
			SubnetHyperparams::<T>::get(netuid).registration_allowed,
			Error::<T>::SubNetRegistrationDisabled
		);
		ensure!(
			!Uids::<T>::contains_key(netuid, hotkey),
			Error::<T>::HotKeyAlreadyRegisteredInSubNet
		);
		Ok(())
	}

	/// Whether `hotkey` is `coldkey`'s, or nobody's and `coldkey` may have one more. Tells which.
	pub(crate) fn check_association(
		coldkey: &T::AccountId,
		hotkey: &T::AccountId,
	) -> Result<bool, Error<T>> {
		match Owner::<T>::get(hotkey) {
			Some(owner) if owner == *coldkey => Ok(true),
			Some(_) => Err(Error::<T>::NonAssociatedColdKey),
			None => {
				let owned = OwnedHotkeys::<T>::decode_len(coldkey).unwrap_or(0);
				ensure!(
					owned < T::MaxOwnedHotkeys::get() as usize,
					Error::<T>::TooManyOwnedHotkeys
				);
				Ok(false)
			}
		}
	}

	/// Makes `coldkey` the owner of `hotkey`, unless it has one.
	pub(crate) fn associate(
		coldkey: &T::AccountId,
		hotkey: &T::AccountId,
	) -> Result<(), DispatchError> {
		if !Self::check_association(coldkey, hotkey)? {
			OwnedHotkeys::<T>::try_append(coldkey, hotkey)
				.map_err(|()| Error::<T>::TooManyOwnedHotkeys)?;
			Owner::<T>::insert(hotkey, coldkey);
		}
		Ok(())
	}

	/// An empty slot: the next one, or that of the neuron which is pruned for it.
	pub(crate) fn take_slot(netuid: NetUid) -> Result<Uid, Error<T>> {
		let n = SubnetworkN::<T>::get(netuid);
		if n < MaxAllowedUids::<T>::get(netuid) {
			SubnetworkN::<T>::insert(netuid, n.saturating_add(1));
			return Ok(n);
		}
		let uid = Self::uid_to_prune(netuid).ok_or(Error::<T>::NoNeuronIdAvailable)?;
		Self::vacate(netuid, uid);
		Ok(uid)
	}

	/// Seats a hotkey in an empty slot, with the columns of one that never did anything.
	pub(crate) fn occupy(netuid: NetUid, uid: Uid, hotkey: &T::AccountId) {
		let now = Self::now();
		Keys::<T>::insert(netuid, uid, hotkey);
		Uids::<T>::insert(netuid, hotkey, uid);
		IsNetworkMember::<T>::insert(hotkey, netuid, true);
		BlockAtRegistration::<T>::insert(netuid, uid, now);
		LastUpdate::<T>::mutate(netuid, |column| put(column, uid, now));
		Active::<T>::mutate(netuid, |column| put(column, uid, true));
		ValidatorPermit::<T>::mutate(netuid, |column| put(column, uid, false));
		Consensus::<T>::mutate(netuid, |column| put(column, uid, 0));
		Incentive::<T>::mutate(netuid, |column| put(column, uid, 0));
		Dividends::<T>::mutate(netuid, |column| put(column, uid, 0));
		ValidatorTrust::<T>::mutate(netuid, |column| put(column, uid, 0));
		StakeWeight::<T>::mutate(netuid, |column| put(column, uid, 0));
		Emission::<T>::mutate(netuid, |column| put(column, uid, 0));
		// A hotkey without balance can sign: its nonce is paid for by the registration.
		frame_system::Pallet::<T>::inc_sufficients(hotkey);
	}

	/// Takes a slot from its hotkey, for another. Weights of others on it become 0; their bonds on
	/// it are masked by the next epoch.
	pub(crate) fn vacate(netuid: NetUid, uid: Uid) {
		Weights::<T>::remove(netuid, uid);
		Bonds::<T>::remove(netuid, uid);
		for voter in 0..SubnetworkN::<T>::get(netuid) {
			let row = Weights::<T>::get(netuid, voter);
			if let Ok(at) = row.binary_search_by_key(&uid, |(target, _)| *target) {
				Weights::<T>::mutate(netuid, voter, |row| {
					if let Some((_, value)) = row.get_mut(at) {
						*value = 0;
					}
				});
			}
		}
		Self::unseat(netuid, uid);
	}

	/// Forgets the hotkey of a slot. Its stake stays, and can be taken back.
	pub(crate) fn unseat(netuid: NetUid, uid: Uid) {
		let Some(hotkey) = Keys::<T>::take(netuid, uid) else {
			return;
		};
		Uids::<T>::remove(netuid, &hotkey);
		IsNetworkMember::<T>::remove(&hotkey, netuid);
		Axons::<T>::remove(netuid, &hotkey);
		Models::<T>::remove(netuid, &hotkey);
		WeightCommits::<T>::remove(netuid, &hotkey);
		LastReveal::<T>::remove(netuid, &hotkey);
		LastVouches::<T>::remove(netuid, &hotkey);
		frame_system::Pallet::<T>::dec_sufficients(&hotkey);
		Self::deposit_event(Event::NeuronPruned {
			netuid,
			uid,
			hotkey,
		});
	}

	/// The slot that the next registration in a full subnet takes: least emission, then oldest
	/// registration, then lowest uid; the immune only when few others are left.
	pub(crate) fn uid_to_prune(netuid: NetUid) -> Option<Uid> {
		let Prunable { immune, mortal } = Self::prunable(netuid);
		let least_mortals = SubnetHyperparams::<T>::get(netuid).min_non_immune_uids;
		let candidates = match mortal.len() > usize::from(least_mortals) {
			true => mortal,
			false => immune,
		};
		candidates.into_iter().min().map(|(_, _, uid)| uid)
	}

	/// Everyone whose slot is not the owner's.
	pub(crate) fn prunable(netuid: NetUid) -> Prunable {
		let now = Self::now();
		let hyperparams = SubnetHyperparams::<T>::get(netuid);
		let immortal = Self::immortal_uids(netuid, hyperparams.immune_owner_uids_limit);
		let emission = Emission::<T>::get(netuid);
		let (immune, mortal) = (0..SubnetworkN::<T>::get(netuid))
			.filter(|uid| !immortal.contains(uid))
			.map(|uid| {
				let earned = emission.get(usize::from(uid)).copied().unwrap_or(0);
				(earned, BlockAtRegistration::<T>::get(netuid, uid), uid)
			})
			.partition(|(_, registered_at, _)| {
				now.saturating_sub(*registered_at) < u64::from(hyperparams.immunity_period)
			});
		Prunable { immune, mortal }
	}

	/// Slots of the owner that are never pruned: the owner hotkey, then the owner coldkey's others
	/// in order of registration, up to `limit`.
	fn immortal_uids(netuid: NetUid, limit: u8) -> Vec<Uid> {
		let owner_hotkey = SubnetOwnerHotkey::<T>::get(netuid);
		let owned = SubnetOwner::<T>::get(netuid)
			.map(OwnedHotkeys::<T>::get)
			.unwrap_or_default();
		let mut ranked: Vec<_> = owned
			.iter()
			.filter_map(|hotkey| {
				let uid = Uids::<T>::get(netuid, hotkey)?;
				let is_other = owner_hotkey.as_ref() != Some(hotkey);
				Some((is_other, BlockAtRegistration::<T>::get(netuid, uid), uid))
			})
			.collect();
		ranked.sort_unstable();
		ranked
			.into_iter()
			.take(limit.into())
			.map(|(_, _, uid)| uid)
			.collect()
	}

	/// Lets the registration prices, and the difficulties, fall by one block.
	pub(crate) fn decay_prices(netuids: &[NetUid], now: u64) {
		if now <= 1 {
			return;
		}
		for netuid in netuids {
			let hyperparams = SubnetHyperparams::<T>::get(netuid);
			let factor_q32 = decay_factor_q32(hyperparams.burn_half_life);
			let price_rao = Burn::<T>::get(netuid);
			let decayed = decayed_price(price_rao, factor_q32, &hyperparams);
			if decayed != price_rao {
				Burn::<T>::insert(netuid, decayed);
			}
			Self::decay_difficulty(*netuid, factor_q32);
		}
	}
}

/// Writes one neuron's value into a column, which grows to hold it.
fn put<V: Clone + Default, Max: Get<u32>>(
	column: &mut frame_support::BoundedVec<V, Max>,
	uid: Uid,
	value: V,
) {
	let at = usize::from(uid);
	if column.len() <= at {
		column.bounded_resize(at.saturating_add(1), V::default());
	}
	if let Some(slot) = column.get_mut(at) {
		*slot = value;
	}
}

/// `value` after one more registration, rounded up.
pub(crate) fn raised(value: u64, increase_ppm: u32) -> u64 {
	let raised = u128::from(value)
		.saturating_mul(increase_ppm.into())
		.div_ceil(1_000_000);
	u64::try_from(raised).unwrap_or(u64::MAX)
}

/// The price after one more registration, in rao.
pub(crate) fn raised_price(price_rao: u64, hyperparams: &Hyperparams) -> u64 {
	raised(price_rao, hyperparams.burn_increase_ppm)
		.max(hyperparams.min_burn)
		.min(hyperparams.max_burn)
}

/// The price one block later, in rao.
fn decayed_price(price_rao: u64, factor_q32: u64, hyperparams: &Hyperparams) -> u64 {
	mul_q32(price_rao, factor_q32)
		.max(hyperparams.min_burn)
		.min(hyperparams.max_burn)
}

/// The largest factor, in 32 fractional bits, whose power `half_life` is at most one half.
fn decay_factor_q32(half_life: u16) -> u64 {
	let (mut low, mut high) = (0, ONE_Q32);
	// low^half_life <= 1/2 < high^half_life
	while high.saturating_sub(low) > 1 {
		let middle = low.midpoint(high);
		if pow_q32(middle, half_life) <= ONE_Q32 / 2 {
			low = middle;
		} else {
			high = middle;
		}
	}
	low
}

/// `base` to the power of `exponent` by squaring; every product is floored.
fn pow_q32(mut base: u64, mut exponent: u16) -> u64 {
	let mut power = ONE_Q32;
	while exponent > 0 {
		if exponent & 1 == 1 {
			power = mul_q32(power, base);
		}
		base = mul_q32(base, base);
		exponent >>= 1;
	}
	power
}

/// `floor(a * b / 2^32)`, saturating.
pub(crate) fn mul_q32(a: u64, b: u64) -> u64 {
	u64::try_from(u128::from(a).saturating_mul(b.into()) >> 32).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod price_tests {
	use super::*;

	#[test]
	fn a_factor_halves_in_its_half_life_and_is_the_largest_that_does() {
		for half_life in [1, 2, 30, 360, 36_100] {
			let factor = decay_factor_q32(half_life);
			assert!(pow_q32(factor, half_life) <= ONE_Q32 / 2);
			assert!(pow_q32(factor + 1, half_life) > ONE_Q32 / 2);
		}
	}

	#[test]
	fn the_price_halves_in_about_a_half_life_and_stops_at_its_floor() {
		let hyperparams = Hyperparams {
			burn_half_life: 30,
			..Default::default()
		};
		let factor = decay_factor_q32(hyperparams.burn_half_life);
		let after =
			|blocks| (0..blocks).fold(1_000_000_000, |p, _| decayed_price(p, factor, &hyperparams));
		assert!((499_999_900..=500_000_000).contains(&after(30)));
		assert_eq!(after(3_000), hyperparams.min_burn);
	}

	#[test]
	fn a_registration_raises_the_price_by_a_quarter_up_to_its_ceiling() {
		let hyperparams = Hyperparams::default();
		assert_eq!(raised_price(1_000_000_000, &hyperparams), 1_260_000_000);
		assert_eq!(raised_price(u64::MAX, &hyperparams), hyperparams.max_burn);
		assert_eq!(raised_price(0, &hyperparams), hyperparams.min_burn);
	}
}
