//! Trying a call before signing it.

use codec::Codec;
use polkadot_sdk::{
	sp_api,
	sp_runtime::{AccountId32, DispatchResult},
};

sp_api::decl_runtime_apis! {
	/// Trying calls. Whoever asks needs no key, and nothing stays.
	pub trait DryRunRuntimeApi<Call> where Call: Codec {
		/// What a call signed by `caller`, who pays `fee_rao` for it first, would come to if the
		/// next block had nothing else in it. `TransactionPaymentApi` says what the fee is. A call
		/// that is too heavy for a block is `Exhausted`, untried.
		fn dry_run_call(caller: AccountId32, fee_rao: u64, call: Call) -> DispatchResult;
	}
}
