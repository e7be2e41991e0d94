use crate::neuron::axon_or_zeros;
use alloc::vec::Vec;
use codec::{Decode, Encode};
use pallet_subnet::{
	AxonInfo, BlocksSinceLastStep, Config, LastMechansimStepBlock, NetUid, NetworkRegisteredAt,
	NetworksAdded, NeuronRecord, Pallet, SubnetIdentitiesV3, SubnetOwner, SubnetOwnerHotkey,
	TokenSymbol,
};
use polkadot_sdk::sp_runtime::AccountId32;
use scale_info::TypeInfo;

/// A subnet with all its neurons; vectors have one element per uid.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub struct Metagraph {
	/// Number of the subnet.
	pub netuid: NetUid,
	/// Name, UTF-8.
	pub name: Vec<u8>,
	/// Symbol of its token, UTF-8.
	pub symbol: Vec<u8>,
	/// Block in which it was created.
	pub network_registered_at: u64,
	/// Hotkey of its owner.
	pub owner_hotkey: AccountId32,
	/// Coldkey of its owner.
	pub owner_coldkey: AccountId32,
	/// Block of this answer.
	pub block: u64,
	/// Blocks per epoch.
	pub tempo: u16,
	/// Block of the last epoch that ran; 0 is never.
	pub last_step: u64,
	/// Blocks since then.
	pub blocks_since_last_step: u64,
	/// Neurons.
	pub num_uids: u16,
	/// Slots.
	pub max_uids: u16,
	/// Price of a registration now.
	pub burn: u64,
	/// Whether weights go through commit and reveal.
	pub commit_reveal_weights_enabled: bool,
	/// Epochs from commit to reveal.
	pub commit_reveal_period: u64,
	/// Hotkeys.
	pub hotkeys: Vec<AccountId32>,
	/// Their owners.
	pub coldkeys: Vec<AccountId32>,
	/// Where they serve; all zero for those that do not.
	pub axons: Vec<AxonInfo>,
	/// Whether they voted recently enough at the last epoch.
	pub active: Vec<bool>,
	/// Whether they may vote.
	pub validator_permit: Vec<bool>,
	/// Blocks of their last votes, or of their registrations.
	pub last_update: Vec<u64>,
	/// Paid at the last epoch.
	pub emission: Vec<u64>,
	/// Shares of the validators' emission.
	pub dividends: Vec<u16>,
	/// Shares of the miners' emission.
	pub incentives: Vec<u16>,
	/// Stake-weighted medians of the weights given to them.
	pub consensus: Vec<u16>,
	/// Parts of their own weights that consensus kept.
	pub validator_trust: Vec<u16>,
	/// Blocks of their registrations.
	pub block_at_registration: Vec<u64>,
	/// Stake on them. The same as `total_stake`: there is one token.
	pub alpha_stake: Vec<u64>,
	/// Stake on them.
	pub total_stake: Vec<u64>,
}

impl Metagraph {
	/// The metagraph of a subnet, if it exists.
	pub fn of<T: Config<AccountId = AccountId32>>(netuid: NetUid) -> Option<Self> {
		if !NetworksAdded::<T>::get(netuid) {
			return None;
		}
		let (scalars, _) = Pallet::<T>::hyperparams(netuid);
		let neurons = Pallet::<T>::neurons(netuid);
		let stake = column(&neurons, |neuron| neuron.stake_rao);
		let name = SubnetIdentitiesV3::<T>::get(netuid).map(|identity| identity.subnet_name);
		Some(Self {
			netuid,
			name: name.unwrap_or_default().into_inner(),
			symbol: TokenSymbol::<T>::get(netuid).into_inner(),
			network_registered_at: NetworkRegisteredAt::<T>::get(netuid),
			owner_hotkey: SubnetOwnerHotkey::<T>::get(netuid)?,
			owner_coldkey: SubnetOwner::<T>::get(netuid)?,
			block: Pallet::<T>::now(),
			tempo: scalars.tempo,
			last_step: LastMechansimStepBlock::<T>::get(netuid),
			blocks_since_last_step: BlocksSinceLastStep::<T>::get(netuid),
			num_uids: neurons.len().try_into().unwrap_or(u16::MAX),
			max_uids: scalars.max_allowed_uids,
			burn: scalars.burn,
			commit_reveal_weights_enabled: scalars.commit_reveal_weights_enabled,
			commit_reveal_period: scalars.reveal_period_epochs,
			hotkeys: column(&neurons, |neuron| neuron.hotkey.clone()),
			coldkeys: column(&neurons, |neuron| neuron.coldkey.clone()),
			axons: column(&neurons, |neuron| axon_or_zeros(neuron.axon.clone())),
			active: column(&neurons, |neuron| neuron.active),
			validator_permit: column(&neurons, |neuron| neuron.validator_permit),
			last_update: column(&neurons, |neuron| neuron.last_update),
			emission: column(&neurons, |neuron| neuron.emission_rao),
			dividends: column(&neurons, |neuron| neuron.dividends),
			incentives: column(&neurons, |neuron| neuron.incentive),
			consensus: column(&neurons, |neuron| neuron.consensus),
			validator_trust: column(&neurons, |neuron| neuron.validator_trust),
			block_at_registration: column(&neurons, |neuron| neuron.registered_at),
			alpha_stake: stake.clone(),
			total_stake: stake,
		})
	}
}

fn column<V>(
	neurons: &[NeuronRecord<AccountId32>],
	value: impl Fn(&NeuronRecord<AccountId32>) -> V,
) -> Vec<V> {
	neurons.iter().map(value).collect()
}
