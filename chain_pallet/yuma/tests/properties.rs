//! What holds for every subnet.

#![allow(
	clippy::arithmetic_side_effects,
	clippy::indexing_slicing,
	clippy::needless_range_loop,
	clippy::unwrap_used
)]

mod common;

use common::{subnets, Subnet};
use proptest::{collection::vec, prelude::*};
use yuma::{epoch, max_upscale, Neuron, Params, Row};

/// Neurons that all vote and may all be voted for.
fn voters(stakes_rao: &[u64]) -> Vec<Neuron> {
	let voter = |stake_rao: &u64| Neuron {
		stake_rao: *stake_rao,
		last_update: 1_000,
		registered_at: 0,
		permit: true,
		commit_block: u64::MAX,
		vouches_for: Vec::new(),
	};
	stakes_rao.iter().map(voter).collect()
}

fn total(values: &[u16]) -> u32 {
	values.iter().copied().map(u32::from).sum()
}

proptest! {
	#![proptest_config(ProptestConfig::with_cases(150))]

	#[test]
	fn nobody_is_paid_more_than_there_is_and_little_is_left(subnet in subnets()) {
		let outcome = subnet.run();
		let emission_rao = u128::from(subnet.emission_rao);
		let paid = |amounts: &[u64]| amounts.iter().copied().map(u128::from).sum::<u128>();
		prop_assert!(total(&outcome.incentive) <= 65_535);
		prop_assert!(total(&outcome.dividends) <= 65_535);
		prop_assert!(paid(&outcome.emission_rao) <= emission_rao);
		prop_assert!(paid(&outcome.server_rao) + paid(&outcome.validator_rao) <= emission_rao);
		if outcome.stake_weight.iter().any(|share| *share > 0) {
			let dust = emission_rao - paid(&outcome.emission_rao);
			prop_assert!(dust <= subnet.n() as u128 * (1 + (emission_rao >> 32)) + 1);
		}
	}

	#[test]
	fn every_vector_has_one_element_per_uid_and_rows_stay_within_it(subnet in subnets()) {
		let outcome = subnet.run();
		let n = subnet.n();
		for vector in [&outcome.stake_weight, &outcome.consensus, &outcome.incentive,
			&outcome.dividends, &outcome.validator_trust] {
			prop_assert_eq!(vector.len(), n);
		}
		prop_assert_eq!((outcome.active.len(), outcome.permits.len()), (n, n));
		for (row, permit) in outcome.bonds.iter().zip(&outcome.permits) {
			prop_assert!(*permit || row.is_empty());
			prop_assert!(row.iter().all(|(j, _)| usize::from(*j) < n));
			prop_assert!(row.windows(2).all(|pair| pair[0].0 < pair[1].0));
		}
	}

	#[test]
	fn permits_go_to_the_largest_stakes(subnet in subnets()) {
		let outcome = subnet.run();
		let owner = subnet.params.owner_uid.map(usize::from);
		let holders: Vec<usize> =
			(0..subnet.n()).filter(|uid| outcome.permits[*uid] && Some(*uid) != owner).collect();
		prop_assert!(holders.len() <= subnet.params.max_validators.into());
		prop_assert!(owner.is_none_or(|owner| outcome.permits[owner]));
		for uid in (0..subnet.n()).filter(|uid| !outcome.permits[*uid]) {
			for holder in &holders {
				prop_assert!(outcome.stake_weight[uid] <= outcome.stake_weight[*holder]);
			}
		}
	}

	#[test]
	fn consensus_is_at_most_the_largest_weight_given(subnet in subnets()) {
		let outcome = subnet.run();
		for j in 0..subnet.n() as u16 {
			let named = subnet.weights.iter().flatten().any(|(target, value)| *target == j && *value > 0);
			prop_assert!(named || outcome.consensus[usize::from(j)] == 0);
		}
	}

	#[test]
	fn a_larger_majority_never_raises_a_consensus(subnet in subnets(), kappa: u16) {
		let (mut low, mut high) = (subnet.clone(), subnet.clone());
		low.params.kappa = subnet.params.kappa.min(kappa);
		high.params.kappa = subnet.params.kappa.max(kappa);
		for (low, high) in low.run().consensus.iter().zip(&high.run().consensus) {
			prop_assert!(high <= low);
		}
	}

	#[test]
	fn only_the_proportions_of_a_row_matter(mut subnet in subnets(), factor in 1u16..60) {
		subnet.weights.iter_mut().flatten().for_each(|(_, value)| *value %= 1_000);
		let mut scaled = subnet.clone();
		scaled.weights.iter_mut().flatten().for_each(|(_, value)| *value *= factor);
		prop_assert_eq!(subnet.run(), scaled.run());
	}

	#[test]
	fn a_row_without_permit_changes_nothing(mut subnet in subnets(), uid: prop::sample::Index) {
		let uid = uid.index(subnet.n());
		subnet.neurons[uid].permit = false;
		if subnet.params.owner_uid.map(usize::from) == Some(uid) {
			subnet.params.owner_uid = None;
		}
		let mut silent = subnet.clone();
		silent.weights[uid].clear();
		prop_assert_eq!(subnet.run(), silent.run());
	}

	#[test]
	fn no_uid_is_special(mut subnet in subnets(), order in vec(any::<u32>(), 12)) {
		// Equal stakes at the edge of the validator set fall by uid, so make them differ visibly.
		for (uid, neuron) in subnet.neurons.iter_mut().enumerate() {
			neuron.stake_rao = neuron.stake_rao % 1_000_000 * 100 + uid as u64;
		}
		subnet.params.stake_threshold_rao = 0;
		let mut to: Vec<usize> = (0..subnet.n()).collect();
		to.sort_by_key(|uid| (order[*uid], *uid));
		let moved_row = |row: &Row| -> Row {
			let mut row: Row = row.iter().map(|(j, value)| (to[usize::from(*j)] as u16, *value)).collect();
			row.sort_unstable();
			row
		};
		let mut moved = subnet.clone();
		moved.params.owner_uid = subnet.params.owner_uid.map(|uid| to[usize::from(uid)] as u16);
		for uid in 0..subnet.n() {
			moved.neurons[to[uid]] = subnet.neurons[uid].clone();
			moved.weights[to[uid]] = moved_row(&subnet.weights[uid]);
			moved.bonds[to[uid]] = moved_row(&subnet.bonds[uid]);
		}
		let (outcome, moved) = (subnet.run(), moved.run());
		for uid in 0..subnet.n() {
			prop_assert_eq!(outcome.consensus[uid], moved.consensus[to[uid]]);
			prop_assert_eq!(outcome.incentive[uid], moved.incentive[to[uid]]);
			prop_assert_eq!(outcome.dividends[uid], moved.dividends[to[uid]]);
			prop_assert_eq!(outcome.permits[uid], moved.permits[to[uid]]);
			prop_assert_eq!(outcome.emission_rao[uid], moved.emission_rao[to[uid]]);
			prop_assert_eq!(moved_row(&outcome.bonds[uid]), moved.bonds[to[uid]].clone());
		}
	}

	#[test]
	fn a_minority_cannot_lift_a_miner_above_what_the_others_gave_it(
		honest in vec((1u64..1_000, vec(any::<u16>(), 2)), 1..8),
		attackers in 1usize..4,
	) {
		let honest_stake: u64 = honest.iter().map(|(stake, _)| stake * 1_000).sum();
		// Together just under κ of the stake.
		let attackers_stake = honest_stake * 98 / 100 / attackers as u64;
		let stakes: Vec<u64> = honest.iter().map(|(stake, _)| stake * 1_000)
			.chain((0..attackers).map(|_| attackers_stake)).chain([0, 0]).collect();
		let voters_count = honest.len() + attackers;
		let (target, other) = (voters_count as u16, voters_count as u16 + 1);
		let mut weights: Vec<Row> =
			honest.iter().map(|(_, row)| vec![(target, row[0]), (other, row[1])]).collect();
		weights.extend((0..attackers).map(|_| vec![(target, u16::MAX)]));
		let params = Params { block: 1_000, ..Params::default() };
		let outcome = epoch(&params, &voters(&stakes), &weights, &[], 1_000);
		let most = honest.iter().map(|(_, row)| {
			(u32::from(row[0]) * 65_535).checked_div(total(row)).unwrap_or(0)
		}).max().unwrap();
		prop_assert!(u32::from(outcome.consensus[usize::from(target)]) <= most);
	}

	#[test]
	fn sorting_a_row_changes_nothing(mut subnet in subnets(), order in vec(any::<u32>(), 12)) {
		let sorted = subnet.run();
		for row in subnet.weights.iter_mut().chain(&mut subnet.bonds) {
			row.sort_by_key(|(j, _)| order[usize::from(*j)]);
		}
		prop_assert_eq!(subnet.run(), sorted);
	}

	#[test]
	fn of_a_row_count_known_uids_and_the_first_entry_of_each(
		mut subnet in subnets(),
		garbage in vec((0u16..20, any::<u16>()), 0..40),
	) {
		let n = subnet.n() as u16;
		let mut dirty = subnet.clone();
		for (clean, dirty) in subnet.weights.iter_mut().chain(&mut subnet.bonds)
			.zip(dirty.weights.iter_mut().chain(&mut dirty.bonds)) {
			for (j, value) in &garbage {
				dirty.push((*j, *value));
				if *j < n && clean.iter().all(|(k, _)| k != j) {
					clean.push((*j, *value));
				}
			}
		}
		prop_assert_eq!(subnet.run(), dirty.run());
	}

	#[test]
	fn garbage_never_panics(
		mut subnet in subnets(),
		weights in vec(vec(any::<(u16, u16)>(), 0..40), 0..20),
		bonds in vec(vec((0u16..20, any::<u16>()), 0..40), 0..20),
		extremes in any::<(u64, u16, u64, u64, u64, i16)>(),
	) {
		(subnet.weights, subnet.bonds) = (weights, bonds);
		subnet.params = Params {
			block: extremes.0,
			tempo: extremes.1,
			last_step: extremes.2,
			bonds_moving_average: extremes.3,
			activity_cutoff_blocks: extremes.4,
			alpha_sigmoid_steepness: extremes.5,
			alpha_low: u16::MAX,
			alpha_high: 0,
			owner_uid: Some(extremes.1),
			..subnet.params
		};
		let Subnet { params, neurons, weights, bonds, .. } = subnet;
		let outcome = epoch(&params, &neurons, &weights, &bonds, u64::MAX);
		prop_assert_eq!(outcome.bonds.len(), neurons.len());
	}

	#[test]
	fn upscaling_keeps_zeros_order_and_fills_the_range(values in vec(any::<u16>(), 0..50)) {
		let upscaled = max_upscale(&values);
		prop_assert_eq!(upscaled.len(), values.len());
		if values.iter().any(|value| *value > 0) {
			prop_assert_eq!(upscaled.iter().copied().max(), Some(u16::MAX));
		}
		for (before, after) in values.iter().zip(&upscaled) {
			prop_assert!(after >= before && (*before > 0 || *after == 0));
		}
	}
}

#[test]
fn an_empty_subnet_has_an_empty_outcome() {
	assert!(epoch(&Params::default(), &[], &[], &[], 1)
		.emission_rao
		.is_empty());
}
