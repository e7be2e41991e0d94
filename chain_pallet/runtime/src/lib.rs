//! The state transition function of the moesubnet chain.
//!
//! One blob serves every chain: what differs between a development chain and a production one
//! (slot duration, subnets, hyperparameters) is storage that genesis writes, see [`presets`].

#![cfg_attr(not(feature = "std"), no_std)]
// `#[frame_support::runtime]` and `impl_runtime_apis!` expand to long recursions.
#![recursion_limit = "512"]
// The tool that tries an upgrade reads failure from a trap.
#![cfg_attr(feature = "try-runtime", allow(clippy::panic))]
// Tests may panic; the build without them is held to the workspace's lints.
#![cfg_attr(test, allow(clippy::arithmetic_side_effects))]

extern crate alloc;

mod apis;
#[cfg(feature = "runtime-benchmarks")]
mod benchmarks;
pub mod clock;
mod compat;
mod configs;
mod migrations;
pub mod presets;

/// What a node calls the runtime through.
#[cfg(feature = "std")]
pub use apis::RuntimeApi;

use alloc::vec::Vec;
use polkadot_sdk::*;
use sp_runtime::{
	generic, impl_opaque_keys,
	traits::{BlakeTwo256, IdentifyAccount, Verify},
	MultiAddress, MultiSignature,
};
use sp_version::RuntimeVersion;

pub type Signature = MultiSignature;
pub type AccountId = <<Signature as Verify>::Signer as IdentifyAccount>::AccountId;
pub type Address = MultiAddress<AccountId, ()>;
/// Amounts of the one token, in rao (10⁻⁹).
pub type Balance = u64;
pub type BlockNumber = u32;
pub type Hash = sp_core::H256;
pub type Header = generic::Header<BlockNumber, BlakeTwo256>;
pub type Nonce = u32;
pub type Block = generic::Block<Header, UncheckedExtrinsic>;

/// What every signed transaction proves beyond its signature. Ours are zero-sized, or look like
/// FRAME's in the metadata and on the wire, so that clients need not know them.
pub type TxExtension = (
	frame_system::CheckNonZeroSender<Runtime>,
	frame_system::CheckSpecVersion<Runtime>,
	frame_system::CheckTxVersion<Runtime>,
	frame_system::CheckGenesis<Runtime>,
	frame_system::CheckEra<Runtime>,
	pallet_subnet::CheckNonce<Runtime>,
	frame_system::CheckWeight<Runtime>,
	pallet_subnet::CheckFreeCalls<Runtime>,
	pallet_transaction_payment::ChargeTransactionPayment<Runtime>,
	frame_metadata_hash_extension::CheckMetadataHash<Runtime>,
	frame_system::WeightReclaim<Runtime>,
);

pub type UncheckedExtrinsic =
	generic::UncheckedExtrinsic<Address, RuntimeCall, Signature, TxExtension>;

pub type Executive = frame_executive::Executive<
	Runtime,
	Block,
	frame_system::ChainContext<Runtime>,
	Runtime,
	AllPalletsWithSystem,
>;

impl_opaque_keys! {
	pub struct SessionKeys {
		pub aura: Aura,
		pub grandpa: Grandpa,
	}
}

#[sp_version::runtime_version]
pub const VERSION: RuntimeVersion = RuntimeVersion {
	spec_name: alloc::borrow::Cow::Borrowed("moesubnet"),
	impl_name: alloc::borrow::Cow::Borrowed("moesubnet"),
	authoring_version: 1,
	spec_version: 104,
	impl_version: 1,
	apis: apis::RUNTIME_API_VERSIONS,
	transaction_version: 1,
	system_version: 1,
};

#[frame_support::runtime]
mod runtime {
	use super::*;

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
	pub struct Runtime;

	#[runtime::pallet_index(0)]
	pub type System = frame_system::Pallet<Runtime>;
	#[runtime::pallet_index(1)]
	pub type Clock = clock::Pallet<Runtime>;
	#[runtime::pallet_index(2)]
	pub type Timestamp = pallet_timestamp::Pallet<Runtime>;
	#[runtime::pallet_index(3)]
	pub type Aura = pallet_aura::Pallet<Runtime>;
	#[runtime::pallet_index(4)]
	pub type Grandpa = pallet_grandpa::Pallet<Runtime>;
	#[runtime::pallet_index(5)]
	pub type Balances = pallet_balances::Pallet<Runtime>;
	#[runtime::pallet_index(6)]
	pub type TransactionPayment = pallet_transaction_payment::Pallet<Runtime>;
	#[runtime::pallet_index(7)]
	pub type Sudo = pallet_sudo::Pallet<Runtime>;
	/// Under the name that the ecosystem's clients look for.
	#[runtime::pallet_index(8)]
	pub type SubtensorModule = pallet_subnet::Pallet<Runtime>;
	#[runtime::pallet_index(9)]
	pub type Utility = pallet_utility::Pallet<Runtime>;
	#[runtime::pallet_index(10)]
	pub type Commitments = compat::commitments::Pallet<Runtime>;
	#[runtime::pallet_index(11)]
	pub type MevShield = compat::mev_shield::Pallet<Runtime>;
}

#[cfg(test)]
mod tests;
