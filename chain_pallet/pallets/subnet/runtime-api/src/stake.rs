use alloc::{collections::BTreeMap, vec::Vec};
use codec::{Decode, Encode};
use pallet_subnet::{Config, NetUid, NetworksAdded, Pallet, StakePosition};
use polkadot_sdk::sp_runtime::AccountId32;
use scale_info::TypeInfo;

/// One coldkey's stake on one hotkey in one subnet.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub struct StakeInfo {
	/// On whom it is staked.
	pub hotkey: AccountId32,
	/// Who holds it.
	pub coldkey: AccountId32,
	/// Where.
	pub netuid: NetUid,
	/// How much.
	pub stake: u64,
	/// Whether the hotkey has a slot there now.
	pub is_registered: bool,
}

impl From<StakePosition<AccountId32>> for StakeInfo {
	fn from(position: StakePosition<AccountId32>) -> Self {
		Self {
			hotkey: position.hotkey,
			coldkey: position.coldkey,
			netuid: position.netuid,
			stake: position.stake_rao,
			is_registered: position.is_registered,
		}
	}
}

impl StakeInfo {
	/// Everything that `coldkey` has staked.
	pub fn all<T: Config<AccountId = AccountId32>>(coldkey: &AccountId32) -> Vec<Self> {
		Pallet::<T>::stake_positions(coldkey)
			.into_iter()
			.map(Into::into)
			.collect()
	}

	/// What `coldkey` has staked on `hotkey`, which may be 0; none if there is no such subnet.
	pub fn of<T: Config<AccountId = AccountId32>>(
		hotkey: &AccountId32,
		coldkey: &AccountId32,
		netuid: NetUid,
	) -> Option<Self> {
		let exists = NetworksAdded::<T>::get(netuid);
		exists.then(|| Pallet::<T>::stake_position(hotkey, coldkey, netuid).into())
	}
}

/// A coldkey's stake in one subnet. Nothing locks stake, so all of it is available.
#[derive(Clone, Debug, Decode, Default, Encode, Eq, PartialEq, TypeInfo)]
pub struct StakeAvailability {
	/// All of it.
	pub total: u64,
	/// What cannot be withdrawn: 0.
	pub locked: u64,
	/// What can be withdrawn.
	pub available: u64,
}

/// The stake of each coldkey in each of `netuids`, or in all subnets where it has any.
pub fn stake_availability<T: Config<AccountId = AccountId32>>(
	coldkeys: Vec<AccountId32>,
	netuids: Option<Vec<NetUid>>,
) -> BTreeMap<AccountId32, BTreeMap<NetUid, StakeAvailability>> {
	let wanted = |netuid: NetUid| {
		netuids
			.as_ref()
			.is_none_or(|netuids| netuids.contains(&netuid))
	};
	let of_coldkey = |coldkey: AccountId32| {
		let mut by_subnet = BTreeMap::<NetUid, StakeAvailability>::new();
		for position in Pallet::<T>::stake_positions(&coldkey) {
			if wanted(position.netuid) {
				let stake = by_subnet.entry(position.netuid).or_default();
				stake.total = stake.total.saturating_add(position.stake_rao);
				stake.available = stake.total;
			}
		}
		(coldkey, by_subnet)
	};
	coldkeys.into_iter().map(of_coldkey).collect()
}
