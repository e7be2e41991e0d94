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

		assert_eq!(pool(0, vote_call(9, &[1], &[1])), Err(3));
		assert_eq!(pool(0, vote_call(NETUID, &[1], &[])), Err(18));
		assert_eq!(pool(9, vote_call(NETUID, &[1], &[1])), Err(19));
		assert_eq!(pool(1, vote_call(NETUID, &[0], &[1])), Err(255)); // no permit
		assert_eq!(pool(0, commit_call(1)), Err(255)); // votes are open here
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
	ExtBuilder::secret().build_and_execute(|| {
		register_all(&[2_000_000]);
		let included = (0..100).filter(|byte| include(0, commit_call(*byte)).is_ok());
		assert_eq!(included.count(), 10); // no rate limit, but a bounded queue
	});
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
