//! Read-only views for runtime APIs.

use crate::*;
use alloc::vec::Vec;
use frame_support::traits::fungible::Inspect;

impl<T: Config> Pallet<T> {
	/// One neuron with everything known about it.
	pub fn neuron(netuid: NetUid, uid: Uid) -> Option<NeuronRecord<T::AccountId>> {
		Columns::<T>::load(netuid).neuron(netuid, uid)
	}

	/// All neurons of a subnet, by uid.
	pub fn neurons(netuid: NetUid) -> Vec<NeuronRecord<T::AccountId>> {
		let columns = Columns::<T>::load(netuid);
		(0..SubnetworkN::<T>::get(netuid))
			.filter_map(|uid| columns.neuron(netuid, uid))
			.collect()
	}

	/// What a subnet gets of a block's emission, in rao, the owner's cut included.
	pub fn subnet_emission_rao(netuid: NetUid) -> u64 {
		let emission_rao = block_emission_rao(T::Currency::total_issuance());
		let parts = Self::split(&Self::netuids(), emission_rao);
		let own = parts.into_iter().find(|(other, _)| *other == netuid);
		own.map_or(0, |(_, rao)| rao)
	}

	/// Where and on whom a coldkey has stake.
	pub fn stake_positions(coldkey: &T::AccountId) -> Vec<StakePosition<T::AccountId>> {
		StakingHotkeys::<T>::iter_key_prefix(coldkey)
			.map(|(netuid, hotkey)| Self::stake_position(&hotkey, coldkey, netuid))
			.collect()
	}

	/// A coldkey's stake on one hotkey in one subnet; it may be 0.
	pub fn stake_position(
		hotkey: &T::AccountId,
		coldkey: &T::AccountId,
		netuid: NetUid,
	) -> StakePosition<T::AccountId> {
		StakePosition {
			coldkey: coldkey.clone(),
			hotkey: hotkey.clone(),
			netuid,
			stake_rao: Stake::<T>::get((netuid, hotkey, coldkey)),
			is_registered: Uids::<T>::contains_key(netuid, hotkey),
		}
	}

	/// The block from which a neuron may vote again, or commit to: the next one if there is no
	/// rate limit, so that free votes of one neuron cannot fill a block.
	pub fn weights_allowed_at(netuid: NetUid, uid: Uid) -> u64 {
		match LastUpdate::<T>::get(netuid)
			.get(usize::from(uid))
			.copied()
			.unwrap_or(0)
		{
			0 => 0,
			last => last.saturating_add(WeightsSetRateLimit::<T>::get(netuid).max(1)),
		}
	}
}

/// The columns of a subnet, read once for all its neurons.
struct Columns<T: Config> {
	last_update: Column<T, u64>,
	active: Column<T, bool>,
	permit: Column<T, bool>,
	emission: Column<T, u64>,
	stake_weight: Column<T, u16>,
	consensus: Column<T, u16>,
	incentive: Column<T, u16>,
	dividends: Column<T, u16>,
	validator_trust: Column<T, u16>,
}

impl<T: Config> Columns<T> {
	fn load(netuid: NetUid) -> Self {
		Self {
			last_update: LastUpdate::<T>::get(netuid),
			active: Active::<T>::get(netuid),
			permit: ValidatorPermit::<T>::get(netuid),
			emission: Emission::<T>::get(netuid),
			stake_weight: StakeWeight::<T>::get(netuid),
			consensus: Consensus::<T>::get(netuid),
			incentive: Incentive::<T>::get(netuid),
			dividends: Dividends::<T>::get(netuid),
			validator_trust: ValidatorTrust::<T>::get(netuid),
		}
	}

	fn neuron(&self, netuid: NetUid, uid: Uid) -> Option<NeuronRecord<T::AccountId>> {
		let hotkey = Keys::<T>::get(netuid, uid)?;
		Some(NeuronRecord {
			uid,
			coldkey: Owner::<T>::get(&hotkey)?,
			axon: Axons::<T>::get(netuid, &hotkey),
			registered_at: BlockAtRegistration::<T>::get(netuid, uid),
			last_update: at(&self.last_update, uid),
			active: at(&self.active, uid),
			validator_permit: at(&self.permit, uid),
			stake_rao: TotalHotkeyAlpha::<T>::get(&hotkey, netuid),
			emission_rao: at(&self.emission, uid),
			stake_weight: at(&self.stake_weight, uid),
			consensus: at(&self.consensus, uid),
			incentive: at(&self.incentive, uid),
			dividends: at(&self.dividends, uid),
			validator_trust: at(&self.validator_trust, uid),
			hotkey,
		})
	}
}

fn at<V: Copy + Default>(column: &[V], uid: Uid) -> V {
	column.get(usize::from(uid)).copied().unwrap_or_default()
}
