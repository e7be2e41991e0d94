//! Yuma consensus: one epoch of a subnet, from stakes and votes to shares of the emission.
//!
//! [`epoch`] is a pure function in fixed point (I32F32), bit for bit that of the Bittensor chain
//! after its move to sparse matrices: same rounding, same ties. No float, no panic, no allocation
//! beyond its inputs' size. Work is linear in the number of stored entries plus
//! (validators × uids) for the medians.
//!
//! # What the rules imply
//!
//! - Permits of the *previous* epoch decide whose votes count: the first epoch of a subnet has no
//!   validators and pays by stake.
//! - A validator that loses its permit for one epoch loses all its bonds.
//! - A vote counts only if given strictly after its target registered; with commit-reveal on, also
//!   only if the oldest open commit is not older than the target.
//! - Under liquid alpha a bond survives only on columns that the weight row names, with zero if
//!   need be.
//! - Amounts round down. What is left of the emission is the caller's to carry.
//! - Among equal stakes at the edge of the validator set the lower uid loses.
//!
//! # Two deliberate differences
//!
//! Rows are sorted by uid before use. For senders that sort their rows, as every client does, the
//! results are the reference's; it reads an unsorted row under liquid alpha as if entries out of
//! order were zero, which we do not reproduce.
//!
//! Once validators vouch for each other, the votes of those for whom too few vouch count as if
//! they were inactive: no say, no dividends. Where nobody vouches the results are the reference's.

#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

mod bonds;
mod epoch;
mod fixed;
mod median;
mod sparse;
mod vouching;

pub use epoch::epoch;

use alloc::vec::Vec;
use fixed::Fixed;

/// A stored row of weights or bonds: (uid, value).
pub type Row = Vec<(u16, u16)>;

/// The subnet's state and hyperparameters at the block of the epoch. `u16` proportions are in
/// units of 1/65535.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
	/// The block in which the epoch runs.
	pub block: u64,
	/// Blocks between epochs.
	pub tempo: u16,
	/// The block of the previous epoch; 0 before the first.
	pub last_step: u64,
	/// The share of active stake that makes a consensus.
	pub kappa: u16,
	/// How much of a bond one epoch keeps, in millionths.
	pub bonds_moving_average: u64,
	/// How far bonds follow clipped weights instead of the weights as voted.
	pub bonds_penalty: u16,
	/// Bonds per pair (Yuma 3) instead of the classic, column-normalised ones.
	pub yuma3: bool,
	/// With `yuma3`: a rate per pair instead of `bonds_moving_average`.
	pub liquid_alpha: bool,
	/// The least rate of liquid alpha.
	pub alpha_low: u16,
	/// The greatest rate of liquid alpha.
	pub alpha_high: u16,
	/// The slope of liquid alpha's sigmoid, in hundredths.
	pub alpha_sigmoid_steepness: i16,
	/// How many neurons get a permit, beside the owner.
	pub max_validators: u16,
	/// Blocks after which a neuron that did not vote is inactive.
	pub activity_cutoff_blocks: u64,
	/// Stake below this counts as none, except the owner's.
	pub stake_threshold_rao: u64,
	/// The owner's uid, if registered: it may vote for itself and always has a permit.
	pub owner_uid: Option<u16>,
	/// Votes are committed before they are revealed.
	pub commit_reveal: bool,
}

impl Default for Params {
	/// What a new subnet starts with.
	fn default() -> Self {
		Self {
			block: 0,
			tempo: 360,
			last_step: 0,
			kappa: 32_767,
			bonds_moving_average: 900_000,
			bonds_penalty: u16::MAX,
			yuma3: true,
			liquid_alpha: false,
			alpha_low: 45_875,
			alpha_high: 58_982,
			alpha_sigmoid_steepness: 1_000,
			max_validators: 64,
			activity_cutoff_blocks: 5_000,
			stake_threshold_rao: 0,
			owner_uid: None,
			commit_reveal: true,
		}
	}
}

/// One uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neuron {
	/// All stake on its hotkey, in rao.
	pub stake_rao: u64,
	/// The block of its last vote (or commit, with commit-reveal on) or registration.
	pub last_update: u64,
	/// The block in which its hotkey took the uid.
	pub registered_at: u64,
	/// The permit that the previous epoch gave.
	pub permit: bool,
	/// The block of its oldest open commit; `u64::MAX` when it has none.
	pub commit_block: u64,
	/// Uids of the validators whose votes it looked into and found right, ascending.
	pub vouches_for: Vec<u16>,
}

/// What an epoch decides; every vector has one element per uid. `u16`s are floor(x · 65535).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
	/// Share of the subnet's stake.
	pub stake_weight: Vec<u16>,
	/// The weight that a majority of stake supports.
	pub consensus: Vec<u16>,
	/// Share of what miners earn.
	pub incentive: Vec<u16>,
	/// Share of what validators earn.
	pub dividends: Vec<u16>,
	/// How much of its row the consensus let stand.
	pub validator_trust: Vec<u16>,
	/// Voted within the activity cutoff.
	pub active: Vec<bool>,
	/// Permits for the next epoch.
	pub permits: Vec<bool>,
	/// Emission earned as a miner, in rao.
	pub server_rao: Vec<u64>,
	/// Emission earned as a validator, in rao.
	pub validator_rao: Vec<u64>,
	/// Both together, in rao; rounded down on its own, so it may exceed their sum by one.
	pub emission_rao: Vec<u64>,
	/// Bond rows to store, columns ascending.
	pub bonds: Vec<Row>,
}

/// Scales a weight vector so that its largest element becomes 65535; zeros stay zeros.
pub fn max_upscale(values: &[u16]) -> Vec<u16> {
	const FULL: Fixed = Fixed::from_int(u16::MAX as i32);
	let most = values.iter().copied().max().unwrap_or(0);
	let whole = Fixed::from_int(most.into());
	let upscaled = |value: &u16| {
		let value = Fixed::from_int((*value).into());
		// value · 65535 does not fit for large values, so those are multiplied by the ratio.
		let scaled = if most > 32_768 {
			value.times(FULL.over(whole))
		} else {
			value.times(FULL).over(whole)
		};
		scaled.round_to_u16()
	};
	values.iter().map(upscaled).collect()
}

#[cfg(test)]
mod tests {
	use super::*;

	#[test]
	fn max_upscale_of_the_reference() {
		assert_eq!(max_upscale(&[0, 1, 65_534]), [0, 1, 65_535]);
		assert_eq!(max_upscale(&[43_690, 21_845]), [65_535, 32_768]);
		assert_eq!(
			max_upscale(&[16_383, 32_767, 49_149, 65_535]),
			[16_383, 32_767, 49_149, 65_535]
		);
		assert_eq!(max_upscale(&[127, 127]), [65_535, 65_535]);
		assert_eq!(max_upscale(&[0, 1, 2, 32_768]), [0, 2, 4, 65_535]);
		// Here the other order of the two operations rounds, or saturates, differently.
		assert_eq!(max_upscale(&[7, 14]), [32_768, 65_535]);
		assert_eq!(max_upscale(&[20_000, 32_769]), [39_998, 65_535]);
		assert_eq!(max_upscale(&[0, 0]), [0, 0]);
		assert_eq!(max_upscale(&[]), [0u16; 0]);
	}
}
