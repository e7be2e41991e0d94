//! The shared epoch vectors, replayed through calls and hooks instead of the bare function.
//!
//! The vectors fix stakes, while an epoch pays stake; so each epoch starts from the stakes that the
//! scenario wants.

use crate::{mock::*, *};
use frame_support::assert_ok;
use serde_json::Value;

macro_rules! vectors {
	($name:literal) => {
		include_str!(concat!(
			env!("CARGO_MANIFEST_DIR"),
			"/../../../tests/vectors/",
			$name
		))
	};
}

fn numbers(value: &Value) -> Vec<u64> {
	let number = |entry: &Value| entry.as_u64().or(entry.as_bool().map(u64::from)).unwrap();
	value.as_array().unwrap().iter().map(number).collect()
}

fn row(value: &Value) -> Row {
	let entry = |entry: &Value| {
		(
			entry[0].as_u64().unwrap() as u16,
			entry[1].as_u64().unwrap() as u16,
		)
	};
	let mut row: Row = value.as_array().unwrap().iter().map(entry).collect();
	row.sort_unstable();
	row
}

fn int<N: TryFrom<i64>>(value: &Value) -> N {
	value
		.as_i64()
		.and_then(|value| N::try_from(value).ok())
		.unwrap()
}

/// The scenario's subnet, past the bounds that production keeps.
fn set_up(config: &Value) -> Vec<u64> {
	System::set_block_number(int(&config["block"]));
	let stakes = numbers(&config["stakes"]);
	for (uid, k) in (0u16..).zip(0..stakes.len() as u64) {
		assert_ok!(Subnet::associate(&coldkey(k), &hotkey(k)));
		SubnetworkN::<Test>::insert(NETUID, uid + 1);
		Subnet::occupy(NETUID, uid, &hotkey(k));
	}
	let tempo: u16 = int(&config["tempo"]);
	let cutoff: u32 = int(&config["activity_cutoff"]);
	Tempo::<Test>::insert(NETUID, tempo);
	LastMechansimStepBlock::<Test>::insert(NETUID, int::<u64>(&config["last_step"]));
	if let Some(k) = config["owner_uid"].as_u64() {
		SubnetOwnerHotkey::<Test>::insert(NETUID, hotkey(k));
	}
	SubnetHyperparams::<Test>::mutate(NETUID, |h| {
		h.kappa = int(&config["kappa"]);
		h.bonds_moving_average = int(&config["bonds_ma"]);
		h.bonds_penalty = int(&config["bonds_penalty"]);
		h.yuma3 = config["yuma3"].as_bool().unwrap();
		h.liquid_alpha = config["liquid"].as_bool().unwrap();
		h.alpha_low = int(&config["alpha_low"]);
		h.alpha_high = int(&config["alpha_high"]);
		h.alpha_sigmoid_steepness = int(&config["steepness"]);
		h.max_allowed_validators = int(&config["max_validators"]);
		h.stake_threshold_rao = int(&config["stake_threshold"]);
		// Large enough for a tempo of 1; a tempo of 0 has no cutoff, and its scenario needs none.
		h.activity_cutoff_factor_milli = cutoff * 1_000 / u32::from(tempo.max(1)) + 1;
	});
	stakes
}

fn weights(step: &Value) {
	let uid: u64 = int(&step["uid"]);
	let column = |name: &str| numbers(&step[name]).into_iter().map(|v| v as u16);
	let votes: Row = column("dests").zip(column("values")).collect();
	// The scenarios vote as often as they like: the voter looks as if it never had.
	LastUpdate::<Test>::mutate(NETUID, |column| column[uid as usize] = 0);
	assert_ok!(vote(uid, &votes));
	assert_eq!(weights_of(uid as Uid), row(&step["stored"]));
}

fn epoch(step: &Value, stakes: &[u64]) {
	(0..)
		.zip(stakes)
		.for_each(|(k, stake)| set_stake(k, *stake));
	let emission: u64 = int(&step["emission"]);
	PendingEmission::<Test>::insert(NETUID, emission);
	set_stake(0, stakes[0]); // and brings the account's balance up to the books

	let last_step = LastMechansimStepBlock::<Test>::get(NETUID);
	LastEpochBlock::<Test>::insert(NETUID, System::block_number()); // scenarios leap over blocks
																 // The pallet counts who registered in the block of an epoch as later than it; the vectors do not.
	LastMechansimStepBlock::<Test>::insert(NETUID, last_step + 1);
	Subnet::run_epoch(NETUID, System::block_number());
	LastMechansimStepBlock::<Test>::insert(NETUID, last_step);

	let expect = &step["expect"];
	let check = |name: &str, found: Vec<u64>| {
		if expect[name] != "omitted" {
			assert_eq!(
				found,
				numbers(&expect[name]),
				"{name} in block {}",
				System::block_number()
			);
		}
	};
	let u16s = |column: Column<Test, u16>| column.into_iter().map(u64::from).collect();
	let bools = |column: Column<Test, bool>| column.into_iter().map(u64::from).collect();
	check("stake_weight", u16s(StakeWeight::<Test>::get(NETUID)));
	check("consensus", u16s(Consensus::<Test>::get(NETUID)));
	check("vtrust", u16s(ValidatorTrust::<Test>::get(NETUID)));
	check("incentive", u16s(Incentive::<Test>::get(NETUID)));
	check("dividends", u16s(Dividends::<Test>::get(NETUID)));
	check("permits", bools(ValidatorPermit::<Test>::get(NETUID)));
	check("active", bools(Active::<Test>::get(NETUID)));
	check("emission", Emission::<Test>::get(NETUID).into_inner());
	if expect["bonds"] != "omitted" {
		for (uid, bonds) in (0..).zip(expect["bonds"].as_array().unwrap()) {
			assert_eq!(
				Bonds::<Test>::get(NETUID, uid).into_inner(),
				row(bonds),
				"bonds of {uid}"
			);
		}
	}
	// Every payment arrived: what stakes grew by is what the vector paid out.
	let parts = [
		numbers(&expect["server_emission"]),
		numbers(&expect["validator_emission"]),
	];
	for (k, stake) in (0..stakes.len()).zip(stakes) {
		assert_eq!(
			stake_of(k as u64) - stake,
			parts[0][k] + parts[1][k],
			"payment of {k}"
		);
	}
	let paid: u64 = parts.iter().flatten().sum();
	assert_eq!(PendingEmission::<Test>::get(NETUID), emission - paid);
	assert_eq!(Balances::free_balance(Subnet::account_id()), owed());
}

/// The uid's slot goes to a hotkey that was never seen: `k + 1000`, under its old name afterwards.
fn reregister(step: &Value, stakes: &mut [u64]) {
	let uid: Uid = int(&step["uid"]);
	let k = u64::from(uid);
	set_stake(k, 0);
	Subnet::vacate(NETUID, uid);
	Subnet::occupy(NETUID, uid, &hotkey(k));
	stakes[usize::from(uid)] = int(&step["stake"]);
}

fn replay(scenario: &Value) {
	let slow = HyperparamsUpdate {
		burn: Some(PRICE),
		..subnet(NETUID).hyperparams
	};
	ExtBuilder::default()
		.with(|h| *h = slow.clone())
		.build()
		.execute_with(|| {
			let mut stakes = set_up(&scenario["config"]);
			for step in scenario["steps"].as_array().unwrap() {
				match step["op"].as_str().unwrap() {
					"block" => System::set_block_number(int(&step["to"])),
					"weights" => weights(step),
					"epoch" => epoch(step, &stakes),
					"reregister" => reregister(step, &mut stakes),
					"last_step" => {
						LastMechansimStepBlock::<Test>::insert(NETUID, int::<u64>(&step["to"]))
					}
					"drop_bonds_on" => {
						for uid in 0..SubnetworkN::<Test>::get(NETUID) {
							let target: Uid = int(&step["uid"]);
							Bonds::<Test>::mutate(NETUID, uid, |row| {
								row.retain(|(on, _)| *on != target)
							});
						}
					}
					other => panic!("unknown step {other}"),
				}
			}
		});
}

fn replay_all(document: &str) {
	let document: Value = serde_json::from_str(document).unwrap();
	let scenarios = document["vectors"].as_array().unwrap();
	assert!(!scenarios.is_empty());
	for scenario in scenarios {
		println!("{}", scenario["name"]);
		replay(scenario);
	}
}

#[test]
fn every_shared_scenario_comes_out_to_the_last_integer() {
	replay_all(vectors!("yuma.json"));
}

#[test]
fn every_random_scenario_comes_out_to_the_last_integer() {
	replay_all(vectors!("yuma_random.json"));
}
