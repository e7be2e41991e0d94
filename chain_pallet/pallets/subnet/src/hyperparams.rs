//! Hyperparameters of a subnet: defaults, bounds, and the one way to change them.
//!
//! Scalars that clients read one by one live in storage maps of their own; two of those are
//! constant here. Everything else is one struct. [`check`] sees both, so combinations are checked.

use crate::*;
use alloc::vec::Vec;
use codec::{Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use frame_support::{traits::Get, PalletError};
use scale_info::TypeInfo;
use serde::{Deserialize, Serialize};

macro_rules! hyperparams {
	(
		separate { $($(#[$separate_doc:meta])* $separate:ident: $separate_ty:ty = $separate_default:expr,)* }
		together { $($(#[$together_doc:meta])* $together:ident: $together_ty:ty = $together_default:expr,)* }
	) => {
		/// The hyperparameters with a storage map each.
		#[derive(Clone, Debug, Eq, PartialEq)]
		pub struct Scalars { $($(#[$separate_doc])* pub $separate: $separate_ty,)* }

		impl Default for Scalars {
			fn default() -> Self {
				Self { $($separate: $separate_default,)* }
			}
		}

		/// The hyperparameters that are stored together.
		#[derive(
			Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
		)]
		pub struct Hyperparams { $($(#[$together_doc])* pub $together: $together_ty,)* }

		impl Default for Hyperparams {
			fn default() -> Self {
				Self { $($together: $together_default,)* }
			}
		}

		/// A change of hyperparameters: `None` leaves the value as it is.
		#[derive(
			Clone, Debug, Decode, DecodeWithMemTracking, Default, Deserialize, Encode, Eq,
			MaxEncodedLen, PartialEq, Serialize, TypeInfo,
		)]
		#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
		pub struct HyperparamsUpdate {
			$($(#[$separate_doc])* pub $separate: Option<$separate_ty>,)*
			$($(#[$together_doc])* pub $together: Option<$together_ty>,)*
		}

		/// The name of a hyperparameter, as in [`HyperparamsUpdate`]: what an error is about.
		#[allow(non_camel_case_types)]
		#[derive(
			Clone, Copy, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen,
			PalletError, PartialEq, TypeInfo,
		)]
		pub enum Hyperparam {
			$($(#[$separate_doc])* $separate,)*
			$($(#[$together_doc])* $together,)*
		}

		impl HyperparamsUpdate {
			/// What the update changes.
			pub(crate) fn named(&self) -> Vec<Hyperparam> {
				let separate = [$(self.$separate.map(|_| Hyperparam::$separate),)*];
				let together = [$(self.$together.map(|_| Hyperparam::$together),)*];
				separate.into_iter().chain(together).flatten().collect()
			}

			fn apply(&self, scalars: &mut Scalars, hyperparams: &mut Hyperparams) {
				$(if let Some(value) = self.$separate { scalars.$separate = value; })*
				$(if let Some(value) = self.$together { hyperparams.$together = value; })*
			}
		}
	};
}

hyperparams! {
	separate {
		/// Blocks per epoch, at most 50,400; 0 pauses the subnet's epochs.
		tempo: u16 = 360,
		/// Price of a registration now, in rao.
		burn: u64 = 1_000_000_000,
		/// Slots of the subnet.
		max_allowed_uids: u16 = 256,
		/// Whether weights go through commit and reveal.
		commit_reveal_weights_enabled: bool = true,
		/// Blocks between two votes of one neuron.
		weights_set_rate_limit: u64 = 100,
		/// A row has at least this many entries, or one per neuron.
		min_allowed_weights: u16 = 1,
		/// Epochs from commit to reveal, 1 to 100.
		reveal_period_epochs: u64 = 1,
		/// Whether work may take the registration price's place.
		network_pow_registration_allowed: bool = false,
		/// Seals to try, on average, for a registration by work now.
		difficulty: u64 = pow::DEFAULT_DIFFICULTY,
		/// The difficulty falls no lower, at least 1.
		min_difficulty: u64 = pow::DEFAULT_DIFFICULTY,
		/// The difficulty rises no higher, at least `min_difficulty`.
		max_difficulty: u64 = u64::MAX,
		/// Most registrations by work in one block, at least 1.
		max_registrations_per_block: u16 = 1,
	}
	together {
		/// Stake majority of the consensus median, of 65,535.
		kappa: u16 = 32_767,
		/// Millionths of a bond kept per epoch.
		bonds_moving_average: u64 = 900_000,
		/// How far bonds follow clipped (65,535) rather than raw (0) weights.
		bonds_penalty: u16 = 65_535,
		/// Bonds per miner (true) or normalised over validators (false).
		yuma3: bool = true,
		/// Bond rate by distance from consensus; acts with `yuma3` only.
		liquid_alpha: bool = false,
		/// Lowest liquid bond rate, of 65,535; at least 1,638.
		alpha_low: u16 = 45_875,
		/// Highest liquid bond rate, of 65,535; at least `alpha_low`.
		alpha_high: u16 = 58_982,
		/// Hundredths of the slope of the liquid rate.
		alpha_sigmoid_steepness: i16 = 1_000,
		/// How many neurons get a validator permit.
		max_allowed_validators: u16 = 64,
		/// Thousandths of a tempo without a vote after which a neuron is inactive; 1,000 to 50,000.
		activity_cutoff_factor_milli: u32 = 13_889,
		/// Stake below this neither votes nor counts; the owner's does.
		stake_threshold_rao: u64 = 0,
		/// Blocks for which a new neuron cannot be pruned while others can.
		immunity_period: u16 = 5_000,
		/// With no more prunable neurons than this, immune ones are pruned too.
		min_non_immune_uids: u16 = 10,
		/// How many hotkeys of the owner are never pruned, 1 to 10.
		immune_owner_uids_limit: u8 = 1,
		/// Oldest version key accepted with weights; 0 accepts any.
		weights_version_key: u64 = 0,
		/// Blocks between two publications of an axon; 0 is no limit.
		serving_rate_limit: u64 = 50,
		/// Whether anyone may register.
		registration_allowed: bool = true,
		/// The registration price falls no lower, in rao; at least 1.
		min_burn: u64 = 500_000,
		/// The registration price rises no higher, in rao.
		max_burn: u64 = 100_000_000_000,
		/// Blocks in which the registration price halves, 1 to 36,100.
		burn_half_life: u16 = 360,
		/// Millionths by which a registration multiplies the price, 1,000,000 to 3,000,000.
		burn_increase_ppm: u32 = 1_260_000,
		/// The owner's part of the emission, of 65,535.
		owner_cut: u16 = 11_796,
	}
}

/// Checks every bound, alone and in combination; fails with the first that is broken. `neurons` of
/// at most `max_uids` slots are taken.
pub fn check(
	scalars: &Scalars,
	hyperparams: &Hyperparams,
	neurons: u16,
	max_uids: u32,
) -> Result<(), Hyperparam> {
	let (s, h) = (scalars, hyperparams);
	let reveal_window_blocks = s
		.reveal_period_epochs
		.saturating_add(1)
		.saturating_mul(s.tempo.into());
	let reveals = s.commit_reveal_weights_enabled;
	let bounds = [
		(s.tempo <= 50_400, Hyperparam::tempo),
		// A price of 0 would stay 0: registrations multiply it.
		(h.min_burn >= 1, Hyperparam::min_burn),
		(h.min_burn < h.max_burn, Hyperparam::max_burn),
		(
			(h.min_burn..=h.max_burn).contains(&s.burn),
			Hyperparam::burn,
		),
		(
			s.max_allowed_uids >= neurons.max(1) && u32::from(s.max_allowed_uids) <= max_uids,
			Hyperparam::max_allowed_uids,
		),
		(
			(1..=100).contains(&s.reveal_period_epochs),
			Hyperparam::reveal_period_epochs,
		),
		(s.min_difficulty >= 1, Hyperparam::min_difficulty),
		(
			s.max_difficulty >= s.min_difficulty,
			Hyperparam::max_difficulty,
		),
		(
			(s.min_difficulty..=s.max_difficulty).contains(&s.difficulty),
			Hyperparam::difficulty,
		),
		(
			s.max_registrations_per_block >= 1,
			Hyperparam::max_registrations_per_block,
		),
		(
			h.bonds_moving_average <= 1_000_000,
			Hyperparam::bonds_moving_average,
		),
		(h.alpha_low >= 1_638, Hyperparam::alpha_low),
		(h.alpha_high >= h.alpha_low, Hyperparam::alpha_high),
		(
			h.max_allowed_validators >= 1,
			Hyperparam::max_allowed_validators,
		),
		(
			(1_000..=50_000).contains(&h.activity_cutoff_factor_milli),
			Hyperparam::activity_cutoff_factor_milli,
		),
		(
			(1..=10).contains(&h.immune_owner_uids_limit),
			Hyperparam::immune_owner_uids_limit,
		),
		(
			(1..=36_100).contains(&h.burn_half_life),
			Hyperparam::burn_half_life,
		),
		(
			(1_000_000..=3_000_000).contains(&h.burn_increase_ppm),
			Hyperparam::burn_increase_ppm,
		),
		// A new miner lives until the first weights on it can be revealed.
		(
			!reveals || u64::from(h.immunity_period) >= reveal_window_blocks,
			Hyperparam::immunity_period,
		),
		// A validator that votes every epoch stays active from commit to reveal.
		(
			!reveals || h.activity_cutoff_blocks(s.tempo.into()) >= reveal_window_blocks,
			Hyperparam::activity_cutoff_factor_milli,
		),
	];
	first_broken(&bounds)
}

/// The first name whose bound does not hold, as an error.
pub(crate) fn first_broken(bounds: &[(bool, Hyperparam)]) -> Result<(), Hyperparam> {
	bounds
		.iter()
		.try_for_each(|(holds, name)| holds.then_some(()).ok_or(*name))
}

impl Hyperparams {
	/// Blocks without a vote after which a neuron is inactive, at least 1.
	pub fn activity_cutoff_blocks(&self, tempo_blocks: u64) -> u64 {
		u64::from(self.activity_cutoff_factor_milli)
			.saturating_mul(tempo_blocks)
			.div_euclid(1_000)
			.max(1)
	}
}

impl<T: Config> Pallet<T> {
	/// All hyperparameters of a subnet, those with maps of their own first.
	pub fn hyperparams(netuid: NetUid) -> (Scalars, Hyperparams) {
		let scalars = Scalars {
			tempo: Tempo::<T>::get(netuid),
			burn: Burn::<T>::get(netuid),
			max_allowed_uids: MaxAllowedUids::<T>::get(netuid),
			commit_reveal_weights_enabled: CommitRevealWeightsEnabled::<T>::get(netuid),
			weights_set_rate_limit: WeightsSetRateLimit::<T>::get(netuid),
			min_allowed_weights: MinAllowedWeights::<T>::get(netuid),
			reveal_period_epochs: RevealPeriodEpochs::<T>::get(netuid),
			network_pow_registration_allowed: NetworkPowRegistrationAllowed::<T>::get(netuid),
			difficulty: Difficulty::<T>::get(netuid),
			min_difficulty: MinDifficulty::<T>::get(netuid),
			max_difficulty: MaxDifficulty::<T>::get(netuid),
			max_registrations_per_block: MaxRegistrationsPerBlock::<T>::get(netuid),
		};
		(scalars, SubnetHyperparams::<T>::get(netuid))
	}

	/// Applies `update` on top of `base`, checks the whole, and stores it.
	pub(crate) fn store_hyperparams(
		netuid: NetUid,
		base: (Scalars, Hyperparams),
		update: &HyperparamsUpdate,
	) -> Result<(), Hyperparam> {
		let (mut scalars, mut hyperparams) = base;
		update.apply(&mut scalars, &mut hyperparams);
		if update.burn.is_none() {
			// New price limits move the current price between them.
			scalars.burn = scalars
				.burn
				.min(hyperparams.max_burn)
				.max(hyperparams.min_burn);
		}
		if update.difficulty.is_none() {
			scalars.difficulty = scalars
				.difficulty
				.min(scalars.max_difficulty)
				.max(scalars.min_difficulty);
		}
		check(
			&scalars,
			&hyperparams,
			SubnetworkN::<T>::get(netuid),
			T::MaxUids::get(),
		)?;
		Self::store_tempo(netuid, scalars.tempo);
		Burn::<T>::insert(netuid, scalars.burn);
		MaxAllowedUids::<T>::insert(netuid, scalars.max_allowed_uids);
		CommitRevealWeightsEnabled::<T>::insert(netuid, scalars.commit_reveal_weights_enabled);
		WeightsSetRateLimit::<T>::insert(netuid, scalars.weights_set_rate_limit);
		MinAllowedWeights::<T>::insert(netuid, scalars.min_allowed_weights);
		RevealPeriodEpochs::<T>::insert(netuid, scalars.reveal_period_epochs);
		NetworkPowRegistrationAllowed::<T>::insert(
			netuid,
			scalars.network_pow_registration_allowed,
		);
		Difficulty::<T>::insert(netuid, scalars.difficulty);
		MinDifficulty::<T>::insert(netuid, scalars.min_difficulty);
		MaxDifficulty::<T>::insert(netuid, scalars.max_difficulty);
		MaxRegistrationsPerBlock::<T>::insert(netuid, scalars.max_registrations_per_block);
		SubnetHyperparams::<T>::insert(netuid, hyperparams);
		Ok(())
	}

	/// A new tempo holds from the next epoch on. The running one keeps its length, so no commit
	/// finds its epoch of reveal over before its time.
	fn store_tempo(netuid: NetUid, tempo: u16) {
		if tempo != Tempo::<T>::get(netuid) {
			if let Some(next) = Self::next_epoch_start_block(netuid) {
				PendingEpochAt::<T>::insert(netuid, next);
			}
			Tempo::<T>::insert(netuid, tempo);
		}
	}
}
