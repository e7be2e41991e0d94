//! I32F32: 32 integer and 32 fractional bits in an `i64`. Every operation saturates; none panics.

/// A number in [−2³¹, 2³¹), in steps of 2⁻³².
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fixed(i64);

const FRACTION_BITS: u32 = 32;
const U16_MAX: Fixed = Fixed::from_int(u16::MAX as i32);

impl Fixed {
	pub const ZERO: Self = Self(0);
	pub const ONE: Self = Self::from_int(1);
	pub const HALF: Self = Self(1 << (FRACTION_BITS - 1));

	#[cfg(test)]
	pub const fn from_bits(bits: i64) -> Self {
		Self(bits)
	}

	/// The bits of a wider result, clipped to the range.
	fn saturated(bits: i128) -> Self {
		Self(bits.clamp(i64::MIN.into(), i64::MAX.into()) as i64)
	}

	pub const fn from_int(value: i32) -> Self {
		Self((value as i64) << FRACTION_BITS)
	}

	/// `value / 65535`.
	pub fn from_proportion(value: u16) -> Self {
		Self::from_int(value.into()).over(U16_MAX)
	}

	/// `value / 10⁶`, rounded down.
	pub fn from_millionths(value: u64) -> Self {
		Self::saturated((i128::from(value) << FRACTION_BITS) / 1_000_000)
	}

	/// `part / whole`, rounded down; zero when there is no whole.
	pub fn from_share(part: u64, whole: u128) -> Self {
		let bits = (u128::from(part) << FRACTION_BITS)
			.checked_div(whole)
			.unwrap_or(0);
		Self::saturated(bits.try_into().unwrap_or(i128::MAX))
	}

	/// `floor(self · 65535)`, within u16.
	pub fn to_proportion(self) -> u16 {
		(self.times(U16_MAX).0 >> FRACTION_BITS).clamp(0, u16::MAX.into()) as u16
	}

	/// The nearest integer, halves away from zero, within u16.
	pub fn round_to_u16(self) -> u16 {
		(self.plus(Self::HALF).0 >> FRACTION_BITS).clamp(0, u16::MAX.into()) as u16
	}

	/// `floor(self · amount)`, and nothing of it when negative.
	pub fn of_amount(self, amount: u64) -> u64 {
		let bits = u128::from(self.0.max(0).unsigned_abs()).saturating_mul(amount.into());
		(bits >> FRACTION_BITS).try_into().unwrap_or(u64::MAX)
	}

	pub fn plus(self, other: Self) -> Self {
		Self(self.0.saturating_add(other.0))
	}

	pub fn minus(self, other: Self) -> Self {
		Self(self.0.saturating_sub(other.0))
	}

	/// The product, rounded towards −∞.
	pub fn times(self, other: Self) -> Self {
		// What is in [0, 1) needs 64 bits, and most is.
		if let (Ok(a), Ok(b)) = (u32::try_from(self.0), u32::try_from(other.0)) {
			return Self((u64::from(a).wrapping_mul(b.into()) >> FRACTION_BITS) as i64);
		}
		// Two `i64`s never overflow an `i128`; saying so spares WASM the check.
		Self::saturated(i128::from(self.0).wrapping_mul(other.0.into()) >> FRACTION_BITS)
	}

	/// The quotient, rounded towards zero; zero when it does not exist or does not fit.
	pub fn over(self, other: Self) -> Self {
		// Division of 128 bits is a long loop in WASM, and mostly 64 do: for whole divisors the
		// fractional bits cancel, and what is below 1 has room for its shift.
		let bits = if other.0.trailing_zeros() >= FRACTION_BITS {
			self.0.checked_div(other.0 >> FRACTION_BITS)
		} else if let (Ok(part), Ok(whole)) = (u32::try_from(self.0), u64::try_from(other.0)) {
			(u64::from(part) << FRACTION_BITS)
				.checked_div(whole)
				.and_then(|bits| bits.try_into().ok())
		} else {
			(i128::from(self.0) << FRACTION_BITS)
				.checked_div(other.0.into())
				.and_then(|bits| bits.try_into().ok())
		};
		bits.map_or(Self::ZERO, Self)
	}

	/// e^self on [−20, 20] (beyond: its value at the bound) by the first 32 terms of the series.
	///
	/// Nothing overflows: the largest partial sum is e²⁰ < 2²⁹.
	pub fn exp(self) -> Self {
		const LIMIT: Fixed = Fixed::from_int(20);
		// e to 23 fractional bits, which is what the series is replaced with at exactly 1.
		const E: Fixed = Fixed(22_802_600 << 9);
		let clamped = self.clamp(Self::ZERO.minus(LIMIT), LIMIT);
		if clamped == Self::ONE {
			return E;
		}
		let x = Self(clamped.0.saturating_abs());
		let mut term = x;
		let mut result = Self::ONE.plus(x);
		for i in 2..32 {
			term = term.times(x).over(Self::from_int(i));
			result = result.plus(term);
		}
		if clamped < Self::ZERO {
			Self::ONE.over(result)
		} else {
			result
		}
	}
}

#[cfg(test)]
mod tests {
	use super::*;
	use proptest::prelude::*;

	const fn int(value: i32) -> Fixed {
		Fixed::from_int(value)
	}

	#[test]
	fn proportions_have_the_reference_bits() {
		for (value, bits) in [
			(32_767, 2_147_450_879),
			(45_875, 3_006_509_875),
			(58_982, 3_865_503_334),
			(6_553, 429_463_961),
			(19_660, 1_288_457_420),
			(u16::MAX, 1 << 32),
		] {
			assert_eq!(Fixed::from_proportion(value), Fixed(bits));
			assert!(value - Fixed::from_proportion(value).to_proportion() <= 1);
		}
	}

	#[test]
	fn ema_rates_have_the_reference_bits() {
		for (millionths, bits) in [(900_000, 429_496_730), (975_000, 107_374_183)] {
			assert_eq!(
				Fixed::ONE.minus(Fixed::from_millionths(millionths)),
				Fixed(bits)
			);
		}
		assert_eq!(Fixed::from_millionths(u64::MAX), Fixed(i64::MAX));
	}

	#[test]
	fn exp_has_the_reference_bits() {
		for (x, bits) in [
			(-20, 8),
			(-5, 28_939_262),
			(-1, 1_580_030_169),
			(0, 1 << 32),
			(1, 11_674_931_200),
			(5, 637_429_664_624),
			(20, 2_066_907_302_758_576_256),
		] {
			assert_eq!(int(x).exp(), Fixed(bits), "exp({x})");
		}
		assert_eq!(int(21).exp(), int(20).exp());
		assert_eq!(Fixed(i64::MIN).exp(), int(-20).exp());
	}

	#[test]
	fn products_round_down_and_quotients_towards_zero() {
		let least = Fixed(1);
		assert_eq!(least.times(Fixed::HALF), Fixed::ZERO);
		assert_eq!(Fixed(-1).times(Fixed::HALF), Fixed(-1));
		assert_eq!(Fixed(-1).over(int(2)), Fixed::ZERO);
		assert_eq!(Fixed::ONE.over(int(3)), Fixed(1_431_655_765));
	}

	#[test]
	fn nothing_leaves_the_range() {
		let (least, most) = (Fixed(i64::MIN), Fixed(i64::MAX));
		assert_eq!(most.plus(Fixed(1)), most);
		assert_eq!(least.minus(Fixed(1)), least);
		assert_eq!(most.times(int(2)), most);
		assert_eq!(most.times(least), least);
		assert_eq!(most.over(Fixed(1)), Fixed::ZERO);
		assert_eq!(most.over(Fixed::ZERO), Fixed::ZERO);
		assert_eq!(least.over(Fixed(-1)), Fixed::ZERO);
		assert_eq!(int(-3).to_proportion(), 0);
		assert_eq!(int(3).to_proportion(), u16::MAX);
		assert_eq!(most.of_amount(u64::MAX), u64::MAX);
		assert_eq!(int(-3).of_amount(7), 0);
		assert_eq!(Fixed::from_share(7, 0), Fixed::ZERO);
		assert_eq!(Fixed::from_share(u64::MAX, 1), most);
	}

	/// Numbers of every size, whole ones among them.
	fn numbers() -> impl Strategy<Value = i64> {
		let near_one = (1i64 << 32) - 2..(1 << 32) + 2;
		prop_oneof![
			any::<i64>(),
			0..1i64 << 33,
			near_one,
			any::<i32>().prop_map(|whole| i64::from(whole) << 32),
			Just(i64::MIN),
			Just(i64::MAX),
			-2i64..3,
		]
	}

	proptest! {
		#![proptest_config(ProptestConfig::with_cases(4_096))]

		#[test]
		fn short_cuts_change_no_bit(a in numbers(), b in numbers()) {
			let (wide_a, wide_b) = (i128::from(a), i128::from(b));
			let product = wide_a.wrapping_mul(wide_b) >> 32;
			let product = product.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
			prop_assert_eq!(Fixed(a).times(Fixed(b)), Fixed(product));
			let quotient = (wide_a << 32).checked_div(wide_b).unwrap_or(0);
			let quotient = quotient.try_into().unwrap_or(0);
			prop_assert_eq!(Fixed(a).over(Fixed(b)), Fixed(quotient));
		}
	}
}
