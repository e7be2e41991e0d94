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

/// Voters of these stakes, then two miners; each voter votes for one of the miners.
fn run_votes(stakes_rao: &[u64], vouches_for: &[&[u16]], votes: &[u16]) -> Outcome {
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
	let voted = votes.iter().map(|miner| vec![(v + miner, u16::MAX)]);
	let weights: Vec<Row> = voted.chain([vec![], vec![]]).collect();
	let bonds = vec![Row::new(); neurons.len()];
	epoch(&params, &neurons, &weights, &bonds, 1_000_000)
}

/// All vote for the first miner.
fn run(stakes_rao: &[u64], vouches_for: &[&[u16]]) -> Outcome {
	run_votes(stakes_rao, vouches_for, &vec![0; stakes_rao.len()])
}

const NOBODY: [&[u16]; 5] = [&[]; 5];
const STAKES: [u64; 4] = [10, 10, 10, 15];
const BUT_THE_LAST: [&[u16]; 4] = [&[1, 2], &[0, 2], &[0, 1], &[0, 1, 2, 3]];

#[test]
fn who_is_not_vouched_for_earns_nothing() {
	let silenced = run(&STAKES, &BUT_THE_LAST);
	assert_eq!(silenced.validator_rao[3], 0);
	assert!(silenced.validator_rao[..3].iter().all(|rao| *rao > 160_000));
	assert!(silenced.active[3]);
	assert!(run(&STAKES, &NOBODY[..4]).validator_rao[3] > 160_000); // where nobody vouches
}

#[test]
fn who_is_not_vouched_for_has_no_say() {
	let votes = [0, 0, 1, 1]; // more stake for the second miner, by the last voter's
	let all_heard = run_votes(&STAKES, &NOBODY[..4], &votes);
	assert_eq!(
		(all_heard.incentive[4], all_heard.incentive[5]),
		(0, 65_535)
	);
	let silenced = run_votes(&STAKES, &BUT_THE_LAST, &votes);
	assert_eq!((silenced.incentive[4], silenced.incentive[5]), (65_535, 0));
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
	assert_eq!(five, run(&stakes, &NOBODY));
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
