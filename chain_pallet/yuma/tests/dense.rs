//! The epoch once more as a textbook would write it: full n × n matrices, no early exits. Its
//! numbers are plain integers with 32 fractional bits, so results must agree to the bit.

#![allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]

mod common;

use common::{subnets, Subnet};
use proptest::prelude::*;
use yuma::Row;

type Bits = i128;
type Dense = Vec<Vec<Bits>>;

const ONE: Bits = 1 << 32;

fn mul(a: Bits, b: Bits) -> Bits {
	(a * b) >> 32
}

fn div(a: Bits, b: Bits) -> Bits {
	if b == 0 {
		0
	} else {
		(a << 32) / b
	}
}

fn share(value: u16) -> Bits {
	div(value.into(), 65_535)
}

fn to_u16(x: Bits) -> u16 {
	((x * 65_535) >> 32).clamp(0, 65_535) as u16
}

fn normalise(v: Vec<Bits>) -> Vec<Bits> {
	let sum: Bits = v.iter().sum();
	if sum == 0 {
		v
	} else {
		v.iter().map(|x| div(*x, sum)).collect()
	}
}

fn transpose(m: &Dense) -> Dense {
	(0..m.len())
		.map(|j| m.iter().map(|row| row[j]).collect())
		.collect()
}

fn normalise_columns(m: &Dense) -> Dense {
	transpose(&transpose(m).into_iter().map(normalise).collect())
}

fn cells(n: usize, cell: impl Fn(usize, usize) -> Bits) -> Dense {
	(0..n)
		.map(|i| (0..n).map(|j| cell(i, j)).collect())
		.collect()
}

fn stored(rows: &[Row], i: usize, j: usize) -> Option<u16> {
	rows[i]
		.iter()
		.find(|(column, _)| usize::from(*column) == j)
		.map(|(_, value)| *value)
}

fn exp(x: Bits) -> Bits {
	let x = x.clamp(-20 * ONE, 20 * ONE);
	if x == ONE {
		return 22_802_600 << 9;
	}
	let (mut term, mut sum) = (x.abs(), ONE + x.abs());
	for i in 2..32 {
		term = mul(term, x.abs()) / i;
		sum += term;
	}
	if x < 0 {
		div(ONE, sum)
	} else {
		sum
	}
}

struct Expected {
	stake_weight: Vec<u16>,
	active: Vec<bool>,
	permits: Vec<bool>,
	consensus: Vec<u16>,
	trust: Vec<u16>,
	incentive: Vec<u16>,
	dividends: Vec<u16>,
	bonds: Vec<Vec<u16>>,
	server_rao: Vec<u64>,
	validator_rao: Vec<u64>,
	emission_rao: Vec<u64>,
}

fn dense_epoch(subnet: &Subnet) -> Expected {
	let Subnet {
		params: p, neurons, ..
	} = subnet;
	let n = neurons.len();
	let owner = |i: usize| p.owner_uid == Some(i as u16);
	let had_permit = |i: usize| owner(i) || neurons[i].permit;
	let counted = |i: usize| {
		let enough = neurons[i].stake_rao >= p.stake_threshold_rao || owner(i);
		if enough {
			Bits::from(neurons[i].stake_rao)
		} else {
			0
		}
	};
	let total: Bits = (0..n).map(counted).sum();
	let stake: Vec<Bits> = (0..n).map(|i| div(counted(i), total)).collect();
	let ahead = |i: usize| (0..n).filter(|j| (stake[*j], *j) > (stake[i], i)).count();
	let permits: Vec<bool> = (0..n)
		.map(|i| owner(i) || (stake[i] > 0 && ahead(i) < p.max_validators.into()))
		.collect();
	let voted = |i: usize| neurons[i].last_update + p.activity_cutoff_blocks >= p.block;
	let votes = |i: usize| {
		if had_permit(i) && voted(i) {
			stake[i]
		} else {
			0
		}
	};
	let active = normalise((0..n).map(votes).collect());

	let named = |i: usize, j: usize| {
		had_permit(i)
			&& (i != j || owner(i))
			&& neurons[i].last_update > neurons[j].registered_at
			&& (!p.commit_reveal || neurons[i].commit_block >= neurons[j].registered_at)
			&& stored(&subnet.weights, i, j).is_some()
	};
	let weight = |i: usize, j: usize| {
		if named(i, j) {
			Bits::from(stored(&subnet.weights, i, j).unwrap_or(0)) << 32
		} else {
			0
		}
	};
	let w: Dense = cells(n, weight).into_iter().map(normalise).collect();

	let voters: Vec<usize> = (0..n).filter(|i| active[*i] > 0).collect();
	let votes = normalise(voters.iter().map(|i| active[*i]).collect());
	let minority = votes.iter().sum::<Bits>() - share(p.kappa);
	let below = |j: usize, x: Bits| -> Bits {
		voters
			.iter()
			.zip(&votes)
			.filter(|(i, _)| w[**i][j] < x)
			.map(|(_, s)| s)
			.sum()
	};
	let median = |j: usize| {
		let given = voters.iter().map(|i| w[*i][j]);
		let backed = given.clone().filter(|x| below(j, *x) <= minority).max();
		backed.or(given.min()).unwrap_or(0)
	};
	let c: Vec<Bits> = (0..n).map(median).collect();
	let clipped = cells(n, |i, j| w[i][j].min(c[j]));
	let trust: Vec<Bits> = clipped.iter().map(|row| row.iter().sum()).collect();
	let rank = |j: usize| (0..n).map(|i| mul(active[i], clipped[i][j])).sum();
	let incentive = normalise((0..n).map(rank).collect());

	let penalty = share(p.bonds_penalty);
	let followed = cells(n, |i, j| w[i][j] + mul(penalty, clipped[i][j] - w[i][j]));
	// Interpolation drops cells that reach zero; at its ends the stored zeros stay.
	let followed_named = |i: usize, j: usize| match p.bonds_penalty {
		0 => named(i, j),
		u16::MAX => named(i, j) && (c[j] > 0 || w[i][j] == 0),
		_ => followed[i][j] > 0,
	};
	let since = if p.last_step == 0 {
		p.block - u64::from(p.tempo)
	} else {
		p.last_step + 1
	};
	let old = |i: usize, j: usize| {
		if neurons[j].registered_at < since {
			stored(&subnet.bonds, i, j).unwrap_or(0)
		} else {
			0
		}
	};
	let alpha = ONE - (Bits::from(p.bonds_moving_average) << 32) / 1_000_000;
	let ema = |new: Bits, old: Bits| mul(alpha, new) + mul(ONE - alpha, old);

	let (dividends, bonds): (Vec<Bits>, Dense) = if p.yuma3 {
		let liquid = p.liquid_alpha && c.iter().any(|x| *x != 0);
		let bond = |i: usize, j: usize| {
			let (x, b) = (followed[i][j], share(old(i, j)));
			if !liquid {
				return ema(x, b);
			}
			if !followed_named(i, j) {
				return 0;
			}
			let lead = if x >= b { x - c[j] } else { b - x }.clamp(0, ONE);
			let slope = -div((Bits::from(p.alpha_sigmoid_steepness)) << 32, 100 << 32);
			let sigmoid = div(ONE, ONE + exp(mul(slope, lead - ONE / 2)));
			let (low, high) = (share(p.alpha_low), share(p.alpha_high));
			let a = (low + mul(sigmoid, high - low)).clamp(low, high);
			(mul(ONE - a, b) + mul(a, x).max(0)).min(ONE)
		};
		let e = cells(n, bond);
		let shares = normalise_columns(&e);
		let earned = |i: usize| {
			mul(
				(0..n).map(|j| mul(shares[i][j], incentive[j])).sum(),
				active[i],
			)
		};
		(normalise((0..n).map(earned).collect()), e)
	} else {
		let b = normalise_columns(&cells(n, |i, j| Bits::from(old(i, j)) << 32));
		let delta = normalise_columns(&cells(n, |i, j| mul(followed[i][j], active[i])));
		let e = normalise_columns(&cells(n, |i, j| ema(delta[i][j], b[i][j])));
		let earned = |i: usize| (0..n).map(|j| mul(e[i][j], incentive[j])).sum();
		let most: Vec<Bits> = transpose(&e)
			.iter()
			.map(|column| *column.iter().max().unwrap_or(&0))
			.collect();
		(
			normalise((0..n).map(earned).collect()),
			cells(n, |i, j| div(e[i][j], most[j])),
		)
	};

	let both: Vec<Bits> = incentive
		.iter()
		.zip(&dividends)
		.map(|(a, b)| a + b)
		.collect();
	let total: Bits = both.iter().sum();
	let share = |v: &[Bits]| v.iter().map(|x| div(*x, total)).collect();
	let u16s = |v: &[Bits]| v.iter().map(|x| to_u16(*x)).collect();
	let (server, validator, combined) = if total > 0 {
		(share(&incentive), share(&dividends), share(&both))
	} else if active.iter().any(|x| *x > 0) {
		(vec![0; n], active.clone(), active)
	} else {
		(vec![0; n], stake.clone(), stake.clone())
	};
	let amounts = |v: &[Bits]| {
		v.iter()
			.map(|x| ((x * Bits::from(subnet.emission_rao)) >> 32) as u64)
			.collect()
	};
	Expected {
		stake_weight: u16s(&stake),
		active: (0..n).map(voted).collect(),
		consensus: u16s(&c),
		trust: u16s(&trust),
		incentive: u16s(&incentive),
		dividends: u16s(&dividends),
		bonds: bonds
			.iter()
			.zip(&permits)
			.map(|(row, permit)| if *permit { u16s(row) } else { vec![0; n] })
			.collect(),
		permits,
		server_rao: amounts(&server),
		validator_rao: amounts(&validator),
		emission_rao: amounts(&combined),
	}
}

proptest! {
	#![proptest_config(ProptestConfig::with_cases(500))]

	#[test]
	fn sparse_is_dense(subnet in subnets()) {
		let outcome = subnet.run();
		let expected = dense_epoch(&subnet);
		let bonds: Vec<Vec<u16>> = (0..subnet.n())
			.map(|i| (0..subnet.n()).map(|j| stored(&outcome.bonds, i, j).unwrap_or(0)).collect())
			.collect();
		prop_assert_eq!(outcome.stake_weight, expected.stake_weight);
		prop_assert_eq!(outcome.active, expected.active);
		prop_assert_eq!(outcome.permits, expected.permits);
		prop_assert_eq!(outcome.consensus, expected.consensus);
		prop_assert_eq!(outcome.validator_trust, expected.trust);
		prop_assert_eq!(outcome.incentive, expected.incentive);
		prop_assert_eq!(outcome.dividends, expected.dividends);
		prop_assert_eq!(bonds, expected.bonds);
		prop_assert_eq!(outcome.server_rao, expected.server_rao);
		prop_assert_eq!(outcome.validator_rao, expected.validator_rao);
		prop_assert_eq!(outcome.emission_rao, expected.emission_rao);
	}
}
