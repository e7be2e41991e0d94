//! Subnets at genesis.

use crate::*;
use alloc::{string::String, vec::Vec};
use frame_support::traits::Get;
use serde::{Deserialize, Serialize};

/// A subnet at genesis. In JSON every field but `netuid` and `owner` may be absent:
///
/// ```json
/// {
///     "netuid": 1,
///     "owner": "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY",
///     "name": "first",
///     "symbol": "α",
///     "emissionShare": 1,
///     "hyperparams": { "tempo": 30, "weightsSetRateLimit": 0, "burnHalfLife": 30 }
/// }
/// ```
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GenesisSubnet<AccountId> {
	/// Number of the subnet, at least 1.
	pub netuid: NetUid,
	/// Coldkey that owns it.
	pub owner: AccountId,
	/// Hotkey of the owner, not yet registered; the coldkey itself when absent.
	#[serde(default = "none")]
	pub owner_hotkey: Option<AccountId>,
	/// Name, at most 64 bytes of UTF-8.
	#[serde(default)]
	pub name: String,
	/// Symbol of its token, at most 64 bytes of UTF-8.
	#[serde(default)]
	pub symbol: String,
	/// Relative share in the emission. As soon as one subnet has it, absent is 0.
	#[serde(default)]
	pub emission_share: Option<u16>,
	/// What differs from the defaults.
	#[serde(default)]
	pub hyperparams: HyperparamsUpdate,
}

/// Limits of the whole chain at genesis. Absent ones keep production's values.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct GenesisLimits {
	/// See [`TxDelegateTakeRateLimit`].
	pub tx_delegate_take_rate_limit: Option<u64>,
	/// See [`AdminFreezeWindow`].
	pub admin_freeze_window: Option<u16>,
	/// See [`OwnerHyperparamRateLimit`].
	pub owner_hyperparam_rate_limit: Option<u16>,
	/// See [`MinOwnerTempo`].
	pub min_owner_tempo: Option<u16>,
	/// See [`MinOwnerUids`].
	pub min_owner_uids: Option<u16>,
	/// See [`TrimRateLimit`].
	pub trim_rate_limit: Option<u64>,
	/// See [`NetworkMinLockCost`].
	pub network_min_lock_cost: Option<u64>,
	/// See [`NetworkLockReductionInterval`].
	pub network_lock_reduction_interval: Option<u64>,
	/// See [`SubnetLimit`].
	pub subnet_limit: Option<u16>,
}

impl GenesisLimits {
	fn build<T: Config>(&self) {
		self.tx_delegate_take_rate_limit
			.iter()
			.for_each(TxDelegateTakeRateLimit::<T>::put);
		self.admin_freeze_window
			.iter()
			.for_each(AdminFreezeWindow::<T>::put);
		self.owner_hyperparam_rate_limit
			.iter()
			.for_each(OwnerHyperparamRateLimit::<T>::put);
		self.min_owner_tempo
			.iter()
			.for_each(MinOwnerTempo::<T>::put);
		self.min_owner_uids.iter().for_each(MinOwnerUids::<T>::put);
		self.trim_rate_limit
			.iter()
			.for_each(TrimRateLimit::<T>::put);
		self.network_min_lock_cost
			.iter()
			.for_each(NetworkMinLockCost::<T>::put);
		self.network_lock_reduction_interval
			.iter()
			.for_each(NetworkLockReductionInterval::<T>::put);
		self.subnet_limit.iter().for_each(SubnetLimit::<T>::put);
	}
}

// `#[serde(default)]` on a generic field would ask for `AccountId: Default`.
fn none<AccountId>() -> Option<AccountId> {
	None
}

impl<T: Config> Pallet<T> {
	/// Panics on an impossible genesis: a chain that starts wrong must not start.
	#[allow(clippy::expect_used)]
	pub(crate) fn build_genesis(genesis: &GenesisConfig<T>) {
		AllowPrivateAddresses::<T>::put(genesis.allow_private_addresses);
		if let Some(most) = genesis.max_epochs_per_block {
			assert!(most > 0, "maxEpochsPerBlock is at least 1");
			MaxEpochsPerBlock::<T>::put(most);
		}
		genesis.limits.build::<T>();
		for subnet in &genesis.subnets {
			Self::build_subnet(subnet);
		}
		assert!(
			Self::netuids().len() as u32 <= T::MaxSubnets::get(),
			"too many subnets"
		);
		let mut shares: Vec<_> = genesis
			.subnets
			.iter()
			.filter_map(|subnet| Some((subnet.netuid, subnet.emission_share?)))
			.collect();
		shares.sort_unstable();
		let shares = shares.try_into().expect("not more shares than subnets");
		Self::store_emission_shares(shares).expect("emission shares are of subnets and not all 0");
	}

	#[allow(clippy::expect_used, clippy::panic)]
	pub(crate) fn build_subnet(subnet: &GenesisSubnet<T::AccountId>) {
		let netuid = subnet.netuid;
		assert!(netuid != 0, "netuid 0 is reserved");
		assert!(
			!NetworksAdded::<T>::get(netuid),
			"netuid {netuid} occurs twice"
		);
		let label = |text: &String| -> Label {
			text.as_bytes()
				.to_vec()
				.try_into()
				.expect("name and symbol have at most 64 bytes")
		};
		SubnetIdentitiesV3::<T>::insert(
			netuid,
			SubnetIdentity {
				subnet_name: label(&subnet.name),
			},
		);
		TokenSymbol::<T>::insert(netuid, label(&subnet.symbol));
		let hotkey = subnet.owner_hotkey.as_ref().unwrap_or(&subnet.owner);
		Self::associate(&subnet.owner, hotkey).expect("the owner's hotkey is the owner's");
		if let Err(name) = Self::add_subnet(netuid, &subnet.owner, hotkey, &subnet.hyperparams) {
			panic!("hyperparameter {name:?} of subnet {netuid} is out of bounds");
		}
		// Spread the subnets' first epochs, and so all later ones.
		let tempo = u64::from(Tempo::<T>::get(netuid));
		let lead = u64::from(netuid).checked_rem(tempo).unwrap_or(0);
		PendingEpochAt::<T>::insert(netuid, tempo.saturating_sub(lead));
	}
}
