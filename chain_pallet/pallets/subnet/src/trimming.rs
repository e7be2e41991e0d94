//! Fewer slots: the owner makes its subnet smaller, and its last neurons move up.
//!
//! Upstream renumbers every survivor. Here a survivor keeps its uid if the uid still exists; only
//! those beyond the end move, into the slots that were emptied. Votes promised before know the old
//! uids, so [`Trim`] remembers the moves until the last of them is revealed.

use crate::*;
use alloc::{
	collections::{BTreeMap, BTreeSet},
	vec::Vec,
};
use frame_support::{ensure, traits::Get, BoundedVec};
use sp_runtime::DispatchResult;

/// The immune and the owner's may fill so many hundredths of the slots that remain.
const MAX_PROTECTED_PERCENT: u32 = 80;

impl<T: Config> Pallet<T> {
	pub(crate) fn do_trim(owner: T::AccountId, netuid: NetUid, max_n: u16) -> DispatchResult {
		Self::check_owner(&owner, netuid)?;
		Self::check_freeze_window(netuid)?;
		let now = Self::now();
		let out_of_bounds = Error::<T>::HyperparamOutOfBounds(Hyperparam::max_allowed_uids);
		ensure!(
			max_n >= MinOwnerUids::<T>::get() && max_n < MaxAllowedUids::<T>::get(netuid),
			out_of_bounds
		);
		if let Some(last) = LastTrim::<T>::get(netuid) {
			ensure!(
				now.saturating_sub(last.block) >= TrimRateLimit::<T>::get()
					&& Self::current_epoch(netuid) > last.until_epoch,
				Error::<T>::TxRateLimitExceeded
			);
		}
		let survivors = Self::survivors(netuid, max_n)?;
		// Commits may follow in this very block, from voters who do not know of the trim.
		let until_epoch = Self::current_epoch(netuid)
			.saturating_add(RevealPeriodEpochs::<T>::get(netuid))
			.max(Self::last_reveal_epoch(netuid));
		let moves = Self::compress(netuid, &survivors);
		let update = HyperparamsUpdate {
			max_allowed_uids: Some(max_n),
			..Default::default()
		};
		Self::store_hyperparams(netuid, Self::hyperparams(netuid), &update)
			.map_err(Error::<T>::HyperparamOutOfBounds)?;
		LastTrim::<T>::insert(
			netuid,
			Trim {
				block: now,
				until_epoch,
				neurons: SubnetworkN::<T>::get(netuid),
				moves: moves.clone(),
			},
		);
		Self::deposit_event(Event::SubnetTrimmed {
			netuid,
			max_n,
			moves,
		});
		Ok(())
	}

	/// Who sits in each of the slots that remain, by its uid so far. The least in emission go first,
	/// then the oldest, then the lowest uid; never the immune, nor the owner's.
	fn survivors(netuid: NetUid, max_n: u16) -> Result<Vec<Uid>, Error<T>> {
		let n = SubnetworkN::<T>::get(netuid);
		let surplus = usize::from(n.saturating_sub(max_n));
		let mut candidates = Self::prunable(netuid).mortal;
		let protected = usize::from(n).saturating_sub(candidates.len()) as u32;
		ensure!(
			surplus == 0
				|| protected.saturating_mul(100)
					<= u32::from(max_n).saturating_mul(MAX_PROTECTED_PERCENT),
			Error::<T>::TrimmingWouldExceedMaxImmunePercentage
		);
		candidates.sort_unstable();
		let mut leaving: Vec<Uid> = candidates
			.into_iter()
			.take(surplus)
			.map(|(_, _, uid)| uid)
			.collect();
		leaving.sort_unstable();
		let stays = |uid: &Uid| leaving.binary_search(uid).is_err();
		let mut moving = (max_n..n).filter(stays);
		Ok((0..n.min(max_n))
			.filter_map(|slot| match stays(&slot) {
				true => Some(slot),
				false => moving.next(),
			})
			.collect())
	}

	/// The last epoch in which a promise of now can be revealed.
	fn last_reveal_epoch(netuid: NetUid) -> u64 {
		WeightCommits::<T>::iter_prefix_values(netuid)
			.flatten()
			.map(|commit| commit.reveal_epoch)
			.max()
			.unwrap_or(0)
	}

	/// Seats `survivors` in the slots from 0 on and unseats everyone else. Tells who moved where.
	fn compress(netuid: NetUid, survivors: &[Uid]) -> Column<T, (Uid, Uid)> {
		let n = SubnetworkN::<T>::get(netuid);
		let slot_of: BTreeMap<Uid, Uid> = survivors.iter().copied().zip(0..).collect();
		let rows = |take: fn(NetUid, Uid) -> BoundedRow<T>| -> Vec<_> {
			(0..n)
				.map(|uid| (slot_of.get(&uid), take(netuid, uid)))
				.filter_map(|(slot, row)| Some((*slot?, translated(&row, &slot_of))))
				.collect()
		};
		let weights = rows(Weights::<T>::take);
		let bonds = rows(Bonds::<T>::take);
		for (slot, row) in weights.into_iter().filter(|(_, row)| !row.is_empty()) {
			Weights::<T>::insert(netuid, slot, BoundedVec::truncate_from(row));
		}
		for (slot, row) in bonds.into_iter().filter(|(_, row)| !row.is_empty()) {
			Bonds::<T>::insert(netuid, slot, BoundedVec::truncate_from(row));
		}
		for uid in 0..n {
			if !slot_of.contains_key(&uid) {
				Self::unseat(netuid, uid);
			} else if let Some(hotkey) = Keys::<T>::get(netuid, uid) {
				// Its bits are for the old uids; the next reveal brings new ones.
				LastVouches::<T>::remove(netuid, hotkey);
			}
		}
		let moves: Vec<_> = slot_of
			.into_iter()
			.filter(|(uid, slot)| uid != slot)
			.collect();
		for (uid, slot) in &moves {
			if let Some(hotkey) = Keys::<T>::take(netuid, uid) {
				Uids::<T>::insert(netuid, &hotkey, slot);
				Keys::<T>::insert(netuid, slot, hotkey);
			}
			let registered_at = BlockAtRegistration::<T>::get(netuid, uid);
			BlockAtRegistration::<T>::insert(netuid, slot, registered_at);
		}
		for uid in (0..n).skip(survivors.len()) {
			BlockAtRegistration::<T>::remove(netuid, uid);
		}
		SubnetworkN::<T>::insert(netuid, survivors.len() as u16);
		LastUpdate::<T>::mutate(netuid, |column| pick(column, survivors));
		Active::<T>::mutate(netuid, |column| pick(column, survivors));
		ValidatorPermit::<T>::mutate(netuid, |column| pick(column, survivors));
		Consensus::<T>::mutate(netuid, |column| pick(column, survivors));
		Incentive::<T>::mutate(netuid, |column| pick(column, survivors));
		Dividends::<T>::mutate(netuid, |column| pick(column, survivors));
		ValidatorTrust::<T>::mutate(netuid, |column| pick(column, survivors));
		StakeWeight::<T>::mutate(netuid, |column| pick(column, survivors));
		Emission::<T>::mutate(netuid, |column| pick(column, survivors));
		BoundedVec::truncate_from(moves)
	}

	/// A row promised in `block`, in today's uids. Targets that a trim removed since are left out.
	pub(crate) fn in_todays_uids(
		netuid: NetUid,
		block: u64,
		uids: &[Uid],
		values: &[u16],
	) -> (Vec<Uid>, Vec<u16>) {
		let row = uids.iter().copied().zip(values.iter().copied());
		let Some(trim) = LastTrim::<T>::get(netuid).filter(|trim| block <= trim.block) else {
			return row.unzip();
		};
		let slot_of: BTreeMap<_, _> = trim.moves.iter().copied().collect();
		let taken: BTreeSet<_> = slot_of.values().copied().collect();
		row.filter_map(|(uid, value)| match slot_of.get(&uid) {
			Some(slot) => Some((*slot, value)),
			// A slot that somebody moved into belonged to a neuron that had to go.
			None => (uid < trim.neurons && !taken.contains(&uid)).then_some((uid, value)),
		})
		.unzip()
	}
}

/// A row with the neurons' new slots; those without one are left out.
fn translated(row: &[(Uid, u16)], slot_of: &BTreeMap<Uid, Uid>) -> Row {
	let mut row: Row = row
		.iter()
		.filter_map(|(uid, value)| Some((*slot_of.get(uid)?, *value)))
		.collect();
	row.sort_unstable();
	row
}

/// Rearranges a column: slot `k` gets what `survivors[k]` had.
fn pick<V: Clone + Default, Max: Get<u32>>(column: &mut BoundedVec<V, Max>, survivors: &[Uid]) {
	let old = core::mem::take(column);
	let value = |uid: &Uid| old.get(usize::from(*uid)).cloned().unwrap_or_default();
	*column = BoundedVec::truncate_from(survivors.iter().map(value).collect());
}
