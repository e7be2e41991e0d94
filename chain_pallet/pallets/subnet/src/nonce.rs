//! The nonce check, with a door for wallets without tokens.

use crate::*;
use alloc::{vec, vec::Vec};
use codec::{Decode, DecodeWithMemTracking, Encode};
use core::fmt;
use frame_support::{dispatch::DispatchInfo, traits::IsSubType, weights::Weight};
use frame_system::ExtensionsWeightInfo as _;
use scale_info::TypeInfo;
use sp_runtime::{
	traits::{
		AsSystemOriginSigner, DispatchInfoOf, DispatchOriginOf, Dispatchable, Implication,
		PostDispatchInfoOf, TransactionExtension, ValidateResult,
	},
	transaction_validity::{
		InvalidTransaction, TransactionSource, TransactionValidityError, ValidTransaction,
	},
	DispatchResult, Saturating,
};

/// FRAME's `CheckNonce`, except that the signer of a direct [`Pallet::pow_register`] needs no
/// account. Identifier, encoding and metadata are FRAME's, so clients know it.
///
/// FRAME refuses signers without an account, because a nonce takes storage that nobody paid for.
/// Here the work paid: `CheckFreeCalls` verifies it before the pool or a block takes the
/// transaction. The nonce then stays in a record of an account that holds nothing. If the account
/// is later used and reaped, its nonce starts at 0 again, as everyone's does; the same transaction
/// is still of no use, because its seal is (see [`LastPowRegistrationBlock`]).
#[derive(Clone, Decode, DecodeWithMemTracking, Encode, Eq, PartialEq)]
pub struct CheckNonce<T: Config>(pub frame_system::CheckNonce<T>);

impl<T: Config> CheckNonce<T> {
	/// The check for a transaction with this nonce.
	pub fn from(nonce: T::Nonce) -> Self {
		Self(frame_system::CheckNonce::from(nonce))
	}
}

impl<T: Config> fmt::Debug for CheckNonce<T> {
	fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
		self.0.fmt(f)
	}
}

impl<T: Config + Send + Sync> TypeInfo for CheckNonce<T> {
	type Identity = frame_system::CheckNonce<T>;

	fn type_info() -> scale_info::Type {
		frame_system::CheckNonce::<T>::type_info()
	}
}

impl<T> TransactionExtension<T::RuntimeCall> for CheckNonce<T>
where
	T: Config + Send + Sync,
	T::RuntimeCall: Dispatchable<Info = DispatchInfo> + IsSubType<Call<T>>,
	DispatchOriginOf<T::RuntimeCall>: AsSystemOriginSigner<T::AccountId> + Clone,
{
	const IDENTIFIER: &'static str = "CheckNonce";
	type Implicit = ();
	/// The signer, if there is one.
	type Val = Option<T::AccountId>;
	/// Weight to give back.
	type Pre = Weight;

	fn weight(&self, _: &T::RuntimeCall) -> Weight {
		T::ExtensionsWeightInfo::check_nonce()
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
	) -> ValidateResult<Self::Val, T::RuntimeCall> {
		let Some(signer) = origin.as_system_origin_signer().cloned() else {
			return Ok((ValidTransaction::default(), None, origin));
		};
		let nonce = self.0 .0;
		let (requires, provides) = match call.is_sub_type() {
			Some(Call::pow_register { .. }) => newcomers_tags::<T>(&signer, nonce)?,
			_ => {
				let tags =
					frame_system::CheckNonce::<T>::validate_nonce_for_account(&signer, nonce)?;
				(tags.requires, tags.provides)
			}
		};
		let valid = ValidTransaction {
			requires,
			provides,
			..Default::default()
		};
		Ok((valid, Some(signer), origin))
	}

	fn prepare(
		self,
		signer: Self::Val,
		_origin: &DispatchOriginOf<T::RuntimeCall>,
		call: &T::RuntimeCall,
		_info: &DispatchInfoOf<T::RuntimeCall>,
		_len: usize,
	) -> Result<Self::Pre, TransactionValidityError> {
		let Some(signer) = signer else {
			return Ok(self.weight(call));
		};
		frame_system::CheckNonce::<T>::prepare_nonce_for_account(&signer, self.0 .0)?;
		Ok(Weight::zero())
	}

	fn post_dispatch_details(
		refund: Self::Pre,
		_info: &DispatchInfo,
		_post_info: &PostDispatchInfoOf<T::RuntimeCall>,
		_len: usize,
		_result: &DispatchResult,
	) -> Result<Weight, TransactionValidityError> {
		Ok(refund)
	}
}

/// What FRAME's check answers, for a signer with or without an account: the tags that a transaction
/// requires and provides.
#[allow(clippy::type_complexity)]
fn newcomers_tags<T: Config>(
	signer: &T::AccountId,
	nonce: T::Nonce,
) -> Result<(Vec<Vec<u8>>, Vec<Vec<u8>>), TransactionValidityError> {
	let next = frame_system::Pallet::<T>::account_nonce(signer);
	if nonce < next {
		return Err(InvalidTransaction::Stale.into());
	}
	let requires = match next < nonce {
		true => vec![(signer, nonce.saturating_sub(1u32.into())).encode()],
		false => vec![],
	};
	Ok((requires, vec![(signer, nonce).encode()]))
}
