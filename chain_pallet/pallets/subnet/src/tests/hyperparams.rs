//! Hyperparameters, genesis and the subnet's spec.

use crate::{mock::*, *};
use frame_support::{assert_noop, assert_ok};

fn set(update: HyperparamsUpdate) -> sp_runtime::DispatchResult {
	Subnet::set_hyperparams(RuntimeOrigin::root(), NETUID, update)
}

#[test]
fn a_change_touches_only_what_it_names() {
	ExtBuilder::default().build_and_execute(|| {
		let (scalars, hyperparams) = Subnet::hyperparams(NETUID);
		let (kappa, tempo) = (Some(40_000), Some(20));
		assert_ok!(set(HyperparamsUpdate {
			kappa,
			tempo,
			..Default::default()
		}));
		assert_eq!(
			Subnet::hyperparams(NETUID),
			(
				Scalars {
					tempo: 20,
					..scalars
				},
				Hyperparams {
					kappa: 40_000,
					..hyperparams
				}
			)
		);
	});
}

#[test]
fn bounds_hold_alone_and_together() {
	ExtBuilder::secret().build_and_execute(|| {
		register_all(&[0, 0]);
		let default = HyperparamsUpdate::default;
		for (update, name) in [
			(
				HyperparamsUpdate {
					tempo: Some(50_401),
					..default()
				},
				Hyperparam::tempo,
			),
			(
				HyperparamsUpdate {
					burn: Some(1),
					..default()
				},
				Hyperparam::burn,
			),
			(
				HyperparamsUpdate {
					max_allowed_uids: Some(1),
					..default()
				},
				Hyperparam::max_allowed_uids,
			),
			(
				HyperparamsUpdate {
					max_allowed_uids: Some(513),
					..default()
				},
				Hyperparam::max_allowed_uids,
			),
			(
				HyperparamsUpdate {
					reveal_period_epochs: Some(0),
					..default()
				},
				Hyperparam::reveal_period_epochs,
			),
			(
				HyperparamsUpdate {
					bonds_moving_average: Some(1_000_001),
					..default()
				},
				Hyperparam::bonds_moving_average,
			),
			(
				HyperparamsUpdate {
					alpha_low: Some(1_637),
					..default()
				},
				Hyperparam::alpha_low,
			),
			(
				HyperparamsUpdate {
					alpha_high: Some(45_874),
					..default()
				},
				Hyperparam::alpha_high,
			),
			(
				HyperparamsUpdate {
					max_allowed_validators: Some(0),
					..default()
				},
				Hyperparam::max_allowed_validators,
			),
			(
				HyperparamsUpdate {
					activity_cutoff_factor_milli: Some(50_001),
					..default()
				},
				Hyperparam::activity_cutoff_factor_milli,
			),
			(
				HyperparamsUpdate {
					immune_owner_uids_limit: Some(0),
					..default()
				},
				Hyperparam::immune_owner_uids_limit,
			),
			// a price of 0 would never rise again
			(
				HyperparamsUpdate {
					min_burn: Some(0),
					..default()
				},
				Hyperparam::min_burn,
			),
			(
				HyperparamsUpdate {
					min_burn: Some(2),
					max_burn: Some(1),
					..default()
				},
				Hyperparam::max_burn,
			),
			(
				HyperparamsUpdate {
					burn_half_life: Some(0),
					..default()
				},
				Hyperparam::burn_half_life,
			),
			(
				HyperparamsUpdate {
					burn_increase_ppm: Some(999_999),
					..default()
				},
				Hyperparam::burn_increase_ppm,
			),
			// immune for less than the 20 blocks until a vote on the newcomer is revealed
			(
				HyperparamsUpdate {
					immunity_period: Some(19),
					..default()
				},
				Hyperparam::immunity_period,
			),
			// inactive before its commit is revealed
			(
				HyperparamsUpdate {
					activity_cutoff_factor_milli: Some(1_999),
					..default()
				},
				Hyperparam::activity_cutoff_factor_milli,
			),
			(
				HyperparamsUpdate {
					tempo: Some(21),
					..default()
				},
				Hyperparam::immunity_period,
			),
		] {
			assert_noop!(set(update), Error::<Test>::HyperparamOutOfBounds(name));
		}
	});
}

#[test]
fn new_price_limits_move_the_price_between_them() {
	ExtBuilder::default().build_and_execute(|| {
		assert_ok!(set(HyperparamsUpdate {
			min_burn: Some(2 * PRICE),
			..Default::default()
		}));
		assert_eq!(Burn::<Test>::get(NETUID), 2 * PRICE);
	});
}

#[test]
fn the_owner_publishes_a_spec_for_the_next_epoch() {
	ExtBuilder::default().build_and_execute(|| {
		let url: Url = b"https://example.org/spec.json"
			.to_vec()
			.try_into()
			.unwrap();
		let publish =
			|who, netuid| Subnet::set_subnet_spec(signed(who), netuid, hash(7), url.clone());
		assert_noop!(publish(coldkey(0), NETUID), Error::<Test>::NotSubnetOwner);
		assert_noop!(publish(OWNER, 9), Error::<Test>::SubnetNotExists);
		run_to(12);
		assert_ok!(publish(OWNER, NETUID));
		let spec = Spec {
			hash: hash(7),
			url,
			from_epoch: 2,
		};
		assert_eq!(SubnetSpecs::<Test>::get(NETUID), Some(spec));
	});
}

#[test]
fn genesis_is_read_from_json() {
	let json = r#"{
		"subnets": [{
			"netuid": 1, "owner": 1, "name": "first", "symbol": "α", "emissionShare": 1,
			"hyperparams": { "tempo": 30, "burnHalfLife": 30, "immunityPeriod": 120 }
		}, {
			"netuid": 2, "owner": 1, "ownerHotkey": 5, "hyperparams": { "commitRevealWeightsEnabled": false }
		}],
		"allowPrivateAddresses": true,
		"maxEpochsPerBlock": 3
	}"#;
	let genesis: GenesisConfig<Test> = serde_json::from_str(json).unwrap();
	ExtBuilder::default()
		.genesis(|g| *g = copy(&genesis))
		.build_and_execute(|| {
			assert_eq!((Tempo::<Test>::get(1), Tempo::<Test>::get(2)), (30, 360));
			assert!(CommitRevealWeightsEnabled::<Test>::get(1));
			assert!(!CommitRevealWeightsEnabled::<Test>::get(2));
			assert_eq!(SubnetOwnerHotkey::<Test>::get(2), Some(5));
			assert_eq!(TokenSymbol::<Test>::get(1).into_inner(), "α".as_bytes());
			assert_eq!(
				SubnetIdentitiesV3::<Test>::get(1)
					.unwrap()
					.subnet_name
					.into_inner(),
				b"first"
			);
			assert_eq!(MaxEpochsPerBlock::<Test>::get(), 3);
			assert!(AllowPrivateAddresses::<Test>::get());
		});
	let typo = json.replace("burnHalfLife", "burnHalfLive");
	assert!(serde_json::from_str::<GenesisConfig<Test>>(&typo).is_err());
}

fn copy(genesis: &GenesisConfig<Test>) -> GenesisConfig<Test> {
	serde_json::from_value(serde_json::to_value(genesis).unwrap()).unwrap()
}

#[test]
#[should_panic(expected = "hyperparameter burn_half_life of subnet 1 is out of bounds")]
fn an_impossible_genesis_does_not_start() {
	ExtBuilder::default()
		.with(|h| h.burn_half_life = Some(0))
		.build();
}
