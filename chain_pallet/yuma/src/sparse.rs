//! Sparse matrices: one row per uid, entries in ascending column order, zeros allowed.

use crate::{fixed::Fixed, Row};
use alloc::{vec, vec::Vec};

pub(crate) type Entries = Vec<(u16, Fixed)>;
pub(crate) type Matrix = Vec<Entries>;

/// The entries of a stored row, ascending; of a repeated column the first counts.
pub(crate) fn ascending(row: &[(u16, u16)]) -> Row {
	let mut row = row.to_vec();
	row.sort_by_key(|(j, _)| *j);
	row.dedup_by_key(|(j, _)| *j);
	row
}

/// Element `j` of a dense vector; zero beyond its end.
pub(crate) fn at(vector: &[Fixed], j: u16) -> Fixed {
	vector.get(usize::from(j)).copied().unwrap_or_default()
}

pub(crate) fn sum(values: impl IntoIterator<Item = Fixed>) -> Fixed {
	values.into_iter().fold(Fixed::ZERO, Fixed::plus)
}

/// Scales to sum 1; a vector of sum zero stays.
pub(crate) fn normalised(vector: Vec<Fixed>) -> Vec<Fixed> {
	let total = sum(vector.iter().copied());
	if total == Fixed::ZERO {
		return vector;
	}
	vector.into_iter().map(|value| value.over(total)).collect()
}

/// Scales each row to sum 1; a row of sum zero stays.
pub(crate) fn rows_normalised(mut matrix: Matrix) -> Matrix {
	for row in &mut matrix {
		let total = sum(row.iter().map(|(_, value)| *value));
		if total != Fixed::ZERO {
			row.iter_mut()
				.for_each(|(_, value)| *value = value.over(total));
		}
	}
	matrix
}

/// Scales each of `n` columns to sum 1; a column of sum zero stays.
pub(crate) fn columns_normalised(matrix: Matrix, n: usize) -> Matrix {
	let totals = fold_columns(&matrix, n, |total, _, value| total.plus(value));
	columns_divided(matrix, &totals)
}

/// Scales each of `n` columns to maximum 1; a column of zeros stays.
pub(crate) fn columns_upscaled(matrix: Matrix, n: usize) -> Matrix {
	let maxima = fold_columns(&matrix, n, |most, _, value| most.max(value));
	columns_divided(matrix, &maxima)
}

fn columns_divided(mut matrix: Matrix, divisors: &[Fixed]) -> Matrix {
	for (j, value) in matrix.iter_mut().flatten() {
		let divisor = at(divisors, *j);
		if divisor != Fixed::ZERO {
			*value = value.over(divisor);
		}
	}
	matrix
}

/// Folds each of `n` columns from zero: `fold(accumulated, row, value)`.
pub(crate) fn fold_columns(
	matrix: &Matrix,
	n: usize,
	fold: impl Fn(Fixed, usize, Fixed) -> Fixed,
) -> Vec<Fixed> {
	let mut columns = vec![Fixed::ZERO; n];
	for (i, row) in matrix.iter().enumerate() {
		for (j, value) in row {
			if let Some(column) = columns.get_mut(usize::from(*j)) {
				*column = fold(*column, i, *value);
			}
		}
	}
	columns
}

/// Σ_j matrix_ij · vector_j for each row i.
pub(crate) fn row_products(matrix: &Matrix, vector: &[Fixed]) -> Vec<Fixed> {
	let row_product = |row: &Entries| sum(row.iter().map(|(j, value)| value.times(at(vector, *j))));
	matrix.iter().map(row_product).collect()
}

/// Two rows side by side, columns ascending: (column, entry of `left`, entry of `right`).
pub(crate) fn joined<'a>(
	left: &'a [(u16, Fixed)],
	right: &'a [(u16, Fixed)],
) -> impl Iterator<Item = (u16, Option<Fixed>, Option<Fixed>)> + 'a {
	let (mut left, mut right) = (left.iter().peekable(), right.iter().peekable());
	core::iter::from_fn(move || {
		let column = match (left.peek(), right.peek()) {
			(Some((a, _)), Some((b, _))) => *a.min(b),
			(Some((j, _)), None) | (None, Some((j, _))) => *j,
			(None, None) => return None,
		};
		let in_left = left.next_if(|(j, _)| *j == column).map(|(_, value)| *value);
		let in_right = right
			.next_if(|(j, _)| *j == column)
			.map(|(_, value)| *value);
		Some((column, in_left, in_right))
	})
}
