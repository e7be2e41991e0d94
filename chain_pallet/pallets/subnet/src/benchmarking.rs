//! What each call and hook costs at its worst.

use crate::*;
use alloc::{vec, vec::Vec};
use frame_benchmarking::v2::*;
use frame_support::{
	traits::{fungible::Mutate, Get, Hooks},
	BoundedVec,
};
use frame_system::{pallet_prelude::BlockNumberFor, RawOrigin};
use polkadot_sdk::frame_benchmarking;
use sp_core::H256;
use sp_runtime::traits::{Hash, One};

/// Far from the subnets that a preset may have.
const NETUID: NetUid = 1_000;
const WEALTH: u64 = 1_000_000_000_000;
const STAKE: u64 = 1_000_000_000;

fn rich<T: Config>(name: &'static str, k: u32) -> T::AccountId {
	let account = account(name, k, 0);
	let _ = T::Currency::mint_into(&account, WEALTH);
	account
}

fn hotkey<T: Config>(k: u32) -> T::AccountId {
	account("hotkey", k, 0)
}

/// The hotkeys that a coldkey may own, none of them registered: pruning looks for all of them.
fn hoard<T: Config>(owner: &T::AccountId) {
	for k in 1..T::MaxOwnedHotkeys::get() {
		let _ = Pallet::<T>::associate(owner, &account("hoarded", k, 0));
	}
}

/// A subnet with limits out of the way, in block 2.
fn subnet<T: Config>(netuid: NetUid, commit_reveal: bool) -> T::AccountId {
	frame_system::Pallet::<T>::set_block_number(2u32.into());
	let owner = rich::<T>("owner", 0);
	Pallet::<T>::build_subnet(&GenesisSubnet {
		netuid,
		owner: owner.clone(),
		owner_hotkey: None,
		name: Default::default(),
		symbol: Default::default(),
		emission_share: None,
		hyperparams: HyperparamsUpdate {
			commit_reveal_weights_enabled: Some(commit_reveal),
			weights_set_rate_limit: Some(0),
			serving_rate_limit: Some(0),
			min_non_immune_uids: Some(0),
			max_allowed_uids: Some(T::MaxUids::get() as u16),
			..Default::default()
		},
	});
	owner
}

/// Seats neurons 0 to `n`; the first `voters` have stake, a permit, and a row on all others.
fn neurons<T: Config>(n: u32, voters: u32) {
	let pallet_account = Pallet::<T>::account_id();
	let _ = T::Currency::mint_into(&pallet_account, u64::from(voters) * STAKE);
	let row: Vec<_> = (0..n as u16).map(|uid| (uid, u16::MAX - uid)).collect();
	for k in 0..n {
		let (coldkey, hotkey) = (account("coldkey", k, 0), hotkey::<T>(k));
		let _ = Pallet::<T>::associate(&coldkey, &hotkey);
		SubnetworkN::<T>::insert(NETUID, k as u16 + 1);
		Pallet::<T>::occupy(NETUID, k as u16, &hotkey);
		BlockAtRegistration::<T>::insert(NETUID, k as u16, 0);
		if k < voters {
			Pallet::<T>::credit(NETUID, &hotkey, &coldkey, STAKE);
			Weights::<T>::insert(NETUID, k as u16, BoundedVec::truncate_from(row.clone()));
			Bonds::<T>::insert(NETUID, k as u16, BoundedVec::truncate_from(row.clone()));
		}
	}
	frame_system::Pallet::<T>::set_block_number(3u32.into());
	ValidatorPermit::<T>::insert(
		NETUID,
		BoundedVec::truncate_from((0..n).map(|k| k < voters).collect::<Vec<_>>()),
	);
}

fn all<T: Config>(n: u32) -> (Column<T, Uid>, Column<T, u16>) {
	let uids: Vec<Uid> = (0..n as u16).rev().collect();
	(
		BoundedVec::truncate_from(uids.clone()),
		BoundedVec::truncate_from(uids),
	)
}

fn commit(hash: H256, reveal_epoch: u64) -> Commit {
	Commit {
		hash,
		epoch: 0,
		block: 3,
		reveal_epoch,
	}
}

#[benchmarks]
mod benchmarks {
	use super::*;

	#[benchmark]
	fn register(n: Linear<2, 256>) {
		hoard::<T>(&subnet::<T>(NETUID, true));
		neurons::<T>(n, n.min(64));
		MaxAllowedUids::<T>::insert(NETUID, n as u16);
		frame_system::Pallet::<T>::set_block_number(10_000u32.into());
		let coldkey = rich::<T>("newcomer", 0);
		let newcomer = hotkey::<T>(n);

		#[extrinsic_call]
		register_limit(
			RawOrigin::Signed(coldkey),
			NETUID,
			newcomer.clone(),
			u64::MAX,
		);

		assert!(Uids::<T>::contains_key(NETUID, &newcomer));
		assert_eq!(SubnetworkN::<T>::get(NETUID), n as u16);
	}

	#[benchmark]
	fn pow_register(n: Linear<2, 256>) {
		hoard::<T>(&subnet::<T>(NETUID, true));
		neurons::<T>(n, n.min(64));
		MaxAllowedUids::<T>::insert(NETUID, n as u16);
		NetworkPowRegistrationAllowed::<T>::insert(NETUID, true);
		Difficulty::<T>::insert(NETUID, 1);
		frame_system::Pallet::<T>::set_block_number(10_000u32.into());
		let challenge: T::Hash = T::Hashing::hash(b"challenge");
		frame_system::BlockHash::<T>::insert(BlockNumberFor::<T>::from(9_999u32), challenge);
		let coldkey: T::AccountId = account("newcomer", 0, 0);
		let newcomer = hotkey::<T>(n);
		let seal = pow_seal(NETUID, challenge, &newcomer, &coldkey, 0);

		#[extrinsic_call]
		_(
			RawOrigin::Signed(coldkey),
			NETUID,
			9_999,
			0,
			BoundedVec::truncate_from(seal.to_vec()),
			newcomer.clone(),
		);

		assert!(Uids::<T>::contains_key(NETUID, &newcomer));
		assert_eq!(SubnetworkN::<T>::get(NETUID), n as u16);
	}

	#[benchmark]
	fn add_stake(n: Linear<1, 256>) {
		subnet::<T>(NETUID, true);
		neurons::<T>(1, 0);
		let total = u64::from(n) * STAKE;
		let _ = T::Currency::mint_into(&Pallet::<T>::account_id(), total);
		for k in 0..n {
			let nominator = account("nominator", k, 0);
			Pallet::<T>::credit(NETUID, &hotkey::<T>(0), &nominator, STAKE);
		}
		NominatorCount::<T>::insert(hotkey::<T>(0), NETUID, T::MaxNominators::get());
		let coldkey = rich::<T>("newcomer", 0);

		#[extrinsic_call]
		_(
			RawOrigin::Signed(coldkey),
			hotkey::<T>(0),
			NETUID,
			STAKE + 1,
		);

		assert_eq!(TotalStake::<T>::get(), total + 1);
	}

	#[benchmark]
	fn remove_stake() {
		subnet::<T>(NETUID, true);
		neurons::<T>(2, 2);
		let coldkey = rich::<T>("nominator", 0);
		let origin = RawOrigin::Signed(coldkey.clone());
		Pallet::<T>::add_stake(origin.clone().into(), hotkey::<T>(0), NETUID, STAKE).unwrap();

		#[extrinsic_call]
		_(origin, hotkey::<T>(0), NETUID, STAKE);

		assert!(Pallet::<T>::stake_positions(&coldkey).is_empty());
	}

	#[benchmark]
	fn serve_axon() {
		subnet::<T>(NETUID, true);
		neurons::<T>(1, 0);

		#[extrinsic_call]
		_(
			RawOrigin::Signed(hotkey::<T>(0)),
			NETUID,
			1,
			0x0808_0808,
			80,
			4,
			0,
			0,
			0,
		);

		assert!(Axons::<T>::contains_key(NETUID, hotkey::<T>(0)));
	}

	#[benchmark]
	fn commit_weights() {
		subnet::<T>(NETUID, true);
		neurons::<T>(1, 1);
		SubnetEpochIndex::<T>::insert(NETUID, 2);
		let expired = vec![commit(H256::zero(), 1); MAX_COMMITS as usize];
		WeightCommits::<T>::insert(NETUID, hotkey::<T>(0), CommitQueue::truncate_from(expired));

		#[extrinsic_call]
		_(
			RawOrigin::Signed(hotkey::<T>(0)),
			NETUID,
			H256::repeat_byte(1),
		);

		assert_eq!(WeightCommits::<T>::get(NETUID, hotkey::<T>(0)).len(), 1);
	}

	#[benchmark]
	fn reveal_weights(n: Linear<2, 256>) {
		subnet::<T>(NETUID, true);
		neurons::<T>(n, 1);
		let (uids, values) = all::<T>(n);
		let salt = Salt::truncate_from(vec![7; 64]);
		let voter = hotkey::<T>(0);
		let hash = Pallet::<T>::commit_hash(&voter, NETUID, &uids, &values, &salt, 0);
		let mut queue = vec![commit(H256::zero(), 0); MAX_COMMITS as usize - 1];
		queue.push(commit(hash, 0));
		WeightCommits::<T>::insert(NETUID, &voter, CommitQueue::truncate_from(queue));

		#[extrinsic_call]
		_(
			RawOrigin::Signed(voter.clone()),
			NETUID,
			uids,
			values,
			salt,
			0,
		);

		assert!(LastReveal::<T>::get(NETUID, &voter)
			.unwrap()
			.sheet
			.is_some());
		assert_eq!(Weights::<T>::get(NETUID, 0).len(), n as usize);
	}

	#[benchmark]
	fn set_mechanism_weights(n: Linear<2, 256>) {
		subnet::<T>(NETUID, false);
		neurons::<T>(n, 1);
		Weights::<T>::remove(NETUID, 0);
		let (dests, weights) = all::<T>(n);

		#[extrinsic_call]
		_(
			RawOrigin::Signed(hotkey::<T>(0)),
			NETUID,
			0,
			dests,
			weights,
			0,
		);

		assert_eq!(Weights::<T>::get(NETUID, 0).len(), n as usize);
	}

	#[benchmark]
	fn set_subnet_spec() {
		let owner = subnet::<T>(NETUID, true);

		#[extrinsic_call]
		_(
			RawOrigin::Signed(owner),
			NETUID,
			H256::zero(),
			Url::truncate_from(vec![b'x'; 256]),
		);

		assert!(SubnetSpecs::<T>::contains_key(NETUID));
	}

	#[benchmark]
	fn set_emission_shares(s: Linear<1, 128>) {
		let s = s.min(T::MaxSubnets::get()) as u16;
		(0..s).for_each(|k| drop(subnet::<T>(NETUID + k, true)));
		let shares: Vec<_> = (0..s).rev().map(|k| (NETUID + k, k + 1)).collect();

		#[extrinsic_call]
		_(RawOrigin::Root, BoundedVec::truncate_from(shares));

		assert_eq!(EmissionShares::<T>::get().len(), usize::from(s));
	}

	#[benchmark]
	fn set_hyperparams() {
		// By the owner, who has more to check than root; everything that it may change.
		let owner = subnet::<T>(NETUID, true);
		let (s, h) = (Scalars::default(), Hyperparams::default());
		let update = HyperparamsUpdate {
			tempo: Some(1_000),
			max_allowed_uids: Some(T::MaxUids::get() as u16),
			commit_reveal_weights_enabled: Some(s.commit_reveal_weights_enabled),
			min_allowed_weights: Some(s.min_allowed_weights),
			reveal_period_epochs: Some(s.reveal_period_epochs),
			bonds_moving_average: Some(h.bonds_moving_average),
			bonds_penalty: Some(h.bonds_penalty),
			yuma3: Some(h.yuma3),
			liquid_alpha: Some(true),
			alpha_low: Some(h.alpha_low),
			alpha_high: Some(h.alpha_high),
			alpha_sigmoid_steepness: Some(h.alpha_sigmoid_steepness),
			activity_cutoff_factor_milli: Some(h.activity_cutoff_factor_milli),
			immunity_period: Some(h.immunity_period),
			immune_owner_uids_limit: Some(h.immune_owner_uids_limit),
			weights_version_key: Some(1),
			serving_rate_limit: Some(h.serving_rate_limit),
			min_burn: Some(h.min_burn),
			max_burn: Some(h.max_burn),
			burn_half_life: Some(h.burn_half_life),
			burn_increase_ppm: Some(h.burn_increase_ppm),
			..Default::default()
		};

		#[extrinsic_call]
		_(RawOrigin::Signed(owner), NETUID, update);

		assert_eq!(Tempo::<T>::get(NETUID), 1_000);
	}

	#[benchmark]
	fn on_initialize(s: Linear<1, 128>) {
		let s = s.min(T::MaxSubnets::get()) as u16;
		(0..s).for_each(|k| drop(subnet::<T>(NETUID + k, true)));

		#[block]
		{
			Pallet::<T>::on_initialize(3u32.into());
			Pallet::<T>::on_finalize(3u32.into());
		}

		assert!(PendingEmission::<T>::get(NETUID) > 0);
	}

	/// Under the most expensive rules: bonds half way to the clipped weights, with liquid alpha. All
	/// earn something, and have commits to forget.
	#[benchmark]
	fn epoch(n: Linear<64, 256>, v: Linear<1, 64>) {
		subnet::<T>(NETUID, true);
		neurons::<T>(n, v);
		SubnetHyperparams::<T>::mutate(NETUID, |h| {
			(h.liquid_alpha, h.bonds_penalty) = (true, u16::MAX / 2);
		});
		SubnetOwnerHotkey::<T>::insert(NETUID, hotkey::<T>(0));
		let _ = T::Currency::mint_into(&Pallet::<T>::account_id(), 2 * STAKE);
		PendingEmission::<T>::insert(NETUID, STAKE);
		PendingOwnerCut::<T>::insert(NETUID, STAKE);
		let now = frame_system::Pallet::<T>::block_number() + One::one();
		frame_system::Pallet::<T>::set_block_number(now);
		SubnetEpochIndex::<T>::insert(NETUID, 5);
		LastUpdate::<T>::insert(NETUID, BoundedVec::truncate_from(vec![3; n as usize]));
		for k in 0..n {
			let queue = vec![commit(H256::zero(), 1); MAX_COMMITS as usize];
			WeightCommits::<T>::insert(NETUID, hotkey::<T>(k), CommitQueue::truncate_from(queue));
		}

		#[block]
		{
			Pallet::<T>::run_epoch(NETUID, 4);
		}

		assert_eq!(LastMechansimStepBlock::<T>::get(NETUID), 4);
		assert_eq!(StakeWeight::<T>::get(NETUID).len(), n as usize);
		let earned = Emission::<T>::get(NETUID)
			.iter()
			.filter(|rao| **rao > 0)
			.count();
		assert_eq!(earned, n as usize);
	}

	/// The dividends of one validator with `c` nominators.
	#[benchmark]
	fn nominators(c: Linear<1, 256>) {
		let c = c.min(T::MaxNominators::get());
		subnet::<T>(NETUID, true);
		neurons::<T>(1, 1);
		let _ = T::Currency::mint_into(&Pallet::<T>::account_id(), u64::from(c + 1) * STAKE);
		let nominator = |k| account("nominator", k, 0);
		(0..c).for_each(|k| Pallet::<T>::credit(NETUID, &hotkey::<T>(0), &nominator(k), STAKE));
		let outcome = yuma::Outcome {
			server_rao: vec![0],
			validator_rao: vec![STAKE],
			..yuma::epoch(&Default::default(), &[], &[], &[], 0)
		};

		#[block]
		{
			Pallet::<T>::pay(NETUID, &[hotkey::<T>(0)], &outcome, STAKE);
		}

		let first = Stake::<T>::get((NETUID, hotkey::<T>(0), nominator(0)));
		assert!(first > STAKE);
	}

	#[benchmark]
	fn decrease_take() {
		subnet::<T>(NETUID, true);
		neurons::<T>(1, 0);
		let coldkey: T::AccountId = account("coldkey", 0, 0);

		#[extrinsic_call]
		_(RawOrigin::Signed(coldkey), hotkey::<T>(0), 0);

		assert_eq!(Delegates::<T>::get(hotkey::<T>(0)), 0);
	}

	#[benchmark]
	fn increase_take() {
		subnet::<T>(NETUID, true);
		neurons::<T>(1, 0);
		let coldkey: T::AccountId = account("coldkey", 0, 0);
		Delegates::<T>::insert(hotkey::<T>(0), 0);
		LastTxBlockDelegateTake::<T>::insert(hotkey::<T>(0), 0);
		TxDelegateTakeRateLimit::<T>::put(1);

		#[extrinsic_call]
		_(RawOrigin::Signed(coldkey), hotkey::<T>(0), MAX_TAKE);

		assert_eq!(Delegates::<T>::get(hotkey::<T>(0)), MAX_TAKE);
	}

	#[benchmark]
	fn register_network(s: Linear<1, 127>) {
		let s = s.min(T::MaxSubnets::get() - 1) as u16;
		let before = Pallet::<T>::netuids().len() as u16;
		(before..s).for_each(|k| drop(subnet::<T>(NETUID + k, true)));
		NetworkMinLockCost::<T>::put(STAKE);
		let coldkey = rich::<T>("founder", 0);

		#[extrinsic_call]
		_(RawOrigin::Signed(coldkey.clone()), hotkey::<T>(0));

		assert_eq!(OwnedHotkeys::<T>::get(&coldkey).len(), 1);
		assert_eq!(NetworkLastLockCost::<T>::get(), STAKE);
	}

	#[benchmark]
	fn trim_subnet(n: Linear<4, 256>) {
		// Half of the neurons go, and all others move.
		let owner = subnet::<T>(NETUID, true);
		hoard::<T>(&owner);
		neurons::<T>(n, n.min(64));
		let earned = (0..n).map(|k| u64::from(k >= n / 2)).collect::<Vec<_>>();
		Emission::<T>::insert(NETUID, BoundedVec::truncate_from(earned));
		for k in 0..n {
			let queue = vec![commit(H256::zero(), 1); MAX_COMMITS as usize];
			WeightCommits::<T>::insert(NETUID, hotkey::<T>(k), CommitQueue::truncate_from(queue));
		}
		MinOwnerUids::<T>::put(1);
		PendingEpochAt::<T>::insert(NETUID, 20_000);
		let half = (n / 2) as u16;
		frame_system::Pallet::<T>::set_block_number(10_000u32.into());

		#[extrinsic_call]
		_(RawOrigin::Signed(owner), NETUID, half);

		let moved = LastTrim::<T>::get(NETUID).unwrap().moves.len();
		assert_eq!((SubnetworkN::<T>::get(NETUID), moved), (half, half.into()));
	}

	#[benchmark]
	fn set_subnet_name() {
		let owner = subnet::<T>(NETUID, true);
		let label = Label::truncate_from(vec![b'x'; 64]);

		#[extrinsic_call]
		_(
			RawOrigin::Signed(owner),
			NETUID,
			label.clone(),
			label.clone(),
		);

		assert_eq!(TokenSymbol::<T>::get(NETUID), label);
	}

	impl_benchmark_test_suite!(Pallet, mock::ExtBuilder::default().build(), mock::Test);
}
