//! Votes in the open.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok, dispatch::GetDispatchInfo};

/// Validators 0 and 1, miners 2 and 3, after the epoch that gave out permits.
fn with_permits(builder: ExtBuilder, story: impl FnOnce()) {
	builder.build_and_execute(|| {
		register_all(&[2_000_000, 1_000_000, 0, 0]);
		next_epoch();
		story();
	});
}

fn change(update: HyperparamsUpdate) {
	assert_ok!(Subnet::set_hyperparams(
		RuntimeOrigin::root(),
		NETUID,
		update
	));
}

#[test]
fn a_row_is_stored_sorted_scaled_and_with_its_zeros() {
	with_permits(ExtBuilder::default(), || {
		assert_ok!(vote(0, &[(3, 50), (1, 0), (2, 100)]));
		assert_eq!(weights_of(0), [(1, 0), (2, 65_535), (3, 32_768)]);
		assert_eq!(LastUpdate::<Test>::get(NETUID)[0], System::block_number());
		assert!(events().contains(&Event::WeightsSet {
			netuid: NETUID,
			uid: 0
		}));
	});
}

#[test]
fn a_neuron_votes_once_a_block_even_without_a_rate_limit() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[0]);
		let own = || vote(0, &[(0, 1)]);
		assert_noop!(own(), Error::<Test>::SettingWeightsTooFast); // registered in this block
		run_to(2);
		assert_ok!(own());
		assert_noop!(own(), Error::<Test>::SettingWeightsTooFast);
		assert_eq!(Subnet::weights_allowed_at(NETUID, 0), 3);
		run_to(3);
		assert_ok!(own());
	});
}

#[test]
fn nobody_has_a_permit_before_the_first_epoch() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[2_000_000, 0]);
		run_to(2);
		assert_noop!(vote(0, &[(1, 1)]), Error::<Test>::NeuronNoValidatorPermit);
		next_epoch();
		assert_ok!(vote(0, &[(1, 1)]));
		assert_noop!(vote(1, &[(0, 1)]), Error::<Test>::NeuronNoValidatorPermit);
	});
}

#[test]
fn without_permit_one_may_vote_for_oneself_and_the_owner_for_all() {
	ExtBuilder::default().build_and_execute(|| {
		register_all(&[0, 0]);
		assert_ok!(Subnet::burned_register(signed(OWNER), NETUID, OWNER));
		run_to(2);
		assert_ok!(vote(1, &[(1, 7)]));
		let (uids, values) = columns(&[(0, 1), (1, 1)]);
		assert_ok!(Subnet::set_mechanism_weights(
			signed(OWNER),
			NETUID,
			0,
			uids,
			values,
			0
		));
	});
}

#[test]
fn a_vote_is_checked_in_the_order_that_clients_know() {
	with_permits(ExtBuilder::default(), || {
		let call = |k, netuid, mecid, uids: &[Uid], values: &[u16], key| {
			let (uids, values) = (
				Column::<Test, _>::truncate_from(uids.to_vec()),
				Column::<Test, _>::truncate_from(values.to_vec()),
			);
			Subnet::set_mechanism_weights(signed(hotkey(k)), netuid, mecid, uids, values, key)
		};
		type E = Error<Test>;
		assert_noop!(call(0, NETUID, 1, &[2], &[1], 0), E::MechanismDoesNotExist);
		assert_noop!(call(0, 0, 0, &[2], &[1], 0), E::CanNotSetRootNetworkWeights);
		assert_noop!(call(0, 9, 0, &[2], &[], 0), E::WeightVecNotEqualSize);
		assert_noop!(call(0, 9, 0, &[2; 9], &[1; 9], 0), E::SubnetNotExists);
		assert_noop!(
			call(9, NETUID, 0, &[2; 9], &[1; 9], 0),
			E::UidsLengthExceedUidsInSubNet
		);
		assert_noop!(
			call(9, NETUID, 0, &[2], &[1], 0),
			E::HotKeyNotRegisteredInSubNet
		);
		change(HyperparamsUpdate {
			stake_threshold_rao: Some(u64::MAX),
			weights_version_key: Some(3),
			weights_set_rate_limit: Some(100),
			min_allowed_weights: Some(2),
			..Default::default()
		});
		assert_noop!(
			call(0, NETUID, 0, &[2, 2], &[1, 1], 2),
			E::NotEnoughStakeToSetWeights
		);
		change(HyperparamsUpdate {
			stake_threshold_rao: Some(1_000_000),
			..Default::default()
		});
		assert_noop!(
			call(0, NETUID, 0, &[2, 2], &[1, 1], 2),
			E::IncorrectWeightVersionKey
		);
		assert_noop!(
			call(0, NETUID, 0, &[2, 2], &[1, 1], 3),
			E::SettingWeightsTooFast
		);
		run_to(102);
		set_stake(2, 1_000_000);
		ValidatorPermit::<Test>::mutate(NETUID, |column| column[2] = false);
		assert_noop!(
			call(2, NETUID, 0, &[0, 0], &[1, 1], 3),
			E::NeuronNoValidatorPermit
		);
		assert_noop!(call(0, NETUID, 0, &[9, 9], &[1, 1], 3), E::DuplicateUids);
		assert_noop!(
			call(0, NETUID, 0, &[9], &[1], 3),
			E::UidVecContainInvalidOne
		);
		assert_noop!(call(0, NETUID, 0, &[2], &[1], 3), E::WeightVecLengthIsLow);
		assert_ok!(call(0, NETUID, 0, &[2, 3], &[1, 1], u64::MAX));
	});
}

#[test]
fn two_votes_are_a_rate_limit_apart() {
	let limited = ExtBuilder::default().with(|h| h.weights_set_rate_limit = Some(5));
	with_permits(limited, || {
		assert_eq!(Subnet::weights_allowed_at(NETUID, 0), 6); // registration counts
		assert_ok!(vote(0, &[(2, 1)]));
		run_to(13);
		assert_noop!(vote(0, &[(2, 1)]), Error::<Test>::SettingWeightsTooFast);
		run_to(14);
		assert_ok!(vote(0, &[(2, 1)]));
	});
}

#[test]
fn an_open_vote_is_refused_where_votes_are_secret() {
	with_permits(ExtBuilder::secret(), || {
		assert_noop!(vote(0, &[(2, 1)]), Error::<Test>::CommitRevealEnabled);
	});
}

#[test]
fn votes_and_axons_are_free_and_the_rest_is_not() {
	let pays = |call: Call<Test>| call.get_dispatch_info().pays_fee;
	use frame_support::dispatch::Pays::{No, Yes};
	let (uids, values) = columns(&[]);
	let (dests, weights) = (uids.clone(), values.clone());
	let (netuid, hotkey, version_key) = (1, 1, 0);
	assert_eq!(
		pays(Call::commit_weights {
			netuid,
			commit_hash: hash(0)
		}),
		No
	);
	assert_eq!(
		pays(Call::reveal_weights {
			netuid,
			uids,
			values,
			salt: salt(0),
			version_key
		}),
		No
	);
	assert_eq!(
		pays(Call::set_mechanism_weights {
			netuid,
			mecid: 0,
			dests,
			weights,
			version_key
		}),
		No
	);
	assert_eq!(pays(Call::burned_register { netuid, hotkey }), Yes);
	assert_eq!(
		pays(Call::add_stake {
			hotkey,
			netuid,
			amount_staked: 1
		}),
		Yes
	);
}

#[test]
fn incentive_follows_the_votes() {
	with_permits(ExtBuilder::default(), || {
		assert_ok!(vote(0, &[(2, 3), (3, 1)]));
		assert_ok!(vote(1, &[(2, 3), (3, 1)]));
		next_epoch();
		let incentive = Incentive::<Test>::get(NETUID);
		assert_eq!((incentive[0], incentive[1]), (0, 0));
		assert!(
			(49_150..=49_152).contains(&incentive[2]) && (16_383..=16_385).contains(&incentive[3])
		);
		assert!(stake_of(2) > 2 * stake_of(3));
	});
}
