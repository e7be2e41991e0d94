//! Bonds: the smoothed memory of who voted for whom, which dividends are paid by.

use crate::{
	fixed::Fixed,
	sparse::{self, at, Entries, Matrix},
	Params, Row,
};
use alloc::vec::Vec;

/// What both bond modes start from.
pub(crate) struct Inputs<'a> {
	pub params: &'a Params,
	/// Weights that bonds grow towards: [n] rows.
	pub weights: Matrix,
	/// Bonds stored by the previous epoch, as integers: [n] rows.
	pub stored: Vec<Row>,
	pub active_stake: &'a [Fixed],
	pub consensus: &'a [Fixed],
	pub incentive: &'a [Fixed],
}

/// Dividends (sum 1 or 0) and the bond rows to store.
pub(crate) type Outputs = (Vec<Fixed>, Vec<Row>);

/// Yuma 3: a bond lives per pair, in [0, 1], and decays or grows on its own.
pub(crate) fn yuma3(inputs: Inputs) -> Outputs {
	let n = inputs.active_stake.len();
	let old = matrix(&inputs.stored, Fixed::from_proportion);
	let liquid = inputs.params.liquid_alpha && inputs.consensus.iter().any(|c| *c != Fixed::ZERO);
	let bonds = if liquid {
		liquid_ema(&inputs.weights, &old, inputs.params, inputs.consensus)
	} else {
		ema(&inputs.weights, &old, inputs.params)
	};
	let stored = to_stored(&bonds);
	let owed = sparse::row_products(&sparse::columns_normalised(bonds, n), inputs.incentive);
	let weighted = owed
		.into_iter()
		.zip(inputs.active_stake)
		.map(|(owed, stake)| owed.times(*stake));
	(sparse::normalised(weighted.collect()), stored)
}

/// Classic: a column of bonds sums to 1, and stake enters the bond itself.
pub(crate) fn classic(inputs: Inputs) -> Outputs {
	let n = inputs.active_stake.len();
	let old = matrix(&inputs.stored, |value| Fixed::from_int(value.into()));
	let old = sparse::columns_normalised(old, n);
	let mut delta = inputs.weights;
	for (row, stake) in delta.iter_mut().zip(inputs.active_stake) {
		row.iter_mut()
			.for_each(|(_, weight)| *weight = weight.times(*stake));
	}
	let delta = sparse::columns_normalised(delta, n);
	let bonds = sparse::columns_normalised(ema(&delta, &old, inputs.params), n);
	let dividends = sparse::normalised(sparse::row_products(&bonds, inputs.incentive));
	(dividends, to_stored(&sparse::columns_upscaled(bonds, n)))
}

fn matrix(rows: &[Row], convert: impl Fn(u16) -> Fixed) -> Matrix {
	let entries = |row: &Row| row.iter().map(|(j, value)| (*j, convert(*value))).collect();
	rows.iter().map(entries).collect()
}

fn to_stored(bonds: &Matrix) -> Vec<Row> {
	let entries = |row: &Entries| {
		row.iter()
			.map(|(j, bond)| (*j, bond.to_proportion()))
			.collect()
	};
	bonds.iter().map(entries).collect()
}

/// α·new + (1 − α)·old per cell; cells that reach zero vanish.
fn ema(new: &Matrix, old: &Matrix, params: &Params) -> Matrix {
	let kept = Fixed::from_millionths(params.bonds_moving_average);
	let alpha = Fixed::ONE.minus(kept);
	let row = |(new, old): (&Entries, &Entries)| {
		sparse::joined(new, old)
			.map(|(j, new, old)| {
				let new = alpha.times(new.unwrap_or_default());
				(j, new.plus(kept.times(old.unwrap_or_default())))
			})
			.filter(|(_, bond)| *bond > Fixed::ZERO)
			.collect()
	};
	new.iter().zip(old).map(row).collect()
}

/// The same with an α per cell, and only on columns of the weight row: a validator that no longer
/// names a miner loses its bond at once, one that names it with zero sees it decay.
fn liquid_ema(weights: &Matrix, old: &Matrix, params: &Params, consensus: &[Fixed]) -> Matrix {
	let rate = LiquidAlpha::new(params);
	let row = |(weights, old): (&Entries, &Entries)| {
		sparse::joined(weights, old)
			.filter_map(|(j, weight, bond)| {
				let (weight, bond) = (weight?, bond.unwrap_or_default());
				let alpha = rate.alpha(weight, bond, at(consensus, j));
				let grown = alpha.times(weight).max(Fixed::ZERO);
				let bond = Fixed::ONE
					.minus(alpha)
					.times(bond)
					.plus(grown)
					.min(Fixed::ONE);
				(bond > Fixed::ZERO).then_some((j, bond))
			})
			.collect()
	};
	weights.iter().zip(old).map(row).collect()
}

/// α as a sigmoid of how far a weight leads the consensus (buying) or trails the bond (selling).
struct LiquidAlpha {
	low: Fixed,
	high: Fixed,
	negative_slope: Fixed,
}

impl LiquidAlpha {
	fn new(params: &Params) -> Self {
		let steepness = Fixed::from_int(params.alpha_sigmoid_steepness.into());
		Self {
			low: Fixed::from_proportion(params.alpha_low),
			high: Fixed::from_proportion(params.alpha_high),
			negative_slope: steepness.over(Fixed::from_int(-100)),
		}
	}

	fn alpha(&self, weight: Fixed, bond: Fixed, consensus: Fixed) -> Fixed {
		let lead = if weight >= bond {
			weight.minus(consensus)
		} else {
			bond.minus(weight)
		};
		self.at_lead(lead.clamp(Fixed::ZERO, Fixed::ONE))
	}

	fn at_lead(&self, lead: Fixed) -> Fixed {
		let exponent = self.negative_slope.times(lead.minus(Fixed::HALF));
		let sigmoid = Fixed::ONE.over(Fixed::ONE.plus(exponent.exp()));
		let alpha = self.low.plus(sigmoid.times(self.high.minus(self.low)));
		// Not `clamp`, which panics on bounds in the wrong order.
		alpha.max(self.low).min(self.high)
	}
}

#[cfg(test)]
mod tests {
	use super::*;

	#[test]
	fn liquid_alpha_has_the_reference_bits() {
		let rate = LiquidAlpha {
			low: Fixed::from_proportion(45_875),
			high: Fixed::from_proportion(58_982),
			negative_slope: Fixed::from_int(-10),
		};
		for (lead, bits) in [
			(Fixed::ZERO, 3_012_258_989),
			(Fixed::HALF, 3_436_006_604),
			(Fixed::ONE, 3_859_754_218),
		] {
			assert_eq!(rate.at_lead(lead), Fixed::from_bits(bits));
		}
	}

	#[test]
	fn steepness_is_in_hundredths_and_may_be_negative() {
		let rate = |steepness| {
			LiquidAlpha::new(&Params {
				alpha_sigmoid_steepness: steepness,
				..Params::default()
			})
		};
		assert_eq!(rate(1000).negative_slope, Fixed::from_int(-10));
		assert_eq!(rate(-150).negative_slope, Fixed::ONE.plus(Fixed::HALF));
		// The slope is negated before the product rounds down, not the product.
		assert_eq!(
			rate(1).at_lead(Fixed::from_bits(3_681_400_539)),
			Fixed::from_bits(3_436_773_562)
		);
	}
}
