//! Genesis of the two built-in chains, as patches over the default genesis.
//!
//! | | `development` | `local` |
//! |---|---|---|
//! | authorities | Alice | Alice, Bob |
//! | slot | 1 s | 12 s |
//! | subnet 1, all emission | tempo 30, commit and reveal | production values |
//! | subnet 2, no emission | tempo 30, plain weights | – |
//! | addresses of axons | any | publicly routable |
//! | registration by work | on, instant | off |
//!
//! In both Alice is sudo and owns the subnets, and the six well-known accounts are rich: these are
//! chains to try things on.

use crate::{
	clock, AccountId, AuraConfig, Balance, BalancesConfig, ClockConfig, GrandpaConfig,
	RuntimeGenesisConfig, SubtensorModuleConfig, SudoConfig,
};
use alloc::{vec, vec::Vec};
use polkadot_sdk::*;

use frame_support::build_struct_json_patch;
use pallet_subnet::{GenesisLimits, GenesisSubnet, HyperparamsUpdate};
use serde_json::Value;
use sp_genesis_builder::{PresetId, DEV_RUNTIME_PRESET};
use sp_keyring::{Ed25519Keyring, Sr25519Keyring};

/// The preset of a chain on several machines, with production values.
pub const LOCAL_RUNTIME_PRESET: &str = "local";

const RAO_PER_TOKEN: Balance = 1_000_000_000;
const ENDOWMENT_RAO: Balance = 1_000_000 * RAO_PER_TOKEN;

/// What differs between the presets.
struct Preset {
	authorities: Vec<Ed25519Keyring>,
	slot_duration_ms: u64,
	subnets: Vec<GenesisSubnet<AccountId>>,
	allow_private_addresses: bool,
	limits: GenesisLimits,
}

fn development() -> Preset {
	let plain_weights = HyperparamsUpdate {
		commit_reveal_weights_enabled: Some(false),
		..quick_hyperparams()
	};
	Preset {
		authorities: vec![Ed25519Keyring::Alice],
		slot_duration_ms: 1_000,
		subnets: vec![
			GenesisSubnet {
				emission_share: Some(1),
				hyperparams: quick_hyperparams(),
				..subnet(1, "mixture", "α")
			},
			GenesisSubnet {
				hyperparams: plain_weights,
				..subnet(2, "plain", "β")
			},
		],
		allow_private_addresses: true,
		limits: quick_limits(),
	}
}

fn local() -> Preset {
	Preset {
		authorities: vec![Ed25519Keyring::Alice, Ed25519Keyring::Bob],
		slot_duration_ms: clock::DEFAULT_SLOT_DURATION_MS,
		subnets: vec![subnet(1, "mixture", "α")],
		allow_private_addresses: false,
		limits: GenesisLimits::default(),
	}
}

fn subnet(netuid: u16, name: &str, symbol: &str) -> GenesisSubnet<AccountId> {
	GenesisSubnet {
		netuid,
		owner: alice(),
		owner_hotkey: None,
		name: name.into(),
		symbol: symbol.into(),
		emission_share: None,
		hyperparams: HyperparamsUpdate::default(),
	}
}

/// An epoch every half minute and nothing to wait for. Neurons that never vote leave the active
/// stake after five epochs, so that staked routers and paid miners do not count as voters.
fn quick_hyperparams() -> HyperparamsUpdate {
	const TEMPO_BLOCKS: u16 = 30;
	const INSTANT_DIFFICULTY: u64 = 10_000;
	HyperparamsUpdate {
		tempo: Some(TEMPO_BLOCKS),
		weights_set_rate_limit: Some(0),
		serving_rate_limit: Some(0),
		immunity_period: Some(4 * TEMPO_BLOCKS),
		activity_cutoff_factor_milli: Some(5_000),
		burn_half_life: Some(TEMPO_BLOCKS),
		network_pow_registration_allowed: Some(true),
		difficulty: Some(INSTANT_DIFFICULTY),
		min_difficulty: Some(INSTANT_DIFFICULTY),
		..Default::default()
	}
}

/// Owners need not wait for long either.
fn quick_limits() -> GenesisLimits {
	GenesisLimits {
		tx_delegate_take_rate_limit: Some(30),
		admin_freeze_window: Some(2),
		min_owner_tempo: Some(10),
		min_owner_uids: Some(2),
		trim_rate_limit: Some(60),
		network_min_lock_cost: Some(100 * RAO_PER_TOKEN),
		network_lock_reduction_interval: Some(300),
		..Default::default()
	}
}

fn alice() -> AccountId {
	Sr25519Keyring::Alice.to_account_id()
}

fn endowed() -> Vec<(AccountId, Balance)> {
	[
		Sr25519Keyring::Alice,
		Sr25519Keyring::Bob,
		Sr25519Keyring::Charlie,
		Sr25519Keyring::Dave,
		Sr25519Keyring::Eve,
		Sr25519Keyring::Ferdie,
	]
	.map(|key| (key.to_account_id(), ENDOWMENT_RAO))
	.into()
}

fn patch(preset: Preset) -> Value {
	let Preset {
		authorities,
		slot_duration_ms,
		subnets,
		allow_private_addresses,
		limits,
	} = preset;
	build_struct_json_patch!(RuntimeGenesisConfig {
		aura: AuraConfig {
			authorities: authorities
				.iter()
				.map(|key| key.public().into())
				.collect::<Vec<_>>(),
		},
		balances: BalancesConfig {
			balances: endowed()
		},
		clock: ClockConfig { slot_duration_ms },
		grandpa: GrandpaConfig {
			authorities: authorities
				.iter()
				.map(|key| (key.public().into(), 1))
				.collect::<Vec<_>>(),
		},
		subtensor_module: SubtensorModuleConfig {
			subnets,
			allow_private_addresses,
			limits
		},
		sudo: SudoConfig { key: Some(alice()) },
	})
}

/// The genesis patch of a preset as JSON bytes, or none when there is no such preset.
pub fn get_preset(id: &PresetId) -> Option<Vec<u8>> {
	let preset = match id.as_ref() {
		DEV_RUNTIME_PRESET => development(),
		LOCAL_RUNTIME_PRESET => local(),
		_ => return None,
	};
	serde_json::to_vec(&patch(preset)).ok()
}

/// The names that [`get_preset`] knows.
pub fn preset_names() -> Vec<PresetId> {
	vec![DEV_RUNTIME_PRESET.into(), LOCAL_RUNTIME_PRESET.into()]
}
