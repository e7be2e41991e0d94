//! Runtime APIs of the subnet pallet.
//!
//! Traits, methods, arguments and field names are those that the ecosystem's clients look up in the
//! metadata (V15). They decode by name, so integer widths and missing fields are ours to choose.
//! Amounts are in rao, scores in units of 1/65535.
//!
//! A runtime implements each method by the constructor of its answer.

#![cfg_attr(not(feature = "std"), no_std)]
#![deny(missing_docs)]

extern crate alloc;

pub mod compat;
pub mod dry_run;
mod hyperparams;
mod metagraph;
mod neuron;
mod stake;

pub use hyperparams::{hyperparams, HyperparamValue, NamedHyperparam, I32F32};
pub use metagraph::Metagraph;
pub use neuron::{NeuronInfo, NeuronInfoLite};
pub use stake::{stake_availability, StakeAvailability, StakeInfo};

use alloc::{collections::BTreeMap, vec::Vec};
use pallet_subnet::{NetUid, Uid};
use polkadot_sdk::{sp_api, sp_runtime::AccountId32};

sp_api::decl_runtime_apis! {
	/// Neurons one by one.
	pub trait NeuronInfoRuntimeApi {
		/// All neurons of a subnet, by uid.
		fn get_neurons(netuid: NetUid) -> Vec<NeuronInfo>;
		/// One neuron.
		fn get_neuron(netuid: NetUid, uid: Uid) -> Option<NeuronInfo>;
		/// All neurons without their weights and bonds.
		fn get_neurons_lite(netuid: NetUid) -> Vec<NeuronInfoLite>;
		/// One neuron without its weights and bonds.
		fn get_neuron_lite(netuid: NetUid, uid: Uid) -> Option<NeuronInfoLite>;
	}

	/// Subnets.
	pub trait SubnetInfoRuntimeApi {
		/// A subnet with all its neurons, in columns by uid.
		fn get_metagraph(netuid: NetUid) -> Option<Metagraph>;
		/// Every hyperparameter by name.
		fn get_subnet_hyperparams_v3(netuid: NetUid) -> Option<Vec<NamedHyperparam>>;
		/// The block in which the next epoch is due; none while the subnet is paused.
		fn get_next_epoch_start_block(netuid: NetUid) -> Option<u64>;
	}

	/// Buying a subnet.
	pub trait SubnetRegistrationRuntimeApi {
		/// What the next subnet costs now, in rao.
		fn get_network_registration_cost() -> u64;
	}

	/// Stake.
	pub trait StakeInfoRuntimeApi {
		/// Everything that a coldkey has staked.
		fn get_stake_info_for_coldkey(coldkey_account: AccountId32) -> Vec<StakeInfo>;
		/// Everything that each coldkey has staked.
		fn get_stake_info_for_coldkeys(
			coldkey_accounts: Vec<AccountId32>,
		) -> Vec<(AccountId32, Vec<StakeInfo>)>;
		/// What a coldkey has staked on one hotkey in one subnet; none if there is no such subnet.
		fn get_stake_info_for_hotkey_coldkey_netuid(
			hotkey_account: AccountId32,
			coldkey_account: AccountId32,
			netuid: NetUid,
		) -> Option<StakeInfo>;
		/// What each coldkey may withdraw from each of `netuids`, or from all subnets.
		fn get_stake_availability_for_coldkeys(
			coldkey_accounts: Vec<AccountId32>,
			netuids: Option<Vec<NetUid>>,
		) -> BTreeMap<AccountId32, BTreeMap<NetUid, StakeAvailability>>;
	}
}
