use alloc::{vec, vec::Vec};
use codec::{Decode, Encode};
use pallet_subnet::{Config, NetUid, NetworksAdded, Pallet};
use polkadot_sdk::sp_runtime::AccountId32;
use scale_info::TypeInfo;

/// A hyperparameter. Clients show whatever the list contains.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub struct NamedHyperparam {
	/// Its name, ASCII.
	pub name: Vec<u8>,
	/// Its value.
	pub value: HyperparamValue,
}

/// The value of a hyperparameter.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub enum HyperparamValue {
	/// A switch.
	Bool(bool),
	/// A number, in the unit of the hyperparameter.
	U64(u64),
	/// A signed whole number.
	I32F32(I32F32),
	/// A name.
	Text(Vec<u8>),
}

/// A fixed-point number with 32 fractional bits.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub struct I32F32 {
	/// The number times 2³².
	pub bits: i64,
}

/// Every hyperparameter of a subnet, if the subnet exists.
///
/// Clients query one storage item for each name they miss. So those of the reference chain that
/// mean nothing here are listed too, with the value that says so.
pub fn hyperparams<T: Config<AccountId = AccountId32>>(
	netuid: NetUid,
) -> Option<Vec<NamedHyperparam>> {
	use HyperparamValue::{Bool, Text, I32F32 as Fixed, U64};
	if !NetworksAdded::<T>::get(netuid) {
		return None;
	}
	let (s, h) = Pallet::<T>::hyperparams(netuid);
	let steepness = I32F32 {
		bits: i64::from(h.alpha_sigmoid_steepness) << 32,
	};
	let listed = vec![
		("tempo", U64(s.tempo.into())),
		("immunity_period", U64(h.immunity_period.into())),
		("min_allowed_weights", U64(s.min_allowed_weights.into())),
		("weights_version", U64(h.weights_version_key)),
		("weights_rate_limit", U64(s.weights_set_rate_limit)),
		(
			"activity_cutoff_factor",
			U64(h.activity_cutoff_factor_milli.into()),
		),
		("max_validators", U64(h.max_allowed_validators.into())),
		("max_allowed_uids", U64(s.max_allowed_uids.into())),
		("min_burn", U64(h.min_burn)),
		("max_burn", U64(h.max_burn)),
		("burn_half_life", U64(h.burn_half_life.into())),
		// In millionths.
		("burn_increase_mult", U64(h.burn_increase_ppm.into())),
		("registration_allowed", Bool(h.registration_allowed)),
		(
			"network_pow_registration_allowed",
			Bool(s.network_pow_registration_allowed),
		),
		("difficulty", U64(s.difficulty)),
		("min_difficulty", U64(s.min_difficulty)),
		("max_difficulty", U64(s.max_difficulty)),
		(
			"max_regs_per_block",
			U64(s.max_registrations_per_block.into()),
		),
		("serving_rate_limit", U64(h.serving_rate_limit)),
		("kappa", U64(h.kappa.into())),
		("bonds_moving_avg", U64(h.bonds_moving_average)),
		("bonds_penalty", U64(h.bonds_penalty.into())),
		("yuma3_enabled", Bool(h.yuma3)),
		("liquid_alpha_enabled", Bool(h.liquid_alpha)),
		("alpha_low", U64(h.alpha_low.into())),
		("alpha_high", U64(h.alpha_high.into())),
		("alpha_sigmoid_steepness", Fixed(steepness)),
		(
			"commit_reveal_weights_enabled",
			Bool(s.commit_reveal_weights_enabled),
		),
		("commit_reveal_period", U64(s.reveal_period_epochs)),
		("owner_cut_enabled", Bool(h.owner_cut > 0)),
		(
			"owner_immune_neuron_limit",
			U64(h.immune_owner_uids_limit.into()),
		),
		("epoch_consensus", Text(b"Yuma".to_vec())),
		("transfers_enabled", Bool(false)),
		("adjustment_alpha", U64(0)),
		("bonds_reset_enabled", Bool(false)),
		("collateral_drain_ratio", U64(0)),
		("collateral_lock_share", U64(0)),
		("min_childkey_take", U64(0)),
		("owner_cut_auto_lock_enabled", Bool(false)),
		("rho", U64(0)),
	];
	let named = |(name, value): (&str, _)| NamedHyperparam {
		name: name.into(),
		value,
	};
	Some(listed.into_iter().map(named).collect())
}
