//! How each pallet is set up.

use crate::{
	clock, compat, migrations::Migrations, AccountId, Aura, Balance, Balances, Block, Hash, Nonce,
	OriginCaller, PalletInfo, Runtime, RuntimeCall, RuntimeEvent, RuntimeFreezeReason,
	RuntimeHoldReason, RuntimeOrigin, RuntimeTask, System, VERSION,
};
use polkadot_sdk::*;

use frame_support::{
	derive_impl, parameter_types,
	traits::{ConstBool, ConstU32, ConstU64, ConstU8, Get, VariantCountOf},
	weights::{
		constants::{ParityDbWeight, WEIGHT_REF_TIME_PER_SECOND},
		ConstantMultiplier, Weight, WeightToFeeCoefficient, WeightToFeeCoefficients,
		WeightToFeePolynomial,
	},
	PalletId,
};
use frame_system::limits::BlockWeights;
use pallet_transaction_payment::{ConstFeeMultiplier, FungibleAdapter, Multiplier};
use sp_consensus_aura::ed25519::AuthorityId as AuraId;
use sp_runtime::{traits::One, Perbill};
use sp_version::RuntimeVersion;

const NORMAL_DISPATCH_RATIO: Perbill = Perbill::from_percent(75);
/// An account below this many rao is reaped.
const EXISTENTIAL_DEPOSIT_RAO: Balance = 500;
/// So that a block is no cheaper to fill with bytes, which nodes keep, than with computation.
const FEE_PER_BYTE_RAO: Balance = 20;
/// The least that can be staked at once.
const MIN_STAKE_RAO: Balance = 2_000_000;

parameter_types! {
	pub const SubnetPalletId: PalletId = PalletId(*b"moe/subn");
	pub RuntimeBlockWeights: BlockWeights = BlockWeights::with_sensible_defaults(
		Weight::from_parts(2 * WEIGHT_REF_TIME_PER_SECOND, u64::MAX),
		NORMAL_DISPATCH_RATIO,
	);
}

/// [`VERSION`], in a function that is not inlined: so the compiled runtime has it in one place.
pub struct Version;

impl Get<RuntimeVersion> for Version {
	#[inline(never)]
	fn get() -> RuntimeVersion {
		VERSION
	}
}

#[derive_impl(frame_system::config_preludes::SolochainDefaultConfig)]
impl frame_system::Config for Runtime {
	type AccountData = pallet_balances::AccountData<Balance>;
	type AccountId = AccountId;
	type Block = Block;
	type BlockHashCount = ConstU32<2_400>;
	type BlockWeights = RuntimeBlockWeights;
	type DbWeight = ParityDbWeight;
	type Hash = Hash;
	type MaxConsumers = ConstU32<16>;
	type Nonce = Nonce;
	type SingleBlockMigrations = Migrations;
	type SS58Prefix = frame_support::traits::ConstU16<42>;
	type Version = Version;
}

impl clock::Config for Runtime {}

impl pallet_timestamp::Config for Runtime {
	type MinimumPeriod = clock::MinimumPeriod<Runtime>;
	type Moment = u64;
	type OnTimestampSet = Aura;
	type WeightInfo = pallet_timestamp::weights::SubstrateWeight<Runtime>;
}

// ed25519 seals are deterministic, so the same blocks have the same hashes on every machine.
impl pallet_aura::Config for Runtime {
	type AllowMultipleBlocksPerSlot = ConstBool<false>;
	type AuthorityId = AuraId;
	type DisabledValidators = ();
	type MaxAuthorities = ConstU32<64>;
	type SlotDuration = clock::SlotDuration<Runtime>;
}

impl pallet_grandpa::Config for Runtime {
	type EquivocationReportSystem = ();
	type KeyOwnerProof = sp_core::Void;
	type MaxAuthorities = ConstU32<64>;
	type MaxNominators = ConstU32<0>;
	type MaxSetIdSessionEntries = ConstU64<0>;
	type RuntimeEvent = RuntimeEvent;
	type WeightInfo = ();
}

impl pallet_balances::Config for Runtime {
	type AccountStore = System;
	type Balance = Balance;
	type DoneSlashHandler = ();
	type DustRemoval = ();
	type ExistentialDeposit = ConstU64<EXISTENTIAL_DEPOSIT_RAO>;
	type FreezeIdentifier = RuntimeFreezeReason;
	type MaxFreezes = VariantCountOf<RuntimeFreezeReason>;
	type MaxLocks = ConstU32<50>;
	type MaxReserves = ();
	type ReserveIdentifier = [u8; 8];
	type RuntimeEvent = RuntimeEvent;
	type RuntimeFreezeReason = RuntimeFreezeReason;
	type RuntimeHoldReason = RuntimeHoldReason;
	type WeightInfo = pallet_balances::weights::SubstrateWeight<Runtime>;
}

/// 50 rao per µs of weight: a transfer costs some tens of thousands of rao.
pub struct WeightToFee;

impl WeightToFeePolynomial for WeightToFee {
	type Balance = Balance;

	fn polynomial() -> WeightToFeeCoefficients<Balance> {
		alloc::vec![WeightToFeeCoefficient {
			coeff_integer: 0,
			coeff_frac: Perbill::from_parts(50_000),
			negative: false,
			degree: 1,
		}]
		.into()
	}
}

parameter_types! {
	pub FeeMultiplier: Multiplier = Multiplier::one();
}

// Fees are burned.
impl pallet_transaction_payment::Config for Runtime {
	type FeeMultiplierUpdate = ConstFeeMultiplier<FeeMultiplier>;
	type LengthToFee = ConstantMultiplier<Balance, ConstU64<FEE_PER_BYTE_RAO>>;
	type OnChargeTransaction = FungibleAdapter<Balances, ()>;
	type OperationalFeeMultiplier = ConstU8<5>;
	type RuntimeEvent = RuntimeEvent;
	type WeightInfo = pallet_transaction_payment::weights::SubstrateWeight<Runtime>;
	type WeightToFee = WeightToFee;
}

impl pallet_sudo::Config for Runtime {
	type RuntimeCall = RuntimeCall;
	type RuntimeEvent = RuntimeEvent;
	type WeightInfo = pallet_sudo::weights::SubstrateWeight<Runtime>;
}

// A batch pays for all that it contains, also for calls that are free by themselves.
impl pallet_utility::Config for Runtime {
	type PalletsOrigin = OriginCaller;
	type RuntimeCall = RuntimeCall;
	type RuntimeEvent = RuntimeEvent;
	type WeightInfo = pallet_utility::weights::SubstrateWeight<Runtime>;
}

impl compat::commitments::Config for Runtime {}

impl compat::mev_shield::Config for Runtime {}

impl pallet_subnet::Config for Runtime {
	type Currency = Balances;
	type MaxNominators = ConstU32<256>;
	type MaxOwnedHotkeys = ConstU32<256>;
	type MaxSubnets = ConstU32<128>;
	type MaxUids = ConstU32<256>;
	type MinStake = ConstU64<MIN_STAKE_RAO>;
	type PalletId = SubnetPalletId;
	type WeightInfo = pallet_subnet::weights::SubstrateWeight<ParityDbWeight>;
}
