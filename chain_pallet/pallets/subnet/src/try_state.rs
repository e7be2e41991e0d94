//! The invariants, one function per theme.

use crate::*;
use alloc::{collections::BTreeMap, vec::Vec};
use frame_support::{
	ensure,
	traits::{fungible::Inspect, Get},
};
use sp_runtime::TryRuntimeError;

type Checked = Result<(), TryRuntimeError>;

impl<T: Config> Pallet<T> {
	/// Checks every invariant of the pallet:
	///
	/// * `SubnetworkN` counts `Keys` and `Uids`, which are inverse to each other, and membership;
	///   every registered hotkey has an owner, a reference that keeps its account, and vice versa.
	/// * Columns have one value per neuron.
	/// * Rows ascend by uid, below the number of neurons; only permit holders have bonds.
	/// * Commits, reveals and axons are of registered hotkeys; commits ascend, none is forgotten.
	/// * Totals and counts of stake are those of the stakes, `StakingHotkeys` mirrors them, and
	///   the pallet's account covers all stakes and pots.
	/// * Hyperparameters are within bounds; emission shares are of subnets.
	pub fn do_try_state() -> Checked {
		for netuid in Self::netuids() {
			ensure!(netuid != 0, "subnet 0 exists");
			let (scalars, hyperparams) = Self::hyperparams(netuid);
			let n = SubnetworkN::<T>::get(netuid);
			hyperparams::check(&scalars, &hyperparams, n, T::MaxUids::get())
				.map_err(|_| "a hyperparameter is out of bounds")?;
			Self::try_registry(netuid, n)?;
			Self::try_columns(netuid, n)?;
			Self::try_rows(netuid, n)?;
			Self::try_commits(netuid)?;
		}
		Self::try_ownership()?;
		Self::try_money()
	}

	fn try_registry(netuid: NetUid, n: u16) -> Checked {
		let keys: BTreeMap<_, _> = Keys::<T>::iter_prefix(netuid).collect();
		ensure!(keys.keys().copied().eq(0..n), "keys are not uids 0 to n");
		ensure!(
			Uids::<T>::iter_prefix(netuid).count() == usize::from(n),
			"uids are not n"
		);
		for (uid, hotkey) in keys {
			ensure!(
				Uids::<T>::get(netuid, &hotkey) == Some(uid),
				"keys and uids differ"
			);
			ensure!(
				IsNetworkMember::<T>::get(&hotkey, netuid),
				"a neuron is no member"
			);
			ensure!(Owner::<T>::contains_key(&hotkey), "a neuron has no owner");
			ensure!(
				frame_system::Pallet::<T>::sufficients(&hotkey) > 0,
				"a neuron's account is not kept"
			);
			ensure!(
				BlockAtRegistration::<T>::get(netuid, uid) <= Self::now(),
				"a neuron is from the future"
			);
		}
		Ok(())
	}

	fn try_columns(netuid: NetUid, n: u16) -> Checked {
		let n = usize::from(n);
		let lengths = [
			LastUpdate::<T>::get(netuid).len(),
			Active::<T>::get(netuid).len(),
			ValidatorPermit::<T>::get(netuid).len(),
			Consensus::<T>::get(netuid).len(),
			Incentive::<T>::get(netuid).len(),
			Dividends::<T>::get(netuid).len(),
			ValidatorTrust::<T>::get(netuid).len(),
			StakeWeight::<T>::get(netuid).len(),
			Emission::<T>::get(netuid).len(),
		];
		ensure!(
			lengths.iter().all(|length| *length == n),
			"a column is not of length n"
		);
		Ok(())
	}

	fn try_rows(netuid: NetUid, n: u16) -> Checked {
		let ascends = |row: &BoundedRow<T>| {
			row.iter()
				.zip(row.iter().skip(1))
				.all(|((a, _), (b, _))| a < b)
				&& row.iter().all(|(uid, _)| *uid < n)
		};
		for (uid, row) in Weights::<T>::iter_prefix(netuid) {
			ensure!(uid < n && ascends(&row), "a weights row is out of order");
		}
		for (uid, row) in Bonds::<T>::iter_prefix(netuid) {
			ensure!(uid < n && ascends(&row), "a bonds row is out of order");
			ensure!(
				Self::has_permit(netuid, uid),
				"a neuron without permit has bonds"
			);
		}
		Ok(())
	}

	fn try_commits(netuid: NetUid) -> Checked {
		let epoch = SubnetEpochIndex::<T>::get(netuid);
		for (hotkey, queue) in WeightCommits::<T>::iter_prefix(netuid) {
			ensure!(
				Uids::<T>::contains_key(netuid, &hotkey),
				"a stranger committed"
			);
			ensure!(!queue.is_empty(), "an empty queue of commits is stored");
			ensure!(
				queue
					.iter()
					.all(|commit| commit.reveal_epoch.saturating_add(1) >= epoch),
				"a commit was forgotten"
			);
			ensure!(
				queue
					.iter()
					.zip(queue.iter().skip(1))
					.all(|(a, b)| a.block <= b.block),
				"commits are out of order"
			);
		}
		for hotkey in LastReveal::<T>::iter_key_prefix(netuid) {
			ensure!(
				Uids::<T>::contains_key(netuid, &hotkey),
				"a stranger revealed"
			);
		}
		for hotkey in LastVouches::<T>::iter_key_prefix(netuid) {
			ensure!(
				Uids::<T>::contains_key(netuid, &hotkey),
				"a stranger vouches"
			);
		}
		for hotkey in Axons::<T>::iter_key_prefix(netuid) {
			ensure!(
				Uids::<T>::contains_key(netuid, &hotkey),
				"a stranger serves"
			);
		}
		for hotkey in Models::<T>::iter_key_prefix(netuid) {
			ensure!(
				Uids::<T>::contains_key(netuid, &hotkey),
				"a stranger has a model"
			);
		}
		Ok(())
	}

	fn try_ownership() -> Checked {
		for (hotkey, coldkey) in Owner::<T>::iter() {
			ensure!(
				OwnedHotkeys::<T>::get(&coldkey).contains(&hotkey),
				"a hotkey is not owned"
			);
		}
		let owned: usize = OwnedHotkeys::<T>::iter()
			.map(|(_, hotkeys)| hotkeys.len())
			.sum();
		ensure!(
			owned == Owner::<T>::iter().count(),
			"a coldkey owns too much"
		);
		for (hotkey, netuid, is_member) in IsNetworkMember::<T>::iter() {
			ensure!(
				is_member == Uids::<T>::contains_key(netuid, &hotkey),
				"a member is no neuron"
			);
		}
		Ok(())
	}

	fn try_money() -> Checked {
		let mut totals = BTreeMap::<(T::AccountId, NetUid), (u64, u32)>::new();
		let mut positions = 0usize;
		for ((netuid, hotkey, coldkey), stake_rao) in Stake::<T>::iter() {
			ensure!(stake_rao > 0, "an empty stake is stored");
			ensure!(
				StakingHotkeys::<T>::contains_key(&coldkey, (netuid, hotkey.clone())),
				"a stake is not indexed"
			);
			let is_nominator = Owner::<T>::get(&hotkey) != Some(coldkey);
			let (total_rao, nominators) = totals.entry((hotkey, netuid)).or_default();
			*total_rao = total_rao.saturating_add(stake_rao);
			*nominators = nominators.saturating_add(is_nominator.into());
			positions = positions.saturating_add(1);
		}
		ensure!(
			StakingHotkeys::<T>::iter().count() == positions,
			"an index has no stake"
		);
		ensure!(
			TotalHotkeyAlpha::<T>::iter().count() == totals.len(),
			"a total has no stake"
		);
		let mut owed_rao = 0u64;
		for ((hotkey, netuid), (total_rao, nominators)) in totals {
			ensure!(
				TotalHotkeyAlpha::<T>::get(&hotkey, netuid) == total_rao,
				"a hotkey's total is wrong"
			);
			ensure!(
				NominatorCount::<T>::get(&hotkey, netuid) == nominators,
				"nominators are miscounted"
			);
			ensure!(
				nominators <= T::MaxNominators::get(),
				"a hotkey has too many nominators"
			);
			owed_rao = owed_rao.saturating_add(total_rao);
		}
		ensure!(
			TotalStake::<T>::get() == owed_rao,
			"the total stake is wrong"
		);
		let pots: Vec<_> = PendingEmission::<T>::iter()
			.chain(PendingOwnerCut::<T>::iter())
			.collect();
		for (netuid, pot_rao) in pots {
			ensure!(NetworksAdded::<T>::get(netuid), "a pot has no subnet");
			owed_rao = owed_rao.saturating_add(pot_rao);
		}
		// More only by what strangers sent since the block began.
		ensure!(
			T::Currency::total_balance(&Self::account_id()) >= owed_rao,
			"the account does not cover stakes and pots"
		);
		for (netuid, _) in EmissionShares::<T>::get() {
			ensure!(NetworksAdded::<T>::get(netuid), "a share has no subnet");
		}
		Ok(())
	}
}
