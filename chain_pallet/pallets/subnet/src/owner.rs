//! What the owner of a subnet may change, and when.

use crate::*;
use frame_support::ensure;
use sp_runtime::DispatchResult;

/// Bounds that are narrower for owners than for root.
const MAX_OWNER_BONDS_MOVING_AVERAGE: u64 = 975_000;
const MAX_OWNER_MIN_BURN_RAO: u64 = 1_000_000_000;
const MIN_OWNER_MAX_BURN_RAO: u64 = 100_000_000;

impl Hyperparam {
	/// Whether the owner may change it: not what protects voters, payers or the chain.
	fn is_owners(self) -> bool {
		!matches!(
			self,
			Self::burn
				| Self::difficulty
				| Self::kappa
				| Self::max_allowed_validators
				| Self::max_registrations_per_block
				| Self::min_difficulty
				| Self::min_non_immune_uids
				| Self::owner_cut
				| Self::registration_allowed
				| Self::stake_threshold_rao
				| Self::weights_set_rate_limit
		)
	}

	/// By how much the rate limit of the owner's changes is stretched.
	fn patience(self) -> (u64, u64) {
		match self {
			// Every validator has to update: five tempos instead of two.
			Self::weights_version_key => (5, 2),
			_ => (1, 1),
		}
	}
}

impl<T: Config> Pallet<T> {
	/// Changes hyperparameters for root (`None`) or the subnet's owner.
	pub(crate) fn do_set_hyperparams(
		owner: Option<T::AccountId>,
		netuid: NetUid,
		update: HyperparamsUpdate,
	) -> DispatchResult {
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		if let Some(coldkey) = &owner {
			Self::check_owner(coldkey, netuid)?;
			Self::check_freeze_window(netuid)?;
			Self::check_owners_update(netuid, &update)?;
		}
		Self::store_hyperparams(netuid, Self::hyperparams(netuid), &update)
			.map_err(Error::<T>::HyperparamOutOfBounds)?;
		if owner.is_some() {
			let now = Self::now();
			for name in update.named() {
				LastOwnerChange::<T>::insert(netuid, name, now);
			}
		}
		Self::deposit_event(Event::HyperparamsSet { netuid, update });
		Ok(())
	}

	/// Whether the coldkey owns the subnet.
	pub(crate) fn check_owner(coldkey: &T::AccountId, netuid: NetUid) -> Result<(), Error<T>> {
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		ensure!(
			SubnetOwner::<T>::get(netuid).as_ref() == Some(coldkey),
			Error::<T>::NotSubnetOwner
		);
		Ok(())
	}

	/// Nobody's vote is to meet rules that changed a moment before it counts. The window leaves at
	/// least half of every tempo open.
	pub(crate) fn check_freeze_window(netuid: NetUid) -> Result<(), Error<T>> {
		let window = AdminFreezeWindow::<T>::get().min(Tempo::<T>::get(netuid).div_euclid(2));
		let is_frozen = Self::next_epoch_start_block(netuid)
			.is_some_and(|next| next.saturating_sub(Self::now()) <= window.into());
		ensure!(
			!is_frozen,
			Error::<T>::AdminActionProhibitedDuringWeightsWindow
		);
		Ok(())
	}

	fn check_owners_update(netuid: NetUid, update: &HyperparamsUpdate) -> Result<(), Error<T>> {
		let limit_blocks = u64::from(OwnerHyperparamRateLimit::<T>::get())
			.saturating_mul(Tempo::<T>::get(netuid).into());
		for name in update.named() {
			ensure!(name.is_owners(), Error::<T>::OnlyRootMaySet(name));
			let (times, per) = name.patience();
			let limit_blocks = limit_blocks.saturating_mul(times).div_euclid(per);
			let is_fresh = LastOwnerChange::<T>::get(netuid, name)
				.is_some_and(|last| Self::now().saturating_sub(last) < limit_blocks);
			ensure!(!is_fresh, Error::<T>::TxRateLimitExceeded);
		}
		let liquid_alpha = update
			.liquid_alpha
			.unwrap_or(SubnetHyperparams::<T>::get(netuid).liquid_alpha);
		check_owners_bounds(
			update,
			liquid_alpha,
			MinOwnerTempo::<T>::get(),
			MinOwnerUids::<T>::get(),
		)
		.map_err(Error::<T>::HyperparamOutOfBounds)
	}
}

/// Checks the bounds that only owners have, on what an update names.
fn check_owners_bounds(
	update: &HyperparamsUpdate,
	liquid_alpha: bool,
	min_tempo: u16,
	min_uids: u16,
) -> Result<(), Hyperparam> {
	let u = update;
	let bounds = [
		(u.tempo.is_none_or(|x| x >= min_tempo), Hyperparam::tempo),
		(
			u.max_allowed_uids.is_none_or(|x| x >= min_uids),
			Hyperparam::max_allowed_uids,
		),
		(
			u.bonds_moving_average
				.is_none_or(|x| x <= MAX_OWNER_BONDS_MOVING_AVERAGE),
			Hyperparam::bonds_moving_average,
		),
		(liquid_alpha || u.alpha_low.is_none(), Hyperparam::alpha_low),
		(
			liquid_alpha || u.alpha_high.is_none(),
			Hyperparam::alpha_high,
		),
		(
			u.alpha_sigmoid_steepness.is_none_or(|x| x >= 0),
			Hyperparam::alpha_sigmoid_steepness,
		),
		(
			u.min_burn.is_none_or(|x| x < MAX_OWNER_MIN_BURN_RAO),
			Hyperparam::min_burn,
		),
		(
			u.max_burn.is_none_or(|x| x > MIN_OWNER_MAX_BURN_RAO),
			Hyperparam::max_burn,
		),
	];
	hyperparams::first_broken(&bounds)
}
