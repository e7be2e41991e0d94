use crate::neuron::axon_or_zeros;
use alloc::vec::Vec;
use codec::{Decode, Encode};
use pallet_subnet::{
	AxonInfo, BlocksSinceLastStep, Config, LastMechansimStepBlock, MaxWeightsLimit, NetUid,
	NetworkRegisteredAt, NetworksAdded, NeuronRecord, Pallet, PendingEmission, PendingOwnerCut,
	SubnetIdentitiesV3, SubnetOwner, SubnetOwnerHotkey, TokenSymbol,
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
	/// Paid to it per block.
	pub subnet_emission: u64,
	/// The same, for it is paid as stake.
	pub alpha_out_emission: u64,
	/// What waits for its next epoch, the owner's part included.
	pub pending_alpha_emission: u64,
	/// Stake on its neurons.
	pub alpha_out: u64,
	/// 0, as all that concerns pools and root: there are none.
	pub tao_in: u64,
	/// 0.
	pub alpha_in: u64,
	/// 0.
	pub tao_in_emission: u64,
	/// 0.
	pub alpha_in_emission: u64,
	/// 0.
	pub pending_root_emission: u64,
	/// 0.
	pub subnet_volume: u128,
	/// Whether anyone may register.
	pub registration_allowed: bool,
	/// Price of a registration now.
	pub burn: u64,
	/// It falls no lower.
	pub min_burn: u64,
	/// It rises no higher.
	pub max_burn: u64,
	/// Whether work may take the price's place.
	pub pow_registration_allowed: bool,
	/// Difficulty of that work now.
	pub difficulty: u64,
	/// It falls no lower.
	pub min_difficulty: u64,
	/// It rises no higher.
	pub max_difficulty: u64,
	/// Most registrations by work in one block.
	pub max_regs_per_block: u16,
	/// 0: the price follows every registration.
	pub adjustment_interval: u16,
	/// 0.
	pub adjustment_alpha: u64,
	/// 0.
	pub target_regs_per_interval: u16,
	/// Blocks for which a new neuron is spared.
	pub immunity_period: u16,
	/// Blocks between two publications of an axon.
	pub serving_rate_limit: u64,
	/// 0: unused.
	pub rho: u16,
	/// Stake majority of consensus.
	pub kappa: u16,
	/// Least entries of a vote.
	pub min_allowed_weights: u16,
	/// Largest share of one weight.
	pub max_weights_limit: u16,
	/// Oldest version key accepted with a vote.
	pub weights_version: u64,
	/// Blocks between two votes of one neuron.
	pub weights_rate_limit: u64,
	/// Blocks without a vote after which a neuron is inactive.
	pub activity_cutoff: u64,
	/// How many neurons get a validator permit.
	pub max_validators: u16,
	/// Whether bonds follow votes at a rate of their own.
	pub liquid_alpha_enabled: bool,
	/// Lowest liquid bond rate.
	pub alpha_low: u16,
	/// Highest liquid bond rate.
	pub alpha_high: u16,
	/// Millionths of a bond kept per epoch.
	pub bonds_moving_avg: u64,
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
		let (scalars, hyperparams) = Pallet::<T>::hyperparams(netuid);
		let emission = Pallet::<T>::subnet_emission_rao(netuid);
		let pending = PendingEmission::<T>::get(netuid);
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
			subnet_emission: emission,
			alpha_out_emission: emission,
			pending_alpha_emission: pending.saturating_add(PendingOwnerCut::<T>::get(netuid)),
			alpha_out: stake.iter().fold(0, |sum, rao| sum.saturating_add(*rao)),
			tao_in: 0,
			alpha_in: 0,
			tao_in_emission: 0,
			alpha_in_emission: 0,
			pending_root_emission: 0,
			subnet_volume: 0,
			registration_allowed: hyperparams.registration_allowed,
			burn: scalars.burn,
			min_burn: hyperparams.min_burn,
			max_burn: hyperparams.max_burn,
			pow_registration_allowed: scalars.network_pow_registration_allowed,
			difficulty: scalars.difficulty,
			min_difficulty: scalars.min_difficulty,
			max_difficulty: scalars.max_difficulty,
			max_regs_per_block: scalars.max_registrations_per_block,
			adjustment_interval: 0,
			adjustment_alpha: 0,
			target_regs_per_interval: 0,
			immunity_period: hyperparams.immunity_period,
			serving_rate_limit: hyperparams.serving_rate_limit,
			rho: 0,
			kappa: hyperparams.kappa,
			min_allowed_weights: scalars.min_allowed_weights,
			max_weights_limit: MaxWeightsLimit::<T>::get(netuid),
			weights_version: hyperparams.weights_version_key,
			weights_rate_limit: scalars.weights_set_rate_limit,
			activity_cutoff: hyperparams.activity_cutoff_blocks(scalars.tempo.into()),
			max_validators: hyperparams.max_allowed_validators,
			liquid_alpha_enabled: hyperparams.liquid_alpha,
			alpha_low: hyperparams.alpha_low,
			alpha_high: hyperparams.alpha_high,
			bonds_moving_avg: hyperparams.bonds_moving_average,
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
