//! When epochs run.

use crate::{mock::*, *};
use frame_support::{assert_ok, traits::Hooks};

type Cost = <Test as Config>::WeightInfo;

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
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[5_000, 0]);
		run_to(7);
		let weight_of = |block| {
			System::set_block_number(block);
			Subnet::on_initialize(block)
		};
		let idle = weight_of(8);
		let busy = weight_of(9);
		assert_eq!(idle, Cost::on_initialize(1));
		let first = idle + Cost::epoch(2, 0) + Cost::nominators(0);
		assert_eq!(busy, first);
	});
}

#[test]
fn an_epoch_is_charged_for_its_voters_and_for_the_nominators_it_paid() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[5_000, 0]);
		for nominator in [NOMINATOR, coldkey(1)] {
			let origin = RuntimeOrigin::signed(nominator);
			assert_ok!(Subnet::add_stake(origin, hotkey(0), NETUID, 1_000_000_000));
		}
		next_epoch();
		assert_ok!(vote(0, &[(1, 1)]));
		let next = Subnet::next_epoch_start_block(NETUID).unwrap();
		run_to(next - 1);
		System::set_block_number(next);
		let charged = Subnet::on_initialize(next);
		let due = Cost::on_initialize(1) + Cost::epoch(2, 1) + Cost::nominators(2);
		assert_eq!(charged, due);
	});
}

#[test]
fn an_epoch_waits_where_another_used_half_of_the_block() {
	let builder = ExtBuilder::of(vec![subnet(1), subnet(2)]);
	builder.build_and_execute(|| {
		for netuid in [1, 2] {
			PendingEpochAt::<Test>::insert(netuid, 10);
		}
		assert_eq!(blocks_with_epochs(&[1, 2], 10), [[10], [10]]);
		BlockTime::set(Cost::epoch(0, 0));
		assert_eq!(blocks_with_epochs(&[1, 2], 21), [[20], [21]]);
	});
}

fn set_tempo(tempo: u16) {
	let update = HyperparamsUpdate {
		tempo: Some(tempo),
		..Default::default()
	};
	assert_ok!(Subnet::set_hyperparams(
		RuntimeOrigin::root(),
		NETUID,
		update
	));
}

#[test]
fn a_new_tempo_holds_from_the_next_epoch_on() {
	ExtBuilder::default().build_and_execute(|| {
		register(0);
		run_to(12);
		set_tempo(3); // the epoch that began in block 9 still has its ten blocks
		assert_eq!(Subnet::next_epoch_start_block(NETUID), Some(19));
		assert_eq!(blocks_with_epochs(&[1], 25), [[19, 22, 25]]);
		set_tempo(20);
		set_tempo(15); // the second thought counts, for the epoch after this one
		assert_eq!(blocks_with_epochs(&[1], 60), [[28, 43, 58]]);
		assert_eq!(SubnetEpochIndex::<Test>::get(NETUID), 7);
	});
}

#[test]
fn no_change_of_the_tempo_takes_the_epoch_of_reveal_from_a_commit() {
	for (before, after) in [(20, 5), (5, 20), (20, 1)] {
		let builder = ExtBuilder::secret().with(|h| {
			h.tempo = Some(before);
			h.activity_cutoff_factor_milli = Some(13_889);
		});
		builder.build_and_execute(|| {
			register_all(&[2_000_000, 0]);
			next_epoch();
			assert_ok!(commit(0, &[(1, 1)], &salt(1)));
			let due = SubnetEpochIndex::<Test>::get(NETUID) + 1;
			next_epoch();
			// The first block of the epoch of reveal: what would a shorter tempo end?
			set_tempo(after);
			run_to(Subnet::next_epoch_start_block(NETUID).unwrap() - 1);
			assert_eq!(SubnetEpochIndex::<Test>::get(NETUID), due);
			assert_ok!(reveal(0, &[(1, 1)], &salt(1)));
		});
	}
}

/// Or an owner could leave its friends as the only active voters of the epoch that is running.
#[test]
fn a_shorter_tempo_silences_nobody_in_the_running_epoch() {
	let patient = ExtBuilder::secret().with(|h| {
		h.tempo = Some(40);
		h.activity_cutoff_factor_milli = Some(2_000);
		h.immunity_period = Some(100);
	});
	patient.build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		run_to(81); // an epoch began in block 79
		assert_ok!(commit(0, &[(1, 1)], &salt(1)));
		set_tempo(5);
		run_to(119);
		assert!(epoch_ran().is_some());
		assert!(Active::<Test>::get(NETUID)[0]);
		run_to(124); // the first epoch of five blocks: two of those without a vote are too many
		assert!(!Active::<Test>::get(NETUID)[0]);
	});
}

#[test]
fn a_pause_silences_nobody() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		next_epoch();
		assert_ok!(vote(0, &[(1, 1)]));
		set_tempo(0);
		run_to(500);
		set_tempo(10);
		run_to(501);
		assert!(epoch_ran().is_some());
		assert_eq!(Incentive::<Test>::get(NETUID)[1], 65_535);
	});
}

proptest::proptest! {
	#![proptest_config(proptest::prelude::ProptestConfig {
		cases: 24,
		..Default::default()
	})]

	/// Whoever changes tempos whenever: epochs of a subnet come one by one, each after its tempo
	/// and what the cap deferred it by, and no pot is lost.
	#[test]
	fn epochs_keep_coming_and_pots_are_kept(
		tempos in proptest::collection::vec(1u16..40, 1..6),
		cap in 1u8..4,
		changes in proptest::collection::vec((1u64..30, 1u16..7, 1u16..40), 0..12),
	) {
		let subnets = (1u16..).zip(&tempos).map(|(netuid, tempo)| {
			let mut subnet = subnet(netuid);
			subnet.hyperparams.tempo = Some(*tempo);
			subnet.hyperparams.immunity_period = Some(u16::MAX);
			subnet
		});
		let builder = ExtBuilder::of(subnets.collect());
		builder.genesis(|g| g.max_epochs_per_block = Some(cap)).build_and_execute(|| {
			register_all(&[5_000, 0]);
			let count = tempos.len() as u16;
			let mut longest = 40u64;
			let mut last: Vec<u64> = vec![0; tempos.len()];
			let mut watch = |blocks: u64| for _ in 0..blocks {
				run_to(System::block_number() + 1);
				let now = System::block_number();
				let ran = events().into_iter().filter_map(|event| match event {
					Event::EpochRan { netuid, epoch, emission_rao, server_rao, validator_rao, dust_rao, .. } => {
						assert_eq!(emission_rao, server_rao + validator_rao + dust_rao);
						Some((netuid, epoch))
					}
					_ => None,
				}).collect::<Vec<_>>();
				assert!(ran.len() <= usize::from(cap), "the cap was passed");
				for (netuid, epoch) in ran {
					last[usize::from(netuid) - 1] = now;
					assert_eq!(SubnetEpochIndex::<Test>::get(netuid), epoch + 1);
				}
				// Nobody waits longer than the longest tempo and a turn of all the others.
				longest = longest.max(u64::from(count));
				for block in &last {
					assert!(now - block <= longest + u64::from(count), "a subnet starves");
				}
			};
			watch(1);
			for (blocks, netuid, tempo) in changes {
				watch(blocks);
				if netuid <= count {
					let update = HyperparamsUpdate { tempo: Some(tempo), ..Default::default() };
					assert_ok!(Subnet::set_hyperparams(RuntimeOrigin::root(), netuid, update));
				}
			}
			watch(100);
			check_books();
		});
	}
}
