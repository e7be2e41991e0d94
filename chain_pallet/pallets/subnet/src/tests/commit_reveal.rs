//! Votes by commit and reveal. Tempo is 10: epochs end in blocks 9, 19, 29, …

use crate::{mock::*, *};
use codec::Encode;
use frame_support::{assert_noop, assert_ok};
use sp_runtime::traits::{BlakeTwo256, Hash};

const ROW: [(Uid, u16); 2] = [(2, 3), (3, 1)];
const STORED: [(Uid, u16); 2] = [(2, 65_535), (3, 21_845)];

type E = Error<Test>;

/// Validators 0 and 1, miners 2 and 3; permits are given out, epoch 1 begins in block 9.
fn secret(story: impl FnOnce()) {
	story_of(ExtBuilder::secret(), story);
}

fn story_of(builder: ExtBuilder, story: impl FnOnce()) {
	builder.build_and_execute(|| {
		register_all(&[2_000_000, 1_000_000, 0, 0]);
		next_epoch();
		assert_eq!(
			(System::block_number(), Subnet::current_epoch(NETUID)),
			(9, 1)
		);
		story();
	});
}

#[test]
fn the_hash_covers_voter_subnet_vote_salt_and_version() {
	let hash = Subnet::commit_hash(&7, 1, &[2, 3], &[4, 5], &[6], 8);
	let bytes = (7u64, 1u16, vec![2u16, 3], vec![4u16, 5], vec![6u16], 8u64).encode();
	assert_eq!(hash, BlakeTwo256::hash(&bytes));
}

#[test]
fn a_vote_is_revealed_in_the_next_epoch_and_in_no_other() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(18);
		assert_noop!(reveal(0, &ROW, &salt(1)), E::RevealTooEarly);
		run_to(19);
		assert_ok!(reveal(0, &ROW, &salt(1)));
		assert_eq!(weights_of(0), STORED);
		assert_noop!(reveal(0, &ROW, &salt(1)), E::NoWeightsCommitFound);

		assert_ok!(commit(1, &ROW, &salt(1)));
		run_to(39);
		assert_noop!(reveal(1, &ROW, &salt(1)), E::ExpiredWeightCommit);
		run_to(49);
		assert_noop!(reveal(1, &ROW, &salt(1)), E::NoWeightsCommitFound); // forgotten
	});
}

#[test]
fn a_commit_in_the_block_of_an_epoch_belongs_to_the_new_one() {
	secret(|| {
		run_to(19);
		assert!(epoch_ran().is_some());
		assert_ok!(commit(0, &ROW, &salt(1)));
		assert_eq!(WeightCommits::<Test>::get(NETUID, hotkey(0))[0].epoch, 2);
		run_to(28);
		assert_noop!(reveal(0, &ROW, &salt(1)), E::RevealTooEarly);
		run_to(29);
		assert_ok!(reveal(0, &ROW, &salt(1)));
	});
}

#[test]
fn a_commit_in_the_last_block_of_an_epoch_is_revealed_in_the_next_block() {
	secret(|| {
		run_to(18);
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(19);
		assert_ok!(reveal(0, &ROW, &salt(1)));
	});
}

#[test]
fn the_pool_accepts_a_reveal_for_the_block_in_which_the_epoch_will_run() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(18);
		let (uids, values) = columns(&ROW);
		let check =
			|| Subnet::check_reveal(&hotkey(0), NETUID, &uids, &values, &salt(1), 0).is_ok();
		assert!(!check());
		System::set_block_number(19); // as the pool validates: hooks have not run
		assert!(check());
		System::set_block_number(18);
	});
}

#[test]
fn a_deferred_epoch_does_not_open_the_reveal() {
	let three = vec![secret_subnet(1), secret_subnet(2), secret_subnet(3)];
	ExtBuilder::of(three)
		.genesis(|g| g.max_epochs_per_block = Some(1))
		.build_and_execute(|| {
			register_all(&[2_000_000, 0, 0, 0]);
			run_to(9);
			assert_ok!(commit(0, &ROW, &salt(1)));
			// Subnet 2, longer without an epoch, takes the block.
			LastEpochBlock::<Test>::insert(2, 1);
			PendingEpochAt::<Test>::insert(2, 19);
			run_to(19);
			assert_eq!(PendingEpochAt::<Test>::get(1), 20);
			assert_noop!(reveal(0, &ROW, &salt(1)), E::RevealTooEarly);
			run_to(20);
			assert_ok!(reveal(0, &ROW, &salt(1)));
		});
}

#[test]
fn a_reveal_drops_older_commits_and_keeps_later_ones() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(System::block_number() + 1);
		assert_ok!(commit(0, &ROW, &salt(2)));
		run_to(19);
		assert_ok!(commit(0, &ROW, &salt(3)));
		assert_ok!(reveal(0, &ROW, &salt(2)));
		assert_noop!(
			reveal(0, &ROW, &salt(1)),
			E::InvalidRevealCommitHashNotMatch
		);
		assert_noop!(reveal(0, &ROW, &salt(3)), E::RevealTooEarly);
		run_to(29);
		assert_ok!(reveal(0, &ROW, &salt(3)));
	});
}

#[test]
fn the_same_vote_can_be_promised_in_two_epochs() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(19);
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(29);
		assert_ok!(reveal(0, &ROW, &salt(1)));
	});
}

#[test]
fn ten_commits_may_wait() {
	let slow = ExtBuilder::secret().with(|h| h.tempo = Some(20));
	slow.build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		next_epoch();
		for k in 0..10 {
			assert_ok!(commit(0, &ROW, &salt(k)));
			run_to(System::block_number() + 1);
		}
		assert_noop!(commit(0, &ROW, &salt(10)), E::TooManyUnrevealedCommits);
		run_to(59); // the ten have expired
		assert_ok!(commit(0, &ROW, &salt(10)));
	});
}

#[test]
fn a_commit_says_why_not() {
	secret(|| {
		let commit_on = |k, netuid| Subnet::commit_weights(signed(hotkey(k)), netuid, hash(0));
		assert_noop!(commit_on(0, 9), E::SubnetNotExists);
		assert_noop!(commit_on(9, NETUID), E::HotKeyNotRegisteredInSubNet);
		let limit = HyperparamsUpdate {
			weights_set_rate_limit: Some(9),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(
			RuntimeOrigin::root(),
			NETUID,
			limit
		));
		assert_noop!(commit_on(0, NETUID), E::CommittingWeightsTooFast);
		run_to(10);
		assert_ok!(commit_on(0, NETUID));
		let open = HyperparamsUpdate {
			commit_reveal_weights_enabled: Some(false),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(RuntimeOrigin::root(), NETUID, open));
		assert_noop!(commit_on(0, NETUID), E::CommitRevealDisabled);
		assert_noop!(reveal(1, &ROW, &salt(0)), E::CommitRevealDisabled); // promised nothing
	});
}

fn set(who: RuntimeOrigin, update: HyperparamsUpdate) {
	assert_ok!(Subnet::set_hyperparams(who, NETUID, update));
}

fn open_votes() -> HyperparamsUpdate {
	HyperparamsUpdate {
		commit_reveal_weights_enabled: Some(false),
		..Default::default()
	}
}

#[test]
fn a_promise_can_be_kept_where_votes_became_open_meanwhile() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		set(RuntimeOrigin::root(), open_votes());
		run_to(18);
		assert_noop!(reveal(0, &ROW, &salt(1)), E::RevealTooEarly);
		run_to(19);
		assert_ok!(reveal(0, &ROW, &salt(1)));
		assert_eq!(weights_of(0), STORED);
		assert_noop!(reveal(0, &ROW, &salt(1)), E::CommitRevealDisabled);
	});
}

#[test]
fn an_open_vote_takes_the_place_of_what_was_promised_before() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		set(RuntimeOrigin::root(), open_votes());
		run_to(12);
		assert_ok!(vote(0, &[(3, 1)]));
		assert!(!WeightCommits::<Test>::contains_key(NETUID, hotkey(0)));
		run_to(19);
		assert_noop!(reveal(0, &ROW, &salt(1)), E::CommitRevealDisabled);
		assert_eq!(weights_of(0), [(3, 65_535)]);
	});
}

/// Or an owner would let only the votes in that it had told of the change.
#[test]
fn rules_that_the_owner_changed_after_a_commit_do_not_refuse_its_reveal() {
	let stricter = [
		(
			HyperparamsUpdate {
				min_allowed_weights: Some(4),
				..Default::default()
			},
			E::WeightVecLengthIsLow,
		),
		(
			HyperparamsUpdate {
				weights_version_key: Some(1),
				..Default::default()
			},
			E::IncorrectWeightVersionKey,
		),
	];
	for (update, why_not) in stricter {
		secret(|| {
			assert_ok!(commit(0, &ROW, &salt(1)));
			set(signed(OWNER), update.clone());
			run_to(10);
			assert_ok!(commit(1, &ROW, &salt(1)));
			run_to(19);
			assert_ok!(reveal(0, &ROW, &salt(1)));
			assert_noop!(reveal(1, &ROW, &salt(1)), why_not); // could have known
		});
	}
}

#[test]
fn a_newcomer_makes_no_promised_row_too_short() {
	let strict = ExtBuilder::secret().with(|h| h.min_allowed_weights = Some(100));
	story_of(strict, || {
		let all = [(0, 1), (1, 2), (2, 3), (3, 4)];
		assert_ok!(commit(0, &all, &salt(1)));
		assert_ok!(commit(1, &all[1..], &salt(1)));
		run_to(12);
		register(4);
		run_to(19);
		assert_ok!(reveal(0, &all, &salt(1)));
		assert_noop!(reveal(1, &all[1..], &salt(1)), E::WeightVecLengthIsLow);
	});
}

#[test]
fn a_revealed_vote_is_checked_like_an_open_one() {
	secret(|| {
		assert_ok!(commit(2, &[(0, 1)], &salt(1))); // a miner has no permit
		assert_ok!(commit(0, &[(9, 1)], &salt(1)));
		run_to(19);
		assert_noop!(reveal(2, &[(0, 1)], &salt(1)), E::NeuronNoValidatorPermit);
		assert_noop!(reveal(0, &[(9, 1)], &salt(1)), E::UidVecContainInvalidOne);
		assert_noop!(
			reveal(0, &ROW, &salt(1)),
			E::InvalidRevealCommitHashNotMatch
		);
	});
}

#[test]
fn the_commit_is_the_vote_for_rate_limit_and_activity() {
	secret(|| {
		run_to(12);
		assert_ok!(commit(0, &ROW, &salt(1)));
		run_to(25);
		assert_ok!(reveal(0, &ROW, &salt(1)));
		assert_eq!(LastUpdate::<Test>::get(NETUID)[0], 12);
	});
}

#[test]
fn the_sheet_is_read_from_a_long_salt_only() {
	secret(|| {
		let words: Vec<u16> = (0..24).map(|k| k * 0x0101 + 0x0100).collect();
		let long = Salt::truncate_from(words.clone());
		let short = Salt::truncate_from(words[..23].to_vec());
		assert_ok!(commit(0, &ROW, &long));
		assert_ok!(commit(1, &ROW, &short));
		run_to(19);
		assert_ok!(reveal(0, &ROW, &long));
		assert_ok!(reveal(1, &ROW, &short));
		let sheet: Vec<u8> = words[..16]
			.iter()
			.flat_map(|word| word.to_le_bytes())
			.collect();
		let sheet = Some(sp_core::H256::from_slice(&sheet));
		assert_eq!(
			LastReveal::<Test>::get(NETUID, hotkey(0)),
			Some(Reveal { epoch: 1, sheet })
		);
		let none = Some(Reveal {
			epoch: 1,
			sheet: None,
		});
		assert_eq!(LastReveal::<Test>::get(NETUID, hotkey(1)), none);
	});
}

/// The masks of the epoch do not help a validator that commits every epoch: commit, replace the
/// uid, reveal, commit again, and both its last vote and its oldest open commit are younger than
/// the newcomer. Without the rule at the reveal, the newcomer would earn its predecessor's pay.
#[test]
fn a_uid_that_changes_hands_between_commit_and_reveal_inherits_nothing() {
	let full = ExtBuilder::secret().with(|h| h.max_allowed_uids = Some(4));
	story_of(full, || {
		for k in [0, 1] {
			assert_ok!(commit(k, &ROW, &salt(1)));
		}
		run_to(15);
		Emission::<Test>::mutate(NETUID, |column| {
			*column = Column::<Test, _>::truncate_from(vec![9, 9, 0, 9])
		});
		register(4);
		assert_eq!(Uids::<Test>::get(NETUID, hotkey(4)), Some(2));
		run_to(19);
		for k in [0, 1] {
			assert_ok!(reveal(k, &ROW, &salt(1)));
			assert_ok!(commit(k, &ROW, &salt(2)));
		}
		assert_eq!(weights_of(0), [(2, 0), (3, 65_535)]);
		assert!(events().contains(&Event::WeightsRevealed {
			netuid: NETUID,
			hotkey: hotkey(0),
			commit_hash: Subnet::commit_hash(&hotkey(0), NETUID, &[2, 3], &[3, 1], &salt(1), 0),
			sniped: 1
		}));
		run_to(29);
		let incentive = Incentive::<Test>::get(NETUID);
		assert_eq!((incentive[2], incentive[3]), (0, 65_535));
		assert_eq!(stake_of(4), 0);
		// The vote that was made knowing the newcomer counts.
		for k in [0, 1] {
			assert_ok!(reveal(k, &ROW, &salt(2)));
		}
		run_to(39);
		assert!(stake_of(4) > 0);
	});
}

/// Calls cannot store a vote on a target that is younger than an open commit; the epoch does not
/// rely on it.
#[test]
fn a_vote_on_a_target_younger_than_an_open_commit_waits_until_the_commit_expires() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		BlockAtRegistration::<Test>::insert(NETUID, 2, 12);
		run_to(14);
		assert_ok!(commit(0, &ROW, &salt(2)));
		let row = vec![(2, 65_535), (3, 65_535)];
		Weights::<Test>::insert(NETUID, 0, frame_support::BoundedVec::truncate_from(row));
		let incentive_at = |block| {
			run_to(block);
			Incentive::<Test>::get(NETUID).into_inner()
		};
		assert_eq!(incentive_at(19), [0, 0, 0, 65_535]);
		assert_eq!(incentive_at(29), [0, 0, 32_767, 32_767]);
	});
}

#[test]
fn a_target_registered_in_the_very_block_of_the_commit_gets_nothing() {
	let full = ExtBuilder::secret().with(|h| h.max_allowed_uids = Some(4));
	story_of(full, || {
		assert_ok!(commit(0, &ROW, &salt(1)));
		Emission::<Test>::mutate(NETUID, |column| {
			*column = Column::<Test, _>::truncate_from(vec![9, 9, 0, 9])
		});
		register(4);
		run_to(19);
		assert_ok!(reveal(0, &ROW, &salt(1)));
		assert_eq!(weights_of(0), [(2, 0), (3, 65_535)]);
	});
}

#[test]
fn a_change_of_the_period_moves_no_commit() {
	secret(|| {
		assert_ok!(commit(0, &ROW, &salt(1)));
		let later = HyperparamsUpdate {
			reveal_period_epochs: Some(2),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(
			RuntimeOrigin::root(),
			NETUID,
			later
		));
		run_to(19);
		assert_ok!(reveal(0, &ROW, &salt(1)));
		assert_ok!(commit(0, &ROW, &salt(2)));
		run_to(29);
		assert_noop!(reveal(0, &ROW, &salt(2)), E::RevealTooEarly);
		run_to(39);
		assert_ok!(reveal(0, &ROW, &salt(2)));
	});
}

#[test]
fn a_pruned_voter_leaves_no_promises() {
	let full = ExtBuilder::secret().with(|h| h.max_allowed_uids = Some(4));
	story_of(full, || {
		assert_ok!(commit(3, &[(3, 1)], &salt(1)));
		Emission::<Test>::mutate(NETUID, |column| {
			*column = Column::<Test, _>::truncate_from(vec![9, 9, 9, 0])
		});
		register(4);
		assert!(WeightCommits::<Test>::get(NETUID, hotkey(3)).is_empty());
	});
}
