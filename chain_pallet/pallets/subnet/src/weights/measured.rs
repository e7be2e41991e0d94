//! Costs as measured. Written by `scripts/bench`, do not edit; `benchmarks/weights.py` tells how.
//!
//! * machine: AMD EPYC, 2 CPUs, load about 3
//! * date: 2026-11-28
//! * command: `scripts/bench --steps 5 --repeats 11`
//! * since then, by hand: 10 µs and a key more for a reveal's vouches, the same of a voter's in an
//!   epoch; a key more for a plain vote
//! * rustc 1.95.0 (59807616e 2026-04-14), wasmtime 50.0.1, Python 3.11.7

#![allow(non_upper_case_globals)]

use super::Cost;

pub(super) const add_stake: Cost = Cost {
	ns: [347_105, 9_739, 0, 0],
	reads: [10, 1, 0, 0],
	writes: [10, 0, 0, 0],
	proof_bytes: [23_497, 2_581, 0, 0],
};

pub(super) const commit_weights: Cost = Cost {
	ns: [67_751, 0, 0, 0],
	reads: [10, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [27_507, 0, 0, 0],
};

pub(super) const decrease_take: Cost = Cost {
	ns: [37_957, 0, 0, 0],
	reads: [2, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [5_080, 0, 0, 0],
};

pub(super) const epoch: Cost = Cost {
	ns: [339_644, 45_139, 32_323, 461],
	reads: [27, 6, 5, 0],
	writes: [18, 5, 0, 0],
	proof_bytes: [67_663, 15_745, 14_679, 0],
};

pub(super) const increase_take: Cost = Cost {
	ns: [48_342, 0, 0, 0],
	reads: [4, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [8_114, 0, 0, 0],
};

pub(super) const nominators: Cost = Cost {
	ns: [66_999, 24_158, 0, 0],
	reads: [6, 1, 0, 0],
	writes: [3, 1, 0, 0],
	proof_bytes: [13_278, 2_581, 0, 0],
};

pub(super) const on_initialize: Cost = Cost {
	ns: [98_860, 44_984, 0, 0],
	reads: [5, 11, 0, 0],
	writes: [0, 6, 0, 0],
	proof_bytes: [17_568, 25_747, 0, 0],
};

pub(super) const pow_register: Cost = Cost {
	ns: [2_569_892, 12_636, 0, 0],
	reads: [285, 2, 0, 0],
	writes: [27, 1, 0, 0],
	proof_bytes: [742_023, 5_992, 0, 0],
};

pub(super) const register: Cost = Cost {
	ns: [1_528_312, 9_870, 0, 0],
	reads: [280, 2, 0, 0],
	writes: [25, 1, 0, 0],
	proof_bytes: [729_624, 5_992, 0, 0],
};

pub(super) const register_network: Cost = Cost {
	ns: [235_703, 6_254, 0, 0],
	reads: [21, 1, 0, 0],
	writes: [40, 0, 0, 0],
	proof_bytes: [60_342, 2_478, 0, 0],
};

pub(super) const remove_stake: Cost = Cost {
	ns: [156_984, 0, 0, 0],
	reads: [7, 0, 0, 0],
	writes: [7, 0, 0, 0],
	proof_bytes: [15_859, 0, 0, 0],
};

pub(super) const reveal_weights: Cost = Cost {
	ns: [101_870, 2_836, 0, 0],
	reads: [12, 1, 0, 0],
	writes: [4, 0, 0, 0],
	proof_bytes: [31_858, 2_487, 0, 0],
};

pub(super) const serve_axon: Cost = Cost {
	ns: [36_565, 0, 0, 0],
	reads: [3, 0, 0, 0],
	writes: [1, 0, 0, 0],
	proof_bytes: [7_643, 0, 0, 0],
};

pub(super) const set_emission_shares: Cost = Cost {
	ns: [22_640, 2_753, 0, 0],
	reads: [0, 1, 0, 0],
	writes: [1, 0, 0, 0],
	proof_bytes: [0, 2_478, 0, 0],
};

pub(super) const set_hyperparams: Cost = Cost {
	ns: [184_115, 0, 0, 0],
	reads: [42, 0, 0, 0],
	writes: [35, 0, 0, 0],
	proof_bytes: [96_484, 0, 0, 0],
};

pub(super) const set_mechanism_weights: Cost = Cost {
	ns: [69_007, 138, 0, 0],
	reads: [11, 0, 0, 0],
	writes: [4, 0, 0, 0],
	proof_bytes: [29_787, 0, 0, 0],
};

pub(super) const set_subnet_name: Cost = Cost {
	ns: [28_913, 0, 0, 0],
	reads: [2, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [4_987, 0, 0, 0],
};

pub(super) const set_subnet_spec: Cost = Cost {
	ns: [36_695, 0, 0, 0],
	reads: [5, 0, 0, 0],
	writes: [1, 0, 0, 0],
	proof_bytes: [12_436, 0, 0, 0],
};

pub(super) const trim_subnet: Cost = Cost {
	ns: [1_424_455, 51_322, 0, 0],
	reads: [287, 6, 0, 0],
	writes: [120, 6, 0, 0],
	proof_bytes: [743_241, 16_376, 0, 0],
};
