//! Buying a subnet.

use crate::{mock::*, network::lock_cost_rao, *};
use frame_support::{assert_noop, assert_ok, traits::fungible::Inspect};
use proptest::prelude::*;

const LEAST: u64 = 1_000_000_000;
const INTERVAL: u64 = 100;

fn for_sale() -> ExtBuilder {
	ExtBuilder::of(vec![subnet(1), subnet(3)]).genesis(|g| {
		g.limits.network_min_lock_cost = Some(LEAST);
		g.limits.network_lock_reduction_interval = Some(INTERVAL);
		g.limits.subnet_limit = Some(4);
	})
}

fn buy(k: u64) -> sp_runtime::DispatchResult {
	Subnet::register_network(signed(coldkey(k)), hotkey(k))
}

#[test]
fn a_bought_subnet_has_an_owner_a_neuron_and_defaults() {
	for_sale().build_and_execute(|| {
		let issuance = Balances::total_issuance();
		assert_ok!(buy(0));
		let (netuid, price_rao) = (2, LEAST); // the lowest that is free
		assert_eq!(Balances::total_issuance(), issuance - price_rao);
		assert_eq!(Balances::balance(&coldkey(0)), WEALTH - price_rao);
		assert_eq!(SubnetLocked::<Test>::get(netuid), price_rao);
		assert!(events().contains(&Event::NetworkAdded {
			netuid,
			coldkey: coldkey(0),
			hotkey: hotkey(0),
			price_rao
		}));
		assert_eq!(SubnetOwner::<Test>::get(netuid), Some(coldkey(0)));
		assert_eq!(SubnetOwnerHotkey::<Test>::get(netuid), Some(hotkey(0)));
		assert_eq!(Keys::<Test>::get(netuid, 0), Some(hotkey(0)));
		assert_eq!(Subnet::hyperparams(netuid), Default::default());
		// It can be joined, and it runs.
		assert_ok!(Subnet::burned_register(
			signed(coldkey(1)),
			netuid,
			hotkey(1)
		));
		run_to(Subnet::next_epoch_start_block(netuid).unwrap());
		assert_eq!(SubnetEpochIndex::<Test>::get(netuid), 1);
	});
}

#[test]
fn nobody_buys_a_share_of_the_emission() {
	for_sale().build_and_execute(|| {
		let pots = || [1, 2, 3].map(PendingEmission::<Test>::get);
		assert_eq!(pots(), [500_000_000, 0, 500_000_000]);
		assert_ok!(buy(0));
		run_to(2);
		assert_eq!(pots(), [1_000_000_000, 0, 1_000_000_000]);
		assert_ok!(buy(1));
		run_to(3);
		assert_eq!(PendingEmission::<Test>::get(4), 0);
		let shares = vec![(1, 1), (2, 1)].try_into().unwrap();
		assert_ok!(Subnet::set_emission_shares(RuntimeOrigin::root(), shares));
		run_to(4);
		// Less the owner's cut, which a bought subnet has by default.
		assert_eq!(pots(), [2_000_000_000, 410_002_289, 1_500_000_000]);
	});
}

#[test]
fn on_a_chain_without_subnets_the_first_one_gets_nothing_either() {
	ExtBuilder::of(vec![]).build_and_execute(|| {
		let issuance = Balances::total_issuance();
		assert_ok!(buy(0));
		run_to(9);
		assert_eq!(Balances::total_issuance(), issuance - 1_000_000_000_000);
		assert_eq!(PendingEmission::<Test>::get(1), 0);
	});
}

#[test]
fn each_purchase_doubles_the_price_and_time_halves_it() {
	for_sale().build_and_execute(|| {
		assert_eq!(Subnet::network_lock_cost(), LEAST);
		assert_ok!(buy(0));
		assert_eq!(Subnet::network_lock_cost(), 2 * LEAST);
		run_to(1 + INTERVAL / 2);
		assert_eq!(Subnet::network_lock_cost(), 2 * LEAST - LEAST / 2);
		assert_ok!(buy(1));
		assert_eq!(Subnet::network_lock_cost(), 3 * LEAST);
		run_to(1_000);
		assert_eq!(Subnet::network_lock_cost(), LEAST);
	});
}

#[test]
fn a_purchase_says_why_not() {
	for_sale().build_and_execute(|| {
		let poor = Subnet::register_network(signed(9_999), 8);
		assert_noop!(poor, Error::<Test>::CannotAffordLockCost);
		register(0);
		let of_another = Subnet::register_network(signed(coldkey(1)), hotkey(0));
		assert_noop!(of_another, Error::<Test>::NonAssociatedColdKey);
		assert_ok!(buy(0));
		assert_ok!(buy(1));
		assert_noop!(buy(2), Error::<Test>::SubnetLimitReached);
	});
}

#[test]
fn bought_subnets_take_turns() {
	for_sale().build_and_execute(|| {
		run_to(500);
		assert_ok!(buy(0));
		assert_ok!(buy(1));
		let first = [2, 4].map(|netuid| Subnet::next_epoch_start_block(netuid).unwrap());
		assert_eq!(first, [500 + 360 - 2, 500 + 360 - 4]);
	});
}

proptest! {
	#[test]
	fn a_price_falls_from_twice_the_last_to_the_least(
		least in any::<u64>(), last in any::<u64>(), elapsed in any::<u64>(), interval in any::<u64>(),
	) {
		let price = |elapsed| lock_cost_rao(least, last, elapsed, interval);
		prop_assert!(price(elapsed) >= least);
		prop_assert!(price(elapsed) <= last.saturating_mul(2).max(least));
		prop_assert!(price(elapsed) >= price(elapsed.saturating_add(1)));
		if interval > 0 {
			prop_assert_eq!(price(interval), last.max(least));
			prop_assert_eq!(price(interval.saturating_mul(2)).max(least), if interval > u64::MAX / 2 { price(u64::MAX) } else { least });
		}
	}
}
