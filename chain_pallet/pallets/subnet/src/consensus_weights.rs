//! Votes: plain, and by commit and reveal.
//!
//! Each call has one `check_*` function with every reason to fail. The call runs it, and so does
//! [`CheckFreeCalls`] before the call takes space in a block.

use crate::*;
use alloc::vec::Vec;
use codec::Compact;
use frame_support::{ensure, BoundedVec};
use sp_core::H256;
use sp_runtime::{
	traits::{BlakeTwo256, Hash},
	DispatchResult,
};

/// A vote that passed every check.
pub(crate) struct Vote {
	uid: Uid,
	row: Row,
}

/// What a revealed vote promised, and when. Trims may have shortened the row since.
#[derive(Clone, Copy)]
struct Promise {
	block: u64,
	targets: usize,
}

/// A reveal that passed every check.
pub(crate) struct CheckedReveal {
	vote: Vote,
	commit: Commit,
	later_commits: CommitQueue,
	sniped: u16,
}

impl<T: Config> Pallet<T> {
	/// The epoch that a call in this block belongs to.
	///
	/// While a block executes, a due epoch has run already. The transaction pool asks before that:
	/// so an epoch that is due in this block counts.
	pub fn current_epoch(netuid: NetUid) -> u64 {
		let due = Self::epoch_due(netuid, Self::now());
		SubnetEpochIndex::<T>::get(netuid).saturating_add(due.into())
	}

	/// What [`Pallet::commit_weights`] has to promise.
	pub fn commit_hash(
		hotkey: &T::AccountId,
		netuid: NetUid,
		uids: &[Uid],
		values: &[u16],
		salt: &[u16],
		version_key: u64,
	) -> H256 {
		BlakeTwo256::hash_of(&(hotkey, netuid, uids, values, salt, version_key))
	}

	pub(crate) fn do_set_weights(
		hotkey: T::AccountId,
		netuid: NetUid,
		mecid: u8,
		uids: &[Uid],
		values: &[u16],
		version_key: u64,
	) -> DispatchResult {
		let vote = Self::check_set_weights(&hotkey, netuid, mecid, uids, values, version_key)?;
		Self::touch(netuid, vote.uid);
		// What was promised while votes were secret is older than this vote, and so are vouches.
		WeightCommits::<T>::remove(netuid, &hotkey);
		LastVouches::<T>::remove(netuid, &hotkey);
		Self::store_vote(netuid, vote);
		Ok(())
	}

	pub(crate) fn do_commit(
		hotkey: &T::AccountId,
		netuid: NetUid,
		hash: H256,
	) -> Result<(), Error<T>> {
		let (uid, queue) = Self::check_commit(hotkey, netuid, hash)?;
		Self::touch(netuid, uid);
		WeightCommits::<T>::insert(netuid, hotkey, queue);
		let hotkey = hotkey.clone();
		Self::deposit_event(Event::WeightsCommitted {
			netuid,
			hotkey,
			commit_hash: hash,
		});
		Ok(())
	}

	pub(crate) fn do_reveal(
		hotkey: &T::AccountId,
		netuid: NetUid,
		uids: &[Uid],
		values: &[u16],
		salt: &[u16],
		version_key: u64,
	) -> Result<(), Error<T>> {
		let CheckedReveal {
			vote,
			commit,
			later_commits,
			sniped,
		} = Self::check_reveal(hotkey, netuid, uids, values, salt, version_key)?;
		if later_commits.is_empty() {
			WeightCommits::<T>::remove(netuid, hotkey);
		} else {
			WeightCommits::<T>::insert(netuid, hotkey, later_commits);
		}
		let reveal = Reveal {
			epoch: commit.epoch,
			sheet: sheet_of(salt),
		};
		LastReveal::<T>::insert(netuid, hotkey, reveal);
		match Self::vouches_of(netuid, salt, commit.block) {
			Some(vouches) => LastVouches::<T>::insert(netuid, hotkey, vouches),
			None => LastVouches::<T>::remove(netuid, hotkey),
		}
		Self::store_vote(netuid, vote);
		let (hotkey, commit_hash) = (hotkey.clone(), commit.hash);
		Self::deposit_event(Event::WeightsRevealed {
			netuid,
			hotkey,
			commit_hash,
			sniped,
		});
		Ok(())
	}

	/// The caller rolls back if it fails.
	pub(crate) fn do_batch_commit(
		hotkey: &T::AccountId,
		netuids: &[Compact<NetUid>],
		hashes: &[H256],
	) -> Result<(), Error<T>> {
		ensure!(
			!netuids.is_empty() && netuids.len() == hashes.len(),
			Error::<T>::InputLengthsUnequal
		);
		netuids
			.iter()
			.zip(hashes)
			.try_for_each(|(netuid, hash)| Self::do_commit(hotkey, netuid.0, *hash))
	}

	/// The caller rolls back if it fails.
	pub(crate) fn do_batch_reveal(
		hotkey: &T::AccountId,
		netuid: NetUid,
		uids: &[Column<T, Uid>],
		values: &[Column<T, u16>],
		salts: &[Salt],
		version_keys: &[u64],
	) -> Result<(), Error<T>> {
		let lengths = [values.len(), salts.len(), version_keys.len()];
		ensure!(
			!uids.is_empty() && lengths == [uids.len(); 3],
			Error::<T>::InputLengthsUnequal
		);
		let rows = uids.iter().zip(values);
		rows.zip(salts.iter().zip(version_keys)).try_for_each(
			|((uids, values), (salt, version_key))| {
				Self::do_reveal(hotkey, netuid, uids, values, salt, *version_key)
			},
		)
	}

	pub(crate) fn check_set_weights(
		hotkey: &T::AccountId,
		netuid: NetUid,
		mecid: u8,
		uids: &[Uid],
		values: &[u16],
		version_key: u64,
	) -> Result<Vote, Error<T>> {
		ensure!(mecid == 0, Error::<T>::MechanismDoesNotExist);
		ensure!(
			!CommitRevealWeightsEnabled::<T>::get(netuid),
			Error::<T>::CommitRevealEnabled
		);
		let uid = Self::check_vote(hotkey, netuid, (uids, values), version_key, None)?;
		Ok(Vote {
			uid,
			row: row_of(uids, values),
		})
	}

	pub(crate) fn check_commit(
		hotkey: &T::AccountId,
		netuid: NetUid,
		hash: H256,
	) -> Result<(Uid, CommitQueue), Error<T>> {
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		ensure!(
			CommitRevealWeightsEnabled::<T>::get(netuid),
			Error::<T>::CommitRevealDisabled
		);
		let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
		ensure!(
			Self::may_vote_again(netuid, uid),
			Error::<T>::CommittingWeightsTooFast
		);
		let epoch = Self::current_epoch(netuid);
		let mut queue = WeightCommits::<T>::get(netuid, hotkey);
		queue.retain(|commit| commit.reveal_epoch >= epoch);
		let reveal_epoch = epoch.saturating_add(RevealPeriodEpochs::<T>::get(netuid));
		queue
			.try_push(Commit {
				hash,
				epoch,
				block: Self::now(),
				reveal_epoch,
			})
			.map_err(|_| Error::<T>::TooManyUnrevealedCommits)?;
		Ok((uid, queue))
	}

	pub(crate) fn check_reveal(
		hotkey: &T::AccountId,
		netuid: NetUid,
		uids: &[Uid],
		values: &[u16],
		salt: &[u16],
		version_key: u64,
	) -> Result<CheckedReveal, Error<T>> {
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		// Promises are kept also where votes have become open since.
		let queue = WeightCommits::<T>::get(netuid, hotkey);
		ensure!(
			!queue.is_empty() || CommitRevealWeightsEnabled::<T>::get(netuid),
			Error::<T>::CommitRevealDisabled
		);
		ensure!(!queue.is_empty(), Error::<T>::NoWeightsCommitFound);
		let hash = Self::commit_hash(hotkey, netuid, uids, values, salt, version_key);
		let epoch = Self::current_epoch(netuid);
		// The same weights may wait twice; the one that is due now is meant.
		let at = queue
			.iter()
			.position(|commit| commit.hash == hash && commit.reveal_epoch == epoch)
			.or_else(|| queue.iter().position(|commit| commit.hash == hash))
			.ok_or(Error::<T>::InvalidRevealCommitHashNotMatch)?;
		let commit = queue
			.get(at)
			.cloned()
			.ok_or(Error::<T>::InvalidRevealCommitHashNotMatch)?;
		ensure!(epoch >= commit.reveal_epoch, Error::<T>::RevealTooEarly);
		ensure!(
			epoch <= commit.reveal_epoch,
			Error::<T>::ExpiredWeightCommit
		);
		ensure!(
			uids.len() == values.len(),
			Error::<T>::WeightVecNotEqualSize
		);
		let targets = uids.len();
		let (uids, mut values) = Self::in_todays_uids(netuid, commit.block, uids, values);
		let mut sniped = targets.saturating_sub(uids.len()) as u16;
		let promise = Promise {
			block: commit.block,
			targets,
		};
		let uid = Self::check_vote(hotkey, netuid, (&uids, &values), version_key, Some(promise))?;

		// A target that changed hands since the commit inherits nothing.
		for (target, value) in uids.iter().zip(values.iter_mut()) {
			if *value > 0 && BlockAtRegistration::<T>::get(netuid, target) >= commit.block {
				*value = 0;
				sniped = sniped.saturating_add(1);
			}
		}
		let later_commits = queue
			.into_iter()
			.skip(at.saturating_add(1))
			.collect::<Vec<_>>();
		Ok(CheckedReveal {
			vote: Vote {
				uid,
				row: row_of(&uids, &values),
			},
			commit,
			later_commits: BoundedVec::truncate_from(later_commits),
			sniped,
		})
	}

	/// What every vote must satisfy, in upstream's order. Returns the voter's uid. What was promised
	/// passed the rate limit as a commit, and is held to no rule that came after it.
	fn check_vote(
		hotkey: &T::AccountId,
		netuid: NetUid,
		(uids, values): (&[Uid], &[u16]),
		version_key: u64,
		promise: Option<Promise>,
	) -> Result<Uid, Error<T>> {
		let is_newer = |rule| {
			promise
				.zip(LastOwnerChange::<T>::get(netuid, rule))
				.is_some_and(|(promise, changed)| promise.block <= changed)
		};
		ensure!(netuid != 0, Error::<T>::CanNotSetRootNetworkWeights);
		ensure!(
			uids.len() == values.len(),
			Error::<T>::WeightVecNotEqualSize
		);
		ensure!(NetworksAdded::<T>::get(netuid), Error::<T>::SubnetNotExists);
		let n = SubnetworkN::<T>::get(netuid);
		ensure!(
			uids.len() <= usize::from(n),
			Error::<T>::UidsLengthExceedUidsInSubNet
		);
		let uid = Uids::<T>::get(netuid, hotkey).ok_or(Error::<T>::HotKeyNotRegisteredInSubNet)?;
		let hyperparams = SubnetHyperparams::<T>::get(netuid);
		let is_owner = SubnetOwnerHotkey::<T>::get(netuid).as_ref() == Some(hotkey);
		ensure!(
			is_owner
				|| TotalHotkeyAlpha::<T>::get(hotkey, netuid) >= hyperparams.stake_threshold_rao,
			Error::<T>::NotEnoughStakeToSetWeights
		);
		ensure!(
			version_key >= hyperparams.weights_version_key
				|| is_newer(Hyperparam::weights_version_key),
			Error::<T>::IncorrectWeightVersionKey
		);
		ensure!(
			promise.is_some() || Self::may_vote_again(netuid, uid),
			Error::<T>::SettingWeightsTooFast
		);
		let is_self_vote = uids == [uid];
		ensure!(
			is_self_vote || is_owner || Self::has_permit(netuid, uid),
			Error::<T>::NeuronNoValidatorPermit
		);
		let mut sorted = uids.to_vec();
		sorted.sort_unstable();
		let is_unique = sorted
			.iter()
			.zip(sorted.iter().skip(1))
			.all(|(a, b)| a != b);
		ensure!(is_unique, Error::<T>::DuplicateUids);
		ensure!(
			sorted.last().is_none_or(|last| *last < n),
			Error::<T>::UidVecContainInvalidOne
		);
		let (targets, neurons) = match promise {
			None => (uids.len(), n),
			Some(promise) => (promise.targets, Self::neurons_before(netuid, promise.block)),
		};
		let least = usize::from(MinAllowedWeights::<T>::get(netuid).min(neurons));
		ensure!(
			is_self_vote || targets >= least || is_newer(Hyperparam::min_allowed_weights),
			Error::<T>::WeightVecLengthIsLow
		);
		Ok(uid)
	}

	/// How many neurons there were before `block`, without those that a trim removed since: uids are
	/// handed out in order.
	fn neurons_before(netuid: NetUid, block: u64) -> u16 {
		let n = SubnetworkN::<T>::get(netuid);
		let is_younger = |uid: &Uid| BlockAtRegistration::<T>::get(netuid, uid) >= block;
		let younger = (0..n).rev().take_while(is_younger).count();
		n.saturating_sub(younger as u16)
	}

	/// For whom a salt vouches that was promised in `block`, in today's uids.
	fn vouches_of(netuid: NetUid, salt: &[u16], block: u64) -> Option<Vouches> {
		let words = salt
			.get(MIN_SALT_WORDS_WITH_SHEET..)?
			.get(..VOUCHES_WORDS)?;
		let promised = uids_in(&bytes_of(words)?);
		let (uids, _) = Self::in_todays_uids(netuid, block, &promised, &promised);
		let mut bits = [0; 32];
		for uid in uids {
			if let Some(byte) = bits.get_mut(usize::from(uid / 8)) {
				*byte |= 1 << (uid % 8);
			}
		}
		Some(Vouches { block, uids: bits })
	}

	/// The uids for which a hotkey vouches, ascending; nobody who took its uid since.
	pub(crate) fn vouches_for(
		netuid: NetUid,
		hotkey: &T::AccountId,
		registered_at: &[u64],
	) -> Vec<Uid> {
		let Some(vouches) = LastVouches::<T>::get(netuid, hotkey) else {
			return Vec::new();
		};
		let is_meant = |uid: &Uid| {
			let registered = registered_at.get(usize::from(*uid));
			registered.is_some_and(|block| *block < vouches.block)
		};
		uids_in(&vouches.uids)
			.into_iter()
			.filter(is_meant)
			.collect()
	}

	/// Whether a neuron has the permit that the last epoch gave out.
	pub fn has_permit(netuid: NetUid, uid: Uid) -> bool {
		ValidatorPermit::<T>::get(netuid)
			.get(usize::from(uid))
			.copied()
			.unwrap_or(false)
	}

	fn may_vote_again(netuid: NetUid, uid: Uid) -> bool {
		Self::now() >= Self::weights_allowed_at(netuid, uid)
	}

	/// Notes that a neuron voted now.
	fn touch(netuid: NetUid, uid: Uid) {
		LastUpdate::<T>::mutate(netuid, |column| {
			if let Some(block) = column.get_mut(usize::from(uid)) {
				*block = Self::now();
			}
		});
	}

	fn store_vote(netuid: NetUid, Vote { uid, row }: Vote) {
		Weights::<T>::insert(netuid, uid, BoundedVec::truncate_from(row));
		Self::deposit_event(Event::WeightsSet { netuid, uid });
	}
}

/// Sorted by uid, the largest value scaled to 65,535.
fn row_of(uids: &[Uid], values: &[u16]) -> Row {
	let mut row: Row = uids
		.iter()
		.copied()
		.zip(yuma::max_upscale(values))
		.collect();
	row.sort_unstable();
	row
}

/// The score sheet's hash in a salt: its first 16 words, little-endian.
fn sheet_of(salt: &[u16]) -> Option<H256> {
	if salt.len() < MIN_SALT_WORDS_WITH_SHEET {
		return None;
	}
	bytes_of(salt.get(..SHEET_WORDS)?).map(H256)
}

/// Sixteen words, little-endian.
fn bytes_of(words: &[u16]) -> Option<[u8; 32]> {
	let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
	bytes.try_into().ok()
}

/// The bits that are set, ascending.
fn uids_in(bits: &[u8; 32]) -> Vec<Uid> {
	let is_set = |uid: &Uid| {
		let byte = bits.get(usize::from(uid / 8)).copied().unwrap_or(0);
		byte >> (uid % 8) & 1 == 1
	};
	(0..=255).filter(is_set).collect()
}
