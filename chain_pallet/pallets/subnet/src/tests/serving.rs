//! Axons and models.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok};

type E = Error<Test>;

#[test]
fn a_neuron_publishes_its_address() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		assert_ok!(serve(0, "8.8.8.8", 8091));
		let axon = Axons::<Test>::get(NETUID, hotkey(0)).unwrap();
		assert_eq!(
			(axon.ip, axon.port, axon.ip_type, axon.block),
			(0x0808_0808, 8091, 4, 1)
		);
		assert!(events().contains(&Event::AxonServed {
			netuid: NETUID,
			hotkey: hotkey(0)
		}));
		// Once a block, although this subnet has no rate limit.
		let again = serve(0, "2606:4700::1111", 8091);
		assert_noop!(again, E::ServingRateLimitExceeded);
		run_to(2);
		assert_ok!(serve(0, "2606:4700::1111", 8091));
		assert_eq!(Axons::<Test>::get(NETUID, hotkey(0)).unwrap().ip_type, 6);
	});
}

#[test]
fn serving_says_why_not() {
	ExtBuilder::default()
		.with(|h| h.serving_rate_limit = Some(5))
		.build_and_execute(|| {
			assert_noop!(serve(0, "8.8.8.8", 80), E::HotKeyNotRegisteredInNetwork);
			register(0);
			let raw = |ip, ip_type| {
				Subnet::serve_axon(signed(hotkey(0)), NETUID, 1, ip, 80, ip_type, 0, 0, 0)
			};
			assert_noop!(raw(0x0808_0808, 5), E::InvalidIpType);
			assert_noop!(raw(1 << 32, 4), E::InvalidIpAddress);
			assert_noop!(serve(0, "8.8.8.8", 0), E::InvalidPort);
			assert_ok!(serve(0, "8.8.8.8", 80));
			run_to(5);
			assert_noop!(serve(0, "8.8.8.8", 80), E::ServingRateLimitExceeded);
			run_to(6);
			assert_ok!(serve(0, "8.8.8.8", 80));
		});
}

#[test]
fn a_neuron_says_which_model_it_serves_and_since_when() {
	let limited = ExtBuilder::default().with(|h| h.serving_rate_limit = Some(5));
	limited.build_and_execute(|| {
		let commit =
			|byte, is_open| Subnet::commit_model(signed(hotkey(0)), NETUID, hash(byte), is_open);
		assert_noop!(commit(1, false), E::HotKeyNotRegisteredInNetwork);
		register(0);
		assert_ok!(serve(0, "8.8.8.8", 80));
		assert_ok!(commit(1, false)); // the axon's limit is its own
		assert!(events().contains(&Event::ModelCommitted {
			netuid: NETUID,
			hotkey: hotkey(0),
			commitment: hash(1),
			is_open: false,
		}));
		run_to(5);
		assert_noop!(commit(1, true), E::ServingRateLimitExceeded);
		run_to(6);
		assert_ok!(commit(1, true));
		let model = Models::<Test>::get(NETUID, hotkey(0)).unwrap();
		assert_eq!(
			(model.commitment, model.is_open, model.block),
			(hash(1), true, 6)
		);
		let nobody = Subnet::commit_model(RuntimeOrigin::none(), NETUID, hash(1), true);
		assert_noop!(nobody, sp_runtime::DispatchError::BadOrigin);
	});
}

#[test]
fn private_addresses_are_for_local_networks() {
	let private = [
		"127.0.0.1",
		"192.168.0.1",
		"10.0.0.1",
		"100.64.0.1",
		"::1",
		"fd00::1",
	];
	let nowhere = [
		"0.0.0.0",
		"224.0.0.1",
		"255.255.255.255",
		"192.0.2.1",
		"ff02::1",
		"::",
	];
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		for ip in private.iter().chain(&nowhere) {
			assert_noop!(serve(0, ip, 80), E::InvalidIpAddress);
		}
	});
	let local = ExtBuilder::default().genesis(|g| g.allow_private_addresses = true);
	local.build_and_execute(|| {
		register(0);
		for ip in private {
			assert_ok!(serve(0, ip, 80));
			run_to(System::block_number() + 1);
		}
		for ip in nowhere {
			assert_noop!(serve(0, ip, 80), E::InvalidIpAddress);
		}
	});
}
