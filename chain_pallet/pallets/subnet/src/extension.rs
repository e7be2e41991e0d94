//! The guard of the free calls.

use crate::*;
use codec::{Decode, DecodeWithMemTracking, Encode};
use core::{fmt, marker::PhantomData};
use frame_support::{
	dispatch::DispatchInfo,
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
		if let (Some(hotkey), Some(call)) = (origin.as_system_origin_signer(), call.is_sub_type()) {
			Pallet::<T>::check_free_call(hotkey, call)
				.map_err(|error| InvalidTransaction::Custom(pool_code(error)))?;
		}
		Ok((ValidTransaction::default(), (), origin))
	}

	impl_tx_ext_default!(T::RuntimeCall; prepare);
}

impl<T: Config> Pallet<T> {
	fn check_free_call(hotkey: &T::AccountId, call: &Call<T>) -> Result<(), Error<T>> {
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
				Self::check_axon(hotkey, *netuid, &axon)
			}
			Call::set_mechanism_weights {
				netuid,
				mecid,
				dests,
				weights,
				version_key,
			} => Self::check_set_weights(hotkey, *netuid, *mecid, dests, weights, *version_key)
				.map(drop),
			Call::set_weights {
				netuid,
				dests,
				weights,
				version_key,
			} => Self::check_set_weights(hotkey, *netuid, 0, dests, weights, *version_key).map(drop),
			Call::commit_weights {
				netuid,
				commit_hash,
			} => Self::check_commit(hotkey, *netuid, *commit_hash).map(drop),
			Call::reveal_weights {
				netuid,
				uids,
				values,
				salt,
				version_key,
			} => Self::check_reveal(hotkey, *netuid, uids, values, salt, *version_key).map(drop),
			_ => Ok(()),
		}
	}
}

/// Upstream's code for an error in the transaction pool; 255 is "bad request".
fn pool_code<T>(error: Error<T>) -> u8 {
	match error {
		Error::NotEnoughStakeToSetWeights => 1,
		Error::SubnetNotExists => 3,
		Error::SettingWeightsTooFast | Error::CommittingWeightsTooFast => 6,
		Error::HotKeyNotRegisteredInNetwork => 10,
		Error::InvalidIpType | Error::InvalidIpAddress => 11,
		Error::ServingRateLimitExceeded => 12,
		Error::InvalidPort => 13,
		Error::NoWeightsCommitFound | Error::InvalidRevealCommitHashNotMatch => 16,
		Error::RevealTooEarly => 17,
		Error::WeightVecNotEqualSize => 18,
		Error::HotKeyNotRegisteredInSubNet => 19,
		_ => 255,
	}
}
