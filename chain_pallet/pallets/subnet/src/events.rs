//! What the pallet tells.
use polkadot_sdk::frame_support::pallet_macros::pallet_section;

/// Becomes part of the pallet's module.
#[pallet_section]
mod events {
	/// What happened.
	#[pallet::event]
	#[pallet::generate_deposit(pub(crate) fn deposit_event)]
	pub enum Event<T: Config> {
		/// A hotkey took a slot.
		NeuronRegistered {
			netuid: NetUid,
			uid: Uid,
			hotkey: T::AccountId,
			price_rao: u64,
		},
		/// A hotkey lost its slot, to another or to a trim.
		NeuronPruned {
			netuid: NetUid,
			uid: Uid,
			hotkey: T::AccountId,
		},
		/// A neuron published its address.
		AxonServed {
			netuid: NetUid,
			hotkey: T::AccountId,
		},
		/// A neuron's weights were stored.
		WeightsSet { netuid: NetUid, uid: Uid },
		/// A hotkey promised weights.
		WeightsCommitted {
			netuid: NetUid,
			hotkey: T::AccountId,
			commit_hash: H256,
		},
		/// A hotkey revealed promised weights; `sniped` targets had changed hands since the commit
		/// and got 0, or were trimmed away.
		WeightsRevealed {
			netuid: NetUid,
			hotkey: T::AccountId,
			commit_hash: H256,
			sniped: u16,
		},
		/// A coldkey staked.
		StakeAdded {
			netuid: NetUid,
			hotkey: T::AccountId,
			coldkey: T::AccountId,
			amount_rao: u64,
		},
		/// A coldkey took stake back.
		StakeRemoved {
			netuid: NetUid,
			hotkey: T::AccountId,
			coldkey: T::AccountId,
			amount_rao: u64,
		},
		/// An epoch ran. `emission_rao` was in the pot and is the sum of what miners (`server_rao`)
		/// and validators (`validator_rao`) got and of what stays in it (`dust_rao`).
		EpochRan {
			netuid: NetUid,
			epoch: u64,
			block: u64,
			neurons: u16,
			emission_rao: u64,
			server_rao: u64,
			validator_rao: u64,
			dust_rao: u64,
			owner_rao: u64,
		},
		/// An epoch was due, but its block already ran as many as it may.
		EpochDeferred {
			netuid: NetUid,
			from_block: u64,
			to_block: u64,
		},
		/// An epoch was due, but the registry of the subnet is inconsistent; the pot is kept.
		EpochSkipped { netuid: NetUid, block: u64 },
		/// A subnet's owner published its spec.
		SubnetSpecSet {
			netuid: NetUid,
			hash: H256,
			from_epoch: u64,
		},
		/// The subnets' shares in the emission changed.
		EmissionSharesSet {
			shares: BoundedVec<(NetUid, u16), T::MaxSubnets>,
		},
		/// Hyperparameters of a subnet changed.
		HyperparamsSet {
			netuid: NetUid,
			update: HyperparamsUpdate,
		},
		/// A hotkey's owner takes less of its nominators' dividends.
		TakeDecreased {
			coldkey: T::AccountId,
			hotkey: T::AccountId,
			take: u16,
		},
		/// A hotkey's owner takes more of its nominators' dividends.
		TakeIncreased {
			coldkey: T::AccountId,
			hotkey: T::AccountId,
			take: u16,
		},
		/// A coldkey bought a subnet; its hotkey is the first neuron.
		NetworkAdded {
			netuid: NetUid,
			coldkey: T::AccountId,
			hotkey: T::AccountId,
			price_rao: u64,
		},
		/// A subnet has fewer slots. `moves` are the old and new uids of those that moved.
		SubnetTrimmed {
			netuid: NetUid,
			max_n: u16,
			moves: Column<T, (Uid, Uid)>,
		},
		/// A subnet has a new name and symbol.
		SubnetNamed {
			netuid: NetUid,
			name: Label,
			symbol: Label,
		},
		/// A neuron said which model it serves.
		ModelCommitted {
			netuid: NetUid,
			hotkey: T::AccountId,
			commitment: H256,
			is_open: bool,
		},
	}
}
