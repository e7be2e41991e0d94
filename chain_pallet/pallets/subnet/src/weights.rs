//! What calls and hooks cost.
//!
//! Storage accesses are counted from the code. Times are estimates.

use core::marker::PhantomData;
use polkadot_sdk::frame_support::{
	traits::Get,
	weights::{
		constants::{RocksDbWeight, WEIGHT_REF_TIME_PER_NANOS},
		RuntimeDbWeight, Weight,
	},
};

/// Cost of each call and hook.
pub trait WeightInfo {
	/// `burned_register` and `register_limit` in a full subnet of `n` slots.
	fn register(n: u32) -> Weight;
	/// `add_stake`.
	fn add_stake() -> Weight;
	/// `remove_stake`.
	fn remove_stake() -> Weight;
	/// `serve_axon`.
	fn serve_axon() -> Weight;
	/// `commit_weights` with a full queue of expired commits.
	fn commit_weights() -> Weight;
	/// `reveal_weights` on `n` targets.
	fn reveal_weights(n: u32) -> Weight;
	/// `set_mechanism_weights` on `n` targets.
	fn set_mechanism_weights(n: u32) -> Weight;
	/// `set_subnet_spec`.
	fn set_subnet_spec() -> Weight;
	/// `set_emission_shares` of `s` subnets.
	fn set_emission_shares(s: u32) -> Weight;
	/// `set_hyperparams`.
	fn set_hyperparams() -> Weight;
	/// A block without epoch in a chain of `s` subnets.
	fn on_initialize(s: u32) -> Weight;
	/// An epoch of `n` neurons, of which `v` vote on all others; without its payments.
	fn epoch(n: u32, v: u32) -> Weight;
	/// One payment of an epoch.
	fn credit() -> Weight;
}

/// Cost of one benchmark, linear in its components `a` and `b`.
#[derive(Clone, Copy)]
struct Cost {
	/// Computation in ns: constant, per `a`, per `a * b`.
	ns: [u64; 3],
	/// Storage reads: constant, per `a`, per `b`.
	reads: [u64; 3],
	/// Storage writes: constant, per `a`, per `b`.
	writes: [u64; 3],
}

impl Cost {
	const fn new(ns: [u64; 3], reads: [u64; 3], writes: [u64; 3]) -> Self {
		Self { ns, reads, writes }
	}

	fn of<Db: Get<RuntimeDbWeight>>(self, a: u32, b: u32) -> Weight {
		let (a, b) = (u64::from(a), u64::from(b));
		let linear = |[constant, per_a, per_b]: [u64; 3], b: u64| {
			constant
				.saturating_add(per_a.saturating_mul(a))
				.saturating_add(per_b.saturating_mul(b))
		};
		let ns = linear(self.ns, a.saturating_mul(b));
		Weight::from_parts(ns.saturating_mul(WEIGHT_REF_TIME_PER_NANOS), 0)
			.saturating_add(Db::get().reads_writes(linear(self.reads, b), linear(self.writes, b)))
	}
}

const REGISTER: Cost = Cost::new([60_000, 4_000, 0], [14, 4, 0], [18, 1, 0]);
const ADD_STAKE: Cost = Cost::new([40_000, 0, 0], [10, 0, 0], [7, 0, 0]);
const REMOVE_STAKE: Cost = Cost::new([40_000, 0, 0], [8, 0, 0], [7, 0, 0]);
const SERVE_AXON: Cost = Cost::new([20_000, 0, 0], [4, 0, 0], [1, 0, 0]);
const COMMIT_WEIGHTS: Cost = Cost::new([25_000, 0, 0], [11, 0, 0], [2, 0, 0]);
const REVEAL_WEIGHTS: Cost = Cost::new([40_000, 1_500, 0], [16, 1, 0], [3, 0, 0]);
const SET_MECHANISM_WEIGHTS: Cost = Cost::new([35_000, 300, 0], [12, 0, 0], [2, 0, 0]);
const SET_SUBNET_SPEC: Cost = Cost::new([20_000, 0, 0], [7, 0, 0], [1, 0, 0]);
const SET_EMISSION_SHARES: Cost = Cost::new([10_000, 1_500, 0], [0, 1, 0], [1, 0, 0]);
const SET_HYPERPARAMS: Cost = Cost::new([30_000, 0, 0], [10, 0, 0], [8, 0, 0]);
const ON_INITIALIZE: Cost = Cost::new([30_000, 20_000, 0], [6, 9, 0], [3, 4, 0]);
const EPOCH: Cost = Cost::new([150_000, 20_000, 1_000], [24, 7, 2], [14, 1, 1]);
const CREDIT: Cost = Cost::new([15_000, 0, 0], [6, 0, 0], [5, 0, 0]);

/// The weights, with a cost per storage access of `Db`.
pub struct SubstrateWeight<Db>(PhantomData<Db>);

impl<Db: Get<RuntimeDbWeight>> WeightInfo for SubstrateWeight<Db> {
	fn register(n: u32) -> Weight {
		REGISTER.of::<Db>(n, 0)
	}

	fn add_stake() -> Weight {
		ADD_STAKE.of::<Db>(0, 0)
	}

	fn remove_stake() -> Weight {
		REMOVE_STAKE.of::<Db>(0, 0)
	}

	fn serve_axon() -> Weight {
		SERVE_AXON.of::<Db>(0, 0)
	}

	fn commit_weights() -> Weight {
		COMMIT_WEIGHTS.of::<Db>(0, 0)
	}

	fn reveal_weights(n: u32) -> Weight {
		REVEAL_WEIGHTS.of::<Db>(n, 0)
	}

	fn set_mechanism_weights(n: u32) -> Weight {
		SET_MECHANISM_WEIGHTS.of::<Db>(n, 0)
	}

	fn set_subnet_spec() -> Weight {
		SET_SUBNET_SPEC.of::<Db>(0, 0)
	}

	fn set_emission_shares(s: u32) -> Weight {
		SET_EMISSION_SHARES.of::<Db>(s, 0)
	}

	fn set_hyperparams() -> Weight {
		SET_HYPERPARAMS.of::<Db>(0, 0)
	}

	fn on_initialize(s: u32) -> Weight {
		ON_INITIALIZE.of::<Db>(s, 0)
	}

	fn epoch(n: u32, v: u32) -> Weight {
		EPOCH.of::<Db>(n, v)
	}

	fn credit() -> Weight {
		CREDIT.of::<Db>(0, 0)
	}
}

// For tests.
impl WeightInfo for () {
	fn register(n: u32) -> Weight {
		REGISTER.of::<RocksDbWeight>(n, 0)
	}

	fn add_stake() -> Weight {
		ADD_STAKE.of::<RocksDbWeight>(0, 0)
	}

	fn remove_stake() -> Weight {
		REMOVE_STAKE.of::<RocksDbWeight>(0, 0)
	}

	fn serve_axon() -> Weight {
		SERVE_AXON.of::<RocksDbWeight>(0, 0)
	}

	fn commit_weights() -> Weight {
		COMMIT_WEIGHTS.of::<RocksDbWeight>(0, 0)
	}

	fn reveal_weights(n: u32) -> Weight {
		REVEAL_WEIGHTS.of::<RocksDbWeight>(n, 0)
	}

	fn set_mechanism_weights(n: u32) -> Weight {
		SET_MECHANISM_WEIGHTS.of::<RocksDbWeight>(n, 0)
	}

	fn set_subnet_spec() -> Weight {
		SET_SUBNET_SPEC.of::<RocksDbWeight>(0, 0)
	}

	fn set_emission_shares(s: u32) -> Weight {
		SET_EMISSION_SHARES.of::<RocksDbWeight>(s, 0)
	}

	fn set_hyperparams() -> Weight {
		SET_HYPERPARAMS.of::<RocksDbWeight>(0, 0)
	}

	fn on_initialize(s: u32) -> Weight {
		ON_INITIALIZE.of::<RocksDbWeight>(s, 0)
	}

	fn epoch(n: u32, v: u32) -> Weight {
		EPOCH.of::<RocksDbWeight>(n, v)
	}

	fn credit() -> Weight {
		CREDIT.of::<RocksDbWeight>(0, 0)
	}
}
