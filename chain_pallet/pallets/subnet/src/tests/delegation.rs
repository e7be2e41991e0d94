//! Takes: who gets what of the dividends, and how a take changes.

use crate::{delegation::nominator_part, mock::*, *};
use frame_support::{assert_noop, assert_ok};
use proptest::prelude::*;

const LIMIT: u64 = 100;

fn limited() -> ExtBuilder {
	ExtBuilder::default().genesis(|g| g.limits.tx_delegate_take_rate_limit = Some(LIMIT))
}

fn decrease(k: u64, take: u16) -> sp_runtime::DispatchResult {
	Subnet::decrease_take(signed(coldkey(k)), hotkey(k), take)
}

fn increase(k: u64, take: u16) -> sp_runtime::DispatchResult {
	Subnet::increase_take(signed(coldkey(k)), hotkey(k), take)
}

#[test]
fn an_owner_takes_eighteen_percent_until_it_says_otherwise() {
	for (take, to_nominator) in [(None, 6_150_034_332), (Some(0), 7_500_000_000)] {
		ExtBuilder::default().build_and_execute(|| {
			register_all(&[1_000_000]);
			if let Some(take) = take {
				assert_ok!(decrease(0, take));
			}
			let stake = Subnet::add_stake(signed(NOMINATOR), hotkey(0), NETUID, 5_000_000);
			assert_ok!(stake);
			next_epoch();
			// The first epoch pays 9 tokens by stake: 5/6 of it was earned by the nominator's.
			let earned = Stake::<Test>::get((NETUID, hotkey(0), NOMINATOR)) - 5_000_000;
			assert_eq!(earned, to_nominator);
			assert_eq!(stake_of(0), 6_000_000 + 9_000_000_000);
		});
	}
}

#[test]
fn a_take_falls_at_any_time_and_rises_when_nominators_had_time_to_leave() {
	limited().build_and_execute(|| {
		register(0);
		assert_ok!(decrease(0, 5_000));
		assert_ok!(decrease(0, 4_000));
		assert!(events().contains(&Event::TakeDecreased {
			coldkey: coldkey(0),
			hotkey: hotkey(0),
			take: 4_000
		}));
		let too_soon = Error::<Test>::DelegateTxRateLimitExceeded;
		assert_noop!(increase(0, 5_000), too_soon);
		run_to(LIMIT);
		assert_noop!(
			increase(0, 5_000),
			Error::<Test>::DelegateTxRateLimitExceeded
		);
		run_to(LIMIT + 1);
		assert_ok!(increase(0, 5_000));
		assert!(events().contains(&Event::TakeIncreased {
			coldkey: coldkey(0),
			hotkey: hotkey(0),
			take: 5_000
		}));
		assert_noop!(
			increase(0, 6_000),
			Error::<Test>::DelegateTxRateLimitExceeded
		);
		run_to(2 * LIMIT + 1);
		assert_noop!(
			increase(0, MAX_TAKE + 1),
			Error::<Test>::DelegateTakeTooHigh
		);
		assert_ok!(increase(0, MAX_TAKE));
	});
}

#[test]
fn a_take_is_the_owners_to_change_and_has_to_change() {
	limited().build_and_execute(|| {
		register(0);
		let of_another = Subnet::decrease_take(signed(coldkey(1)), hotkey(0), 0);
		assert_noop!(of_another, Error::<Test>::NonAssociatedColdKey);
		let unknown = Subnet::increase_take(signed(coldkey(1)), hotkey(1), 1);
		assert_noop!(unknown, Error::<Test>::HotKeyAccountNotExists);
		assert_noop!(decrease(0, MAX_TAKE), Error::<Test>::DelegateTakeTooLow);
		assert_noop!(increase(0, MAX_TAKE), Error::<Test>::DelegateTakeTooLow);
	});
}

proptest! {
	#[test]
	fn nominators_get_their_share_less_the_take_and_never_more_than_there_is(
		dividends_rao in 0..=u64::MAX,
		stakes_rao in proptest::collection::vec(0..=u64::MAX >> 8, 1..200),
		take in 0..=MAX_TAKE,
	) {
		let total_rao: u64 = stakes_rao.iter().sum();
		let parts = stakes_rao.iter().map(|stake_rao| {
			let part_rao = nominator_part(dividends_rao, *stake_rao, total_rao, take);
			let kept = u128::from(u16::MAX - take);
			let owed = u128::from(dividends_rao) * u128::from(*stake_rao);
			if let Some(gross) = owed.checked_div(total_rao.into()) {
				// Within a rao of what is due, and never above it.
				let due = gross * kept / u128::from(u16::MAX);
				assert_eq!(u128::from(part_rao), due);
			}
			u128::from(part_rao)
		});
		prop_assert!(parts.sum::<u128>() <= u128::from(dividends_rao));
	}
}
