//! When epochs run.

use crate::{mock::*, *};
use frame_support::assert_ok;

/// Blocks up to `last` in which each of `netuids` ran an epoch.
fn blocks_with_epochs(netuids: &[NetUid], last: u64) -> Vec<Vec<u64>> {
	let mut blocks = vec![Vec::new(); netuids.len()];
	while System::block_number() < last {
		run_to(System::block_number() + 1);
		for event in events() {
			if let Event::EpochRan { netuid, block, .. } = event {
				if let Some(at) = netuids.iter().position(|candidate| *candidate == netuid) {
					blocks[at].push(block);
				}
			}
		}
	}
	blocks
}

#[test]
fn an_epoch_runs_every_tempo_blocks_exactly() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		assert_eq!(blocks_with_epochs(&[1], 50), [[9, 19, 29, 39, 49]]);
		assert_eq!(SubnetEpochIndex::<Test>::get(1), 5);
		assert_eq!(LastEpochBlock::<Test>::get(1), 49);
		assert_eq!(LastMechansimStepBlock::<Test>::get(1), 49);
		assert_eq!(BlocksSinceLastStep::<Test>::get(1), 1);
		assert_eq!(Subnet::next_epoch_start_block(1), Some(59));
	});
}

#[test]
fn subnets_take_turns() {
	let subnets = vec![subnet(1), subnet(2), subnet(3)];
	ExtBuilder::of(subnets).build_and_execute(|| {
		let blocks = blocks_with_epochs(&[1, 2, 3], 30);
		assert_eq!(blocks, [vec![9, 19, 29], vec![8, 18, 28], vec![7, 17, 27]]);
	});
}

#[test]
fn what_exceeds_the_cap_is_deferred_and_not_lost() {
	let subnets = (1..=5).map(subnet).collect();
	ExtBuilder::of(subnets).build_and_execute(|| {
		for netuid in 1..=5 {
			PendingEpochAt::<Test>::insert(netuid, 6);
		}
		run_to(6);
		let deferred = |netuid| Event::EpochDeferred {
			netuid,
			from_block: 6,
			to_block: 7,
		};
		assert_eq!(
			events()
				.iter()
				.filter(|e| matches!(e, Event::EpochRan { .. }))
				.count(),
			2
		);
		for netuid in 3..=5 {
			assert!(events().contains(&deferred(netuid)));
			assert_eq!(Subnet::next_epoch_start_block(netuid), Some(7));
		}
		let blocks = blocks_with_epochs(&[1, 2, 3, 4, 5], 18);
		assert_eq!(
			blocks,
			[vec![16], vec![16], vec![7, 17], vec![7, 17], vec![8, 18]]
		);
	});
}

#[test]
fn no_subnet_starves_when_more_are_due_than_may_run() {
	let fast = |netuid| {
		let mut subnet = subnet(netuid);
		subnet.hyperparams.tempo = Some(1);
		subnet
	};
	ExtBuilder::of((1..=4).map(fast).collect())
		.genesis(|g| g.max_epochs_per_block = Some(1))
		.build_and_execute(|| {
			for blocks in blocks_with_epochs(&[1, 2, 3, 4], 41) {
				assert_eq!(blocks.len(), 10);
			}
		});
}

#[test]
fn a_tempo_of_zero_pauses_a_subnet() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		let tempo = |tempo| {
			let update = HyperparamsUpdate {
				tempo: Some(tempo),
				..Default::default()
			};
			assert_ok!(Subnet::set_hyperparams(
				RuntimeOrigin::root(),
				NETUID,
				update
			));
		};
		tempo(0);
		assert_eq!(Subnet::next_epoch_start_block(NETUID), None);
		assert_eq!(blocks_with_epochs(&[1], 40), [[0; 0]]);
		tempo(10);
		assert_eq!(blocks_with_epochs(&[1], 52), [[41, 51]]);
	});
}

#[test]
fn the_pot_of_an_empty_subnet_waits_for_its_first_neuron() {
	ExtBuilder::default().build_and_execute(|| {
		run_to(9);
		let pot = PendingEmission::<Test>::get(NETUID);
		let Some(Event::EpochRan {
			neurons: 0,
			emission_rao,
			dust_rao,
			..
		}) = epoch_ran()
		else {
			panic!("no epoch")
		};
		assert_eq!((emission_rao, dust_rao), (pot, pot));
		register_all(&[5_000]);
		next_epoch();
		assert!(stake_of(0) > pot);
	});
}

#[test]
fn an_inconsistent_registry_skips_the_epoch_and_keeps_the_pot() {
	// The registry is broken on purpose, so the invariants are not checked at the end.
	ExtBuilder::default().build().execute_with(|| {
		register_all(&[5_000, 0]);
		Keys::<Test>::insert(NETUID, 1, hotkey(0));
		run_to(9);
		assert!(events().contains(&Event::EpochSkipped {
			netuid: NETUID,
			block: 9
		}));
		assert_eq!(Balances::free_balance(Subnet::account_id()), owed());
		assert_eq!(BlocksSinceLastStep::<Test>::get(NETUID), 9);
		assert_eq!(Subnet::next_epoch_start_block(NETUID), Some(19));
		assert!(Subnet::do_try_state().is_err());
	});
}

#[test]
fn the_hook_asks_for_the_weight_of_the_epochs_it_runs() {
	use frame_support::traits::Hooks;
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[5_000, 0]);
		run_to(7);
		let weight_of = |block| {
			System::set_block_number(block);
			Subnet::on_initialize(block)
		};
		let idle = weight_of(8);
		let busy = weight_of(9);
		assert_eq!(idle, <() as WeightInfo>::on_initialize(1));
		let credits = <() as WeightInfo>::credit().saturating_mul(2);
		let epoch = <() as WeightInfo>::epoch(2, 0);
		assert_eq!(busy, idle.saturating_add(epoch).saturating_add(credits));
	});
}
