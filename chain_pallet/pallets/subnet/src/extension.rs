//! The guard of the free calls.

use crate::*;
use alloc::{vec, vec::Vec};
use codec::{Decode, DecodeWithMemTracking, Encode};
use core::{fmt, marker::PhantomData};
use frame_support::{
	dispatch::{DispatchInfo, GetDispatchInfo, Pays},
	storage::{with_transaction_unchecked, TransactionOutcome},
	traits::{IsSubType, OriginTrait},
	weights::Weight,
};
use scale_info::TypeInfo;
use sp_runtime::{
	impl_tx_ext_default,
	traits::{
		AsSystemOriginSigner, DispatchInfoOf, DispatchOriginOf, Dispatchable, Implication,
		TransactionExtension, ValidateResult,
	},
	transaction_validity::{
		InvalidTransaction, TransactionPriority, TransactionSource, ValidTransaction,
	},
};

/// Pool codes from here on are errors of the pallet, by index; upstream's are below 30.
const FIRST_OWN_CODE: u8 = 100;

/// Free calls of neurons go before everything that pays. Hotkeys often hold nothing and cannot tip,
/// so else a vote could be kept out for as long as somebody fills blocks. Rate limits and commits
/// bound how many they are; registrations by work wait their turn, for work may be cheap.
const NEURONS_PRIORITY: TransactionPriority = TransactionPriority::MAX / 2;

/// Keeps free calls that would fail out of the pool and out of blocks.
///
/// It runs the very check that the call runs. The pool asks once; a block author asks again against
/// the state that earlier transactions of the block left, because FRAME validates before it
/// dispatches. So of many queued calls of one hotkey those that became invalid take no space: the
/// first moves `LastUpdate`, the queue of commits, or the axon's block, and a second vote or axon in
/// the same block is refused whatever the rate limit. A tag for each (hotkey, subnet, kind of call)
/// keeps a pool from holding more than one.
///
/// Errors are `InvalidTransaction::Custom(code)`: upstream's code where upstream has one, else 100
/// plus the error's index. It is zero-sized, so every client can sign for it. It looks at direct
/// calls only: wrappers of calls (batches, proxies) must pay for what they wrap, as those of FRAME
/// do.
#[derive(Clone, Decode, DecodeWithMemTracking, Default, Encode, Eq, PartialEq, TypeInfo)]
#[scale_info(skip_type_params(T))]
pub struct CheckFreeCalls<T>(PhantomData<T>);

impl<T> CheckFreeCalls<T> {
	/// The extension; it has no content.
	pub fn new() -> Self {
		Self(PhantomData)
	}
}

impl<T> fmt::Debug for CheckFreeCalls<T> {
	fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
		f.write_str("CheckFreeCalls")
	}
}

impl<T> TransactionExtension<T::RuntimeCall> for CheckFreeCalls<T>
where
	T: Config + Send + Sync,
	T::RuntimeCall: Dispatchable<Info = DispatchInfo> + IsSubType<Call<T>>,
	DispatchOriginOf<T::RuntimeCall>: OriginTrait + AsSystemOriginSigner<T::AccountId> + Clone,
{
	const IDENTIFIER: &'static str = "CheckFreeCalls";
	type Implicit = ();
	type Val = ();
	type Pre = ();

	fn weight(&self, call: &T::RuntimeCall) -> Weight {
		// The check costs no more than the call.
		match call.is_sub_type().map(GetDispatchInfo::get_dispatch_info) {
			Some(info) if info.pays_fee == Pays::No => info.call_weight,
			_ => Weight::zero(),
		}
	}

	fn validate(
		&self,
		origin: DispatchOriginOf<T::RuntimeCall>,
		call: &T::RuntimeCall,
		_info: &DispatchInfoOf<T::RuntimeCall>,
		_len: usize,
		_implicit: (),
		_implication: &impl Implication,
		_source: TransactionSource,
	) -> ValidateResult<(), T::RuntimeCall> {
		let mut valid = ValidTransaction::default();
		if let (Some(signer), Some(call)) = (origin.as_system_origin_signer(), call.is_sub_type()) {
			Pallet::<T>::check_free_call(signer, call)
				.map_err(|error| InvalidTransaction::Custom(pool_code(error)))?;
			valid.provides = tags(signer, call);
			match call {
				Call::pow_register { .. } => valid.longevity = pow::MAX_WORK_AGE_BLOCKS,
				_ if valid.provides.is_empty() => {}
				_ => valid.priority = NEURONS_PRIORITY,
			}
		}
		Ok((valid, (), origin))
	}

	impl_tx_ext_default!(T::RuntimeCall; prepare);
}

impl<T: Config> Pallet<T> {
	pub(crate) fn check_free_call(signer: &T::AccountId, call: &Call<T>) -> Result<(), Error<T>> {
		match call {
			Call::serve_axon {
				netuid,
				version,
				ip,
				port,
				ip_type,
				protocol,
				placeholder1,
				placeholder2,
			} => {
				let axon = AxonInfo {
					block: Self::now(),
					version: *version,
					ip: *ip,
					port: *port,
					ip_type: *ip_type,
					protocol: *protocol,
					placeholder1: *placeholder1,
					placeholder2: *placeholder2,
				};
				Self::check_axon(signer, *netuid, &axon)
			}
			Call::commit_model { netuid, .. } => Self::check_model(signer, *netuid),
			Call::set_mechanism_weights {
				netuid,
				mecid,
				dests,
				weights,
				version_key,
			} => Self::check_set_weights(signer, *netuid, *mecid, dests, weights, *version_key)
				.map(drop),
			Call::set_weights {
				netuid,
				dests,
				weights,
				version_key,
			} => Self::check_set_weights(signer, *netuid, 0, dests, weights, *version_key).map(drop),
			Call::commit_weights {
				netuid,
				commit_hash,
			} => Self::check_commit(signer, *netuid, *commit_hash).map(drop),
			Call::reveal_weights {
				netuid,
				uids,
				values,
				salt,
				version_key,
			} => Self::check_reveal(signer, *netuid, uids, values, salt, *version_key).map(drop),
			Call::pow_register {
				netuid,
				work_block,
				nonce,
				work,
				hotkey,
			} => {
				let work = pow::Work {
					block: *work_block,
					nonce: *nonce,
					seal: work,
				};
				Self::check_pow_register(signer, *netuid, hotkey, work)
			}
			Call::batch_commit_weights {
				netuids,
				commit_hashes,
			} => tried(|| Self::do_batch_commit(signer, netuids, commit_hashes)),
			Call::batch_reveal_weights {
				netuid,
				uids_list,
				values_list,
				salts_list,
				version_keys,
			} => tried(|| {
				Self::do_batch_reveal(
					signer,
					*netuid,
					uids_list,
					values_list,
					salts_list,
					version_keys,
				)
			}),
			_ => Ok(()),
		}
	}
}

/// What the call would return; it leaves no trace. Items of a batch depend on those before.
fn tried<R>(call: impl FnOnce() -> R) -> R {
	with_transaction_unchecked(|| TransactionOutcome::Rollback(call()))
}

/// Kinds of free calls.
#[derive(Clone, Copy, Encode)]
enum Kind {
	Axon,
	Vote,
	Reveal,
	Model,
}

/// One tag for each (hotkey, subnet, kind) of a free call: no two transactions with a common tag
/// wait in a pool, so of a kind a hotkey has one there.
fn tags<T: Config>(signer: &T::AccountId, call: &Call<T>) -> Vec<Vec<u8>> {
	let tag = |kind: Kind, netuid: NetUid| ("free call", kind, netuid, signer).encode();
	match call {
		Call::serve_axon { netuid, .. } => vec![tag(Kind::Axon, *netuid)],
		Call::commit_model { netuid, .. } => vec![tag(Kind::Model, *netuid)],
		Call::set_weights { netuid, .. }
		| Call::set_mechanism_weights { netuid, .. }
		| Call::commit_weights { netuid, .. } => vec![tag(Kind::Vote, *netuid)],
		// One seal has no use twice, whatever nonces its transactions have.
		Call::pow_register { netuid, hotkey, .. } => {
			vec![("registration by work", netuid, hotkey, signer).encode()]
		}
		Call::batch_commit_weights { netuids, .. } => netuids
			.iter()
			.map(|netuid| tag(Kind::Vote, netuid.0))
			.collect(),
		Call::reveal_weights { netuid, .. } | Call::batch_reveal_weights { netuid, .. } => {
			vec![tag(Kind::Reveal, *netuid)]
		}
		_ => Vec::new(),
	}
}

/// Upstream's code for an error in the transaction pool. Where upstream has none it is
/// [`FIRST_OWN_CODE`] plus the error's index, so that clients can look up the name.
fn pool_code<T>(error: Error<T>) -> u8 {
	match error {
		Error::NotEnoughStakeToSetWeights => 1,
		Error::SubnetNotExists => 3,
		Error::SettingWeightsTooFast
		| Error::CommittingWeightsTooFast
		| Error::TooManyRegistrationsThisBlock => 6,
		Error::HotKeyNotRegisteredInNetwork => 10,
		Error::InvalidIpType | Error::InvalidIpAddress => 11,
		Error::ServingRateLimitExceeded => 12,
		Error::InvalidPort => 13,
		Error::NoWeightsCommitFound | Error::InvalidRevealCommitHashNotMatch => 16,
		Error::RevealTooEarly => 17,
		Error::WeightVecNotEqualSize | Error::InputLengthsUnequal => 18,
		Error::HotKeyNotRegisteredInSubNet => 19,
		Error::NonAssociatedColdKey => 25,
		// The official client looks for this code before it works anew.
		Error::InvalidWorkBlock => 255,
		other => {
			let index = other.encode().first().copied().unwrap_or(u8::MAX);
			FIRST_OWN_CODE.saturating_add(index)
		}
	}
}
