//! The nouns of the pallet.

use alloc::vec::Vec;
use codec::{Decode, DecodeWithMemTracking, Encode, MaxEncodedLen};
use polkadot_sdk::{
	frame_support::{
		traits::{ConstU32, Get},
		BoundedVec, CloneNoBound, DebugNoBound, EqNoBound, PartialEqNoBound,
	},
	sp_core::H256,
};
use scale_info::TypeInfo;

/// Number of a subnet; 0 is reserved and never exists.
pub type NetUid = u16;
/// Slot of a neuron in its subnet, below the subnet's number of neurons.
pub type Uid = u16;
/// A short text set by a subnet's owner: its name or token symbol.
pub type Label = BoundedVec<u8, ConstU32<64>>;
/// Where a subnet's spec can be fetched.
pub type Url = BoundedVec<u8, ConstU32<256>>;
/// Salt of a weights commit: 16 words of sheet hash, 8 of randomness, 16 of vouches.
pub type Salt = BoundedVec<u16, ConstU32<64>>;
/// Proof of the work for a registration, 32 bytes; a vector, for clients send one.
pub type Seal = BoundedVec<u8, ConstU32<32>>;
/// Commits of one hotkey that wait for their reveal, oldest first.
pub type CommitQueue = BoundedVec<Commit, ConstU32<MAX_COMMITS>>;

/// One item for each of a hotkey's commits, at most.
pub type PerCommit<V> = BoundedVec<V, ConstU32<MAX_COMMITS>>;

/// Most unrevealed commits per hotkey and subnet.
pub const MAX_COMMITS: u32 = 10;
/// Words of the salt that carry the hash of the score sheet.
pub const SHEET_WORDS: usize = 16;
/// A shorter salt carries no sheet: it would leave the commit guessable.
pub const MIN_SALT_WORDS_WITH_SHEET: usize = 24;
/// Words after those that say for whom the voter vouches, a bit for each uid from 0 on.
pub const VOUCHES_WORDS: usize = 16;

/// The highest take, and everyone's until it is changed: 18 % of 65,535.
pub const MAX_TAKE: u16 = 11_796;

/// What a neuron says of the model that it serves.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct Model {
	/// SHA-256 that names its weights.
	pub commitment: H256,
	/// Whether everybody can fetch them.
	pub is_open: bool,
	/// Block at which it was said.
	pub block: u64,
}

/// The address at which a neuron serves.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct AxonInfo {
	/// Block at which it was published.
	pub block: u64,
	/// Version of the neuron's software, as it likes to number it.
	pub version: u32,
	/// Address: an IPv4 address sits in the low 32 bits.
	pub ip: u128,
	/// Port, never 0.
	pub port: u16,
	/// 4 or 6.
	pub ip_type: u8,
	/// Free for the neuron's use.
	pub protocol: u8,
	/// Kept for clients that send it.
	pub placeholder1: u8,
	/// Kept for clients that send it.
	pub placeholder2: u8,
}

/// A promise to reveal weights; four fields in upstream's order.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct Commit {
	/// BlakeTwo256 over (hotkey, netuid, uids, values, salt, version key).
	pub hash: H256,
	/// Epoch in which it was made.
	pub epoch: u64,
	/// Block in which it was made.
	pub block: u64,
	/// The one epoch in which it can be revealed.
	pub reveal_epoch: u64,
}

/// The last weights that a hotkey revealed.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct Reveal {
	/// Epoch of the commit, not of the reveal.
	pub epoch: u64,
	/// SHA-256 of the score sheet behind the weights, read from the salt.
	pub sheet: Option<H256>,
}

/// For which validators a voter vouches: it fetched the sheets behind their votes, recomputed them,
/// and audited what experts signed.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct Vouches {
	/// Block in which it was promised: who registered since is not meant.
	pub block: u64,
	/// Bit `uid % 8` of byte `uid / 8` is for `uid`.
	pub uids: [u8; 32],
}

/// A subnet that became smaller, for votes that were promised before.
#[derive(
	CloneNoBound,
	DebugNoBound,
	Decode,
	DecodeWithMemTracking,
	Encode,
	EqNoBound,
	MaxEncodedLen,
	PartialEqNoBound,
	TypeInfo,
)]
#[scale_info(skip_type_params(MaxUids))]
pub struct Trim<MaxUids: Get<u32>> {
	/// Block in which it happened; promises up to it know the old uids.
	pub block: u64,
	/// The last epoch in which one of those can be revealed; no second trim before it is over.
	pub until_epoch: u64,
	/// How many neurons remained.
	pub neurons: u16,
	/// The old and the new uid of those that moved.
	pub moves: BoundedVec<(Uid, Uid), MaxUids>,
}

/// Hash and place of the document that says what a subnet does.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct Spec {
	/// SHA-256 of the document.
	pub hash: H256,
	/// Where it can be fetched; whoever serves it, the hash decides.
	pub url: Url,
	/// First epoch in which it holds.
	pub from_epoch: u64,
}

/// What a subnet calls itself; the field that clients read of upstream's larger record.
#[derive(
	Clone, Debug, Decode, DecodeWithMemTracking, Encode, Eq, MaxEncodedLen, PartialEq, TypeInfo,
)]
pub struct SubnetIdentity {
	/// The name, UTF-8.
	pub subnet_name: Label,
}

/// How a subnet turns weights into emission; clients ask, and there is one way.
#[derive(
	Clone,
	Debug,
	Decode,
	DecodeWithMemTracking,
	Default,
	Encode,
	Eq,
	MaxEncodedLen,
	PartialEq,
	TypeInfo,
)]
pub enum EpochConsensus {
	/// Yuma consensus.
	#[default]
	Yuma,
}

/// Everything known about one neuron, for runtime APIs; never stored in this shape.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct NeuronRecord<AccountId> {
	/// Slot.
	pub uid: Uid,
	/// Key that signs messages and votes.
	pub hotkey: AccountId,
	/// Key that owns the hotkey and its earnings.
	pub coldkey: AccountId,
	/// Where it serves, if it does.
	pub axon: Option<AxonInfo>,
	/// Block of its registration.
	pub registered_at: u64,
	/// Block of its last vote, or of its registration.
	pub last_update: u64,
	/// Voted recently enough at the last epoch.
	pub active: bool,
	/// May vote.
	pub validator_permit: bool,
	/// All stake on the hotkey in this subnet.
	pub stake_rao: u64,
	/// Paid at the last epoch.
	pub emission_rao: u64,
	/// Share of the active stake, of 65,535.
	pub stake_weight: u16,
	/// Stake-weighted median of the weights given to it, of 65,535.
	pub consensus: u16,
	/// Share of the miners' emission, of 65,535.
	pub incentive: u16,
	/// Share of the validators' emission, of 65,535.
	pub dividends: u16,
	/// Part of its own weights that consensus kept, of 65,535.
	pub validator_trust: u16,
}

/// One coldkey's stake on one hotkey in one subnet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StakePosition<AccountId> {
	/// Who holds the stake.
	pub coldkey: AccountId,
	/// On whom it is staked.
	pub hotkey: AccountId,
	/// Where.
	pub netuid: NetUid,
	/// How much.
	pub stake_rao: u64,
	/// Whether the hotkey has a slot there now.
	pub is_registered: bool,
}

/// A sparse row of weights or bonds, ascending by uid.
pub type Row = Vec<(Uid, u16)>;
