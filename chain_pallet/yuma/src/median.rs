//! The stake-weighted median that is Yuma's consensus.

use crate::{
	fixed::Fixed,
	sparse::{self, Matrix},
};
use alloc::{vec, vec::Vec};
use core::cmp::Ordering;

/// Consensus of each of `n` columns: the largest weight that voters with at least `majority` of
/// the stake gave, where a voter without an entry gave zero. Only positive stake votes.
pub(crate) fn column_medians(
	weights: &Matrix,
	stake: &[Fixed],
	majority: Fixed,
	n: usize,
) -> Vec<Fixed> {
	let voters: Vec<usize> = stake
		.iter()
		.enumerate()
		.filter(|(_, s)| **s > Fixed::ZERO)
		.map(|(i, _)| i)
		.collect();
	let positive = stake.iter().copied().filter(|s| *s > Fixed::ZERO).collect();
	let stake = sparse::normalised(positive);

	let mut columns: Vec<Vec<(usize, Fixed)>> = vec![Vec::new(); n];
	for (position, voter) in voters.iter().enumerate() {
		for (j, value) in weights.get(*voter).into_iter().flatten() {
			if let Some(column) = columns.get_mut(usize::from(*j)) {
				column.push((position, *value));
			}
		}
	}
	let median = |column: &Vec<(usize, Fixed)>| {
		let mut ballots: Vec<_> = stake.iter().map(|s| (Fixed::ZERO, *s)).collect();
		for (position, value) in column {
			if let Some((score, _)) = ballots.get_mut(*position) {
				*score = *value;
			}
		}
		weighted_median(ballots, majority)
	};
	columns.iter().map(median).collect()
}

/// The largest score among `ballots` (score, stake) that stake of at least `majority` supports;
/// the smallest score if none is, zero without ballots.
///
/// Quickselect in place, whose comparisons are those of the reference, so ties fall the same way.
fn weighted_median(mut ballots: Vec<(Fixed, Fixed)>, majority: Fixed) -> Fixed {
	let mut high = sparse::sum(ballots.iter().map(|(_, stake)| *stake));
	let mut low = Fixed::ZERO;
	let minority = high.minus(majority);
	while let Some((pivot, _)) = ballots.get(ballots.len() / 2).copied() {
		let (mut below, mut above) = (None, None);
		for (score, stake) in &ballots {
			let side = match score.cmp(&pivot) {
				Ordering::Less => &mut below,
				Ordering::Equal => continue,
				Ordering::Greater => &mut above,
			};
			*side = Some(side.unwrap_or(Fixed::ZERO).plus(*stake));
		}
		let below = below.map(|stake| low.plus(stake));
		let above = above.map(|stake| high.minus(stake));
		match (below, above) {
			(Some(below), _) if minority < below => {
				ballots.retain(|(score, _)| *score < pivot);
				high = below;
			}
			(_, Some(above)) if above <= minority => {
				ballots.retain(|(score, _)| *score > pivot);
				low = above;
			}
			_ => return pivot,
		}
	}
	Fixed::ZERO
}

#[cfg(test)]
mod tests {
	use super::*;
	use proptest::prelude::*;

	/// `hundredths / 100`.
	fn f(hundredths: i32) -> Fixed {
		Fixed::from_int(hundredths).over(Fixed::from_int(100))
	}

	fn median(stakes: &[i32], scores: &[i32], majority: i32) -> Fixed {
		weighted_median(
			scores
				.iter()
				.map(|s| f(*s))
				.zip(stakes.iter().map(|s| f(*s)))
				.collect(),
			f(majority),
		)
	}

	#[test]
	fn vectors_of_the_reference() {
		assert_eq!(median(&[49, 51], &[50, 100], 51), f(100));
		assert_eq!(median(&[51, 49], &[50, 100], 51), f(50));
		assert_eq!(median(&[20; 5], &[80, 20, 100, 60, 40], 51), f(60));
		assert_eq!(median(&[], &[], 51), Fixed::ZERO);
	}

	#[test]
	fn columns_of_the_reference() {
		let matrix = |rows: &[[i32; 3]]| -> Matrix {
			rows.iter()
				.map(|row| (0..).zip(row.iter().map(|value| f(*value))).collect())
				.collect()
		};
		let rows = [[0, 10, 0], [0, 20, 40], [0, 30, 10], [0, 40, 50]];
		let stake = [0, 75, 25, 0].map(f);
		for (majority, expected) in [(24, [0, 30, 40]), (26, [0, 20, 40]), (76, [0, 20, 10])] {
			assert_eq!(
				column_medians(&matrix(&rows), &stake, f(majority), 3),
				expected.map(f)
			);
		}
		let mut rows = rows;
		rows[3] = [0, 0, 50];
		let stake = [0, 30, 20, 50].map(f);
		assert_eq!(
			column_medians(&matrix(&rows), &stake, f(51), 3),
			[0, 0, 40].map(f)
		);
	}

	proptest! {
		#[test]
		fn the_median_is_the_largest_score_with_a_majority_behind_it(
			ballots in prop::collection::vec((0i64..9, 1i64..5), 1..20),
			majority in 0i64..60,
		) {
			let support = |w: i64| -> i64 {
				ballots.iter().filter(|(score, _)| *score >= w).map(|(_, stake)| stake).sum()
			};
			let least = ballots.iter().map(|(score, _)| *score).min().unwrap();
			let supported = ballots.iter().map(|(score, _)| *score).filter(|w| support(*w) >= majority);
			let expected = supported.max().unwrap_or(least);
			let ballots = ballots.iter().map(|(a, b)| (Fixed::from_bits(*a), Fixed::from_bits(*b))).collect();
			prop_assert_eq!(weighted_median(ballots, Fixed::from_bits(majority)), Fixed::from_bits(expected));
		}
	}
}
