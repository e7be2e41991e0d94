//! Votes of validators that nobody vouches for are not heard. Tempo is 10: epochs end in blocks 9,
//! 19, 29, …

use crate::{mock::*, *};
use frame_support::assert_ok;

const ROW: [(Uid, u16); 1] = [(4, 1)];

/// Validators 0 to 3 of equal stake, miner 4.
fn four(story: impl FnOnce()) {
	ExtBuilder::secret()
		.with(|h| h.max_allowed_uids = Some(8))
		.build_and_execute(|| {
			register_all(&[1_000_000, 1_000_000, 1_000_000, 1_000_000, 0]);
			next_epoch();
			story();
		});
}

/// A salt that vouches for these uids.
fn vouching(uids: &[Uid]) -> Salt {
	let mut words = vec![0u16; VOUCHES_WORDS];
	for uid in uids {
		words[usize::from(uid / 16)] |= 1 << (uid % 16);
	}
	[salt(1).into_inner(), words].concat().try_into().unwrap()
}

/// All commit now and reveal in the next epoch, which becomes the current one.
fn vote_all(salts: &[Salt]) {
	for (k, salt) in (0..).zip(salts) {
		assert_ok!(commit(k, &ROW, salt));
	}
	next_epoch();
	for (k, salt) in (0..).zip(salts) {
		assert_ok!(reveal(k, &ROW, salt));
	}
}

fn paid() -> Vec<bool> {
	let dividends = Dividends::<Test>::get(NETUID);
	dividends.iter().take(4).map(|share| *share > 0).collect()
}

#[test]
fn who_is_not_vouched_for_earns_nothing_until_it_is() {
	four(|| {
		let all = vouching(&[0, 1, 2, 3]);
		let but_the_last = vouching(&[0, 1, 2]);
		vote_all(&[
			but_the_last.clone(),
			but_the_last.clone(),
			all.clone(),
			all.clone(),
		]);
		next_epoch();
		assert_eq!(paid(), [true, true, true, false]);
		set_stake(3, stake_of(0)); // the others were paid meanwhile
		vote_all(&[all.clone(), but_the_last, all.clone(), all]);
		next_epoch();
		assert_eq!(paid(), [true; 4]);
	});
}

#[test]
fn a_shorter_salt_vouches_for_nobody_and_takes_back_what_was_said() {
	four(|| {
		let said = vouching(&[0, 2, 255]);
		vote_all(&[said.clone(), said]);
		let known = LastVouches::<Test>::get(NETUID, hotkey(0)).unwrap();
		assert_eq!((known.uids[0], known.uids[31]), (0b101, 0b1000_0000));
		vote_all(&[salt(2), vouching(&[])]);
		assert!(LastVouches::<Test>::get(NETUID, hotkey(0)).is_none());
		assert_eq!(
			LastVouches::<Test>::get(NETUID, hotkey(1)).unwrap().uids,
			[0; 32]
		);
		next_epoch();
		assert_eq!(paid(), [true, true, false, false]); // who voted, as nobody vouches
	});
}

#[test]
fn where_votes_become_open_nobody_is_held_to_old_vouches() {
	four(|| {
		let said = vouching(&[0, 1, 2]);
		vote_all(&[said.clone(), said.clone(), said.clone(), said]);
		CommitRevealWeightsEnabled::<Test>::insert(NETUID, false);
		run_to(System::block_number() + 2);
		for k in 0..4 {
			assert_ok!(vote(k, &ROW));
		}
		assert_eq!(LastVouches::<Test>::iter_key_prefix(NETUID).count(), 0);
		set_stake(3, stake_of(0));
		next_epoch();
		assert_eq!(paid(), [true; 4]);
	});
}

#[test]
fn who_took_a_uid_since_is_not_meant() {
	four(|| {
		vote_all(&[vouching(&[0, 1, 2, 3])]);
		let registered_at = |uid: Uid| match uid {
			2 => 10_000,
			_ => 0,
		};
		let registered_at: Vec<u64> = (0..5).map(registered_at).collect();
		let meant = Subnet::vouches_for(NETUID, &hotkey(0), &registered_at);
		assert_eq!(meant, [0, 1, 3]);
	});
}

#[test]
fn a_subnet_that_became_smaller_begins_anew() {
	ExtBuilder::secret()
		.with(|h| {
			h.immunity_period = Some(20);
			h.max_allowed_uids = Some(8);
		})
		.genesis(|g| {
			g.limits.min_owner_uids = Some(2);
			g.limits.admin_freeze_window = Some(2);
			g.limits.trim_rate_limit = Some(50);
		})
		.build_and_execute(|| {
			register_all(&[1_000_000, 1_000_000, 0, 0, 0]);
			run_to(19);
			let said = vouching(&[0, 1, 2, 3, 4]);
			vote_all(&[said.clone(), said.clone()]);
			assert_ok!(commit(0, &ROW, &said));
			assert_ok!(Subnet::trim_subnet(signed(OWNER), NETUID, 4));
			assert_eq!(LastVouches::<Test>::iter_key_prefix(NETUID).count(), 0);
			next_epoch();
			assert_ok!(reveal(0, &ROW, &said));
			// In today's uids: a miner is gone, and its bit with it.
			let bits = LastVouches::<Test>::get(NETUID, hotkey(0)).unwrap().uids[0];
			assert_eq!(bits, 0b1111);
		});
}
