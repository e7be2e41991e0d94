//! Money: what blocks mint and what epochs pay.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok, traits::fungible::Inspect};

fn shares(shares: &[(NetUid, u16)]) -> sp_runtime::DispatchResult {
	let shares = shares.to_vec().try_into().unwrap();
	Subnet::set_emission_shares(RuntimeOrigin::root(), shares)
}

/// What each of subnets 1 to 3 got in the next block.
fn next_block_parts() -> [u64; 3] {
	let pots = || [1, 2, 3].map(PendingEmission::<Test>::get);
	let before = pots();
	run_to(System::block_number() + 1);
	let after = pots();
	[0, 1, 2].map(|at| after[at] - before[at])
}

fn three_slow_subnets() -> ExtBuilder {
	ExtBuilder::of(vec![subnet(1), subnet(2), subnet(3)]).with(|h| {
		h.tempo = Some(1_000);
		h.immunity_period = Some(5_000);
	})
}

#[test]
fn every_block_mints_its_emission_into_the_account() {
	ExtBuilder::default().build_and_execute(|| {
		let issuance = Balances::total_issuance();
		run_to(2);
		assert_eq!(Balances::total_issuance() - issuance, 1_000_000_000);
		assert_eq!(
			Balances::total_balance(&Subnet::account_id()),
			2_000_000_000
		);
	});
}

#[test]
fn emission_is_shared_evenly_and_the_lowest_subnet_takes_the_rest() {
	three_slow_subnets().build_and_execute(|| {
		assert_eq!(next_block_parts(), [333_333_334, 333_333_333, 333_333_333]);
	});
}

#[test]
fn root_sets_the_shares() {
	three_slow_subnets().build_and_execute(|| {
		assert_ok!(shares(&[(3, 2), (2, 1)]));
		assert_eq!(next_block_parts(), [0, 333_333_334, 666_666_666]);
		assert_ok!(shares(&[(1, 0), (3, 9)]));
		assert_eq!(next_block_parts(), [0, 0, 1_000_000_000]);
		assert_ok!(shares(&[]));
		assert_eq!(next_block_parts(), [333_333_334, 333_333_333, 333_333_333]);

		assert_noop!(shares(&[(1, 0)]), Error::<Test>::InvalidEmissionShares);
		assert_noop!(
			shares(&[(1, 1), (1, 2)]),
			Error::<Test>::InvalidEmissionShares
		);
		assert_noop!(shares(&[(9, 1)]), Error::<Test>::InvalidEmissionShares);
		let signed = Subnet::set_emission_shares(signed(OWNER), Default::default());
		assert_noop!(signed, sp_runtime::DispatchError::BadOrigin);
	});
}

#[test]
fn genesis_sets_the_shares() {
	let mut first = subnet(1);
	first.emission_share = Some(1);
	ExtBuilder::of(vec![first, subnet(2)]).build_and_execute(|| {
		assert_eq!(PendingEmission::<Test>::get(2), 0);
		assert_eq!(PendingEmission::<Test>::get(1), 1_000_000_000);
	});
}

#[test]
fn the_owner_gets_its_cut_as_stake_on_its_hotkey() {
	ExtBuilder::default()
		.with(|h| h.owner_cut = Some(11_796))
		.build_and_execute(|| {
			register_all(&[5_000]);
			next_epoch();
			let cut = 9 * (1_000_000_000 * 11_796 / 65_535);
			assert_eq!(Stake::<Test>::get((NETUID, OWNER, OWNER)), cut);
			let Some(Event::EpochRan {
				owner_rao,
				emission_rao,
				..
			}) = epoch_ran()
			else {
				panic!()
			};
			assert_eq!((owner_rao, emission_rao), (cut, 9_000_000_000 - cut));
		});
}

#[test]
fn the_first_epoch_pays_by_stake() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[3_000_000, 1_000_000, 0]);
		next_epoch();
		assert_eq!(stake_of(0), 3_000_000 + 6_750_000_000);
		assert_eq!(stake_of(1), 1_000_000 + 2_250_000_000);
		assert_eq!(stake_of(2), 0);
		assert_eq!(
			Emission::<Test>::get(NETUID).into_inner(),
			[6_750_000_000, 2_250_000_000, 0]
		);
	});
}

#[test]
fn miners_and_validators_get_half_each() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[1_000_000, 0]);
		next_epoch();
		assert_ok!(vote(0, &[(1, 1)]));
		let staked = stake_of(0);
		next_epoch();
		assert_eq!(stake_of(1), 5_000_000_000);
		assert_eq!(stake_of(0) - staked, 5_000_000_000);
		let Some(Event::EpochRan {
			server_rao,
			validator_rao,
			dust_rao,
			epoch,
			block,
			..
		}) = epoch_ran()
		else {
			panic!("no epoch")
		};
		assert_eq!(
			(server_rao, validator_rao, dust_rao),
			(5_000_000_000, 5_000_000_000, 0)
		);
		assert_eq!((epoch, block), (1, 19));
	});
}

#[test]
fn dividends_are_shared_by_all_who_stake_and_the_owner_takes_the_rest() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		Delegates::<Test>::insert(hotkey(0), 0);
		for (who, rao) in [(NOMINATOR, 2_000), (50, 3_000), (coldkey(0), 2_000)] {
			assert_ok!(Subnet::add_stake(signed(who), hotkey(0), NETUID, rao));
		}
		next_epoch();
		let stake = |who| Stake::<Test>::get((NETUID, hotkey(0), who));
		let emission = 9_000_000_000;
		assert_eq!(stake(NOMINATOR), 2_000 + emission * 2 / 7);
		assert_eq!(stake(50), 3_000 + emission * 3 / 7);
		assert_eq!(stake_of(0), 7_000 + emission);
	});
}

#[test]
fn incentive_belongs_to_the_hotkeys_owner_alone() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[1_000_000, 0]);
		next_epoch();
		assert_ok!(Subnet::add_stake(
			signed(NOMINATOR),
			hotkey(1),
			NETUID,
			1_000
		));
		assert_ok!(vote(0, &[(1, 1)]));
		next_epoch();
		assert_eq!(Stake::<Test>::get((NETUID, hotkey(1), NOMINATOR)), 1_000);
		assert_eq!(
			Stake::<Test>::get((NETUID, hotkey(1), coldkey(1))),
			5_000_000_000
		);
	});
}

#[test]
fn dust_stays_in_the_pot_for_the_next_epoch() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[1_000, 1_000, 1_000]);
		next_epoch();
		let Some(Event::EpochRan {
			emission_rao,
			validator_rao,
			dust_rao,
			..
		}) = epoch_ran()
		else {
			panic!("no epoch")
		};
		assert!(dust_rao > 0);
		assert_eq!(validator_rao + dust_rao, emission_rao);
		assert_eq!(PendingEmission::<Test>::get(NETUID), dust_rao);
		next_epoch();
		let Some(Event::EpochRan { emission_rao, .. }) = epoch_ran() else {
			panic!("no epoch")
		};
		assert_eq!(emission_rao, 10_000_000_000 + dust_rao);
	});
}

#[test]
fn without_stake_nobody_is_paid_and_nothing_is_lost() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[0, 0]);
		next_epoch();
		assert_eq!(TotalStake::<Test>::get(), 0);
		assert_eq!(PendingEmission::<Test>::get(NETUID), 9_000_000_000);
	});
}

#[test]
fn emission_ends_with_the_supply() {
	ExtBuilder::default().build_and_execute(|| {
		let all_but = |rao| {
			let others = Balances::total_issuance() - Balances::total_balance(&999);
			let _ = <Balances as frame_support::traits::fungible::Mutate<_>>::set_balance(
				&999,
				21_000_000_000_000_000 - others - rao,
			);
		};
		all_but(39_000_000);
		let issuance = Balances::total_issuance();
		run_to(2);
		assert_eq!(Balances::total_issuance() - issuance, 1); // 29 halvings
		all_but(0);
		let issuance = Balances::total_issuance();
		run_to(20);
		assert_eq!(Balances::total_issuance(), issuance);
	});
}
