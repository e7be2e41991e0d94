//! What the official client, bittensor 11.3.0, looks up by name, and what it may send.

use super::*;
use alloc::{collections::BTreeSet, string::String};
use codec::Decode;
use frame_metadata::{v15::RuntimeMetadataV15, RuntimeMetadata, RuntimeMetadataPrefixed};
use frame_support::dispatch::{GetDispatchInfo, Pays};
use pallet_subnet_runtime_api::compat::{prices, SimSwapResult};
use scale_info::{form::PortableForm, Field, Type, TypeDef};
use sp_runtime::traits::Dispatchable;

pub(super) fn metadata() -> RuntimeMetadataV15 {
	let opaque = Runtime::metadata_at_version(15).unwrap();
	match RuntimeMetadataPrefixed::decode(&mut &opaque[..]).unwrap().1 {
		RuntimeMetadata::V15(metadata) => metadata,
		other => panic!("version {}", other.version()),
	}
}

fn words(text: &str) -> BTreeSet<String> {
	text.split_whitespace().map(String::from).collect()
}

/// Those of `wanted` that `found` lacks.
fn missing(wanted: &str, found: impl IntoIterator<Item = String>) -> Vec<String> {
	let found = found.into_iter().collect();
	words(wanted).difference(&found).cloned().collect()
}

fn names(fields: &[Field<PortableForm>]) -> Vec<String> {
	fields
		.iter()
		.filter_map(|field| field.name.clone())
		.collect()
}

/// The fields of the struct named `name`, in the order of the metadata.
fn fields_of(metadata: &RuntimeMetadataV15, name: &str) -> Vec<String> {
	let is_named = |ty: &&Type<PortableForm>| ty.path.segments.last().is_some_and(|n| n == name);
	let mut types = metadata
		.types
		.types
		.iter()
		.map(|ty| &ty.ty)
		.filter(is_named);
	match &types.next().unwrap().type_def {
		TypeDef::Composite(composite) => names(&composite.fields),
		other => panic!("{name} is no struct: {other:?}"),
	}
}

#[test]
fn every_storage_item_that_the_client_reads_has_its_name() {
	on("development", || {
		let metadata = metadata();
		let items = |pallet: &str| {
			let mut pallets = metadata.pallets.iter();
			let pallet = pallets.find(|found| found.name == pallet).unwrap();
			let storage = pallet.storage.clone().unwrap();
			storage.entries.into_iter().map(|entry| entry.name)
		};
		let subnet = "
			Axons BlocksSinceLastStep Bonds Burn CollateralLockShare CommitRevealWeightsEnabled
			IdentitiesV2 IsNetworkMember Keys LastEpochBlock LastUpdate Lock MaxAllowedUids
			MaxWeightsLimit MinAllowedWeights NetworkRegisteredAt NetworksAdded OwnedHotkeys Owner
			PendingEpochAt RevealPeriodEpochs SubnetEmaTaoFlow SubnetEpochConsensus SubnetEpochIndex
			SubnetIdentitiesV3 SubnetOwner SubnetOwnerHotkey SubnetTaoInEmission SubnetworkN Tempo
			TokenSymbol Uids ValidatorPermit Weights WeightsSetRateLimit
			Difficulty LastPowRegistrationBlock MaxDifficulty MaxRegistrationsPerBlock MinDifficulty
			NetworkPowRegistrationAllowed RegistrationsThisBlock Delegates MinDelegateTake
			MaxDelegateTake";
		assert!(missing(subnet, items("SubtensorModule")).is_empty());
		assert!(missing("CommitmentOf RevealedCommitments", items("Commitments")).is_empty());
		assert!(missing("NextKey", items("MevShield")).is_empty());
	});
}

#[test]
fn every_call_that_the_client_sends_has_its_arguments() {
	on("development", || {
		let metadata = metadata();
		let pallet = metadata
			.pallets
			.iter()
			.find(|p| p.name == "SubtensorModule");
		let calls = pallet.unwrap().calls.clone().unwrap().ty.id;
		let TypeDef::Variant(calls) = &metadata.types.resolve(calls).unwrap().type_def else {
			panic!("calls are no enum");
		};
		for (index, name, arguments) in [
			(0, "set_weights", "netuid dests weights version_key"),
			(2, "add_stake", "hotkey netuid amount_staked"),
			(3, "remove_stake", "hotkey netuid amount_unstaked"),
			(
				4,
				"serve_axon",
				"netuid version ip port ip_type protocol placeholder1 placeholder2",
			),
			(7, "burned_register", "netuid hotkey"),
			(
				88,
				"add_stake_limit",
				"hotkey netuid amount_staked limit_price allow_partial",
			),
			(
				89,
				"remove_stake_limit",
				"hotkey netuid amount_unstaked limit_price allow_partial",
			),
			(96, "commit_weights", "netuid commit_hash"),
			(97, "reveal_weights", "netuid uids values salt version_key"),
			(
				119,
				"set_mechanism_weights",
				"netuid mecid dests weights version_key",
			),
			(205, "pow_register", "netuid work_block nonce work hotkey"),
			(134, "register_limit", "netuid hotkey limit_price"),
		] {
			let call = calls
				.variants
				.iter()
				.find(|call| call.name == name)
				.unwrap();
			let wanted: Vec<_> = arguments.split_whitespace().collect();
			assert_eq!(
				(call.index, names(&call.fields)),
				(index, wanted.iter().map(|w| (*w).into()).collect()),
				"{name}"
			);
		}
	});
}

#[test]
fn every_runtime_api_that_the_client_calls_has_its_arguments() {
	on("development", || {
		let metadata = metadata();
		for (api, method, arguments) in [
			("NeuronInfoRuntimeApi", "get_neurons", "netuid"),
			("NeuronInfoRuntimeApi", "get_neurons_lite", "netuid"),
			("NeuronInfoRuntimeApi", "get_neuron", "netuid uid"),
			("NeuronInfoRuntimeApi", "get_neuron_lite", "netuid uid"),
			("SubnetInfoRuntimeApi", "get_metagraph", "netuid"),
			(
				"SubnetInfoRuntimeApi",
				"get_subnet_hyperparams_v3",
				"netuid",
			),
			(
				"SubnetInfoRuntimeApi",
				"get_next_epoch_start_block",
				"netuid",
			),
			(
				"StakeInfoRuntimeApi",
				"get_stake_info_for_coldkey",
				"coldkey_account",
			),
			(
				"StakeInfoRuntimeApi",
				"get_stake_info_for_coldkeys",
				"coldkey_accounts",
			),
			(
				"StakeInfoRuntimeApi",
				"get_stake_info_for_hotkey_coldkey_netuid",
				"hotkey_account coldkey_account netuid",
			),
			(
				"StakeInfoRuntimeApi",
				"get_stake_availability_for_coldkeys",
				"coldkey_accounts netuids",
			),
			("SwapRuntimeApi", "current_alpha_price", "netuid"),
			("SwapRuntimeApi", "current_alpha_price_all", ""),
			("SwapRuntimeApi", "sim_swap_tao_for_alpha", "netuid tao"),
			("SwapRuntimeApi", "sim_swap_alpha_for_tao", "netuid alpha"),
			("BetaBasketRuntimeApi", "get_root_basket_owed", "coldkey"),
			(
				"BetaBasketRuntimeApi",
				"get_root_basket_positions",
				"coldkey",
			),
		] {
			let api = metadata
				.apis
				.iter()
				.find(|found| found.name == api)
				.unwrap();
			let method = api
				.methods
				.iter()
				.find(|found| found.name == method)
				.unwrap();
			let inputs: Vec<_> = method
				.inputs
				.iter()
				.map(|input| input.name.as_str())
				.collect();
			let wanted: Vec<_> = arguments.split_whitespace().collect();
			assert_eq!(inputs, wanted, "{}", method.name);
		}
	});
}

#[test]
fn every_struct_has_the_fields_that_the_client_indexes() {
	on("development", || {
		let metadata = metadata();
		let metagraph = "
			block tempo last_step blocks_since_last_step owner_hotkey owner_coldkey
			network_registered_at hotkeys coldkeys axons active validator_permit last_update
			block_at_registration consensus incentives dividends emission alpha_stake total_stake
			netuid name symbol num_uids max_uids tao_in alpha_in alpha_out subnet_volume
			subnet_emission tao_in_emission alpha_in_emission alpha_out_emission
			pending_alpha_emission pending_root_emission registration_allowed
			pow_registration_allowed burn min_burn max_burn difficulty min_difficulty max_difficulty
			immunity_period adjustment_interval adjustment_alpha target_regs_per_interval
			max_regs_per_block serving_rate_limit rho kappa min_allowed_weights max_weights_limit
			weights_version weights_rate_limit activity_cutoff max_validators
			commit_reveal_weights_enabled commit_reveal_period liquid_alpha_enabled alpha_high
			alpha_low bonds_moving_avg";
		for (name, wanted) in [
			("Metagraph", metagraph),
			(
				"NeuronInfo",
				"uid hotkey coldkey active validator_permit last_update stake",
			),
			(
				"NeuronInfoLite",
				"uid hotkey coldkey active validator_permit last_update stake",
			),
			("StakeInfo", "hotkey coldkey netuid stake is_registered"),
			("StakeAvailability", "total locked available"),
			("SubnetPrice", "netuid price"),
			(
				"SimSwapResult",
				"tao_amount alpha_amount tao_fee alpha_fee tao_slippage alpha_slippage",
			),
			("SubnetIdentity", "subnet_name"),
			("AxonInfo", "ip port ip_type"),
		] {
			let missing = missing(wanted, fields_of(&metadata, name));
			assert!(missing.is_empty(), "{name} lacks {missing:?}");
		}
	});
}

#[test]
fn every_hyperparameter_that_the_client_would_else_query_is_listed() {
	let wanted = "
		tempo immunity_period min_allowed_weights weights_version activity_cutoff_factor min_burn
		max_burn bonds_moving_avg bonds_penalty serving_rate_limit commit_reveal_period
		max_allowed_uids burn_increase_mult burn_half_life collateral_lock_share
		collateral_drain_ratio adjustment_alpha rho max_difficulty alpha_sigmoid_steepness
		min_childkey_take owner_immune_neuron_limit commit_reveal_weights_enabled
		liquid_alpha_enabled registration_allowed network_pow_registration_allowed yuma3_enabled
		bonds_reset_enabled transfers_enabled owner_cut_enabled owner_cut_auto_lock_enabled
		alpha_low alpha_high kappa weights_rate_limit max_validators epoch_consensus";
	on("development", || {
		let listed = hyperparams::<Runtime>(NETUID).unwrap();
		let listed = listed
			.into_iter()
			.map(|entry| String::from_utf8(entry.name).unwrap());
		assert!(missing(wanted, listed).is_empty());
	});
}

#[test]
fn there_is_one_token_so_its_price_is_one() {
	on("development", || {
		let prices: Vec<_> = prices::<Runtime>()
			.into_iter()
			.map(|p| (p.netuid, p.price))
			.collect();
		assert_eq!(prices, [(1, 1_000_000_000), (2, 1_000_000_000)]);
		let swap = SimSwapResult::of(7);
		assert_eq!((swap.tao_amount, swap.alpha_amount), (7, 7));
		assert_eq!(
			(
				swap.tao_fee,
				swap.alpha_fee,
				swap.tao_slippage,
				swap.alpha_slippage
			),
			(0, 0, 0, 0)
		);
	});
}

#[test]
fn a_metagraph_says_what_a_subnet_is_paid() {
	on("development", || {
		execute_block(1, 1_000);
		register_alice();
		let of = |netuid| Metagraph::of::<Runtime>(netuid).unwrap();
		assert_eq!(of(1).subnet_emission, 1_000_000_000);
		assert_eq!(of(1).pending_alpha_emission, 1_000_000_000);
		assert_eq!(of(1).alpha_out, STAKE_RAO);
		let shown = pallet_subnet::SubnetTaoInEmission::<Runtime>::get;
		assert_eq!((shown(1), shown(2)), (1_000_000_000, 0));
		assert_eq!(
			(of(2).subnet_emission, of(2).pending_alpha_emission),
			(0, 0)
		);
	});
}

#[test]
fn a_wrapper_pays_for_the_free_call_in_it() {
	let free = || {
		RuntimeCall::SubtensorModule(pallet_subnet::Call::commit_weights {
			netuid: NETUID,
			commit_hash: Default::default(),
		})
	};
	assert_eq!(free().get_dispatch_info().pays_fee, Pays::No);
	let wrapped = [
		pallet_utility::Call::batch {
			calls: vec![free()],
		},
		pallet_utility::Call::batch_all {
			calls: vec![free()],
		},
		pallet_utility::Call::force_batch {
			calls: vec![free()],
		},
		pallet_utility::Call::as_derivative {
			index: 0,
			call: Box::new(free()),
		},
		pallet_utility::Call::if_else {
			main: Box::new(free()),
			fallback: Box::new(free()),
		},
	];
	on("development", || {
		execute_block(1, 1_000);
		register_alice();
		for call in wrapped {
			let call = RuntimeCall::Utility(call);
			let before = call.get_dispatch_info();
			assert_eq!(before.pays_fee, Pays::Yes, "{call:?}");
			assert!(before
				.call_weight
				.all_gte(free().get_dispatch_info().call_weight));
			let signed = RuntimeOrigin::signed(Alice.to_account_id());
			let after = match call.clone().dispatch(signed) {
				Ok(post) => post,
				Err(error) => error.post_info,
			};
			assert_eq!(after.pays_fee(&before), Pays::Yes, "{call:?}");
		}
	});
}

#[test]
fn a_vote_goes_before_whatever_a_flooder_tips() {
	use sp_runtime::transaction_validity::TransactionSource::External;
	on("development", || {
		execute_block(1, 1_000);
		register_alice();
		execute_block(2, 1_000);
		let priority = |transaction| {
			let valid =
				Executive::validate_transaction(External, transaction, System::parent_hash());
			valid.unwrap().priority
		};
		let vote = RuntimeCall::SubtensorModule(pallet_subnet::Call::commit_weights {
			netuid: NETUID,
			commit_hash: Default::default(),
		});
		let noise = RuntimeCall::System(frame_system::Call::remark { remark: vec![] });
		let tip_rao = 10_000 * 1_000_000_000;
		assert!(priority(transaction(Alice, 0, vote)) > priority(tipped(Bob, 0, noise, tip_rao)));
	});
}

#[test]
fn the_nonce_check_is_frames_in_the_metadata() {
	on("development", || {
		let metadata = metadata();
		let mut extensions = metadata.extrinsic.signed_extensions.iter();
		let nonce = extensions
			.find(|found| found.identifier == "CheckNonce")
			.unwrap();
		let ty = metadata.types.resolve(nonce.ty.id).unwrap();
		assert_eq!(
			ty.path.to_string(),
			"frame_system::extensions::check_nonce::CheckNonce"
		);
		let ours = pallet_subnet::CheckNonce::<Runtime>::from(70_000);
		let frames = frame_system::CheckNonce::<Runtime>::from(70_000);
		assert_eq!(ours.encode(), frames.encode());
	});
}

/// Found by bittensor 11.3.0 for subnet 1, block hash 0x07…07, Bob's hotkey and Alice's coldkey:
/// the first nonce of difficulty 1,000.
#[test]
fn the_seal_is_the_clients() {
	let (block_hash, bob, alice) = ([7; 32], Bob.to_account_id(), Alice.to_account_id());
	let seal = pallet_subnet::pow_seal(1, block_hash, &bob, &alice, 539);
	assert_eq!(
		sp_core::hexdisplay::HexDisplay::from(&seal).to_string(),
		"532f51ea103d378ac52eb223d99b1d9db394c7b3e103e3917f3b86373cbb1b00"
	);
}

/// A signed transaction with the extensions of the runtime.
fn transaction(
	signer: sp_keyring::Sr25519Keyring,
	nonce: u32,
	call: RuntimeCall,
) -> UncheckedExtrinsic {
	tipped(signer, nonce, call, 0)
}

fn tipped(
	signer: sp_keyring::Sr25519Keyring,
	nonce: u32,
	call: RuntimeCall,
	tip_rao: u64,
) -> UncheckedExtrinsic {
	let extensions: TxExtension = (
		frame_system::CheckNonZeroSender::new(),
		frame_system::CheckSpecVersion::new(),
		frame_system::CheckTxVersion::new(),
		frame_system::CheckGenesis::new(),
		frame_system::CheckEra::from(sp_runtime::generic::Era::Immortal),
		pallet_subnet::CheckNonce::from(nonce),
		frame_system::CheckWeight::new(),
		pallet_subnet::CheckFreeCalls::new(),
		pallet_transaction_payment::ChargeTransactionPayment::from(tip_rao),
		frame_metadata_hash_extension::CheckMetadataHash::new(false),
		frame_system::WeightReclaim::new(),
	);
	let payload = sp_runtime::generic::SignedPayload::new(call, extensions).unwrap();
	let signature = payload.using_encoded(|bytes| signer.sign(bytes));
	let (call, extensions, _) = payload.deconstruct();
	UncheckedExtrinsic::new_signed(
		call,
		signer.to_account_id().into(),
		signature.into(),
		extensions,
	)
}

#[test]
fn a_wallet_that_the_chain_never_saw_registers_with_a_real_transaction() {
	use sp_keyring::Sr25519Keyring::{AliceStash, BobStash};
	on("development", || {
		execute_block(1, 1_000);
		let head = execute_block(2, 1_000);
		open_block(3, 1_000);
		frame_system::BlockHash::<Runtime>::insert(2, head);
		let (coldkey, hotkey) = (AliceStash.to_account_id(), BobStash.to_account_id());
		assert_eq!(System::account(&coldkey), Default::default());
		let difficulty = pallet_subnet::Difficulty::<Runtime>::get(NETUID);
		let limit = sp_core::U256::MAX / difficulty;
		let sealed = |nonce| {
			(
				nonce,
				pallet_subnet::pow_seal(NETUID, head, &hotkey, &coldkey, nonce),
			)
		};
		let mut tried = (0..).map(sealed);
		let (nonce, seal) = tried
			.find(|(_, seal)| sp_core::U256::from_little_endian(seal) <= limit)
			.unwrap();
		let call = RuntimeCall::SubtensorModule(pallet_subnet::Call::pow_register {
			netuid: NETUID,
			work_block: 2,
			nonce,
			work: seal.to_vec().try_into().unwrap(),
			hotkey: hotkey.clone(),
		});
		assert_ok!(Executive::apply_extrinsic(transaction(AliceStash, 0, call.clone())).unwrap());
		assert!(pallet_subnet::Uids::<Runtime>::contains_key(
			NETUID, &hotkey
		));
		assert_eq!(System::account_nonce(&coldkey), 1);
		assert_eq!(Balances::free_balance(&coldkey), 0);
		for nonce in [0, 1] {
			assert!(
				Executive::apply_extrinsic(transaction(AliceStash, nonce, call.clone())).is_err()
			);
		}
	});
}
