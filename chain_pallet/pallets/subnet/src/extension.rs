//! The guard of the free calls.

use crate::*;
use alloc::vec;
use codec::{Decode, DecodeWithMemTracking, Encode};
use core::{fmt, marker::PhantomData};
use frame_support::{
	dispatch::DispatchInfo,
	traits::{Get, IsSubType, OriginTrait},
	weights::Weight,
};
use scale_info::TypeInfo;
use sp_runtime::{
	impl_tx_ext_default,
	traits::{
		AsSystemOriginSigner, DispatchInfoOf, DispatchOriginOf, Dispatchable, Implication,
		TransactionExtension, ValidateResult,
	},
	transaction_validity::{InvalidTransaction, TransactionSource, ValidTransaction},
};

/// Keeps free calls that would fail out of the pool and out of blocks.
///
/// It runs the very check that the call runs. The pool asks once; a block author asks again against
/// the state that earlier transactions of the block left, because FRAME validates before it
/// dispatches. So of many queued calls of one hotkey those that became invalid take no space: it is
/// enough that the first moves `LastUpdate`, the queue of commits, or the axon's block.
///
/// Errors are upstream's pool codes, `InvalidTransaction::Custom(code)`. It is zero-sized, so every
/// client can sign for it. It looks at direct calls only: wrappers of calls (batches, proxies) must
/// pay for what they wrap, as those of FRAME do.
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
		match call.is_sub_type() {
			Some(Call::serve_axon { .. }) => T::WeightInfo::serve_axon(),
			Some(Call::commit_weights { .. }) => T::WeightInfo::commit_weights(),
			Some(Call::reveal_weights { uids, .. }) => {
				T::WeightInfo::reveal_weights(uids.len() as u32)
			}
			Some(Call::pow_register { .. }) => T::WeightInfo::pow_register(T::MaxUids::get()),
			Some(Call::set_mechanism_weights { dests, .. } | Call::set_weights { dests, .. }) => {
				T::WeightInfo::set_mechanism_weights(dests.len() as u32)
			}
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
			if let Call::pow_register { netuid, hotkey, .. } = call {
				// One seal has no use twice, whatever nonces its transactions have.
				valid.provides = vec![("pow_register", netuid, hotkey, signer).encode()];
				valid.longevity = pow::MAX_WORK_AGE_BLOCKS;
			}
		}
		Ok((valid, (), origin))
	}

	impl_tx_ext_default!(T::RuntimeCall; prepare);
}

impl<T: Config> Pallet<T> {
	fn check_free_call(signer: &T::AccountId, call: &Call<T>) -> Result<(), Error<T>> {
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
			_ => Ok(()),
		}
	}
}

/// Upstream's code for an error in the transaction pool; 255 is "bad request".
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
		Error::WeightVecNotEqualSize => 18,
		Error::HotKeyNotRegisteredInSubNet => 19,
		Error::NonAssociatedColdKey => 25,
		_ => 255,
	}
}
