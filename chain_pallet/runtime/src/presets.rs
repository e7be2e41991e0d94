//! Genesis of the two built-in chains, as patches over the default genesis.
//!
//! `development`: one authority, 1 s blocks. `local`: two authorities, production values.

use crate::{
	AccountId, AuraConfig, Balance, BalancesConfig, ClockConfig, GrandpaConfig,
	RuntimeGenesisConfig, SudoConfig,
};
use alloc::{vec, vec::Vec};
use polkadot_sdk::*;

use frame_support::build_struct_json_patch;
use serde_json::Value;
use sp_genesis_builder::{PresetId, DEV_RUNTIME_PRESET, LOCAL_TESTNET_RUNTIME_PRESET};
use sp_keyring::{Ed25519Keyring, Sr25519Keyring};

const RAO_PER_TOKEN: Balance = 1_000_000_000;
const ENDOWMENT_RAO: Balance = 1_000_000 * RAO_PER_TOKEN;

fn endowed() -> Vec<(AccountId, Balance)> {
	[
		Sr25519Keyring::Alice,
		Sr25519Keyring::Bob,
		Sr25519Keyring::Charlie,
		Sr25519Keyring::Dave,
		Sr25519Keyring::Eve,
		Sr25519Keyring::Ferdie,
	]
	.into_iter()
	.map(|key| (key.to_account_id(), ENDOWMENT_RAO))
	.collect()
}

fn genesis(authorities: &[Ed25519Keyring], slot_duration_ms: u64) -> Value {
	build_struct_json_patch!(RuntimeGenesisConfig {
		aura: AuraConfig {
			authorities: authorities.iter().map(|key| key.public().into()).collect::<Vec<_>>(),
		},
		balances: BalancesConfig { balances: endowed() },
		clock: ClockConfig { slot_duration_ms },
		grandpa: GrandpaConfig {
			authorities: authorities.iter().map(|key| (key.public().into(), 1)).collect::<Vec<_>>(),
		},
		sudo: SudoConfig { key: Some(Sr25519Keyring::Alice.to_account_id()) },
	})
}

/// The genesis patch of a preset as JSON bytes, or none when there is no such preset.
pub fn get_preset(id: &PresetId) -> Option<Vec<u8>> {
	let patch = match id.as_ref() {
		DEV_RUNTIME_PRESET => genesis(&[Ed25519Keyring::Alice], 1_000),
		LOCAL_TESTNET_RUNTIME_PRESET => genesis(
			&[Ed25519Keyring::Alice, Ed25519Keyring::Bob],
			crate::clock::DEFAULT_SLOT_DURATION_MS,
		),
		_ => return None,
	};
	serde_json::to_vec(&patch).ok()
}

/// The names that [`get_preset`] knows.
pub fn preset_names() -> Vec<PresetId> {
	vec![DEV_RUNTIME_PRESET.into(), LOCAL_TESTNET_RUNTIME_PRESET.into()]
}
