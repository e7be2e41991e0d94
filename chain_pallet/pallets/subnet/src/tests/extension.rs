//! The guard of the free calls, as pool and block author meet it.

use crate::{mock::*, *};
use codec::Encode;
use frame_support::{assert_ok, dispatch::GetDispatchInfo};
use sp_runtime::{
	traits::{DispatchTransaction, TransactionExtension},
	transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};

/// Whether the pool would take the call; the code if not.
fn pool(k: u64, call: Call<Test>) -> Result<(), u8> {
	let call = RuntimeCall::Subnet(call);
	let info = call.get_dispatch_info();
	CheckFreeCalls::<Test>::new()
		.validate_only(
			signed(hotkey(k)),
			&call,
			&info,
			0,
			TransactionSource::External,
			0,
		)
		.map(drop)
		.map_err(code)
}

/// Puts the call into a block: `Err` if the author had to leave it out.
fn include(k: u64, call: Call<Test>) -> Result<(), u8> {
	let call = RuntimeCall::Subnet(call);
	let info = call.get_dispatch_info();
	let guard = CheckFreeCalls::<Test>::new();
	let dispatched = guard.dispatch_transaction(signed(hotkey(k)), call, &info, 0, 0);
	// What the guard lets in succeeds.
	dispatched
		.map(|result| assert!(result.is_ok(), "{result:?}"))
		.map_err(code)
}

fn code(error: TransactionValidityError) -> u8 {
	match error {
		TransactionValidityError::Invalid(InvalidTransaction::Custom(code)) => code,
		other => panic!("{other:?}"),
	}
}

fn serve_call(ip: u128, port: u16, ip_type: u8) -> Call<Test> {
	Call::serve_axon {
		netuid: NETUID,
		version: 1,
		ip,
		port,
		ip_type,
		protocol: 0,
		placeholder1: 0,
		placeholder2: 0,
	}
}

fn model_call(byte: u8) -> Call<Test> {
	Call::commit_model {
		netuid: NETUID,
		commitment: hash(byte),
		is_open: true,
	}
}

fn vote_call(netuid: NetUid, uids: &[Uid], values: &[u16]) -> Call<Test> {
	Call::set_mechanism_weights {
		netuid,
		mecid: 0,
		dests: uids.to_vec().try_into().unwrap(),
		weights: values.to_vec().try_into().unwrap(),
		version_key: 0,
	}
}

fn commit_call(byte: u8) -> Call<Test> {
	Call::commit_weights {
		netuid: NETUID,
		commit_hash: hash(byte),
	}
}

fn reveal_call() -> Call<Test> {
	let (uids, values) = columns(&[(1, 1)]);
	Call::reveal_weights {
		netuid: NETUID,
		uids,
		values,
		salt: salt(1),
		version_key: 0,
	}
}

#[test]
fn it_adds_nothing_to_a_transaction() {
	assert!(CheckFreeCalls::<Test>::new().encode().is_empty());
	type Implicit = <CheckFreeCalls<Test> as TransactionExtension<RuntimeCall>>::Implicit;
	assert_eq!(core::mem::size_of::<Implicit>(), 0);
}

#[test]
fn the_pool_answers_with_upstreams_codes() {
	let limited = ExtBuilder::default().with(|h| {
		h.serving_rate_limit = Some(5);
		h.weights_set_rate_limit = Some(5);
	});
	limited.build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		next_epoch();
		assert_eq!(pool(9, serve_call(0x0808_0808, 80, 4)), Err(10));
		assert_eq!(pool(0, serve_call(0x7f00_0001, 80, 4)), Err(11));
		assert_eq!(pool(0, serve_call(0x0808_0808, 80, 7)), Err(11));
		assert_eq!(pool(0, serve_call(0x0808_0808, 0, 4)), Err(13));
		assert_eq!(include(0, serve_call(0x0808_0808, 80, 4)), Ok(()));
		assert_eq!(pool(0, serve_call(0x0808_0808, 80, 4)), Err(12));

		assert_eq!(pool(9, model_call(1)), Err(10));
		assert_eq!(include(0, model_call(1)), Ok(()));
		assert_eq!(pool(0, model_call(2)), Err(12));

		assert_eq!(pool(0, vote_call(9, &[1], &[1])), Err(3));
		assert_eq!(pool(0, vote_call(NETUID, &[1], &[])), Err(18));
		assert_eq!(pool(9, vote_call(NETUID, &[1], &[1])), Err(19));
		assert_eq!(
			pool(1, vote_call(NETUID, &[0], &[1])),
			Err(own_code(Error::NeuronNoValidatorPermit))
		);
		assert_eq!(
			pool(0, commit_call(1)),
			Err(own_code(Error::CommitRevealDisabled))
		);
		assert_eq!(include(0, vote_call(NETUID, &[1], &[1])), Ok(()));
		assert_eq!(pool(0, vote_call(NETUID, &[1], &[1])), Err(6));
		let old_name = Call::set_weights {
			netuid: NETUID,
			dests: vec![1].try_into().unwrap(),
			weights: vec![1].try_into().unwrap(),
			version_key: 0,
		};
		assert_eq!(pool(0, old_name), Err(6));

		let much = HyperparamsUpdate {
			stake_threshold_rao: Some(u64::MAX),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(RuntimeOrigin::root(), NETUID, much));
		assert_eq!(pool(0, vote_call(NETUID, &[1], &[1])), Err(1));
	});
}

#[test]
fn a_reveal_is_let_in_when_it_is_due() {
	ExtBuilder::secret().build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		next_epoch();
		assert_eq!(pool(0, reveal_call()), Err(16));
		assert_ok!(commit(0, &[(1, 1)], &salt(1)));
		assert_eq!(pool(0, reveal_call()), Err(17));
		next_epoch();
		assert_eq!(include(0, reveal_call()), Ok(()));
		assert_eq!(pool(0, reveal_call()), Err(16));
	});
}

#[test]
fn of_many_queued_calls_only_those_that_succeed_take_space() {
	let limited = ExtBuilder::secret().with(|h| {
		h.serving_rate_limit = Some(5);
		h.weights_set_rate_limit = Some(5);
	});
	limited.build_and_execute(|| {
		register_all(&[2_000_000]);
		next_epoch();
		let queued = |call: &dyn Fn(u8) -> Call<Test>| (0..100).map(call).collect::<Vec<_>>();
		for calls in [
			queued(&commit_call),
			queued(&|_| serve_call(0x0808_0808, 80, 4)),
		] {
			// The pool accepts them all, for none has run yet.
			assert!(calls.iter().all(|call| pool(0, call.clone()).is_ok()));
			let included = calls
				.into_iter()
				.filter(|call| include(0, call.clone()).is_ok());
			assert_eq!(included.count(), 1);
		}
	});
	// The same without any rate limit.
	ExtBuilder::secret().build_and_execute(|| {
		register_all(&[2_000_000]);
		run_to(2);
		let included = |call: &dyn Fn(u8) -> Call<Test>| {
			let calls = (0..100).map(call);
			calls
				.filter(|call| include(0, call.clone()).is_ok())
				.count()
		};
		assert_eq!(included(&commit_call), 1);
		assert_eq!(included(&|_| serve_call(0x0808_0808, 80, 4)), 1);
		assert_eq!(included(&|byte| batch_commit_call(&[NETUID], byte)), 0);
	});
}

fn batch_commit_call(netuids: &[NetUid], byte: u8) -> Call<Test> {
	let hashes = vec![hash(byte); netuids.len()];
	Call::batch_commit_weights {
		netuids: netuids
			.iter()
			.map(|netuid| codec::Compact(*netuid))
			.collect::<Vec<_>>()
			.try_into()
			.unwrap(),
		commit_hashes: hashes.try_into().unwrap(),
	}
}

fn batch_reveal_call(rows: &[&[(Uid, u16)]], salts: &[Salt]) -> Call<Test> {
	let (uids, values): (Vec<_>, Vec<_>) = rows.iter().map(|row| columns(row)).unzip();
	Call::batch_reveal_weights {
		netuid: NETUID,
		uids_list: uids.try_into().unwrap(),
		values_list: values.try_into().unwrap(),
		salts_list: salts.to_vec().try_into().unwrap(),
		version_keys: vec![0; rows.len()].try_into().unwrap(),
	}
}

#[test]
fn a_batch_commits_in_all_its_subnets_or_in_none() {
	ExtBuilder::of(vec![secret_subnet(1), secret_subnet(2), subnet(3)]).build_and_execute(|| {
		for netuid in 1..=3 {
			assert_ok!(Subnet::burned_register(
				signed(coldkey(0)),
				netuid,
				hotkey(0)
			));
		}
		run_to(2);
		assert_eq!(pool(0, batch_commit_call(&[], 1)), Err(18)); // it would be free for nothing
		let refused = include(0, batch_commit_call(&[1, 2, 3], 1));
		assert_eq!(refused, Err(own_code(Error::CommitRevealDisabled)));
		assert_eq!(pool(0, batch_commit_call(&[1, 1], 1)), Err(6));
		let call = batch_commit_call(&[1, 2], 7);
		let info = RuntimeCall::Subnet(call.clone()).get_dispatch_info();
		let single = RuntimeCall::Subnet(commit_call(7)).get_dispatch_info();
		assert_eq!(info.call_weight, single.call_weight * 2);
		// What only the pool saw has left no trace.
		assert_eq!(pool(0, call.clone()), Ok(()));
		assert!(WeightCommits::<Test>::get(1, hotkey(0)).is_empty());
		assert_eq!(include(0, call), Ok(()));
		for netuid in [1, 2] {
			assert_eq!(
				WeightCommits::<Test>::get(netuid, hotkey(0))[0].hash,
				hash(7)
			);
		}
	});
}

#[test]
fn a_batch_reveals_all_its_promises_or_none() {
	ExtBuilder::secret().build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		next_epoch();
		let rows: [&[(Uid, u16)]; 2] = [&[(1, 1)], &[(0, 1), (1, 2)]];
		let salts = [salt(1), salt(2)];
		assert_ok!(commit(0, rows[0], &salts[0]));
		run_to(System::block_number() + 1);
		assert_ok!(commit(0, rows[1], &salts[1]));
		let both = batch_reveal_call(&rows, &salts);
		assert_eq!(pool(0, both.clone()), Err(17));
		next_epoch();
		assert_eq!(pool(0, batch_reveal_call(&rows, &salts[..1])), Err(18));
		assert_eq!(pool(0, batch_reveal_call(&[], &[])), Err(18));
		// The second drops the first, so this order fails as a whole.
		let backwards = batch_reveal_call(&[rows[1], rows[0]], &[salt(2), salt(1)]);
		assert_eq!(include(0, backwards), Err(16));
		assert!(LastReveal::<Test>::get(NETUID, hotkey(0)).is_none());
		assert_eq!(include(0, both), Ok(()));
		assert_eq!(weights_of(0), [(0, 32_768), (1, u16::MAX)]);
		assert!(WeightCommits::<Test>::get(NETUID, hotkey(0)).is_empty());
	});
}

#[test]
fn a_pool_holds_one_free_call_of_a_kind() {
	ExtBuilder::of(vec![secret_subnet(1), secret_subnet(2)]).build_and_execute(|| {
		register_all(&[2_000_000]);
		assert_ok!(Subnet::burned_register(signed(coldkey(0)), 2, hotkey(0)));
		register(1);
		run_to(2);
		let tags = |k, call| {
			let call = RuntimeCall::Subnet(call);
			let info = call.get_dispatch_info();
			let external = TransactionSource::External;
			let guard = CheckFreeCalls::<Test>::new();
			let valid = guard.validate_only(signed(hotkey(k)), &call, &info, 0, external, 0);
			valid.unwrap().0.provides
		};
		let first = tags(0, commit_call(1));
		assert_eq!(first.len(), 1);
		assert_eq!(tags(0, commit_call(2)), first);
		assert_ne!(tags(1, commit_call(1)), first);
		assert_ne!(tags(0, serve_call(0x0808_0808, 80, 4)), first);
		let batch = tags(0, batch_commit_call(&[2, 1], 1));
		assert_eq!((batch.len(), &batch[1]), (2, &first[0]));
		let paid = Call::add_stake {
			hotkey: 1,
			netuid: 1,
			amount_staked: 1,
		};
		assert!(tags(0, paid).is_empty());
	});
}

/// Hotkeys hold nothing, so they cannot tip their way past whoever fills blocks to keep votes out.
#[test]
fn a_free_call_of_a_neuron_goes_before_any_tip() {
	let with_work = ExtBuilder::secret().with(|h| {
		h.network_pow_registration_allowed = Some(true);
		h.difficulty = Some(1);
		h.min_difficulty = Some(1);
	});
	with_work.build_and_execute(|| {
		register_all(&[2_000_000]);
		run_to(2);
		let priority = |call| {
			let call = RuntimeCall::Subnet(call);
			let info = call.get_dispatch_info();
			let external = TransactionSource::External;
			let guard = CheckFreeCalls::<Test>::new();
			let valid = guard.validate_only(signed(hotkey(0)), &call, &info, 0, external, 0);
			valid.unwrap().0.priority
		};
		let paid = Call::add_stake {
			hotkey: 1,
			netuid: 1,
			amount_staked: 1,
		};
		assert_eq!(priority(paid), 0);
		let (netuid, work_block, nonce) = (NETUID, 1, 0);
		let seal = pow_seal(netuid, System::block_hash(1), &hotkey(5), &hotkey(0), nonce);
		let by_work = Call::pow_register {
			netuid,
			work_block,
			nonce,
			work: seal.to_vec().try_into().unwrap(),
			hotkey: hotkey(5),
		};
		assert_eq!(priority(by_work), 0);
		for free in [
			commit_call(1),
			serve_call(0x0808_0808, 80, 4),
			batch_commit_call(&[NETUID], 1),
		] {
			assert!(priority(free) > u64::MAX / 4);
		}
	});
}

/// The code of an error that upstream has none for.
fn own_code(error: Error<Test>) -> u8 {
	100 + error.encode()[0]
}

#[test]
fn every_error_has_a_code() {
	use scale_info::TypeInfo;
	let scale_info::TypeDef::Variant(errors) = Error::<Test>::type_info().type_def else {
		panic!("errors are an enum")
	};
	assert!(errors.variants.len() < 155);
	// A client finds the name at the code's place in the metadata.
	let indices = errors
		.variants
		.iter()
		.map(|variant| usize::from(variant.index));
	assert!(indices.eq(0..errors.variants.len()));
}

#[test]
fn paid_calls_and_other_pallets_pass() {
	ExtBuilder::default().build_and_execute(|| {
		assert_eq!(
			pool(
				0,
				Call::burned_register {
					netuid: 9,
					hotkey: 1
				}
			),
			Ok(())
		);
		let call = RuntimeCall::System(frame_system::Call::remark { remark: vec![] });
		let info = call.get_dispatch_info();
		let guard = CheckFreeCalls::<Test>::new();
		assert!(guard
			.validate_only(signed(1), &call, &info, 0, TransactionSource::External, 0)
			.is_ok());
	});
}
