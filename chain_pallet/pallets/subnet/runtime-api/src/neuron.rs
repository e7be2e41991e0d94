use alloc::{vec, vec::Vec};
use codec::{Decode, Encode};
use pallet_subnet::{AxonInfo, Bonds, Config, NetUid, NeuronRecord, Pallet, Row, Uid, Weights};
use polkadot_sdk::sp_runtime::AccountId32;
use scale_info::TypeInfo;

/// Two structs that share all fields but `rows`: clients want one flat record of each.
macro_rules! neuron_info {
	($(#[$doc:meta])* $name:ident { $($(#[$row_doc:meta])* $row:ident,)* }) => {
		$(#[$doc])*
		#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
		pub struct $name {
			/// Key that signs messages and votes.
			pub hotkey: AccountId32,
			/// Key that owns the hotkey and its earnings.
			pub coldkey: AccountId32,
			/// Slot.
			pub uid: Uid,
			/// Subnet.
			pub netuid: NetUid,
			/// Voted recently enough at the last epoch.
			pub active: bool,
			/// Where it serves; all zero if it does not.
			pub axon_info: AxonInfo,
			/// One entry: the owner, with all stake on the hotkey, whoever staked it.
			pub stake: Vec<(AccountId32, u64)>,
			/// Paid at the last epoch.
			pub emission: u64,
			/// Share of the miners' emission.
			pub incentive: u16,
			/// Stake-weighted median of the weights given to it.
			pub consensus: u16,
			/// Part of its own weights that consensus kept.
			pub validator_trust: u16,
			/// Share of the validators' emission.
			pub dividends: u16,
			/// Block of its last vote, or of its registration.
			pub last_update: u64,
			/// May vote.
			pub validator_permit: bool,
			$($(#[$row_doc])* pub $row: Row,)*
		}

		impl $name {
			fn new(netuid: NetUid, neuron: NeuronRecord<AccountId32>, $($row: Row,)*) -> Self {
				Self {
					stake: vec![(neuron.coldkey.clone(), neuron.stake_rao)],
					hotkey: neuron.hotkey,
					coldkey: neuron.coldkey,
					uid: neuron.uid,
					netuid,
					active: neuron.active,
					axon_info: axon_or_zeros(neuron.axon),
					emission: neuron.emission_rao,
					incentive: neuron.incentive,
					consensus: neuron.consensus,
					validator_trust: neuron.validator_trust,
					dividends: neuron.dividends,
					last_update: neuron.last_update,
					validator_permit: neuron.validator_permit,
					$($row,)*
				}
			}
		}
	};
}

neuron_info! {
	/// A neuron with its weights and bonds.
	NeuronInfo {
		/// Its votes, (uid, weight).
		weights,
		/// Its bonds, (uid, bond).
		bonds,
	}
}

neuron_info! {
	/// A neuron without its weights and bonds.
	NeuronInfoLite {}
}

impl NeuronInfo {
	/// One neuron of a subnet.
	pub fn of<T: Config<AccountId = AccountId32>>(netuid: NetUid, uid: Uid) -> Option<Self> {
		Pallet::<T>::neuron(netuid, uid).map(|neuron| Self::with_rows::<T>(netuid, neuron))
	}

	/// All neurons of a subnet, by uid.
	pub fn all<T: Config<AccountId = AccountId32>>(netuid: NetUid) -> Vec<Self> {
		let neurons = Pallet::<T>::neurons(netuid).into_iter();
		neurons
			.map(|neuron| Self::with_rows::<T>(netuid, neuron))
			.collect()
	}

	fn with_rows<T: Config<AccountId = AccountId32>>(
		netuid: NetUid,
		neuron: NeuronRecord<AccountId32>,
	) -> Self {
		let weights = Weights::<T>::get(netuid, neuron.uid).into_inner();
		let bonds = Bonds::<T>::get(netuid, neuron.uid).into_inner();
		Self::new(netuid, neuron, weights, bonds)
	}
}

impl NeuronInfoLite {
	/// One neuron of a subnet.
	pub fn of<T: Config<AccountId = AccountId32>>(netuid: NetUid, uid: Uid) -> Option<Self> {
		Pallet::<T>::neuron(netuid, uid).map(|neuron| Self::new(netuid, neuron))
	}

	/// All neurons of a subnet, by uid.
	pub fn all<T: Config<AccountId = AccountId32>>(netuid: NetUid) -> Vec<Self> {
		let neurons = Pallet::<T>::neurons(netuid).into_iter();
		neurons.map(|neuron| Self::new(netuid, neuron)).collect()
	}
}

/// Clients expect an axon of every neuron.
pub(crate) fn axon_or_zeros(axon: Option<AxonInfo>) -> AxonInfo {
	axon.unwrap_or(AxonInfo {
		block: 0,
		version: 0,
		ip: 0,
		port: 0,
		ip_type: 0,
		protocol: 0,
		placeholder1: 0,
		placeholder2: 0,
	})
}
