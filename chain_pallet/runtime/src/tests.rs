//! The runtime as a whole, on its presets; what the pallets do is tested with them.

mod compat;
mod metadata;
pub(crate) mod upgrade;
mod weight;

use crate::{
	presets, Aura, Balances, BlockNumber, Executive, Runtime, RuntimeCall, RuntimeGenesisConfig,
	RuntimeOrigin, SubtensorModule, System, Timestamp, TransactionPayment, TxExtension,
	UncheckedExtrinsic,
};
use codec::Encode;
use polkadot_sdk::*;

use frame_support::{assert_ok, genesis_builder_helper::build_state};
use pallet_subnet::{NetUid, Tempo};
use pallet_subnet_runtime_api::{
	hyperparams, stake_availability, HyperparamValue, Metagraph, NeuronInfo, NeuronInfoLite,
	StakeInfo,
};
use serde_json::Value;
use sp_keyring::Sr25519Keyring::{Alice, Bob};
use sp_runtime::{
	generic::Header, traits::Header as _, Digest, DigestItem, DispatchError, TokenError,
};

const NETUID: NetUid = 1;
const STAKE_RAO: u64 = 1_000_000_000_000;

/// Runs `story` on the genesis of a preset.
fn on(preset: &str, story: impl FnOnce()) {
	sp_io::TestExternalities::default().execute_with(|| {
		let patch = presets::get_preset(&preset.into()).unwrap();
		let mut genesis = serde_json::to_value(RuntimeGenesisConfig::default()).unwrap();
		merge(&mut genesis, serde_json::from_slice(&patch).unwrap());
		build_state::<RuntimeGenesisConfig>(genesis.to_string().into()).unwrap();
		story();
	});
}

/// RFC 7396 without removals.
fn merge(value: &mut Value, patch: Value) {
	match (value, patch) {
		(Value::Object(value), Value::Object(patch)) => {
			for (name, patch) in patch {
				merge(value.entry(name).or_insert(Value::Null), patch);
			}
		}
		(value, patch) => *value = patch,
	}
}

/// Executes block `number` of a chain whose slots are `slot_ms`, with nothing but the time in it.
fn execute_block(number: BlockNumber, slot_ms: u64) -> sp_core::H256 {
	open_block(number, slot_ms);
	Executive::finalize_block().hash()
}

fn open_block(number: BlockNumber, slot_ms: u64) {
	let slot = sp_consensus_aura::Slot::from(u64::from(number));
	let author = DigestItem::PreRuntime(sp_consensus_aura::AURA_ENGINE_ID, slot.encode());
	let digest = Digest { logs: vec![author] };
	let none = Default::default();
	Executive::initialize_block(&Header::new(number, none, none, none, digest));
	let now = u64::from(number) * slot_ms;
	let set = RuntimeCall::Timestamp(pallet_timestamp::Call::set { now });
	assert_ok!(Executive::apply_extrinsic(UncheckedExtrinsic::new_bare(set)).unwrap());
}

fn slot_duration_in_metadata() -> Vec<u8> {
	let constants = Aura::pallet_constants_metadata();
	constants
		.into_iter()
		.find(|constant| constant.name == "SlotDuration")
		.unwrap()
		.value
}

/// Alice registers her own key as hotkey and stakes on it.
fn register_alice() {
	let (alice, origin) = (
		Alice.to_account_id(),
		RuntimeOrigin::signed(Alice.to_account_id()),
	);
	assert_ok!(SubtensorModule::register_limit(
		origin.clone(),
		NETUID,
		alice.clone(),
		u64::MAX
	));
	assert_ok!(SubtensorModule::add_stake(origin, alice, NETUID, STAKE_RAO));
}

#[test]
fn one_blob_has_the_slot_duration_of_its_genesis() {
	for (preset, slot_ms) in [("development", 1_000u64), ("local", 12_000)] {
		on(preset, || {
			assert_eq!(Aura::slot_duration(), slot_ms);
			assert_eq!(slot_duration_in_metadata(), slot_ms.encode());
			for number in 1..4 {
				execute_block(number, slot_ms);
				assert_eq!(Timestamp::get(), u64::from(number) * slot_ms);
			}
		});
	}
}

#[test]
#[should_panic(expected = "Timestamp must increment by at least")]
fn a_block_less_than_half_a_slot_after_the_last_is_refused() {
	on("development", || {
		execute_block(1, 1_000);
		execute_block(2, 749);
	});
}

#[test]
fn only_known_presets_exist() {
	let known = presets::preset_names();
	assert_eq!(known.len(), 2);
	assert!(known
		.iter()
		.all(|preset| presets::get_preset(preset).is_some()));
	assert!(presets::get_preset(&"mainnet".into()).is_none());
}

#[test]
fn development_is_quick_and_local_is_not() {
	on("development", || {
		assert_eq!(Tempo::<Runtime>::get(1), 30);
		let (plain, _) = SubtensorModule::hyperparams(2);
		assert!(!plain.commit_reveal_weights_enabled);
		assert!(
			Metagraph::of::<Runtime>(1)
				.unwrap()
				.commit_reveal_weights_enabled
		);
		assert!(Balances::free_balance(Bob.to_account_id()) > 0);
	});
	on("local", || {
		assert_eq!(Tempo::<Runtime>::get(1), 360);
		assert!(Metagraph::of::<Runtime>(2).is_none());
	});
}

#[test]
fn epochs_pay_the_only_neuron_and_the_apis_agree_on_it() {
	on("development", || {
		execute_block(1, 1_000);
		register_alice();
		let next = SubtensorModule::next_epoch_start_block(NETUID).unwrap();
		for number in 2..=next as BlockNumber + 1 {
			execute_block(number, 1_000);
		}
		assert_eq!(
			SubtensorModule::next_epoch_start_block(NETUID),
			Some(next + 30)
		);

		let metagraph = Metagraph::of::<Runtime>(NETUID).unwrap();
		let neurons = NeuronInfo::all::<Runtime>(NETUID);
		let lite = NeuronInfoLite::of::<Runtime>(NETUID, 0).unwrap();
		let alice = Alice.to_account_id();
		let stake = StakeInfo::of::<Runtime>(&alice, &alice, NETUID)
			.unwrap()
			.stake;
		assert_eq!(neurons.len(), 1);
		assert_eq!(metagraph.last_step, next);
		assert_eq!(metagraph.name, b"mixture");
		assert_eq!(metagraph.hotkeys, core::slice::from_ref(&alice));
		assert_eq!(metagraph.emission, [lite.emission]);
		assert_eq!(metagraph.total_stake, [stake]);
		assert_eq!(neurons[0].stake, [(alice.clone(), stake)]);
		assert_eq!(StakeInfo::all::<Runtime>(&alice).len(), 1);
		assert!(stake > STAKE_RAO && lite.emission > 0);

		let available = stake_availability::<Runtime>(vec![alice.clone()], Some(vec![NETUID, 2]));
		assert_eq!(available[&alice][&NETUID].available, stake);
		assert!(!available[&alice].contains_key(&2));
		assert!(
			stake_availability::<Runtime>(vec![alice.clone()], Some(vec![]))[&alice].is_empty()
		);
		assert_eq!(StakeInfo::of::<Runtime>(&alice, &alice, 9), None);
		assert_eq!(NeuronInfo::of::<Runtime>(NETUID, 1), None);
	});
}

#[test]
fn a_block_costs_as_much_to_fill_with_bytes_as_with_work() {
	use frame_support::{dispatch::DispatchClass::Normal, traits::Get};
	on("local", || {
		let weights = <Runtime as frame_system::Config>::BlockWeights::get();
		let work = weights.get(Normal).max_total.unwrap();
		let lengths: frame_system::limits::BlockLength =
			<Runtime as frame_system::Config>::BlockLength::get();
		let bytes = *lengths.max.get(Normal);
		let by_work = TransactionPayment::weight_to_fee(work);
		let by_bytes = TransactionPayment::length_to_fee(bytes);
		assert_eq!(by_work, 75_000_000); // 22.5 τ an hour of 12 s blocks
		assert!(by_bytes >= by_work, "{bytes} bytes cost {by_bytes} rao");
	});
}

#[test]
fn hyperparameters_are_listed_once_each_with_their_values() {
	on("development", || {
		let listed = hyperparams::<Runtime>(NETUID).unwrap();
		let value = |name: &str| {
			let mut found = listed.iter().filter(|entry| entry.name == name.as_bytes());
			let value = &found.next().unwrap().value;
			assert!(found.next().is_none(), "{name} is listed twice");
			value.clone()
		};
		assert_eq!(value("tempo"), HyperparamValue::U64(30));
		assert_eq!(value("yuma3_enabled"), HyperparamValue::Bool(true));
		for entry in &listed {
			value(core::str::from_utf8(&entry.name).unwrap());
		}
		assert!(hyperparams::<Runtime>(9).is_none());
	});
}

#[test]
fn a_call_is_tried_in_the_next_block_as_if_its_caller_had_signed_and_paid() {
	use crate::{Block, RuntimeCall::Balances as Money, RuntimeCall::SubtensorModule as Subnets};
	use pallet_subnet_runtime_api::dry_run::runtime_decl_for_dry_run_runtime_api::DryRunRuntimeApi;
	let bob = Bob.to_account_id();
	let send = |value| {
		let dest = Alice.to_account_id().into();
		Money(pallet_balances::Call::transfer_keep_alive { dest, value })
	};
	let trim = Subnets(pallet_subnet::Call::trim_subnet {
		netuid: NETUID,
		max_n: 4,
	});
	let all_rao = 1_000_000_000_000_000 - 500; // less what an account must hold
	let no_owner = pallet_subnet::Error::<Runtime>::NotSubnetOwner;
	let calls = vec![trim.clone(); 9_000];
	let flood = RuntimeCall::Utility(pallet_utility::Call::batch_all { calls });
	for (fee_rao, call, outcome) in [
		(7, send(all_rao - 7), Ok(())),
		(7, send(all_rao - 6), Err(TokenError::NotExpendable.into())),
		(
			all_rao + 1,
			send(0),
			Err(TokenError::FundsUnavailable.into()),
		),
		(7, trim, Err(no_owner.into())),
		(7, flood, Err(DispatchError::Exhausted)),
	] {
		on("development", || {
			let tried = <Runtime as DryRunRuntimeApi<Block, RuntimeCall>>::dry_run_call(
				bob.clone(),
				fee_rao,
				call,
			);
			assert_eq!(tried, outcome);
			let is_untried = outcome == Err(DispatchError::Exhausted);
			assert_eq!(System::block_number(), u32::from(!is_untried));
		});
	}
}
