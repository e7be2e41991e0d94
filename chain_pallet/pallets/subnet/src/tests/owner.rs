//! What the owner of a subnet may change, and when.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok};

fn by_owner(update: HyperparamsUpdate) -> sp_runtime::DispatchResult {
	Subnet::set_hyperparams(signed(OWNER), NETUID, update)
}

fn by_root(update: HyperparamsUpdate) -> sp_runtime::DispatchResult {
	Subnet::set_hyperparams(RuntimeOrigin::root(), NETUID, update)
}

fn tempo(tempo: u16) -> HyperparamsUpdate {
	HyperparamsUpdate {
		tempo: Some(tempo),
		..Default::default()
	}
}

fn penalty(bonds_penalty: u16) -> HyperparamsUpdate {
	HyperparamsUpdate {
		bonds_penalty: Some(bonds_penalty),
		..Default::default()
	}
}

fn short_limits() -> ExtBuilder {
	ExtBuilder::default().genesis(|g| {
		g.limits.admin_freeze_window = Some(3);
		g.limits.min_owner_tempo = Some(5);
		g.limits.min_owner_uids = Some(4);
	})
}

#[test]
fn an_owner_changes_its_subnet_and_nobody_elses() {
	short_limits().build_and_execute(|| {
		let update = HyperparamsUpdate {
			bonds_penalty: Some(7),
			max_allowed_uids: Some(4),
			..Default::default()
		};
		assert_ok!(by_owner(update.clone()));
		let netuid = NETUID;
		assert!(events().contains(&Event::HyperparamsSet { netuid, update }));
		assert_eq!(SubnetHyperparams::<Test>::get(NETUID).bonds_penalty, 7);
		let stranger = Subnet::set_hyperparams(signed(NOMINATOR), NETUID, penalty(1));
		assert_noop!(stranger, Error::<Test>::NotSubnetOwner);
		let missing = Subnet::set_hyperparams(signed(OWNER), 9, penalty(1));
		assert_noop!(missing, Error::<Test>::SubnetNotExists);
	});
}

#[test]
fn what_protects_voters_and_payers_is_roots() {
	short_limits().build_and_execute(|| {
		let default = HyperparamsUpdate::default;
		for (update, name) in [
			(
				HyperparamsUpdate {
					owner_cut: Some(u16::MAX),
					..default()
				},
				Hyperparam::owner_cut,
			),
			(
				HyperparamsUpdate {
					kappa: Some(1),
					..default()
				},
				Hyperparam::kappa,
			),
			(
				HyperparamsUpdate {
					burn: Some(PRICE),
					..default()
				},
				Hyperparam::burn,
			),
		] {
			assert_noop!(
				by_owner(update.clone()),
				Error::<Test>::OnlyRootMaySet(name)
			);
			assert_ok!(by_root(update));
		}
	});
}

#[test]
fn an_owners_bounds_are_narrower_than_roots() {
	short_limits().build_and_execute(|| {
		let default = HyperparamsUpdate::default;
		for (update, name) in [
			(tempo(4), Hyperparam::tempo),
			(
				HyperparamsUpdate {
					max_allowed_uids: Some(3),
					..default()
				},
				Hyperparam::max_allowed_uids,
			),
			(
				HyperparamsUpdate {
					bonds_moving_average: Some(975_001),
					..default()
				},
				Hyperparam::bonds_moving_average,
			),
			(
				HyperparamsUpdate {
					alpha_low: Some(2_000),
					..default()
				},
				Hyperparam::alpha_low,
			),
			(
				HyperparamsUpdate {
					alpha_sigmoid_steepness: Some(-1),
					..default()
				},
				Hyperparam::alpha_sigmoid_steepness,
			),
			(
				HyperparamsUpdate {
					min_burn: Some(1_000_000_000),
					..default()
				},
				Hyperparam::min_burn,
			),
			(
				HyperparamsUpdate {
					min_burn: Some(1),
					max_burn: Some(100_000_000),
					..default()
				},
				Hyperparam::max_burn,
			),
		] {
			let refused = Error::<Test>::HyperparamOutOfBounds(name);
			assert_noop!(by_owner(update.clone()), refused);
			assert_ok!(by_root(update));
		}
		// With liquid alpha on, its bounds are the owner's too.
		assert_ok!(by_owner(HyperparamsUpdate {
			liquid_alpha: Some(true),
			alpha_low: Some(2_000),
			..default()
		}));
	});
}

#[test]
fn an_owner_changes_a_hyperparameter_once_in_two_tempos() {
	short_limits().build_and_execute(|| {
		assert_ok!(by_owner(penalty(1)));
		assert_ok!(by_owner(tempo(12))); // another one
		assert_noop!(by_owner(penalty(2)), Error::<Test>::TxRateLimitExceeded);
		assert_ok!(by_root(penalty(3))); // root need not wait, and does not count
		run_to(1 + 2 * 12 - 1);
		assert_noop!(by_owner(penalty(2)), Error::<Test>::TxRateLimitExceeded);
		run_to(1 + 2 * 12);
		assert_ok!(by_owner(penalty(2)));
	});
}

#[test]
fn the_version_key_changes_once_in_five_tempos() {
	short_limits().build_and_execute(|| {
		let version = |key| HyperparamsUpdate {
			weights_version_key: Some(key),
			..Default::default()
		};
		assert_ok!(by_owner(version(1)));
		run_to(50);
		assert_noop!(by_owner(version(2)), Error::<Test>::TxRateLimitExceeded);
		run_to(51);
		assert_ok!(by_owner(version(2)));
	});
}

#[test]
fn a_change_that_fails_costs_no_waiting() {
	short_limits().build_and_execute(|| {
		assert!(by_owner(tempo(4)).is_err());
		assert_ok!(by_owner(tempo(5)));
	});
}

#[test]
fn an_owner_changes_nothing_in_the_last_blocks_before_an_epoch() {
	short_limits().build_and_execute(|| {
		// The epoch runs in block 9: 6, 7 and 8 are the last three blocks before it.
		for block in 6..=8 {
			run_to(block);
			assert_noop!(
				by_owner(penalty(1)),
				Error::<Test>::AdminActionProhibitedDuringWeightsWindow
			);
			assert_ok!(by_root(penalty(1)));
		}
		run_to(9);
		assert_ok!(by_owner(penalty(1)));
		run_to(15);
		assert_ok!(by_owner(tempo(11)));
	});
}

#[test]
fn a_short_tempo_is_not_frozen_for_ever() {
	let short = ExtBuilder::default().with(|h| h.tempo = Some(4));
	short.build_and_execute(|| {
		run_to(3);
		assert_ok!(by_owner(penalty(1)));
	});
}

#[test]
fn every_hyperparameter_has_an_encoding_of_its_own_in_the_error() {
	use codec::Encode;
	let encoded = Error::<Test>::HyperparamOutOfBounds(Hyperparam::tempo).encode();
	let other = Error::<Test>::HyperparamOutOfBounds(Hyperparam::kappa).encode();
	assert_eq!((encoded.len(), other.len()), (2, 2));
	assert_eq!(encoded[0], other[0]);
	assert_ne!(encoded[1], other[1]);
}
