//! Random subnets.

use proptest::{collection::vec, option, prelude::*};
use yuma::{epoch, Neuron, Outcome, Params, Row};

#[derive(Clone, Debug)]
pub struct Subnet {
	pub params: Params,
	pub neurons: Vec<Neuron>,
	pub weights: Vec<Row>,
	pub bonds: Vec<Row>,
	pub emission_rao: u64,
}

impl Subnet {
	pub fn run(&self) -> Outcome {
		epoch(
			&self.params,
			&self.neurons,
			&self.weights,
			&self.bonds,
			self.emission_rao,
		)
	}

	pub fn n(&self) -> usize {
		self.neurons.len()
	}
}

/// Plausible subnets of up to 11 uids: stakes of every size, equal ones too, some inactive, some
/// without permit, some registered after votes on them, sparse rows with zeros, every bond mode.
pub fn subnets() -> impl Strategy<Value = Subnet> {
	// Among huge stakes tiny ones decide nothing, so some subnets have tiny ones only.
	let most_rao = prop_oneof![Just(4), Just(1_000_000_000_000), Just(u64::MAX)];
	(1usize..12, most_rao).prop_flat_map(|(n, most_rao)| {
		let uids = n as u16;
		(
			params(uids),
			vec(neurons(most_rao), n),
			vec(rows(uids), n),
			vec(rows(uids), n),
			emissions(),
		)
			.prop_map(|(params, neurons, weights, bonds, emission_rao)| Subnet {
				params,
				neurons,
				weights,
				bonds,
				emission_rao,
			})
	})
}

fn params(n: u16) -> impl Strategy<Value = Params> {
	let bond_rules = (any::<bool>(), any::<bool>(), 0u64..=1_000_000, penalties());
	let alphas = (any::<u16>(), any::<u16>(), -2_000i16..5_000);
	let limits = (0..=n, 0u64..8, 0u64..3, option::of(0..n));
	let time = (0u16..8, prop_oneof![Just(0), 990u64..1_000]);
	(
		bond_rules,
		alphas,
		limits,
		time,
		majorities(),
		any::<bool>(),
	)
		.prop_map(
			|(bond_rules, alphas, limits, time, kappa, commit_reveal)| Params {
				block: 1_000,
				tempo: time.0,
				last_step: time.1,
				kappa,
				bonds_moving_average: bond_rules.2,
				bonds_penalty: bond_rules.3,
				yuma3: bond_rules.0,
				liquid_alpha: bond_rules.1,
				alpha_low: alphas.0.min(alphas.1),
				alpha_high: alphas.0.max(alphas.1),
				alpha_sigmoid_steepness: alphas.2,
				max_validators: limits.0,
				activity_cutoff_blocks: limits.1,
				stake_threshold_rao: limits.2,
				owner_uid: limits.3,
				commit_reveal,
			},
		)
}

/// A third and two fifths too: shares that equal stakes reach to the bit.
fn majorities() -> impl Strategy<Value = u16> {
	prop_oneof![
		Just(0),
		Just(u16::MAX),
		Just(21_845),
		Just(26_214),
		any::<u16>()
	]
}

fn penalties() -> impl Strategy<Value = u16> {
	prop_oneof![Just(0), Just(u16::MAX), any::<u16>()]
}

fn emissions() -> impl Strategy<Value = u64> {
	prop_oneof![0u64..1_000, 0u64..=1_000_000_000_000, any::<u64>()]
}

fn neurons(most_rao: u64) -> impl Strategy<Value = Neuron> {
	let stake = prop_oneof![Just(0), 1u64..5, 0..=most_rao];
	let registered = prop_oneof![Just(0), 990u64..1_000];
	let commit = prop_oneof![Just(u64::MAX), 990u64..1_000];
	(
		stake,
		994u64..=1_000,
		registered,
		prop::bool::weighted(0.7),
		commit,
	)
		.prop_map(
			|(stake_rao, last_update, registered_at, permit, commit_block)| Neuron {
				stake_rao,
				last_update,
				registered_at,
				permit,
				commit_block,
				vouches_for: Vec::new(),
			},
		)
}

/// Sorted rows over `n` uids.
fn rows(n: u16) -> impl Strategy<Value = Row> {
	let values = prop_oneof![Just(0), Just(u16::MAX), 0u16..4, any::<u16>()];
	vec(option::weighted(0.6, values), usize::from(n)).prop_map(|values| {
		(0..)
			.zip(values)
			.filter_map(|(j, value)| value.map(|value| (j, value)))
			.collect()
	})
}
