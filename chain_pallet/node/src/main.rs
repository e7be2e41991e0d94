//! A node of the moesubnet chain: Aura authorship, GRANDPA finality, libp2p, ParityDB.
//!
//! It runs the compiled runtime that the Python package ships and adds nothing to what it does.

mod chain_spec;
mod cli;
mod command;
mod rpc;
mod service;

fn main() -> polkadot_sdk::sc_cli::Result<()> {
	command::run()
}
