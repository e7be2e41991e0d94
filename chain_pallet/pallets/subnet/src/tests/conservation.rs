//! Random calls from random accounts: no invariant breaks, and no rao appears or disappears.

use crate::{mock::*, *};
use frame_support::traits::{fungible::Mutate, tokens::Preservation};
use proptest::prelude::*;

/// One thing that somebody does, by neuron number.
#[derive(Clone, Debug)]
enum Act {
	Blocks(u64),
	Register {
		k: u64,
		netuid: NetUid,
	},
	AddStake {
		who: u64,
		k: u64,
		netuid: NetUid,
		rao: u64,
	},
	RemoveStake {
		who: u64,
		k: u64,
		netuid: NetUid,
		rao: u64,
	},
	RemoveAll {
		who: u64,
		k: u64,
		netuid: NetUid,
	},
	Serve {
		k: u64,
		port: u16,
	},
	Vote {
		k: u64,
		row: Row,
	},
	Commit {
		k: u64,
		row: Row,
		salt: u8,
	},
	Reveal {
		k: u64,
		row: Row,
		salt: u8,
	},
	Shares(Vec<(NetUid, u16)>),
	Hyperparams {
		netuid: NetUid,
		update: HyperparamsUpdate,
	},
	Take {
		who: u64,
		k: u64,
		take: u16,
	},
	Found {
		k: u64,
	},
	OwnersHyperparams {
		netuid: NetUid,
		update: HyperparamsUpdate,
	},
	Gift {
		who: u64,
		rao: u64,
	},
}

fn acts() -> impl Strategy<Value = Act> {
	let k = || 0u64..8;
	let netuid = || 1u16..=4; // the fourth if somebody buys it
	let rao = || prop_oneof![0u64..5_000, 0u64..WEALTH];
	let row = || {
		let few =
			proptest::collection::btree_map(0u16..6, prop_oneof![Just(0), any::<u16>()], 0..4);
		few.prop_map(|row| row.into_iter().collect::<Row>())
	};
	prop_oneof![
		4 => (1u64..25).prop_map(Act::Blocks),
		3 => (k(), netuid()).prop_map(|(k, netuid)| Act::Register { k, netuid }),
		3 => (k(), k(), netuid(), rao())
			.prop_map(|(who, k, netuid, rao)| Act::AddStake { who, k, netuid, rao }),
		2 => (k(), k(), netuid(), rao())
			.prop_map(|(who, k, netuid, rao)| Act::RemoveStake { who, k, netuid, rao }),
		1 => (k(), k(), netuid()).prop_map(|(who, k, netuid)| Act::RemoveAll { who, k, netuid }),
		1 => (k(), any::<u16>()).prop_map(|(k, port)| Act::Serve { k, port }),
		2 => (k(), row()).prop_map(|(k, row)| Act::Vote { k, row }),
		3 => (k(), row(), 0u8..3).prop_map(|(k, row, salt)| Act::Commit { k, row, salt }),
		3 => (k(), row(), 0u8..3).prop_map(|(k, row, salt)| Act::Reveal { k, row, salt }),
		1 => proptest::collection::vec((netuid(), any::<u16>()), 0..3).prop_map(Act::Shares),
		1 => (netuid(), updates())
			.prop_map(|(netuid, update)| Act::Hyperparams { netuid, update }),
		2 => (k(), k(), 0..MAX_TAKE + 2).prop_map(|(who, k, take)| Act::Take { who, k, take }),
		1 => k().prop_map(|k| Act::Found { k }),
		1 => (netuid(), updates())
			.prop_map(|(netuid, update)| Act::OwnersHyperparams { netuid, update }),
		1 => (k(), 0u64..10_000).prop_map(|(who, rao)| Act::Gift { who, rao }),
	]
}

fn updates() -> impl Strategy<Value = HyperparamsUpdate> {
	let flags = (
		proptest::option::of(any::<bool>()),
		proptest::option::of(any::<bool>()),
	);
	let numbers = (
		proptest::option::of(0u16..15),
		proptest::option::of(1u16..12),
		proptest::option::of(any::<u16>()),
		proptest::option::of(1u64..4),
		proptest::option::of(1u16..4),
	);
	(flags, numbers).prop_map(|(flags, numbers)| HyperparamsUpdate {
		commit_reveal_weights_enabled: flags.0,
		yuma3: flags.1,
		liquid_alpha: flags.1,
		tempo: numbers.0,
		max_allowed_uids: numbers.1,
		owner_cut: numbers.2,
		reveal_period_epochs: numbers.3,
		max_allowed_validators: numbers.4,
		..Default::default()
	})
}

fn perform(act: Act) {
	// What fails must change nothing; the checks after each act see to that.
	let _ = match act {
		Act::Blocks(n) => {
			run_to(System::block_number() + n);
			Ok(())
		}
		Act::Register { k, netuid } => {
			Subnet::burned_register(signed(coldkey(k)), netuid, hotkey(k))
		}
		Act::AddStake {
			who,
			k,
			netuid,
			rao,
		} => Subnet::add_stake(signed(coldkey(who)), hotkey(k), netuid, rao),
		Act::RemoveStake {
			who,
			k,
			netuid,
			rao,
		} => Subnet::remove_stake(signed(coldkey(who)), hotkey(k), netuid, rao),
		Act::RemoveAll { who, k, netuid } => {
			let rao = Stake::<Test>::get((netuid, hotkey(k), coldkey(who)));
			Subnet::remove_stake(signed(coldkey(who)), hotkey(k), netuid, rao)
		}
		Act::Serve { k, port } => serve(k, "8.8.8.8", port),
		Act::Vote { k, row } => vote(k, &row),
		Act::Commit { k, row, salt: byte } => commit(k, &row, &salt(byte)),
		Act::Reveal { k, row, salt: byte } => reveal(k, &row, &salt(byte)),
		Act::Shares(shares) => {
			Subnet::set_emission_shares(RuntimeOrigin::root(), shares.try_into().unwrap())
		}
		Act::Hyperparams { netuid, update } => {
			Subnet::set_hyperparams(RuntimeOrigin::root(), netuid, update)
		}
		Act::Take { who, k, take } => Subnet::decrease_take(signed(coldkey(who)), hotkey(k), take)
			.or_else(|_| Subnet::increase_take(signed(coldkey(who)), hotkey(k), take)),
		Act::Found { k } => Subnet::register_network(signed(coldkey(k)), hotkey(k)),
		Act::OwnersHyperparams { netuid, update } => {
			let allowed = HyperparamsUpdate {
				owner_cut: None,
				max_allowed_validators: None,
				..update
			};
			Subnet::set_hyperparams(signed(OWNER), netuid, allowed)
		}
		Act::Gift { who, rao } => {
			let (from, to) = (coldkey(who), Subnet::account_id());
			let keep = Preservation::Preserve;
			<Balances as Mutate<_>>::transfer(&from, &to, rao, keep).map(drop)
		}
	};
}

proptest! {
	#![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

	#[test]
	fn random_lives_keep_every_invariant_and_every_rao(acts in proptest::collection::vec(acts(), 1..60)) {
		let subnets = vec![subnet(1), secret_subnet(2), subnet(3)];
		let builder = ExtBuilder::of(subnets).with(|h| {
			h.max_allowed_uids = Some(6);
			h.min_non_immune_uids = Some(1);
		});
		let builder = builder.genesis(|g| {
			g.limits.tx_delegate_take_rate_limit = Some(10);
			g.limits.admin_freeze_window = Some(2);
			g.limits.min_owner_tempo = Some(2);
			g.limits.min_owner_uids = Some(2);
			g.limits.network_min_lock_cost = Some(1_000_000);
		});
		builder.build().execute_with(|| {
			for act in acts {
				perform(act);
				Subnet::do_try_state().unwrap();
			}
			// Until now gifts of the last block were in nobody's books.
			run_to(System::block_number() + 1);
			check_books();
			assert_eq!(all_accounts(), Balances::total_issuance());
		});
	}
}

/// The sum of all balances.
fn all_accounts() -> u64 {
	frame_system::Account::<Test>::iter()
		.map(|(_, account)| account.data.free)
		.sum()
}
