//! Who holds what on whom.

use crate::{mock::*, *};
use frame_support::{
	assert_noop, assert_ok,
	traits::fungible::{Inspect, Mutate},
};

fn stake(who: AccountId, k: u64, rao: u64) -> sp_runtime::DispatchResult {
	Subnet::add_stake(signed(who), hotkey(k), NETUID, rao)
}

fn unstake(who: AccountId, k: u64, rao: u64) -> sp_runtime::DispatchResult {
	Subnet::remove_stake(signed(who), hotkey(k), NETUID, rao)
}

#[test]
fn a_nominator_stakes_and_takes_it_back() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		assert_ok!(stake(NOMINATOR, 0, 5_000));
		assert_eq!(Balances::balance(&NOMINATOR), WEALTH - 5_000);
		assert_eq!(stake_of(0), 5_000);
		assert!(events().contains(&Event::StakeAdded {
			netuid: NETUID,
			hotkey: hotkey(0),
			coldkey: NOMINATOR,
			amount_rao: 5_000
		}));
		let position = &Subnet::stake_positions(&NOMINATOR)[0];
		assert_eq!(
			(position.hotkey, position.stake_rao, position.is_registered),
			(hotkey(0), 5_000, true)
		);

		assert_ok!(unstake(NOMINATOR, 0, 5_000));
		assert_eq!(Balances::balance(&NOMINATOR), WEALTH);
		assert_eq!(stake_of(0), 0);
		assert!(Subnet::stake_positions(&NOMINATOR).is_empty());
		assert!(!NominatorCount::<Test>::contains_key(hotkey(0), NETUID));
	});
}

#[test]
fn stakes_of_several_coldkeys_and_subnets_stay_apart() {
	ExtBuilder::of(vec![subnet(1), subnet(2)]).build_and_execute(|| {
		register(0);
		assert_ok!(stake(NOMINATOR, 0, 5_000));
		assert_ok!(stake(coldkey(0), 0, 7_000));
		assert_ok!(Subnet::add_stake(signed(NOMINATOR), hotkey(0), 2, 9_000));
		assert_eq!(stake_of(0), 12_000);
		assert_eq!(TotalHotkeyAlpha::<Test>::get(hotkey(0), 2), 9_000);
		assert_eq!(TotalStake::<Test>::get(), 21_000);
		assert_eq!(Subnet::stake_positions(&NOMINATOR).len(), 2);
		assert_noop!(
			unstake(NOMINATOR, 0, 5_001),
			Error::<Test>::NotEnoughStakeToWithdraw
		);
	});
}

#[test]
fn stake_needs_a_subnet_an_owned_hotkey_and_the_money() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		let to = |hotkey, netuid, rao| Subnet::add_stake(signed(NOMINATOR), hotkey, netuid, rao);
		assert_noop!(to(hotkey(0), 9, 5_000), Error::<Test>::SubnetNotExists);
		assert_noop!(
			to(hotkey(1), NETUID, 5_000),
			Error::<Test>::HotKeyAccountNotExists
		);
		assert_noop!(to(hotkey(0), NETUID, 999), Error::<Test>::AmountTooLow);
		assert_noop!(
			to(hotkey(0), NETUID, WEALTH),
			Error::<Test>::NotEnoughBalanceToStake
		);
		assert_ok!(to(hotkey(0), NETUID, WEALTH - 500)); // all but what keeps the account
	});
}

#[test]
fn no_dust_is_left_staked() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		assert_ok!(stake(NOMINATOR, 0, 5_000));
		assert_noop!(unstake(NOMINATOR, 0, 0), Error::<Test>::AmountTooLow);
		assert_noop!(unstake(NOMINATOR, 0, 4_001), Error::<Test>::AmountTooLow);
		assert_ok!(unstake(NOMINATOR, 0, 4_000));
		assert_ok!(unstake(NOMINATOR, 0, 1_000));
	});
}

#[test]
fn a_hotkey_has_a_bounded_number_of_nominators_and_always_room_for_its_owner() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		for nominator in 100..104 {
			assert_ok!(stake(nominator, 0, 1_000));
		}
		assert_noop!(stake(104, 0, 1_000), Error::<Test>::TooManyNominators);
		assert_ok!(stake(100, 0, 1_000)); // has a place already
		assert_ok!(stake(coldkey(0), 0, 1_000));
		assert_ok!(unstake(103, 0, 1_000));
		assert_ok!(stake(104, 0, 1_000));
	});
}

/// Else a competitor would close a validator to everybody with a few dust stakes.
#[test]
fn strangers_with_least_stakes_keep_nobody_out() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		assert_ok!(stake(coldkey(0), 0, 1_000)); // the owner is no nominator: it never has to go
		for (nominator, rao) in (100..).zip([4_000, 2_000, 3_000, 2_500]) {
			assert_ok!(stake(nominator, 0, rao));
		}
		// Whoever has to go may have left the chain otherwise.
		assert_ok!(Balances::transfer_all(signed(101), NOMINATOR, false));
		assert_noop!(stake(104, 0, 2_000), Error::<Test>::TooManyNominators);
		assert_ok!(stake(104, 0, 2_001));
		assert!(events().contains(&Event::StakeRemoved {
			netuid: NETUID,
			hotkey: hotkey(0),
			coldkey: 101,
			amount_rao: 2_000
		}));
		assert_eq!(Balances::balance(&101), 2_000);
		assert!(Subnet::stake_positions(&101).is_empty());
		assert_eq!(NominatorCount::<Test>::get(hotkey(0), NETUID), 4);
		assert_eq!(stake_of(0), 1_000 + 4_000 + 3_000 + 2_500 + 2_001);
		assert_noop!(stake(101, 0, 1_000), Error::<Test>::TooManyNominators);
	});
}

#[test]
fn stake_outlives_the_slot() {
	ExtBuilder::default()
		.with(|h| h.max_allowed_uids = Some(1))
		.build_and_execute(|| {
			register(0);
			assert_ok!(stake(NOMINATOR, 0, 5_000));
			register(1);
			assert!(!Subnet::stake_positions(&NOMINATOR)[0].is_registered);
			assert_ok!(unstake(NOMINATOR, 0, 5_000));
		});
}

#[test]
fn a_gift_to_the_account_is_shared_out_with_the_next_block() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[5_000]);
		let before = owed();
		let account = Subnet::account_id();
		let keep = frame_support::traits::tokens::Preservation::Preserve;
		assert_ok!(<Balances as Mutate<_>>::transfer(
			&NOMINATOR, &account, 1_234, keep
		));
		assert_ok!(Subnet::do_try_state());
		run_to(2);
		assert_eq!(
			owed() - before,
			1_234 + block_emission_rao(Balances::total_issuance())
		);
	});
}

#[test]
fn a_limit_below_or_above_the_only_price_there_is_stops_the_swap() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		let add = |limit| {
			Subnet::add_stake_limit(signed(NOMINATOR), hotkey(0), NETUID, 5_000, limit, true)
		};
		let remove = |limit| {
			Subnet::remove_stake_limit(signed(NOMINATOR), hotkey(0), NETUID, 5_000, limit, true)
		};
		assert_noop!(add(PRICE_RAO - 1), Error::<Test>::SlippageTooHigh);
		assert_ok!(add(PRICE_RAO));
		assert_eq!(stake_of(0), 5_000);
		assert_noop!(remove(PRICE_RAO + 1), Error::<Test>::SlippageTooHigh);
		assert_ok!(remove(PRICE_RAO));
		assert_eq!(stake_of(0), 0);
	});
}
