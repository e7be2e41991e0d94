//! An epoch of a dense random subnet behind a C interface. `benchmarks/epoch.py` times the same
//! library natively and as WASM, there on the heap of the embedded chain.

#![cfg_attr(target_family = "wasm", no_std)]

extern crate alloc;

use alloc::{boxed::Box, vec, vec::Vec};
use yuma::{epoch, Neuron, Outcome, Params, Row};

const BLOCK: u64 = 1_000;
const POT_RAO: u64 = 360_000_000_000;

/// What an epoch reads.
pub struct Subnet {
	params: Params,
	neurons: Vec<Neuron>,
	weights: Vec<Row>,
	bonds: Vec<Row>,
}

/// `n` uids, of which the first `v` vote and hold bonds on all. `liquid`: with liquid alpha, and
/// bonds half way to the clipped weights; else with the defaults of a subnet. Never freed.
#[no_mangle]
pub extern "C" fn prepare(n: u32, v: u32, liquid: u32) -> *mut Subnet {
	let (n, v) = (n.min(u16::MAX.into()) as u16, v.min(n) as u16);
	let mut state = 1u32;
	let mut random = move || {
		state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
		(state >> 16) as u16
	};
	let mut rows = || -> Vec<Row> {
		let mut row = |i: u16| match i < v {
			true => (0..n).map(|j| (j, random())).collect(),
			false => vec![],
		};
		(0..n).map(&mut row).collect()
	};
	let (weights, bonds) = (rows(), rows());
	let neuron = |i: u16| Neuron {
		stake_rao: u64::from(v.saturating_sub(i)).saturating_mul(1_000_000_000),
		last_update: BLOCK,
		registered_at: 0,
		permit: i < v,
		commit_block: u64::MAX,
		vouches_for: Vec::new(),
	};
	let params = Params {
		block: BLOCK,
		max_validators: v,
		liquid_alpha: liquid != 0,
		bonds_penalty: if liquid == 0 { u16::MAX } else { 32_767 },
		..Params::default()
	};
	let neurons = (0..n).map(neuron).collect();
	Box::into_raw(Box::new(Subnet {
		params,
		neurons,
		weights,
		bonds,
	}))
}

/// One epoch; a checksum of all that it decides.
///
/// # Safety
///
/// `subnet` is what [`prepare`] returned.
#[no_mangle]
pub unsafe extern "C" fn run(subnet: *const Subnet) -> u64 {
	let subnet = &*subnet;
	let outcome = epoch(
		&subnet.params,
		&subnet.neurons,
		&subnet.weights,
		&subnet.bonds,
		POT_RAO,
	);
	checksum(&outcome)
}

fn checksum(outcome: &Outcome) -> u64 {
	let shares = [
		&outcome.stake_weight,
		&outcome.consensus,
		&outcome.incentive,
		&outcome.dividends,
		&outcome.validator_trust,
	];
	let shares = shares.into_iter().flatten().map(|share| u64::from(*share));
	let bonds = outcome.bonds.iter().flatten();
	let bonds = bonds.flat_map(|(uid, bond)| [u64::from(*uid), u64::from(*bond)]);
	let rao = outcome.emission_rao.iter().copied();
	shares.chain(bonds).chain(rao).fold(0, |sum: u64, value| {
		sum.wrapping_mul(31).wrapping_add(value)
	})
}

#[cfg(target_family = "wasm")]
mod host {
	use core::alloc::{GlobalAlloc, Layout};

	extern "C" {
		fn ext_allocator_malloc_version_1(bytes: usize) -> *mut u8;
		fn ext_allocator_free_version_1(block: *mut u8);
	}

	struct Host;

	unsafe impl GlobalAlloc for Host {
		unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
			ext_allocator_malloc_version_1(layout.size())
		}

		unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
			ext_allocator_free_version_1(block)
		}
	}

	#[global_allocator]
	static HEAP: Host = Host;

	#[panic_handler]
	fn panic(_: &core::panic::PanicInfo) -> ! {
		core::arch::wasm32::unreachable()
	}
}
