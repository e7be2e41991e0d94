//! Costs as measured. Written by `scripts/bench`, do not edit; `benchmarks/weights.py` tells how.
//!
//! * machine: AMD EPYC, 2 CPUs, load about 16
//! * date: 2026-11-28
//! * command: `scripts/bench --steps 5 --repeats 11`
//! * rustc 1.95.0 (59807616e 2026-04-14), wasmtime 50.0.1, Python 3.11.7

#![allow(non_upper_case_globals)]

use super::Cost;

pub(super) const add_stake: Cost = Cost {
	ns: [258_766, 0, 0, 0],
	reads: [8, 0, 0, 0],
	writes: [7, 0, 0, 0],
	proof_bytes: [18_337, 0, 0, 0],
};

pub(super) const commit_weights: Cost = Cost {
	ns: [102_093, 0, 0, 0],
	reads: [10, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [27_507, 0, 0, 0],
};

pub(super) const decrease_take: Cost = Cost {
	ns: [51_838, 0, 0, 0],
	reads: [2, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [5_080, 0, 0, 0],
};

pub(super) const epoch: Cost = Cost {
	ns: [692_991, 83_084, 32_558, 515],
	reads: [26, 6, 4, 0],
	writes: [18, 5, 0, 0],
	proof_bytes: [65_178, 15_745, 12_116, 0],
};

pub(super) const increase_take: Cost = Cost {
	ns: [112_257, 0, 0, 0],
	reads: [4, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [8_114, 0, 0, 0],
};

pub(super) const nominators: Cost = Cost {
	ns: [226_417, 30_712, 0, 0],
	reads: [6, 1, 0, 0],
	writes: [3, 1, 0, 0],
	proof_bytes: [13_278, 2_581, 0, 0],
};

pub(super) const on_initialize: Cost = Cost {
	ns: [133_398, 86_840, 0, 0],
	reads: [5, 11, 0, 0],
	writes: [0, 6, 0, 0],
	proof_bytes: [17_568, 25_747, 0, 0],
};

pub(super) const pow_register: Cost = Cost {
	ns: [1_132_998, 21_566, 0, 0],
	reads: [30, 2, 0, 0],
	writes: [27, 1, 0, 0],
	proof_bytes: [97_638, 5_992, 0, 0],
};

pub(super) const register: Cost = Cost {
	ns: [988_208, 15_797, 0, 0],
	reads: [25, 2, 0, 0],
	writes: [25, 1, 0, 0],
	proof_bytes: [85_239, 5_992, 0, 0],
};

pub(super) const register_network: Cost = Cost {
	ns: [507_897, 7_214, 0, 0],
	reads: [21, 1, 0, 0],
	writes: [40, 0, 0, 0],
	proof_bytes: [60_342, 2_478, 0, 0],
};

pub(super) const remove_stake: Cost = Cost {
	ns: [225_066, 0, 0, 0],
	reads: [7, 0, 0, 0],
	writes: [7, 0, 0, 0],
	proof_bytes: [15_859, 0, 0, 0],
};

pub(super) const reveal_weights: Cost = Cost {
	ns: [258_821, 5_973, 0, 0],
	reads: [13, 1, 0, 0],
	writes: [3, 0, 0, 0],
	proof_bytes: [34_336, 2_487, 0, 0],
};

pub(super) const serve_axon: Cost = Cost {
	ns: [120_801, 0, 0, 0],
	reads: [3, 0, 0, 0],
	writes: [1, 0, 0, 0],
	proof_bytes: [7_643, 0, 0, 0],
};

pub(super) const set_emission_shares: Cost = Cost {
	ns: [100_733, 6_238, 0, 0],
	reads: [0, 1, 0, 0],
	writes: [1, 0, 0, 0],
	proof_bytes: [0, 2_478, 0, 0],
};

pub(super) const set_hyperparams: Cost = Cost {
	ns: [379_707, 0, 0, 0],
	reads: [42, 0, 0, 0],
	writes: [35, 0, 0, 0],
	proof_bytes: [96_484, 0, 0, 0],
};

pub(super) const set_mechanism_weights: Cost = Cost {
	ns: [260_609, 300, 0, 0],
	reads: [11, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [29_787, 0, 0, 0],
};

pub(super) const set_subnet_name: Cost = Cost {
	ns: [43_245, 0, 0, 0],
	reads: [2, 0, 0, 0],
	writes: [2, 0, 0, 0],
	proof_bytes: [4_987, 0, 0, 0],
};

pub(super) const set_subnet_spec: Cost = Cost {
	ns: [54_101, 0, 0, 0],
	reads: [5, 0, 0, 0],
	writes: [1, 0, 0, 0],
	proof_bytes: [12_436, 0, 0, 0],
};

pub(super) const trim_subnet: Cost = Cost {
	ns: [824_291, 83_685, 0, 0],
	reads: [31, 6, 0, 0],
	writes: [120, 6, 0, 0],
	proof_bytes: [96_371, 16_376, 0, 0],
};
