//! What the node and clients may ask the runtime.

use crate::{
	configs::{RuntimeBlockWeights, Version},
	presets, AccountId, Aura, Balance, Balances, Block, Executive, Grandpa, Header,
	InherentDataExt, Nonce, Runtime, RuntimeCall, RuntimeGenesisConfig, RuntimeOrigin, SessionKeys,
	SubtensorModule, System, TransactionPayment,
};
use alloc::{collections::BTreeMap, vec::Vec};
use polkadot_sdk::*;

use frame_support::{
	dispatch::{DispatchClass, GetDispatchInfo},
	genesis_builder_helper::{build_state, get_preset},
	traits::{
		fungible::Mutate,
		tokens::{Fortitude, Precision, Preservation},
		Get,
	},
	weights::Weight,
};
use pallet_grandpa::AuthorityId as GrandpaId;
use pallet_subnet::{NetUid, Uid};
use pallet_subnet_runtime_api::{
	compat::{self, SimSwapResult, SubnetPrice},
	Metagraph, NamedHyperparam, NeuronInfo, NeuronInfoLite, StakeAvailability, StakeInfo,
};
use sp_api::impl_runtime_apis;
use sp_consensus_aura::ed25519::AuthorityId as AuraId;
use sp_core::OpaqueMetadata;
use sp_inherents::{CheckInherentsResult, InherentData};
use sp_runtime::{
	traits::{Block as BlockT, Dispatchable, Header as _, NumberFor},
	transaction_validity::{TransactionSource, TransactionValidity},
	ApplyExtrinsicResult, Digest, DispatchError, DispatchResult, ExtrinsicInclusionMode,
};
use sp_session::OpaqueGeneratedSessionKeys;
use sp_version::RuntimeVersion;

#[cfg(feature = "runtime-benchmarks")]
use crate::benchmarks;

impl_runtime_apis! {
	impl sp_api::Core<Block> for Runtime {
		fn version() -> RuntimeVersion {
			Version::get()
		}

		fn execute_block(block: <Block as BlockT>::LazyBlock) {
			Executive::execute_block(block);
		}

		fn initialize_block(header: &<Block as BlockT>::Header) -> ExtrinsicInclusionMode {
			Executive::initialize_block(header)
		}
	}

	impl sp_api::Metadata<Block> for Runtime {
		fn metadata() -> OpaqueMetadata {
			OpaqueMetadata::new(Runtime::metadata().into())
		}

		fn metadata_at_version(version: u32) -> Option<OpaqueMetadata> {
			Runtime::metadata_at_version(version)
		}

		fn metadata_versions() -> Vec<u32> {
			Runtime::metadata_versions()
		}
	}

	impl sp_block_builder::BlockBuilder<Block> for Runtime {
		fn apply_extrinsic(extrinsic: <Block as BlockT>::Extrinsic) -> ApplyExtrinsicResult {
			Executive::apply_extrinsic(extrinsic)
		}

		fn finalize_block() -> <Block as BlockT>::Header {
			Executive::finalize_block()
		}

		fn inherent_extrinsics(data: InherentData) -> Vec<<Block as BlockT>::Extrinsic> {
			data.create_extrinsics()
		}

		fn check_inherents(
			block: <Block as BlockT>::LazyBlock,
			data: InherentData,
		) -> CheckInherentsResult {
			data.check_extrinsics(&block)
		}
	}

	impl sp_transaction_pool::runtime_api::TaggedTransactionQueue<Block> for Runtime {
		fn validate_transaction(
			source: TransactionSource,
			tx: <Block as BlockT>::Extrinsic,
			block_hash: <Block as BlockT>::Hash,
		) -> TransactionValidity {
			Executive::validate_transaction(source, tx, block_hash)
		}
	}

	impl sp_offchain::OffchainWorkerApi<Block> for Runtime {
		fn offchain_worker(header: &<Block as BlockT>::Header) {
			Executive::offchain_worker(header)
		}
	}

	impl sp_consensus_aura::AuraApi<Block, AuraId> for Runtime {
		fn slot_duration() -> sp_consensus_aura::SlotDuration {
			sp_consensus_aura::SlotDuration::from_millis(Aura::slot_duration())
		}

		fn authorities() -> Vec<AuraId> {
			pallet_aura::Authorities::<Runtime>::get().into_inner()
		}
	}

	impl sp_consensus_grandpa::GrandpaApi<Block> for Runtime {
		fn grandpa_authorities() -> sp_consensus_grandpa::AuthorityList {
			Grandpa::grandpa_authorities()
		}

		fn current_set_id() -> sp_consensus_grandpa::SetId {
			pallet_grandpa::CurrentSetId::<Runtime>::get()
		}

		fn submit_report_equivocation_unsigned_extrinsic(
			_equivocation_proof: sp_consensus_grandpa::EquivocationProof<
				<Block as BlockT>::Hash,
				NumberFor<Block>,
			>,
			_key_owner_proof: sp_consensus_grandpa::OpaqueKeyOwnershipProof,
		) -> Option<()> {
			// The authorities are fixed by genesis: there is no offence to report.
			None
		}

		fn generate_key_ownership_proof(
			_set_id: sp_consensus_grandpa::SetId,
			_authority_id: GrandpaId,
		) -> Option<sp_consensus_grandpa::OpaqueKeyOwnershipProof> {
			None
		}
	}

	impl sp_session::SessionKeys<Block> for Runtime {
		fn generate_session_keys(
			owner: Vec<u8>,
			seed: Option<Vec<u8>>,
		) -> OpaqueGeneratedSessionKeys {
			SessionKeys::generate(&owner, seed).into()
		}

		fn decode_session_keys(
			encoded: Vec<u8>,
		) -> Option<Vec<(Vec<u8>, sp_core::crypto::KeyTypeId)>> {
			SessionKeys::decode_into_raw_public_keys(&encoded)
		}
	}

	impl frame_system_rpc_runtime_api::AccountNonceApi<Block, AccountId, Nonce> for Runtime {
		fn account_nonce(account: AccountId) -> Nonce {
			System::account_nonce(account)
		}
	}

	impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentApi<Block, Balance> for Runtime {
		fn query_info(
			uxt: <Block as BlockT>::Extrinsic,
			len: u32,
		) -> pallet_transaction_payment_rpc_runtime_api::RuntimeDispatchInfo<Balance> {
			TransactionPayment::query_info(uxt, len)
		}

		fn query_fee_details(
			uxt: <Block as BlockT>::Extrinsic,
			len: u32,
		) -> pallet_transaction_payment::FeeDetails<Balance> {
			TransactionPayment::query_fee_details(uxt, len)
		}

		fn query_weight_to_fee(weight: Weight) -> Balance {
			TransactionPayment::weight_to_fee(weight)
		}

		fn query_length_to_fee(length: u32) -> Balance {
			TransactionPayment::length_to_fee(length)
		}
	}

	impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentCallApi<Block, Balance, RuntimeCall>
		for Runtime
	{
		fn query_call_info(
			call: RuntimeCall,
			len: u32,
		) -> pallet_transaction_payment::RuntimeDispatchInfo<Balance> {
			TransactionPayment::query_call_info(call, len)
		}

		fn query_call_fee_details(
			call: RuntimeCall,
			len: u32,
		) -> pallet_transaction_payment::FeeDetails<Balance> {
			TransactionPayment::query_call_fee_details(call, len)
		}

		fn query_weight_to_fee(weight: Weight) -> Balance {
			TransactionPayment::weight_to_fee(weight)
		}

		fn query_length_to_fee(length: u32) -> Balance {
			TransactionPayment::length_to_fee(length)
		}
	}

	impl pallet_subnet_runtime_api::NeuronInfoRuntimeApi<Block> for Runtime {
		fn get_neurons(netuid: NetUid) -> Vec<NeuronInfo> {
			NeuronInfo::all::<Runtime>(netuid)
		}

		fn get_neuron(netuid: NetUid, uid: Uid) -> Option<NeuronInfo> {
			NeuronInfo::of::<Runtime>(netuid, uid)
		}

		fn get_neurons_lite(netuid: NetUid) -> Vec<NeuronInfoLite> {
			NeuronInfoLite::all::<Runtime>(netuid)
		}

		fn get_neuron_lite(netuid: NetUid, uid: Uid) -> Option<NeuronInfoLite> {
			NeuronInfoLite::of::<Runtime>(netuid, uid)
		}
	}

	impl pallet_subnet_runtime_api::SubnetInfoRuntimeApi<Block> for Runtime {
		fn get_metagraph(netuid: NetUid) -> Option<Metagraph> {
			Metagraph::of::<Runtime>(netuid)
		}

		fn get_subnet_hyperparams_v3(netuid: NetUid) -> Option<Vec<NamedHyperparam>> {
			pallet_subnet_runtime_api::hyperparams::<Runtime>(netuid)
		}

		fn get_next_epoch_start_block(netuid: NetUid) -> Option<u64> {
			SubtensorModule::next_epoch_start_block(netuid)
		}
	}

	impl pallet_subnet_runtime_api::SubnetRegistrationRuntimeApi<Block> for Runtime {
		fn get_network_registration_cost() -> u64 {
			SubtensorModule::network_lock_cost()
		}
	}

	impl pallet_subnet_runtime_api::StakeInfoRuntimeApi<Block> for Runtime {
		fn get_stake_info_for_coldkey(coldkey_account: AccountId) -> Vec<StakeInfo> {
			StakeInfo::all::<Runtime>(&coldkey_account)
		}

		fn get_stake_info_for_coldkeys(
			coldkey_accounts: Vec<AccountId>,
		) -> Vec<(AccountId, Vec<StakeInfo>)> {
			let with_stake = |coldkey| {
				let stake = StakeInfo::all::<Runtime>(&coldkey);
				(coldkey, stake)
			};
			coldkey_accounts.into_iter().map(with_stake).collect()
		}

		fn get_stake_info_for_hotkey_coldkey_netuid(
			hotkey_account: AccountId,
			coldkey_account: AccountId,
			netuid: NetUid,
		) -> Option<StakeInfo> {
			StakeInfo::of::<Runtime>(&hotkey_account, &coldkey_account, netuid)
		}

		fn get_stake_availability_for_coldkeys(
			coldkey_accounts: Vec<AccountId>,
			netuids: Option<Vec<NetUid>>,
		) -> BTreeMap<AccountId, BTreeMap<NetUid, StakeAvailability>> {
			pallet_subnet_runtime_api::stake_availability::<Runtime>(coldkey_accounts, netuids)
		}
	}

	impl pallet_subnet_runtime_api::dry_run::DryRunRuntimeApi<Block, RuntimeCall> for Runtime {
		fn dry_run_call(
			caller: AccountId,
			fee_rao: Balance,
			call: RuntimeCall,
		) -> DispatchResult {
			// Whoever asks pays nothing, so it is no more than a block would carry.
			let most = RuntimeBlockWeights::get().get(DispatchClass::Normal).max_extrinsic;
			let weight = call.get_dispatch_info().call_weight;
			if most.is_some_and(|most| weight.any_gt(most)) {
				return Err(DispatchError::Exhausted);
			}
			let next = System::block_number().saturating_add(1);
			let none = Default::default();
			// What the next block does before its first transaction: prices fall, epochs run.
			Executive::initialize_block(&Header::new(next, none, none, none, Digest::default()));
			let (keep, polite) = (Preservation::Preserve, Fortitude::Polite);
			Balances::burn_from(&caller, fee_rao, keep, Precision::Exact, polite)?;
			let outcome = call.dispatch(RuntimeOrigin::signed(caller));
			outcome.map(|_| ()).map_err(|failed| failed.error)
		}
	}

	impl pallet_subnet_runtime_api::compat::SwapRuntimeApi<Block> for Runtime {
		fn current_alpha_price(_netuid: NetUid) -> u64 {
			pallet_subnet::PRICE_RAO
		}

		fn current_alpha_price_all() -> Vec<SubnetPrice> {
			compat::prices::<Runtime>()
		}

		fn sim_swap_tao_for_alpha(_netuid: NetUid, tao: u64) -> SimSwapResult {
			SimSwapResult::of(tao)
		}

		fn sim_swap_alpha_for_tao(_netuid: NetUid, alpha: u64) -> SimSwapResult {
			SimSwapResult::of(alpha)
		}
	}

	impl pallet_subnet_runtime_api::compat::BetaBasketRuntimeApi<Block> for Runtime {
		fn get_root_basket_owed(_coldkey: AccountId) -> u64 {
			0
		}

		fn get_root_basket_positions(_coldkey: AccountId) -> Vec<(AccountId, u64)> {
			Vec::new()
		}
	}

	impl sp_genesis_builder::GenesisBuilder<Block> for Runtime {
		fn build_state(json: Vec<u8>) -> sp_genesis_builder::Result {
			build_state::<RuntimeGenesisConfig>(json)
		}

		fn get_preset(id: &Option<sp_genesis_builder::PresetId>) -> Option<Vec<u8>> {
			get_preset::<RuntimeGenesisConfig>(id, presets::get_preset)
		}

		fn preset_names() -> Vec<sp_genesis_builder::PresetId> {
			presets::preset_names()
		}
	}

	#[cfg(feature = "runtime-benchmarks")]
	impl frame_benchmarking::Benchmark<Block> for Runtime {
		fn benchmark_metadata(
			extra: bool,
		) -> (Vec<frame_benchmarking::BenchmarkList>, Vec<frame_support::traits::StorageInfo>) {
			benchmarks::metadata(extra)
		}

		fn dispatch_benchmark(
			config: frame_benchmarking::BenchmarkConfig,
		) -> Result<Vec<frame_benchmarking::BenchmarkBatch>, alloc::string::String> {
			benchmarks::dispatch(config)
		}
	}

	#[cfg(feature = "try-runtime")]
	impl frame_try_runtime::TryRuntime<Block> for Runtime {
		fn on_runtime_upgrade(
			checks: frame_try_runtime::UpgradeCheckSelect,
		) -> (Weight, Weight) {
			match Executive::try_runtime_upgrade(checks) {
				Ok(weight) => (weight, RuntimeBlockWeights::get().max_block),
				// The tool reads failure from a trap.
				Err(error) => panic!("the upgrade fails: {error:?}"),
			}
		}

		fn execute_block(
			block: <Block as BlockT>::LazyBlock,
			state_root_check: bool,
			signature_check: bool,
			select: frame_try_runtime::TryStateSelect,
		) -> Weight {
			match Executive::try_execute_block(block, state_root_check, signature_check, select) {
				Ok(weight) => weight,
				Err(error) => panic!("the block fails: {error:?}"),
			}
		}
	}
}
