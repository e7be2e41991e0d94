//! Votes that nobody vouches for are not heard, once others are.

#![allow(
	clippy::arithmetic_side_effects,
	clippy::indexing_slicing,
	clippy::unwrap_used
)]

mod common;

use common::subnets;
use proptest::{collection::vec, prelude::*};
use yuma::{epoch, Neuron, Outcome, Params, Row};

/// Voters of these stakes, then two miners. Each votes for the first miner, but the last voter
/// for the second.
fn run(stakes_rao: &[u64], vouches_for: &[&[u16]]) -> Outcome {
	let v = stakes_rao.len() as u16;
	let neuron = |(stake_rao, vouches_for): (u64, &[u16])| Neuron {
		stake_rao,
		last_update: 1_000,
		registered_at: 0,
		permit: stake_rao > 0,
		commit_block: u64::MAX,
		vouches_for: vouches_for.to_vec(),
	};
	let voters = stakes_rao.iter().copied().zip(vouches_for.iter().copied());
	let nothing: &[u16] = &[];
	let neurons: Vec<Neuron> = voters.chain([(0, nothing); 2]).map(neuron).collect();
	let params = Params {
		block: 1_000,
		..Params::default()
	};
	let vote = |uid: u16| match uid {
		_ if uid + 1 == v => vec![(v + 1, u16::MAX)],
		_ if uid < v => vec![(v, u16::MAX)],
		_ => vec![],
	};
	let weights: Vec<Row> = (0..v + 2).map(vote).collect();
	epoch(
		&params,
		&neurons,
		&weights,
		&vec![Row::new(); neurons.len()],
		1_000_000,
	)
}

#[test]
fn who_is_not_vouched_for_earns_nothing_and_has_no_say() {
	// The last voter has a third of the stake, its own miner, and a word for itself alone.
	let heard = run(&[10, 10, 10], &[&[1], &[0], &[2]]);
	assert_eq!(heard.dividends[2], 0);
	let silenced = run(
		&[10, 10, 10, 15],
		&[&[1, 2], &[0, 2], &[0, 1], &[0, 1, 2, 3]],
	);
	assert_eq!(silenced.validator_rao[3], 0);
	assert_eq!(silenced.incentive[5], 0);
	assert!(silenced.validator_rao[..3].iter().all(|rao| *rao > 160_000));
	assert!(silenced.active[3]);
}

#[test]
fn where_few_vouch_all_are_heard() {
	let nobody = run(&[10, 10, 10], &[&[], &[], &[]]);
	// One that keeps its word back from both others silences them for itself alone.
	let withheld = run(&[10, 10, 10], &[&[], &[0], &[0]]);
	assert_eq!(withheld, nobody);
	// Of two, one alone is half.
	assert_eq!(run(&[10, 10], &[&[], &[0]]), run(&[10, 10], &[&[], &[]]));
	assert_eq!(run(&[10], &[&[]]), run(&[10], &[&[0]]));
}

#[test]
fn half_of_the_others_is_not_enough() {
	let stakes = [10, 10, 10, 10, 10];
	let all: [&[u16]; 5] = [
		&[1, 2, 3, 4],
		&[0, 2, 3, 4],
		&[0, 1, 3],
		&[0, 1, 2],
		&[0, 1, 2, 3],
	];
	assert_eq!(run(&stakes, &all).validator_rao[4], 0);
	let three: [&[u16]; 5] = [all[0], all[1], &[0, 1, 3, 4], all[3], all[4]];
	let five = run(&stakes, &three);
	let nothing: &[u16] = &[];
	let nobody = run(&stakes, &[nothing; 5]);
	assert_eq!(five, nobody);
}

proptest! {
	#![proptest_config(ProptestConfig::with_cases(100))]

	#[test]
	fn where_all_vouch_for_all_nothing_changes(subnet in subnets()) {
		let before = subnet.run();
		let mut vouching = subnet;
		let everybody: Vec<u16> = (0..vouching.n() as u16).collect();
		for neuron in &mut vouching.neurons {
			neuron.vouches_for.clone_from(&everybody);
		}
		prop_assert_eq!(vouching.run(), before);
	}

	#[test]
	fn whoever_vouches_for_whom_what_is_paid_is_there(
		subnet in subnets(),
		words in vec(vec(0u16..12, 0..12), 12),
	) {
		let mut subnet = subnet;
		for (neuron, words) in subnet.neurons.iter_mut().zip(&words) {
			neuron.vouches_for.clone_from(words);
			neuron.vouches_for.sort_unstable();
		}
		let outcome = subnet.run();
		let paid: u128 = outcome.emission_rao.iter().copied().map(u128::from).sum();
		prop_assert!(paid <= u128::from(subnet.emission_rao));
		let total: u32 = outcome.dividends.iter().copied().map(u32::from).sum();
		prop_assert!(total <= 65_535);
	}
}
