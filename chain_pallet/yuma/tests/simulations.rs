//! The reference's other simulations: dividends per epoch, and the graph of 512.

#![allow(
	clippy::arithmetic_side_effects,
	clippy::indexing_slicing,
	clippy::unwrap_used
)]

#[allow(dead_code)]
#[path = "../examples/replay.rs"]
mod replay;

use serde_json::{json, Value};

const A: [u16; 2] = [u16::MAX, 0];
const B: [u16; 2] = [0, u16::MAX];

/// Every `expect` of a scenario.
fn epochs(config: Value, steps: Vec<Value>) -> Vec<Value> {
	let scenario = json!({"config": config, "steps": steps});
	let document = json!({"format": "yuma-vectors/1", "vectors": [scenario]});
	let replayed = replay::replay(document).unwrap();
	let steps = replayed["vectors"][0]["steps"].as_array().unwrap();
	steps
		.iter()
		.filter(|step| step["op"] == "epoch")
		.map(|step| step["expect"].clone())
		.collect()
}

/// Three validators and the miners above them, Yuma 3. In epoch e each validator i votes
/// `rows[e][i]` on the miners; after the last row nobody votes. Dividends of the validators.
fn dividends<const MINERS: usize>(
	stakes: [u64; 3],
	liquid: bool,
	rows: &[[[u16; MINERS]; 3]],
	count: usize,
	bonds_wiped_before: Option<usize>,
) -> Vec<[u16; 3]> {
	let n = 3 + MINERS;
	let mut all_stakes = stakes.to_vec();
	all_stakes.resize(n, 0);
	let config = json!({
		"n": n, "stakes": all_stakes, "block": 0, "tempo": 1, "kappa": 32_767, "bonds_ma": 975_000,
		"bonds_penalty": 0, "yuma3": true, "liquid": liquid, "alpha_low": 6_553,
		"alpha_high": 19_660, "steepness": 1_000, "max_validators": 3, "activity_cutoff": 5_000,
		"stake_threshold": 0, "owner_uid": null, "last_step": 0,
	});
	let dests: Vec<usize> = (3..n).collect();
	let epoch = json!({"op": "epoch", "emission": 1_000_000_000});
	let mut steps = vec![json!({"op": "block", "to": 1}), epoch.clone()];
	for e in 0..count {
		for (uid, values) in rows.get(e).into_iter().flatten().enumerate() {
			let values = values.as_slice();
			steps.push(json!({"op": "weights", "uid": uid, "dests": dests, "values": values}));
		}
		if bonds_wiped_before == Some(e) {
			steps.push(json!({"op": "drop_bonds_on", "uid": 3}));
		}
		steps.push(json!({"op": "block", "to": e + 2}));
		steps.push(epoch.clone());
	}
	let of_validators = |expect: &Value| {
		core::array::from_fn(|uid| expect["dividends"][uid].as_u64().unwrap() as u16)
	};
	epochs(config, steps)
		.iter()
		.skip(1)
		.map(of_validators)
		.collect()
}

#[test]
fn a_large_validator_that_moves_late_loses_to_those_before_it() {
	let rows = [[A, A, A], [A, B, A], [B, B, A], [B, B, B]];
	assert_eq!(
		dividends([8, 1, 1], true, &rows, 6, None),
		[
			[52_428, 6_553, 6_553],
			[55_350, 3_266, 6_918],
			[45_007, 20_527, 0],
			[48_632, 13_700, 3_201],
			[49_969, 11_183, 4_382],
			[50_661, 9_879, 4_993],
		]
	);
}

#[test]
fn a_large_validator_that_moves_last_pays_for_it() {
	let rows = [[A, A, A], [A, B, A], [A, B, B], [B, B, B]];
	assert_eq!(
		dividends([8, 1, 1], true, &rows, 6, None),
		[
			[52_428, 6_553, 6_553],
			[55_350, 3_266, 6_918],
			[58_761, 2_181, 4_592],
			[30_561, 21_034, 13_938],
			[39_164, 15_337, 11_033],
			[43_202, 12_663, 9_669],
		]
	);
}

#[test]
fn a_validator_that_strays_for_one_epoch_recovers() {
	let rows = [[A; 3], [A; 3], [A, A, B], [A; 3], [A; 3], [A; 3]];
	assert_eq!(
		dividends([33, 33, 34], true, &rows, 6, None),
		[
			[21_626, 21_626, 22_281],
			[21_626, 21_626, 22_281],
			[24_784, 24_784, 15_965],
			[23_773, 23_773, 17_988],
			[23_209, 23_209, 19_116],
			[22_851, 22_851, 19_832],
		]
	);
}

#[test]
fn a_miner_that_everyone_keeps_naming_steadies_the_dividends() {
	const H: u16 = 32_767;
	let (first, second) = ([H, 0, H], [0, H, H]);
	let rows = [
		[first; 3],
		[first, second, first],
		[second, second, first],
		[second; 3],
	];
	assert_eq!(
		dividends([8, 1, 1], true, &rows, 6, None),
		[
			[52_428, 6_553, 6_553],
			[53_911, 4_884, 6_738],
			[50_789, 11_044, 3_700],
			[51_538, 8_990, 5_005],
			[51_851, 8_133, 5_550],
			[52_013, 7_688, 5_832],
		]
	);
}

#[test]
fn wiped_bonds_grow_anew() {
	let mut rows = vec![[A; 3], [A, B, B]];
	rows.resize(21, [B; 3]);
	rows.extend([[B, A, A], [A; 3]]);
	let dividends = dividends([8, 1, 1], true, &rows, 41, Some(20));
	for (epoch, expected) in [
		(1, [58_617, 3_458, 3_458]),
		(2, [34_272, 15_631, 15_631]),
		(19, [51_897, 6_818, 6_818]),
		(20, [51_958, 6_788, 6_788]),
		(21, [55_491, 5_021, 5_021]),
		(40, [51_958, 6_788, 6_788]),
	] {
		assert_eq!(dividends[epoch], expected, "epoch {epoch}");
	}
}

#[test]
fn sixty_four_validators_agree_on_all_others() {
	let stakes: Vec<u64> = (0..512)
		.map(|uid| if uid < 64 { 328_125_000_000_000 } else { 0 })
		.collect();
	let config = json!({
		"n": 512, "stakes": stakes, "block": 0, "tempo": 65_534, "kappa": 32_767,
		"bonds_ma": 900_000, "bonds_penalty": 65_535, "yuma3": false, "liquid": false,
		"alpha_low": 45_875, "alpha_high": 58_982, "steepness": 1_000, "max_validators": 64,
		"activity_cutoff": 5_000, "stake_threshold": 0, "owner_uid": null, "last_step": 0,
	});
	let epoch = json!({"op": "epoch", "emission": 1_000_000_000});
	let mut steps = vec![epoch.clone(), json!({"op": "block", "to": 1})];
	let dests: Vec<u16> = (64..512).collect();
	let values = vec![127; dests.len()];
	steps.extend(
		(0..64).map(|uid| json!({"op": "weights", "uid": uid, "dests": dests, "values": values})),
	);
	steps.extend([epoch.clone(), epoch.clone(), epoch]);
	for expect in epochs(config, steps).iter().skip(1) {
		for uid in 0..512 {
			let validator = uid < 64;
			let figures = ["dividends", "emission", "consensus", "incentive"];
			let figures = figures.map(|name| expect[name][uid].as_u64().unwrap());
			let expected = if validator {
				[1_023, 7_812_500, 0, 0]
			} else {
				[0, 1_116_071, 146, 146]
			};
			assert_eq!(figures, expected, "uid {uid}");
			let bonds = expect["bonds"][uid].as_array().unwrap();
			assert_eq!(bonds.len(), if validator { 448 } else { 0 });
			assert!(bonds.iter().all(|bond| bond[1] == 65_535));
		}
	}
}
