//! The command line: what every Substrate node has.

use polkadot_sdk::*;

/// The moesubnet node.
#[derive(Debug, clap::Parser)]
pub struct Cli {
	#[command(subcommand)]
	pub subcommand: Option<Subcommand>,

	#[clap(flatten)]
	pub run: sc_cli::RunCmd,
}

#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
	/// Make and inspect keys, and put them into a keystore.
	#[command(subcommand)]
	Key(sc_cli::KeySubcommand),

	/// Write a chain spec (the modern name; `--raw` for the form that nodes share).
	ExportChainSpec(sc_cli::ExportChainSpecCmd),

	/// Execute blocks again and check them.
	CheckBlock(sc_cli::CheckBlockCmd),

	/// Write blocks to a file.
	ExportBlocks(sc_cli::ExportBlocksCmd),

	/// Write the state of a block into a chain spec.
	ExportState(sc_cli::ExportStateCmd),

	/// Read blocks from a file, executing each.
	ImportBlocks(sc_cli::ImportBlocksCmd),

	/// Delete the chain.
	PurgeChain(sc_cli::PurgeChainCmd),

	/// Go back some blocks.
	Revert(sc_cli::RevertCmd),

	/// Say what the database holds.
	ChainInfo(sc_cli::ChainInfoCmd),
}
