//! Tier 2 of the compatibility with the official client: APIs of an economy that this chain does
//! not have. Upstream gives every subnet a token with a pool and root baskets of them. Here there
//! is one token, so its price in itself is 1, a swap gives what it takes, and nobody has a basket.

use alloc::vec::Vec;
use codec::{Decode, Encode};
use pallet_subnet::{Config, NetUid, Pallet, PRICE_RAO};
use polkadot_sdk::{sp_api, sp_runtime::AccountId32};
use scale_info::TypeInfo;

sp_api::decl_runtime_apis! {
	/// Prices of the subnets' tokens. The names of the arguments matter: clients pass them by name.
	pub trait SwapRuntimeApi {
		/// Rao for 10⁹ units of a subnet's token: 10⁹.
		fn current_alpha_price(netuid: NetUid) -> u64;
		/// The same for every subnet.
		fn current_alpha_price_all() -> Vec<SubnetPrice>;
		/// What staking `tao` rao would give: as much.
		fn sim_swap_tao_for_alpha(netuid: NetUid, tao: u64) -> SimSwapResult;
		/// What taking back `alpha` rao would give: as much.
		fn sim_swap_alpha_for_tao(netuid: NetUid, alpha: u64) -> SimSwapResult;
	}

	/// Root's baskets of the subnets' tokens: there are none.
	pub trait BetaBasketRuntimeApi {
		/// 0.
		fn get_root_basket_owed(coldkey: AccountId32) -> u64;
		/// None.
		fn get_root_basket_positions(coldkey: AccountId32) -> Vec<(AccountId32, u64)>;
	}
}

/// The price of a subnet's token.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub struct SubnetPrice {
	/// The subnet.
	pub netuid: NetUid,
	/// Rao for 10⁹ units.
	pub price: u64,
}

/// What a swap would give, in rao and units of a subnet's token.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq, TypeInfo)]
pub struct SimSwapResult {
	/// Rao that go in or come out.
	pub tao_amount: u64,
	/// Units that come out or go in: the same.
	pub alpha_amount: u64,
	/// 0.
	pub tao_fee: u64,
	/// 0.
	pub alpha_fee: u64,
	/// 0: there is no pool to move.
	pub tao_slippage: u64,
	/// 0.
	pub alpha_slippage: u64,
}

impl SimSwapResult {
	/// One for one.
	pub fn of(amount_rao: u64) -> Self {
		Self {
			tao_amount: amount_rao,
			alpha_amount: amount_rao,
			tao_fee: 0,
			alpha_fee: 0,
			tao_slippage: 0,
			alpha_slippage: 0,
		}
	}
}

/// The price in every subnet.
pub fn prices<T: Config>() -> Vec<SubnetPrice> {
	let price = |netuid| SubnetPrice {
		netuid,
		price: PRICE_RAO,
	};
	Pallet::<T>::netuids().into_iter().map(price).collect()
}
