//! What blocks have room for.

use super::*;
use frame_support::{
	traits::{Get, Hooks},
	weights::Weight,
};
use pallet_subnet::{weights::WeightInfo, *};

type Cost = <Runtime as pallet_subnet::Config>::WeightInfo;

const UIDS: u32 = 256;
const VALIDATORS: u32 = 64;

fn max_block() -> Weight {
	<Runtime as frame_system::Config>::BlockWeights::get().max_block
}

/// Thousandths of a block's weight, rounded up.
fn per_mille(weight: Weight) -> u64 {
	let ref_time = weight.ref_time() * 1_000;
	ref_time.div_ceil(max_block().ref_time())
}

/// A subnet whose slots are all taken; the first neurons validate, vote for all and have bonds.
fn fill(netuid: NetUid) {
	MaxAllowedUids::<Runtime>::insert(netuid, UIDS as u16);
	let row: Vec<_> = (0..UIDS as Uid).map(|uid| (uid, u16::MAX - uid)).collect();
	let rows = Column::<Runtime, _>::truncate_from(row);
	for uid in 0..UIDS {
		let owner = sp_core::crypto::AccountId32::new([uid as u8; 32]);
		let mut hotkey = [uid as u8; 32];
		hotkey[0] ^= 0xff;
		hotkey[31] ^= 0xf0;
		let hotkey = sp_core::crypto::AccountId32::new(hotkey);
		let rich = 1_000_000_000_000_000;
		Balances::force_set_balance(RuntimeOrigin::root(), owner.clone().into(), rich).unwrap();
		Burn::<Runtime>::insert(netuid, 1_000_000);
		let signed = RuntimeOrigin::signed(owner);
		let register = SubtensorModule::register_limit;
		assert_ok!(register(signed.clone(), netuid, hotkey.clone(), u64::MAX));
		if uid < VALIDATORS {
			assert_ok!(SubtensorModule::add_stake(
				signed, hotkey, netuid, STAKE_RAO
			));
			Weights::<Runtime>::insert(netuid, uid as Uid, rows.clone());
			Bonds::<Runtime>::insert(netuid, uid as Uid, rows.clone());
		}
	}
	let voted = Column::<Runtime, u64>::truncate_from(vec![2; UIDS as usize]);
	LastUpdate::<Runtime>::insert(netuid, voted);
	let permits = (0..UIDS).map(|uid| uid < VALIDATORS).collect();
	ValidatorPermit::<Runtime>::insert(netuid, Column::<Runtime, _>::truncate_from(permits));
}

#[test]
fn the_largest_epoch_is_charged_in_its_block_and_leaves_nine_tenths_of_it() {
	on("development", || {
		execute_block(1, 1_000);
		fill(NETUID);
		let due = SubtensorModule::next_epoch_start_block(NETUID).unwrap() as BlockNumber;
		System::set_block_number(due);
		let charged = SubtensorModule::on_initialize(due);
		assert_eq!(
			pallet_subnet::LastMechansimStepBlock::<Runtime>::get(NETUID),
			u64::from(due)
		);
		let earned = Emission::<Runtime>::get(NETUID)
			.into_iter()
			.filter(|rao| *rao > 0);
		assert!(earned.count() >= UIDS as usize - 1, "all of them are paid");
		let epoch = Cost::epoch(UIDS, VALIDATORS);
		assert!(charged.all_gte(Cost::on_initialize(2) + epoch));
		assert!(
			per_mille(charged) <= 100,
			"{} ‰ of a block",
			per_mille(charged)
		);
	});
}

#[test]
fn the_largest_epoch_fits_a_block_with_every_place_for_nominators_taken() {
	let places: u32 = <Runtime as pallet_subnet::Config>::MaxNominators::get();
	let nominators = places * VALIDATORS;
	let epoch = Cost::epoch(UIDS, VALIDATORS) + Cost::nominators(nominators);
	let idle = Cost::on_initialize(<Runtime as pallet_subnet::Config>::MaxSubnets::get());
	assert!(per_mille(idle) <= 50, "{} ‰ of a block", per_mille(idle));
	assert!(
		per_mille(idle + epoch) <= 1_000,
		"{} ‰ of a block",
		per_mille(idle + epoch)
	);
}
