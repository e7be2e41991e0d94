//! Chain specs: the runtime's own presets, or a JSON file.

use polkadot_sdk::*;
use sc_service::{ChainType, GenericChainSpec};

/// The runtime as the package ships it. Genesis holds these very bytes, so a chain has the same
/// genesis hash here and on the embedded chain.
pub const RUNTIME: &[u8] =
	include_bytes!("../../../moesubnet/chain/devchain/runtime.compact.compressed.wasm");

/// The spec that `--chain id` means: `dev` (the default), `local`, or the path of a JSON file.
pub fn load(id: &str) -> Result<Box<dyn sc_service::ChainSpec>, String> {
	Ok(Box::new(match id {
		"" | "dev" | "development" => of_preset("development", ChainType::Development),
		"local" => of_preset("local", ChainType::Local),
		path => GenericChainSpec::from_json_file(path.into())?,
	}))
}

fn of_preset(preset: &str, chain_type: ChainType) -> GenericChainSpec {
	let mut properties = sc_service::Properties::new();
	properties.insert("tokenSymbol".into(), "TAO".into());
	properties.insert("tokenDecimals".into(), 9.into());
	properties.insert("ss58Format".into(), 42.into());
	GenericChainSpec::builder(RUNTIME, None)
		.with_name(&format!("moesubnet {preset}"))
		.with_id(&format!("moesubnet-{preset}"))
		.with_protocol_id("moesubnet")
		.with_chain_type(chain_type)
		.with_genesis_config_preset_name(preset)
		.with_properties(properties)
		.build()
}
