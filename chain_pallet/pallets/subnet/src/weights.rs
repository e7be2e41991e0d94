//! What calls and hooks cost: what `scripts/bench` measured, see [`measured`].

mod measured;

use core::marker::PhantomData;
use polkadot_sdk::frame_support::{
	traits::Get,
	weights::{constants::WEIGHT_REF_TIME_PER_NANOS, RuntimeDbWeight, Weight},
};

/// Cost of a benchmark with components `a` and `b`: so much, per `a`, per `b`, and per `a * b`.
struct Cost {
	/// Computation in ns.
	ns: [u64; 4],
	/// Distinct keys read.
	reads: [u64; 4],
	/// Distinct keys written.
	writes: [u64; 4],
	/// Most bytes that prove the reads.
	proof_bytes: [u64; 4],
}

impl Cost {
	fn of<Db: Get<RuntimeDbWeight>>(&self, components: &[u32]) -> Weight {
		let component = |i| components.get(i).copied().map_or(0, u64::from);
		let (a, b) = (component(0), component(1));
		let sum = |cost: [u64; 4]| {
			let terms = cost.iter().zip([1, a, b, a.saturating_mul(b)]);
			terms.fold(0u64, |sum, (each, count)| {
				sum.saturating_add(each.saturating_mul(count))
			})
		};
		let ref_time = sum(self.ns).saturating_mul(WEIGHT_REF_TIME_PER_NANOS);
		Weight::from_parts(ref_time, sum(self.proof_bytes))
			.saturating_add(Db::get().reads_writes(sum(self.reads), sum(self.writes)))
	}
}

/// The weights, with a cost per storage access of `Db`.
pub struct SubstrateWeight<Db>(PhantomData<Db>);

macro_rules! weights {
	($($(#[$docs:meta])* $name:ident($($component:ident),*);)*) => {
		/// Cost of each call and hook.
		pub trait WeightInfo {
			$($(#[$docs])* fn $name($($component: u32),*) -> Weight;)*
		}

		impl<Db: Get<RuntimeDbWeight>> WeightInfo for SubstrateWeight<Db> {
			$(fn $name($($component: u32),*) -> Weight {
				measured::$name.of::<Db>(&[$($component),*])
			})*
		}
	};
}

weights! {
	/// `burned_register` and `register_limit` in a full subnet of `n` slots.
	register(n);
	/// `pow_register` in a full subnet of `n` slots.
	pow_register(n);
	/// `add_stake` on a hotkey whose `n` nominators are all it may have.
	add_stake(n);
	/// `remove_stake`.
	remove_stake();
	/// `serve_axon`.
	serve_axon();
	/// `commit_weights` with a full queue of expired commits.
	commit_weights();
	/// `reveal_weights` on `n` targets.
	reveal_weights(n);
	/// `set_mechanism_weights` on `n` targets.
	set_mechanism_weights(n);
	/// `set_subnet_spec`.
	set_subnet_spec();
	/// `set_emission_shares` of `s` subnets.
	set_emission_shares(s);
	/// `set_hyperparams`.
	set_hyperparams();
	/// A block without epoch in a chain of `s` subnets.
	on_initialize(s);
	/// An epoch of `n` neurons, of which `v` vote on all others; all are paid.
	epoch(n, v);
	/// What an epoch pays to `c` nominators.
	nominators(c);
	/// `decrease_take`.
	decrease_take();
	/// `increase_take`.
	increase_take();
	/// `register_network` where there are `s` subnets.
	register_network(s);
	/// `trim_subnet` of `n` neurons.
	trim_subnet(n);
	/// `set_subnet_name`.
	set_subnet_name();
}
