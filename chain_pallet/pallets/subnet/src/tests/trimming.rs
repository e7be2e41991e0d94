//! A subnet that becomes smaller.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok};
use proptest::prelude::*;

/// Subnets from which slots can be taken every 50 blocks.
fn trimmable(builder: ExtBuilder) -> ExtBuilder {
	builder
		.with(|h| {
			h.immunity_period = Some(20);
			h.max_allowed_uids = Some(8);
		})
		.genesis(|g| {
			g.limits.admin_freeze_window = Some(2);
			g.limits.min_owner_uids = Some(2);
			g.limits.trim_rate_limit = Some(50);
		})
}

fn trim(max_n: u16) -> sp_runtime::DispatchResult {
	Subnet::trim_subnet(signed(OWNER), NETUID, max_n)
}

/// Nobody is immune any more, and neuron `k` earned `earned[k]`.
fn grown_up(earned: &[u64]) {
	register_all(&vec![0; earned.len()]);
	run_to(21);
	Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.to_vec()));
}

fn seated() -> Vec<AccountId> {
	let n = SubnetworkN::<Test>::get(NETUID);
	(0..n)
		.map(|uid| Keys::<Test>::get(NETUID, uid).unwrap())
		.collect()
}

#[test]
fn those_who_earned_least_go_and_the_last_move_into_their_slots() {
	trimmable(ExtBuilder::default()).build_and_execute(|| {
		grown_up(&[5, 1, 4, 2, 9, 7]);
		assert_ok!(trim(4));
		assert_eq!(seated(), [0, 4, 2, 5].map(hotkey));
		assert_eq!(Emission::<Test>::get(NETUID).into_inner(), [5, 9, 4, 7]);
		assert_eq!(MaxAllowedUids::<Test>::get(NETUID), 4);
		let moves = vec![(4, 1), (5, 3)].try_into().unwrap();
		assert!(events().contains(&Event::SubnetTrimmed {
			netuid: NETUID,
			max_n: 4,
			moves
		}));
		for gone in [1, 3].map(hotkey) {
			assert!(!Uids::<Test>::contains_key(NETUID, gone));
			assert!(!IsNetworkMember::<Test>::contains_key(gone, NETUID));
		}
		assert_eq!(System::sufficients(&hotkey(1)), 0);
		assert_eq!(Axons::<Test>::iter_key_prefix(NETUID).count(), 0);
	});
}

#[test]
fn an_empty_slot_needs_nobody_to_go() {
	trimmable(ExtBuilder::default()).build_and_execute(|| {
		register_all(&[0, 0, 0]); // all immune
		let before = seated();
		assert_ok!(trim(3));
		assert_eq!((seated(), MaxAllowedUids::<Test>::get(NETUID)), (before, 3));
	});
}

#[test]
fn stake_votes_bonds_and_scores_move_along() {
	trimmable(ExtBuilder::default()).build_and_execute(|| {
		register_all(&[0, 0, 0, 0, 7_000_000]);
		run_to(21); // uid 4 holds a permit
		assert_ok!(vote(4, &[(0, 1), (1, 2), (3, 4), (4, 4)]));
		next_epoch();
		let bonds = Bonds::<Test>::get(NETUID, 4).into_inner();
		assert!(bonds.len() > 1);
		let bond_on = |row: &Row, uid| row.iter().find(|(at, _)| *at == uid).map(|(_, bond)| *bond);
		let emission = |earned: [u64; 5]| {
			Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.into()));
		};
		emission([3, 0, 0, 2, 5]);
		assert_ok!(trim(3)); // 1 and 2 go; 3 takes slot 1, and 4 slot 2
		assert_eq!(seated(), [0, 3, 4].map(hotkey));
		assert_eq!(weights_of(2), [(0, 16_384), (1, 65_535), (2, 65_535)]);
		let moved = Bonds::<Test>::get(NETUID, 2).into_inner();
		assert_eq!(bond_on(&moved, 0), bond_on(&bonds, 0));
		assert_eq!(bond_on(&moved, 1), bond_on(&bonds, 3));
		assert!(!Bonds::<Test>::contains_key(NETUID, 4));
		assert!(Subnet::has_permit(NETUID, 2));
		assert_eq!(
			stake_of(4),
			TotalStake::<Test>::get() - stake_of(3) - stake_of(1) - stake_of(0)
		);
		// The vote counts at the next epoch as if nothing had happened.
		next_epoch();
		let incentive = Incentive::<Test>::get(NETUID).into_inner();
		assert!(
			incentive[1] > incentive[0] && incentive[0] > 0,
			"{incentive:?}"
		);
	});
}

#[test]
fn a_promise_from_before_follows_its_targets() {
	trimmable(ExtBuilder::secret()).build_and_execute(|| {
		register_all(&[9_000_000, 0, 0, 0, 0, 0]);
		run_to(21);
		let row = [(1, 10), (2, 20), (4, 30), (5, 65_535)];
		assert_ok!(commit(0, &row, &salt(1)));
		let earned = [9u64, 1, 5, 0, 6, 7];
		Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.into()));
		assert_ok!(trim(4)); // 3 and 1 go; 4 takes slot 1, and 5 slot 3
		assert_eq!(seated(), [0, 4, 2, 5].map(hotkey));
		next_epoch();
		assert_ok!(reveal(0, &row, &salt(1)));
		assert_eq!(weights_of(0), [(1, 30), (2, 20), (3, 65_535)]);
		let revealed = events().into_iter().find_map(|event| match event {
			Event::WeightsRevealed { sniped, .. } => Some(sniped),
			_ => None,
		});
		assert_eq!(revealed, Some(1));
	});
}

#[test]
fn whoever_is_seated_after_the_trim_inherits_no_promise() {
	trimmable(ExtBuilder::secret()).build_and_execute(|| {
		register_all(&[9_000_000, 0, 0, 0]);
		run_to(21);
		let row = [(1, 10), (3, 65_535)];
		assert_ok!(commit(0, &row, &salt(1)));
		let earned = [9u64, 1, 0, 3];
		Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.into()));
		assert_ok!(trim(3)); // 2 goes, 3 takes its slot
		let more = HyperparamsUpdate {
			max_allowed_uids: Some(6),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(RuntimeOrigin::root(), NETUID, more));
		register(7); // takes slot 3, which the promise names
		assert_eq!(seated(), [0, 1, 3, 7].map(hotkey));
		next_epoch();
		assert_ok!(reveal(0, &row, &salt(1)));
		assert_eq!(weights_of(0), [(1, 10), (2, 65_535)]);
	});
}

#[test]
fn a_promise_from_after_the_trim_means_what_it_says() {
	trimmable(ExtBuilder::secret()).build_and_execute(|| {
		register_all(&[9_000_000, 0, 0, 0]);
		run_to(21);
		let earned = [9u64, 1, 0, 3];
		Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.into()));
		assert_ok!(trim(3));
		run_to(22);
		assert_ok!(commit(0, &[(2, 65_535)], &salt(1)));
		next_epoch();
		assert_ok!(reveal(0, &[(2, 65_535)], &salt(1)));
		assert_eq!(weights_of(0), [(2, 65_535)]);
	});
}

#[test]
fn a_row_that_the_trim_shortened_is_long_enough() {
	let strict = trimmable(ExtBuilder::secret()).with(|h| h.min_allowed_weights = Some(2));
	strict.build_and_execute(|| {
		register_all(&[9_000_000, 0, 0]);
		run_to(21);
		let row = [(1, 65_535), (2, 65_535)];
		assert_ok!(commit(0, &row, &salt(1)));
		let earned = [9u64, 0, 3];
		Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.into()));
		assert_ok!(trim(2));
		next_epoch();
		assert_ok!(reveal(0, &row, &salt(1)));
		assert_eq!(weights_of(0), [(1, 65_535)]);
	});
}

#[test]
fn the_immune_and_the_owners_stay() {
	trimmable(ExtBuilder::default()).build_and_execute(|| {
		assert_ok!(Subnet::burned_register(signed(OWNER), NETUID, OWNER)); // uid 0
		register_all(&[0, 0, 0, 0]); // uids 1 to 4
		run_to(21);
		register(4); // uid 5, immune
		let earned = [0u64, 9, 8, 7, 6, 0];
		Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.into()));
		// Two of two would be 100 %.
		assert_noop!(
			trim(2),
			Error::<Test>::TrimmingWouldExceedMaxImmunePercentage
		);
		assert_ok!(trim(3));
		assert_eq!(seated(), [OWNER, hotkey(0), hotkey(4)]);
		assert_eq!(BlockAtRegistration::<Test>::get(NETUID, 2), 21);
	});
}

#[test]
fn only_the_owner_trims_within_bounds_and_seldom() {
	trimmable(ExtBuilder::default()).build_and_execute(|| {
		grown_up(&[1, 2, 3, 4, 5]);
		let stranger = Subnet::trim_subnet(signed(NOMINATOR), NETUID, 4);
		assert_noop!(stranger, Error::<Test>::NotSubnetOwner);
		let missing = Subnet::trim_subnet(signed(OWNER), 9, 4);
		assert_noop!(missing, Error::<Test>::SubnetNotExists);
		let bounds = || Error::<Test>::HyperparamOutOfBounds(Hyperparam::max_allowed_uids);
		assert_noop!(trim(1), bounds());
		assert_noop!(trim(8), bounds());
		run_to(28);
		let frozen = Error::<Test>::AdminActionProhibitedDuringWeightsWindow;
		assert_noop!(trim(4), frozen);
		run_to(31);
		assert_ok!(trim(4));
		run_to(80);
		assert_noop!(trim(3), Error::<Test>::TxRateLimitExceeded);
		run_to(81);
		assert_ok!(trim(3));
	});
}

#[test]
fn no_second_trim_while_a_promise_from_before_the_first_waits() {
	let patient = trimmable(ExtBuilder::secret())
		.with(|h| {
			h.reveal_period_epochs = Some(3);
			h.immunity_period = Some(40);
		})
		.genesis(|g| g.limits.trim_rate_limit = Some(0));
	patient.build_and_execute(|| {
		register_all(&[9_000_000, 0, 0, 0]);
		run_to(41); // epoch 4
		assert_ok!(commit(0, &[(1, 1)], &salt(1)));
		assert_ok!(trim(3));
		run_to(61);
		assert_noop!(trim(2), Error::<Test>::TxRateLimitExceeded);
		run_to(81); // the epoch of the reveal is over
		assert_ok!(trim(2));
	});
}

#[test]
fn a_promise_of_the_very_block_of_a_trim_holds_up_the_second_too() {
	let patient = trimmable(ExtBuilder::secret())
		.with(|h| {
			h.reveal_period_epochs = Some(3);
			h.immunity_period = Some(40);
		})
		.genesis(|g| g.limits.trim_rate_limit = Some(0));
	patient.build_and_execute(|| {
		register_all(&[9_000_000, 0, 0, 0, 0]);
		run_to(41);
		assert_ok!(trim(4)); // uid 4 takes the slot of uid 1
		assert_ok!(commit(0, &[(4, 1)], &salt(1))); // signed before the trim
		run_to(61);
		assert_noop!(trim(3), Error::<Test>::TxRateLimitExceeded);
		run_to(71);
		assert_ok!(reveal(0, &[(4, 1)], &salt(1)));
		run_to(81);
		assert_ok!(trim(3));
	});
}

proptest! {
	#![proptest_config(ProptestConfig::with_cases(60))]

	#[test]
	fn every_survivor_keeps_what_it_had(
		earned in prop::collection::vec(0u64..6, 3..8),
		max_n in 2u16..7,
		targets in prop::collection::vec(1u16..=u16::MAX, 8),
	) {
		let n = earned.len();
		trimmable(ExtBuilder::default()).build_and_execute(|| {
			let mut stakes = vec![0; n];
			stakes[n - 1] = 5_000_000;
			register_all(&stakes);
			run_to(21);
			let row: Vec<_> = (0..n as u16).zip(targets.iter().copied()).collect();
			assert_ok!(vote(n as u64 - 1, &row));
			let given = |hotkey: AccountId| {
				let uid = Uids::<Test>::get(NETUID, hotkey)?;
				let voter = Uids::<Test>::get(NETUID, super::super::mock::hotkey(n as u64 - 1))?;
				weights_of(voter).iter().find(|(at, _)| *at == uid).map(|(_, value)| *value)
			};
			Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(earned.clone()));
			let before: Vec<_> = (0..n as u64).map(|k| given(hotkey(k))).collect();
			assert_ok!(trim(max_n));
			let left = n.min(max_n.into());
			assert_eq!(seated().len(), left);
			let voter_stays = Uids::<Test>::contains_key(NETUID, hotkey(n as u64 - 1));
			let mut order: Vec<_> = earned.iter().zip(0..n).collect();
			order.sort_unstable();
			for (rank, (rao, k)) in order.into_iter().enumerate() {
				let uid = Uids::<Test>::get(NETUID, hotkey(k as u64));
				assert_eq!(uid.is_some(), rank >= n - left);
				if let Some(uid) = uid {
					assert_eq!(Emission::<Test>::get(NETUID)[usize::from(uid)], *rao);
					assert!(k >= left || usize::from(uid) == k, "a slot that exists is kept");
					if voter_stays {
						assert_eq!(given(hotkey(k as u64)), before[k]);
					}
				}
			}
		});
	}
}
