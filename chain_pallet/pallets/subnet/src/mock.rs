//! A small chain, and verbs to tell stories about it.
//!
//! Neuron `k` has coldkey `coldkey(k)` and hotkey `hotkey(k)`; in a subnet that fills up in order it
//! is uid `k`. Numbers are rao unless they are accounts or blocks.

use crate as pallet_subnet;
use crate::*;
use alloc::{vec, vec::Vec};
use frame_support::{
	assert_ok, derive_impl, parameter_types,
	traits::{
		fungible::{Inspect, Mutate},
		ConstU32, ConstU64, Hooks,
	},
	weights::{
		constants::{RocksDbWeight, WEIGHT_REF_TIME_PER_SECOND},
		Weight,
	},
	PalletId,
};
use frame_system::limits::BlockWeights;
use polkadot_sdk::{pallet_balances, sp_io};
use sp_core::H256;
use sp_runtime::{BuildStorage, Perbill};

pub type AccountId = u64;
type Block = frame_system::mocking::MockBlock<Test>;

#[frame_support::runtime]
mod runtime {
	#[runtime::runtime]
	#[runtime::derive(
		RuntimeCall,
		RuntimeEvent,
		RuntimeError,
		RuntimeOrigin,
		RuntimeFreezeReason,
		RuntimeHoldReason,
		RuntimeSlashReason,
		RuntimeLockId,
		RuntimeTask,
		RuntimeViewFunction
	)]
	pub struct Test;

	#[runtime::pallet_index(0)]
	pub type System = polkadot_sdk::frame_system;
	#[runtime::pallet_index(1)]
	pub type Balances = polkadot_sdk::pallet_balances;
	#[runtime::pallet_index(2)]
	pub type Subnet = pallet_subnet;
}

parameter_types! {
	/// What a block may take.
	pub static BlockTime: Weight = Weight::from_parts(2 * WEIGHT_REF_TIME_PER_SECOND, u64::MAX);
	pub TestBlockWeights: BlockWeights =
		BlockWeights::with_sensible_defaults(BlockTime::get(), Perbill::from_percent(75));
}

#[derive_impl(frame_system::config_preludes::TestDefaultConfig)]
impl frame_system::Config for Test {
	type AccountData = pallet_balances::AccountData<u64>;
	type Block = Block;
	type BlockWeights = TestBlockWeights;
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Test {
	type AccountStore = System;
	type ExistentialDeposit = ConstU64<500>;
}

parameter_types! {
	pub const SubnetPalletId: PalletId = PalletId(*b"mb/subnt");
}

impl Config for Test {
	type Currency = Balances;
	type MaxNominators = ConstU32<4>;
	type MaxOwnedHotkeys = ConstU32<64>;
	type MaxSubnets = ConstU32<8>;
	type MaxUids = ConstU32<512>;
	type MinStake = ConstU64<1_000>;
	type PalletId = SubnetPalletId;
	type WeightInfo = weights::SubstrateWeight<RocksDbWeight>;
}

/// The subnet of most stories.
pub const NETUID: NetUid = 1;
/// Coldkey and hotkey of the subnets' owner; not registered at genesis.
pub const OWNER: AccountId = 1;
/// A rich coldkey that owns no hotkey.
pub const NOMINATOR: AccountId = 2;
/// What every coldkey starts with.
pub const WEALTH: u64 = 10_000_000_000_000;
/// Registration price at genesis.
pub const PRICE: u64 = 1_000_000;
/// Accounts 0 up to this start rich: the owner, nominators, the coldkeys of neurons.
const RICH: u64 = 120;

pub fn coldkey(k: u64) -> AccountId {
	10 + k
}

pub fn hotkey(k: u64) -> AccountId {
	10_000 + k
}

/// A subnet for stories: tempo 10, weights in the open, no rate limits, no owner's cut.
pub fn subnet(netuid: NetUid) -> GenesisSubnet<AccountId> {
	GenesisSubnet {
		netuid,
		owner: OWNER,
		name: "test".into(),
		symbol: "t".into(),
		hyperparams: HyperparamsUpdate {
			tempo: Some(10),
			commit_reveal_weights_enabled: Some(false),
			weights_set_rate_limit: Some(0),
			serving_rate_limit: Some(0),
			immunity_period: Some(40),
			burn: Some(PRICE),
			min_burn: Some(PRICE / 2),
			owner_cut: Some(0),
			..Default::default()
		},
		..Default::default()
	}
}

/// Like [`subnet`], with commit and reveal.
pub fn secret_subnet(netuid: NetUid) -> GenesisSubnet<AccountId> {
	let mut subnet = subnet(netuid);
	subnet.hyperparams.commit_reveal_weights_enabled = Some(true);
	subnet
}

pub struct ExtBuilder {
	genesis: GenesisConfig<Test>,
}

impl Default for ExtBuilder {
	fn default() -> Self {
		Self::of(vec![subnet(NETUID)])
	}
}

impl ExtBuilder {
	pub fn of(subnets: Vec<GenesisSubnet<AccountId>>) -> Self {
		Self {
			genesis: GenesisConfig {
				subnets,
				..Default::default()
			},
		}
	}

	pub fn secret() -> Self {
		Self::of(vec![secret_subnet(NETUID)])
	}

	/// Changes hyperparameters of every subnet.
	pub fn with(mut self, change: impl Fn(&mut HyperparamsUpdate)) -> Self {
		self.genesis
			.subnets
			.iter_mut()
			.for_each(|subnet| change(&mut subnet.hyperparams));
		self
	}

	pub fn genesis(mut self, change: impl Fn(&mut GenesisConfig<Test>)) -> Self {
		change(&mut self.genesis);
		self
	}

	pub fn build(self) -> sp_io::TestExternalities {
		let balances = (0..RICH).map(|account| (account, WEALTH)).collect();
		let mut ext: sp_io::TestExternalities = RuntimeGenesisConfig {
			balances: pallet_balances::GenesisConfig {
				balances,
				..Default::default()
			},
			subnet: self.genesis,
			..Default::default()
		}
		.build_storage()
		.unwrap()
		.into();
		ext.execute_with(|| run_to(1));
		ext
	}

	/// Tells a story from block 1 on, then checks every invariant and that the books are exact.
	pub fn build_and_execute(self, story: impl FnOnce()) {
		self.build().execute_with(|| {
			story();
			check_books();
		});
	}
}

/// Every invariant; the account holds what it owes, to the rao.
pub fn check_books() {
	Subnet::do_try_state().unwrap();
	assert_eq!(Balances::total_balance(&Subnet::account_id()), owed());
}

/// All stakes and pots.
pub fn owed() -> u64 {
	let pots = PendingEmission::<Test>::iter().chain(PendingOwnerCut::<Test>::iter());
	TotalStake::<Test>::get() + pots.map(|(_, pot)| pot).sum::<u64>()
}

/// Lets blocks pass until `block` has begun. Block `b` has the hash `hash(b as u8)`.
pub fn run_to(block: u64) {
	while System::block_number() < block {
		let ended = System::block_number();
		Subnet::on_finalize(ended);
		frame_system::BlockHash::<Test>::insert(ended, hash(ended as u8));
		System::set_block_number(ended + 1);
		System::reset_events();
		Subnet::on_initialize(System::block_number());
	}
}

/// Registers neuron `k`.
pub fn register(k: u64) {
	assert_ok!(Subnet::burned_register(
		signed(coldkey(k)),
		NETUID,
		hotkey(k)
	));
}

/// Registers neurons 0 to `n`, with `stakes` from their own coldkeys.
pub fn register_all(stakes: &[u64]) {
	for (k, stake) in (0..).zip(stakes) {
		register(k);
		if *stake > 0 {
			assert_ok!(Subnet::add_stake(
				signed(coldkey(k)),
				hotkey(k),
				NETUID,
				*stake
			));
		}
	}
}

/// Runs until just after the next epoch.
pub fn next_epoch() {
	run_to(Subnet::next_epoch_start_block(NETUID).unwrap());
}

pub fn signed(account: AccountId) -> RuntimeOrigin {
	RuntimeOrigin::signed(account)
}

pub fn vote(k: u64, row: &[(Uid, u16)]) -> sp_runtime::DispatchResult {
	let (uids, values) = columns(row);
	Subnet::set_mechanism_weights(signed(hotkey(k)), NETUID, 0, uids, values, 0)
}

/// A salt that carries the sheet hash `[sheet; 32]`.
pub fn salt(sheet: u8) -> Salt {
	let word = u16::from_le_bytes([sheet, sheet]);
	let words = [vec![word; SHEET_WORDS], vec![7; 8]].concat();
	words.try_into().unwrap()
}

pub fn commit(k: u64, row: &[(Uid, u16)], salt: &Salt) -> sp_runtime::DispatchResult {
	let (uids, values) = columns(row);
	let hash = Subnet::commit_hash(&hotkey(k), NETUID, &uids, &values, salt, 0);
	Subnet::commit_weights(signed(hotkey(k)), NETUID, hash)
}

pub fn reveal(k: u64, row: &[(Uid, u16)], salt: &Salt) -> sp_runtime::DispatchResult {
	let (uids, values) = columns(row);
	Subnet::reveal_weights(signed(hotkey(k)), NETUID, uids, values, salt.clone(), 0)
}

pub fn columns(row: &[(Uid, u16)]) -> (Column<Test, Uid>, Column<Test, u16>) {
	let (uids, values): (Vec<_>, Vec<_>) = row.iter().copied().unzip();
	(uids.try_into().unwrap(), values.try_into().unwrap())
}

pub fn weights_of(uid: Uid) -> Row {
	Weights::<Test>::get(NETUID, uid).into_inner()
}

pub fn stake_of(k: u64) -> u64 {
	TotalHotkeyAlpha::<Test>::get(hotkey(k), NETUID)
}

/// Serves from a public address.
pub fn serve(k: u64, ip: &str, port: u16) -> sp_runtime::DispatchResult {
	let (ip, ip_type) = match ip.parse().unwrap() {
		core::net::IpAddr::V4(ip) => (u32::from(ip).into(), 4),
		core::net::IpAddr::V6(ip) => (ip.into(), 6),
	};
	Subnet::serve_axon(signed(hotkey(k)), NETUID, 1, ip, port, ip_type, 0, 0, 0)
}

/// This pallet's events of the current block.
pub fn events() -> Vec<Event<Test>> {
	System::read_events_for_pallet::<Event<Test>>()
}

/// The `EpochRan` of this block.
pub fn epoch_ran() -> Option<Event<Test>> {
	events()
		.into_iter()
		.find(|event| matches!(event, Event::EpochRan { .. }))
}

/// Gives `k` as much stake as `rao`, out of nothing, whatever it had.
pub fn set_stake(k: u64, rao: u64) {
	let positions = Stake::<Test>::iter_prefix((NETUID, hotkey(k))).collect::<Vec<_>>();
	for (coldkey, stake) in positions {
		Subnet::debit(NETUID, &hotkey(k), &coldkey, stake);
	}
	Balances::set_balance(&Subnet::account_id(), owed() + rao);
	Subnet::credit(NETUID, &hotkey(k), &coldkey(k), rao);
}

pub fn hash(byte: u8) -> H256 {
	H256([byte; 32])
}
