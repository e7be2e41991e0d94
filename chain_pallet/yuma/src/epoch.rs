//! One epoch, step by step.

use crate::{
	bonds,
	fixed::Fixed,
	median::column_medians,
	sparse::{self, at, Entries, Matrix},
	vouching::heard_stake,
	Neuron, Outcome, Params, Row,
};
use alloc::{vec, vec::Vec};

/// Runs one epoch of a subnet.
///
/// Row i of `weights` and `bonds` belongs to `neurons[i]`; missing rows are empty. Rows may be
/// garbage: entries beyond the last uid are ignored, of repeated columns the first counts.
pub fn epoch(
	params: &Params,
	neurons: &[Neuron],
	weights: &[Row],
	bonds: &[Row],
	emission_rao: u64,
) -> Outcome {
	let subnet = Subnet { params, neurons };
	let n = neurons.len();
	let active: Vec<bool> = neurons
		.iter()
		.map(|neuron| subnet.is_active(neuron))
		.collect();
	let stake = subnet.stake();
	let permits = subnet.new_permits(&stake);
	let weights = subnet.weights(weights);
	let active_stake = heard_stake(neurons, &weights, subnet.active_stake(&stake, &active));

	let majority = Fixed::from_proportion(params.kappa);
	let consensus = column_medians(&weights, &active_stake, majority, n);
	let clipped = clip(&weights, &consensus);
	let trust = clipped
		.iter()
		.map(|row| sparse::sum(row.iter().map(|(_, weight)| *weight)));
	let trust: Vec<Fixed> = trust.collect();
	let ranks = sparse::fold_columns(&clipped, n, |rank, i, weight| {
		rank.plus(
			active_stake
				.get(i)
				.copied()
				.unwrap_or_default()
				.times(weight),
		)
	});
	let incentive = sparse::normalised(ranks);

	let inputs = bonds::Inputs {
		params,
		weights: penalised(weights, clipped, params.bonds_penalty),
		stored: subnet.bonds(bonds),
		active_stake: &active_stake,
		consensus: &consensus,
		incentive: &incentive,
	};
	let (dividends, mut bonds) = if params.yuma3 {
		bonds::yuma3(inputs)
	} else {
		bonds::classic(inputs)
	};
	// Only validators of the next epoch keep bonds.
	for (row, permit) in bonds.iter_mut().zip(&permits) {
		if !permit {
			row.clear();
		}
	}
	let fallback = if active_stake.iter().all(|s| *s == Fixed::ZERO) {
		&stake
	} else {
		&active_stake
	};
	let shares = Shares::new(&incentive, &dividends, fallback);
	let amounts = |shares: &[Fixed]| shares.iter().map(|s| s.of_amount(emission_rao)).collect();

	Outcome {
		stake_weight: proportions(&stake),
		consensus: proportions(&consensus),
		incentive: proportions(&incentive),
		dividends: proportions(&dividends),
		validator_trust: proportions(&trust),
		active,
		permits,
		server_rao: amounts(&shares.server),
		validator_rao: amounts(&shares.validator),
		emission_rao: amounts(&shares.combined),
		bonds,
	}
}

fn proportions(values: &[Fixed]) -> Vec<u16> {
	values.iter().map(|value| value.to_proportion()).collect()
}

/// What the epoch reads, with the rules of who counts.
struct Subnet<'a> {
	params: &'a Params,
	neurons: &'a [Neuron],
}

impl Subnet<'_> {
	fn is_owner(&self, uid: usize) -> bool {
		self.params.owner_uid.map(usize::from) == Some(uid)
	}

	fn is_active(&self, neuron: &Neuron) -> bool {
		neuron
			.last_update
			.saturating_add(self.params.activity_cutoff_blocks)
			>= self.params.block
	}

	/// The permit that the previous epoch gave; the owner always has one.
	fn had_permit(&self, uid: usize) -> bool {
		self.is_owner(uid) || self.neurons.get(uid).is_some_and(|neuron| neuron.permit)
	}

	/// Shares of the subnet's stake; none below the threshold, except for the owner.
	fn stake(&self) -> Vec<Fixed> {
		let counted = |(uid, neuron): (usize, &Neuron)| {
			let enough = neuron.stake_rao >= self.params.stake_threshold_rao || self.is_owner(uid);
			if enough {
				neuron.stake_rao
			} else {
				0
			}
		};
		let stakes_rao: Vec<u64> = self.neurons.iter().enumerate().map(counted).collect();
		let total_rao = stakes_rao
			.iter()
			.fold(0u128, |sum, rao| sum.saturating_add((*rao).into()));
		stakes_rao
			.into_iter()
			.map(|rao| Fixed::from_share(rao, total_rao))
			.collect()
	}

	/// The `max_validators` largest stakes (of equal ones the higher uids), and the owner.
	fn new_permits(&self, stake: &[Fixed]) -> Vec<bool> {
		let mut permits: Vec<bool> = stake.iter().map(|s| *s != Fixed::ZERO).collect();
		let mut by_stake: Vec<(Fixed, usize)> = stake.iter().copied().zip(0..).collect();
		by_stake.sort_unstable();
		let surplus = stake
			.len()
			.saturating_sub(self.params.max_validators.into());
		for (_, uid) in by_stake.into_iter().take(surplus) {
			if let Some(permit) = permits.get_mut(uid) {
				*permit = false;
			}
		}
		if let Some(permit) = self
			.params
			.owner_uid
			.and_then(|uid| permits.get_mut(usize::from(uid)))
		{
			*permit = true;
		}
		permits
	}

	/// Shares of the stake whose votes count now.
	fn active_stake(&self, stake: &[Fixed], active: &[bool]) -> Vec<Fixed> {
		let votes = |(uid, (stake, active)): (usize, (&Fixed, &bool))| {
			if *active && self.had_permit(uid) {
				*stake
			} else {
				Fixed::ZERO
			}
		};
		sparse::normalised(stake.iter().zip(active).enumerate().map(votes).collect())
	}

	/// Weight rows that count, each of sum 1 or 0.
	fn weights(&self, rows: &[Row]) -> Matrix {
		let row = |(uid, voter): (usize, &Neuron)| -> Entries {
			if !self.had_permit(uid) {
				return Vec::new();
			}
			let counts = |(j, _): &(u16, u16)| {
				let to_self = usize::from(*j) == uid && !self.is_owner(uid);
				!to_self
					&& self
						.neurons
						.get(usize::from(*j))
						.is_some_and(|target| self.meant(voter, target))
			};
			let row = rows.get(uid).map(Vec::as_slice).unwrap_or_default();
			let entries = sparse::ascending(row).into_iter().filter(counts);
			entries
				.map(|(j, value)| (j, Fixed::from_int(value.into())))
				.collect()
		};
		sparse::rows_normalised(self.neurons.iter().enumerate().map(row).collect())
	}

	/// Whether a vote was given (and committed) after its target took the uid.
	fn meant(&self, voter: &Neuron, target: &Neuron) -> bool {
		let committed = !self.params.commit_reveal || voter.commit_block >= target.registered_at;
		voter.last_update > target.registered_at && committed
	}

	/// Stored bond rows without bonds on neurons that took their uid since the previous epoch.
	fn bonds(&self, rows: &[Row]) -> Vec<Row> {
		let params = self.params;
		let previous_block = match params.last_step {
			0 => params.block.saturating_sub(params.tempo.into()),
			last_step => last_step.saturating_add(1),
		};
		let counts = |(j, _): &(u16, u16)| {
			let target = self.neurons.get(usize::from(*j));
			target.is_some_and(|target| target.registered_at < previous_block)
		};
		let mut bonds = vec![Row::new(); self.neurons.len()];
		for (kept, row) in bonds.iter_mut().zip(rows) {
			*kept = sparse::ascending(row);
			kept.retain(counts);
		}
		bonds
	}
}

/// Cuts each weight down to its column's consensus; a column without consensus loses its positive
/// entries, stored zeros stay.
fn clip(weights: &Matrix, consensus: &[Fixed]) -> Matrix {
	let entry = |(j, weight): &(u16, Fixed)| {
		let clipped = (*weight).min(at(consensus, *j));
		(clipped == *weight || clipped > Fixed::ZERO).then_some((*j, clipped))
	};
	weights
		.iter()
		.map(|row| row.iter().filter_map(entry).collect())
		.collect()
}

/// The weights that bonds follow: `penalty` of the way from `weights` to `clipped`.
fn penalised(weights: Matrix, clipped: Matrix, penalty: u16) -> Matrix {
	let penalty = match penalty {
		0 => return weights,
		u16::MAX => return clipped,
		penalty => Fixed::from_proportion(penalty),
	};
	let row = |(weights, clipped): (&Entries, &Entries)| {
		sparse::joined(weights, clipped)
			.map(|(j, weight, clipped)| {
				let (weight, clipped) = (weight.unwrap_or_default(), clipped.unwrap_or_default());
				(j, weight.plus(penalty.times(clipped.minus(weight))))
			})
			.filter(|(_, weight)| *weight > Fixed::ZERO)
			.collect()
	};
	weights.iter().zip(&clipped).map(row).collect()
}

/// Each uid's share of the emission.
struct Shares {
	server: Vec<Fixed>,
	validator: Vec<Fixed>,
	combined: Vec<Fixed>,
}

impl Shares {
	/// By incentive and dividends, or by `fallback` when nobody earned anything.
	fn new(incentive: &[Fixed], dividends: &[Fixed], fallback: &[Fixed]) -> Self {
		let combined: Vec<Fixed> = incentive
			.iter()
			.zip(dividends)
			.map(|(i, d)| i.plus(*d))
			.collect();
		let total = sparse::sum(combined.iter().copied());
		if total == Fixed::ZERO {
			return Self {
				server: vec![Fixed::ZERO; fallback.len()],
				validator: fallback.to_vec(),
				combined: fallback.to_vec(),
			};
		}
		let share = |values: &[Fixed]| values.iter().map(|value| value.over(total)).collect();
		Self {
			server: share(incentive),
			validator: share(dividends),
			combined: share(&combined),
		}
	}
}
