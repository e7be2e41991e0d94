//! Slots: what they cost, and who loses one.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok, traits::fungible::Inspect};

fn buy(k: u64, limit: u64) -> sp_runtime::DispatchResult {
	Subnet::register_limit(signed(coldkey(k)), NETUID, hotkey(k), limit)
}

fn hotkey_at(uid: Uid) -> AccountId {
	Keys::<Test>::get(NETUID, uid).unwrap()
}

/// A full subnet of `n` slots whose neurons all are past their immunity.
fn full(n: u16) -> ExtBuilder {
	ExtBuilder::default().with(move |h| {
		h.max_allowed_uids = Some(n);
		h.min_non_immune_uids = Some(0);
	})
}

#[test]
fn a_registration_burns_its_price_and_raises_the_next() {
	ExtBuilder::default().build_and_execute(|| {
		let issuance = Balances::total_issuance();
		assert_ok!(buy(0, PRICE));
		assert_eq!(issuance - Balances::total_issuance(), PRICE);
		assert_eq!(Balances::balance(&coldkey(0)), WEALTH - PRICE);
		assert_eq!(Burn::<Test>::get(NETUID), PRICE * 126 / 100);
		let (netuid, uid, hotkey) = (NETUID, 0, hotkey(0));
		let price_rao = PRICE;
		assert!(events().contains(&Event::NeuronRegistered {
			netuid,
			uid,
			hotkey,
			price_rao
		}));
	});
}

#[test]
fn the_price_falls_with_every_block_to_its_floor() {
	ExtBuilder::default()
		.with(|h| h.burn_half_life = Some(10))
		.build_and_execute(|| {
			register(0);
			let price = Burn::<Test>::get(NETUID);
			run_to(11);
			let halved = Burn::<Test>::get(NETUID);
			assert!(
				halved <= price / 2 && halved > price / 2 - 100,
				"{price} {halved}"
			);
			run_to(100);
			assert_eq!(Burn::<Test>::get(NETUID), PRICE / 2);
		});
}

#[test]
fn a_price_above_the_limit_is_not_paid() {
	ExtBuilder::default().build_and_execute(|| {
		assert_noop!(
			buy(0, PRICE - 1),
			Error::<Test>::RegistrationPriceLimitExceeded
		);
	});
}

#[test]
fn a_hotkey_belongs_to_its_first_coldkey() {
	ExtBuilder::of(vec![subnet(1), subnet(2)]).build_and_execute(|| {
		register(0);
		let on_2 = |coldkey| Subnet::burned_register(signed(coldkey), 2, hotkey(0));
		assert_noop!(on_2(coldkey(1)), Error::<Test>::NonAssociatedColdKey);
		assert_ok!(on_2(coldkey(0)));
		assert_eq!(
			OwnedHotkeys::<Test>::get(coldkey(0)).into_inner(),
			[hotkey(0)]
		);
	});
}

#[test]
fn registration_says_why_not() {
	ExtBuilder::of(vec![subnet(1), subnet(2)]).build_and_execute(|| {
		let on = |netuid| Subnet::burned_register(signed(coldkey(0)), netuid, hotkey(0));
		assert_noop!(on(0), Error::<Test>::RegistrationNotPermittedOnRootSubnet);
		assert_noop!(on(9), Error::<Test>::SubnetNotExists);
		let close = HyperparamsUpdate {
			registration_allowed: Some(false),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(RuntimeOrigin::root(), 2, close));
		assert_noop!(on(2), Error::<Test>::SubNetRegistrationDisabled);
		assert_ok!(on(1));
		assert_noop!(on(1), Error::<Test>::HotKeyAlreadyRegisteredInSubNet);
		let poor = Subnet::burned_register(signed(999_999), 1, hotkey(1));
		assert_noop!(poor, Error::<Test>::NotEnoughBalanceToStake);
	});
}

#[test]
fn a_hotkey_without_balance_can_sign_while_it_is_registered() {
	full(1).build_and_execute(|| {
		register(0);
		let account = System::account(hotkey(0));
		assert_eq!((account.providers, account.sufficients), (0, 1));
		register(1);
		assert_eq!(System::account(hotkey(0)).sufficients, 0);
	});
}

#[test]
fn slots_are_handed_out_in_order() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[0, 0, 0]);
		assert_eq!(
			(0..3).map(hotkey_at).collect::<Vec<_>>(),
			[hotkey(0), hotkey(1), hotkey(2)]
		);
		assert_eq!(SubnetworkN::<Test>::get(NETUID), 3);
		let neuron = Subnet::neuron(NETUID, 2).unwrap();
		assert_eq!(
			(neuron.coldkey, neuron.registered_at, neuron.active),
			(coldkey(2), 1, true)
		);
		assert_eq!(Subnet::neurons(NETUID).len(), 3);
	});
}

#[test]
fn the_least_paid_is_pruned_then_the_oldest_then_the_lowest_uid() {
	full(4)
		.with(|h| h.immunity_period = Some(20))
		.build_and_execute(|| {
			register(0);
			run_to(2);
			register_all_from(1, 3);
			run_to(30);
			let earned = |values: [u64; 4]| {
				Emission::<Test>::insert(
					NETUID,
					Column::<Test, u64>::truncate_from(values.to_vec()),
				)
			};
			earned([5, 3, 3, 4]);
			assert_eq!(Subnet::uid_to_prune(NETUID), Some(1)); // ties with 2, lower uid
			earned([3, 3, 3, 3]);
			assert_eq!(Subnet::uid_to_prune(NETUID), Some(0)); // oldest
			earned([5, 5, 5, 4]);
			assert_eq!(Subnet::uid_to_prune(NETUID), Some(3)); // least paid
			register(4);
			assert_eq!(hotkey_at(3), hotkey(4));
			let (netuid, uid, hotkey) = (NETUID, 3, hotkey(3));
			assert!(events().contains(&Event::NeuronPruned {
				netuid,
				uid,
				hotkey
			}));
		});
}

fn register_all_from(first: u64, last: u64) {
	(first..=last).for_each(register);
}

#[test]
fn the_immune_are_spared_while_enough_others_are_left() {
	full(3)
		.with(|h| h.min_non_immune_uids = Some(1))
		.build_and_execute(|| {
			register_all_from(0, 1);
			run_to(35);
			register(2);
			run_to(45); // 0 and 1 are 44 blocks old, 2 is 10
			Emission::<Test>::insert(NETUID, Column::<Test, u64>::truncate_from(vec![9, 9, 0]));
			assert_eq!(Subnet::uid_to_prune(NETUID), Some(0));
			register(3); // takes slot 0: one neuron is left that is not immune
			assert_eq!(Subnet::uid_to_prune(NETUID), Some(2));
		});
}

#[test]
fn the_owners_hotkey_is_never_pruned() {
	full(2).build_and_execute(|| {
		let join = |hotkey| Subnet::burned_register(signed(OWNER), NETUID, hotkey);
		assert_ok!(join(OWNER));
		assert_ok!(join(hotkey(50)));
		run_to(60);
		assert_eq!(Subnet::uid_to_prune(NETUID), Some(1));
		let two = HyperparamsUpdate {
			immune_owner_uids_limit: Some(2),
			..Default::default()
		};
		assert_ok!(Subnet::set_hyperparams(RuntimeOrigin::root(), NETUID, two));
		assert_eq!(Subnet::uid_to_prune(NETUID), None);
		assert_noop!(buy(0, u64::MAX), Error::<Test>::NoNeuronIdAvailable);
	});
}

#[test]
fn a_new_neuron_inherits_nothing() {
	ExtBuilder::default()
		.with(|h| h.max_allowed_uids = Some(3))
		.build_and_execute(|| {
			register_all(&[1_000_000, 500_000, 0]);
			assert_ok!(serve(2, "8.8.8.8", 80));
			assert_ok!(Subnet::commit_model(
				signed(hotkey(2)),
				NETUID,
				hash(1),
				true
			));
			next_epoch();
			assert_ok!(vote(0, &[(1, 1), (2, 2)]));
			assert_ok!(vote(1, &[(2, 1)]));
			next_epoch();
			assert!(Emission::<Test>::get(NETUID)[2] > 0);
			assert!(Bonds::<Test>::contains_key(NETUID, 1));
			set_stake(2, 0);
			Emission::<Test>::mutate(NETUID, |column| column[2] = 0);

			register(3); // takes slot 2
			assert_eq!(hotkey_at(2), hotkey(3));
			let new = Subnet::neuron(NETUID, 2).unwrap();
			assert_eq!(
				(
					new.incentive,
					new.consensus,
					new.emission_rao,
					new.stake_rao
				),
				(0, 0, 0, 0)
			);
			assert_eq!(
				(new.axon, new.validator_permit, new.last_update),
				(None, false, 20 - 1)
			);
			assert_eq!(weights_of(0), [(1, 32_768), (2, 0)]);
			assert!(!Axons::<Test>::contains_key(NETUID, hotkey(2)));
			assert!(!Models::<Test>::contains_key(NETUID, hotkey(2)));
			assert!(!IsNetworkMember::<Test>::get(hotkey(2), NETUID));
			next_epoch();
			assert_eq!(Incentive::<Test>::get(NETUID)[2], 0);
		});
}

#[test]
fn a_neuron_registered_in_the_block_of_an_epoch_inherits_no_bonds() {
	ExtBuilder::default()
		.with(|h| h.max_allowed_uids = Some(3))
		.build_and_execute(|| {
			register_all(&[1_000_000, 0, 0]);
			next_epoch();
			assert_ok!(vote(0, &[(1, 1), (2, 2)]));
			next_epoch();
			let bonds_on_2 = || {
				let row = Bonds::<Test>::get(NETUID, 0);
				row.iter().any(|(target, _)| *target == 2)
			};
			assert!(bonds_on_2() && epoch_ran().is_some());
			Emission::<Test>::mutate(NETUID, |column| column[2] = 0);
			register(3); // takes slot 2
			next_epoch();
			assert!(!bonds_on_2());
		});
}
