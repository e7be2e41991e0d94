//! The scheduler, and one epoch: load, [`yuma::epoch`], store, pay.

use crate::*;
use alloc::{collections::BTreeSet, vec::Vec};
use frame_support::{traits::Get, weights::Weight, BoundedVec};

/// After this many blocks without an epoch, one runs whatever the tempo says.
const MAX_BLOCKS_WITHOUT_EPOCH: u64 = 50_400;

/// What an epoch needs from the storage. Everything is by uid.
struct Inputs<T: Config> {
	params: yuma::Params,
	hotkeys: Vec<T::AccountId>,
	neurons: Vec<yuma::Neuron>,
	weights: Vec<yuma::Row>,
	bonds: Vec<yuma::Row>,
	/// How many rows were read.
	voters: u32,
}

impl<T: Config> Pallet<T> {
	/// Whether a subnet's epoch is to run in `block`.
	///
	/// Unlike upstream's, a deferred epoch is not due before the block that it was deferred to: so
	/// a call in the block that deferred it still belongs to the old epoch.
	pub(crate) fn epoch_due(netuid: NetUid, block: u64) -> bool {
		let tempo = u64::from(Tempo::<T>::get(netuid));
		if tempo == 0 {
			return false;
		}
		match PendingEpochAt::<T>::get(netuid) {
			0 => {
				BlocksSinceLastStep::<T>::get(netuid) > MAX_BLOCKS_WITHOUT_EPOCH
					|| block.saturating_sub(LastEpochBlock::<T>::get(netuid)) >= tempo
			}
			pending => block >= pending,
		}
	}

	/// Block of a subnet's next epoch, if it exists and is not paused.
	pub fn next_epoch_start_block(netuid: NetUid) -> Option<u64> {
		let tempo = u64::from(Tempo::<T>::get(netuid));
		match PendingEpochAt::<T>::get(netuid) {
			_ if tempo == 0 => None,
			0 => Some(LastEpochBlock::<T>::get(netuid).saturating_add(tempo)),
			pending => Some(pending),
		}
	}

	/// Runs the epochs that are due, those longest due first. Those beyond the cap are deferred, and
	/// those after half of the block's weight is used: payments to nominators can be many.
	pub(crate) fn run_due_epochs(netuids: &[NetUid], now: u64) -> Weight {
		for netuid in netuids {
			BlocksSinceLastStep::<T>::mutate(netuid, |blocks| *blocks = blocks.saturating_add(1));
		}
		let mut due: Vec<_> = netuids
			.iter()
			.filter(|netuid| Self::epoch_due(**netuid, now))
			.map(|netuid| (LastEpochBlock::<T>::get(netuid), *netuid))
			.collect();
		due.sort_unstable();
		let cap = usize::from(MaxEpochsPerBlock::<T>::get());
		let half_block = T::BlockWeights::get().max_block.div(2);
		let mut used = Weight::zero();
		for (i, (_, netuid)) in due.into_iter().enumerate() {
			if i < cap && used.all_lte(half_block) {
				used = used.saturating_add(Self::run_epoch(netuid, now));
			} else {
				Self::defer_epoch(netuid, now);
			}
		}
		used
	}

	fn defer_epoch(netuid: NetUid, from_block: u64) {
		let to_block = from_block.saturating_add(1);
		PendingEpochAt::<T>::insert(netuid, to_block);
		Self::deposit_event(Event::EpochDeferred {
			netuid,
			from_block,
			to_block,
		});
	}

	pub(crate) fn run_epoch(netuid: NetUid, now: u64) -> Weight {
		let length_blocks = now.saturating_sub(LastEpochBlock::<T>::get(netuid));
		LastEpochBlock::<T>::insert(netuid, now);
		PendingEpochAt::<T>::remove(netuid);
		let epoch = SubnetEpochIndex::<T>::mutate(netuid, |index| {
			let epoch = *index;
			*index = index.saturating_add(1);
			epoch
		});
		let Some(inputs) = Self::load(netuid, now, length_blocks) else {
			log::error!(target: "subnet", "subnet {netuid}: epoch skipped, registry inconsistent");
			Self::deposit_event(Event::EpochSkipped { netuid, block: now });
			return T::WeightInfo::epoch(T::MaxUids::get(), T::MaxUids::get());
		};
		BlocksSinceLastStep::<T>::insert(netuid, 0);
		let pot_rao = PendingEmission::<T>::get(netuid);
		let neurons = inputs.hotkeys.len() as u32;
		let voters = inputs.voters;
		let (mut paid, mut owner_rao) = (Default::default(), 0);
		// Nobody to pay: the pots wait for the first neuron.
		if neurons > 0 {
			let Inputs {
				params,
				hotkeys,
				neurons,
				weights,
				bonds,
				..
			} = inputs;
			let outcome = yuma::epoch(&params, &neurons, &weights, &bonds, pot_rao);
			paid = Self::pay(netuid, &hotkeys, &outcome, pot_rao);
			owner_rao = Self::pay_owner(netuid);
			Self::store_outcome(netuid, outcome);
		}
		let emission::Paid {
			server_rao,
			validator_rao,
			nominators,
		} = paid;
		let dust_rao = pot_rao
			.saturating_sub(server_rao)
			.saturating_sub(validator_rao);
		PendingEmission::<T>::insert(netuid, dust_rao);
		LastMechansimStepBlock::<T>::insert(netuid, now);
		Self::deposit_event(Event::EpochRan {
			netuid,
			epoch,
			block: now,
			neurons: neurons as u16,
			emission_rao: pot_rao,
			server_rao,
			validator_rao,
			dust_rao,
			owner_rao,
		});
		T::WeightInfo::epoch(neurons, voters).saturating_add(T::WeightInfo::nominators(nominators))
	}

	/// Reads a subnet whose epoch took `length_blocks`; none if its registry contradicts itself.
	/// Drops commits that expired.
	fn load(netuid: NetUid, now: u64, length_blocks: u64) -> Option<Inputs<T>> {
		let (scalars, hyperparams) = Self::hyperparams(netuid);
		let epoch = SubnetEpochIndex::<T>::get(netuid);
		let owner_hotkey = SubnetOwnerHotkey::<T>::get(netuid);
		let last_update = LastUpdate::<T>::get(netuid);
		let permits = ValidatorPermit::<T>::get(netuid);
		let owner_uid = owner_hotkey.and_then(|hotkey| Uids::<T>::get(netuid, hotkey));
		let n = SubnetworkN::<T>::get(netuid);
		let mut inputs = Inputs {
			params: yuma::Params {
				block: now,
				tempo: scalars.tempo,
				// Who registers in the block of an epoch does so after it: bonds of that epoch are
				// on the predecessor.
				last_step: LastMechansimStepBlock::<T>::get(netuid).saturating_sub(1),
				kappa: hyperparams.kappa,
				bonds_moving_average: hyperparams.bonds_moving_average,
				bonds_penalty: hyperparams.bonds_penalty,
				yuma3: hyperparams.yuma3,
				liquid_alpha: hyperparams.liquid_alpha,
				alpha_low: hyperparams.alpha_low,
				alpha_high: hyperparams.alpha_high,
				alpha_sigmoid_steepness: hyperparams.alpha_sigmoid_steepness,
				max_validators: hyperparams.max_allowed_validators,
				// In tempos of the epoch that ends, if it was longer than the next: nobody is silenced
				// by a new tempo, a deferral or a pause.
				activity_cutoff_blocks: hyperparams
					.activity_cutoff_blocks(length_blocks.max(scalars.tempo.into())),
				stake_threshold_rao: hyperparams.stake_threshold_rao,
				owner_uid,
				commit_reveal: scalars.commit_reveal_weights_enabled,
			},
			hotkeys: Vec::with_capacity(n.into()),
			neurons: Vec::with_capacity(n.into()),
			weights: Vec::with_capacity(n.into()),
			bonds: Vec::with_capacity(n.into()),
			voters: 0,
		};
		for uid in 0..n {
			let hotkey = Keys::<T>::get(netuid, uid)?;
			let at = usize::from(uid);
			let permit = permits.get(at).copied().unwrap_or(false);
			// Rows of neurons without permit do not count: they need not be read.
			let votes = permit || owner_uid == Some(uid);
			inputs.voters = inputs.voters.saturating_add(votes.into());
			inputs.weights.push(match votes {
				true => Weights::<T>::get(netuid, uid).into_inner(),
				false => Vec::new(),
			});
			inputs.bonds.push(match votes {
				true => Bonds::<T>::get(netuid, uid).into_inner(),
				false => Vec::new(),
			});
			inputs.neurons.push(yuma::Neuron {
				stake_rao: TotalHotkeyAlpha::<T>::get(&hotkey, netuid),
				last_update: last_update.get(at).copied().unwrap_or(0),
				registered_at: BlockAtRegistration::<T>::get(netuid, uid),
				permit,
				commit_block: Self::oldest_commit_block(netuid, &hotkey, epoch),
				vouches_for: Vec::new(),
			});
			inputs.hotkeys.push(hotkey);
		}
		let registered_at: Vec<u64> = inputs.neurons.iter().map(|n| n.registered_at).collect();
		for ((uid, hotkey), neuron) in (0..).zip(&inputs.hotkeys).zip(&mut inputs.neurons) {
			if neuron.permit || owner_uid == Some(uid) {
				neuron.vouches_for = Self::vouches_for(netuid, hotkey, &registered_at);
			}
		}
		let distinct = inputs.hotkeys.iter().collect::<BTreeSet<_>>().len();
		(distinct == inputs.hotkeys.len()).then_some(inputs)
	}

	/// Block of a hotkey's oldest commit that can still be revealed in or after `epoch`, or
	/// `u64::MAX`. Forgets commits once nobody needs to be told that they expired.
	fn oldest_commit_block(netuid: NetUid, hotkey: &T::AccountId, epoch: u64) -> u64 {
		let mut queue = WeightCommits::<T>::get(netuid, hotkey);
		let waiting = queue.len();
		queue.retain(|commit| commit.reveal_epoch.saturating_add(1) >= epoch);
		let block = queue
			.iter()
			.find(|commit| commit.reveal_epoch >= epoch)
			.map_or(u64::MAX, |commit| commit.block);
		if queue.is_empty() {
			WeightCommits::<T>::remove(netuid, hotkey);
		} else if queue.len() < waiting {
			WeightCommits::<T>::insert(netuid, hotkey, queue);
		}
		block
	}

	fn store_outcome(netuid: NetUid, outcome: yuma::Outcome) {
		// Every column has one value per neuron, so nothing is cut.
		StakeWeight::<T>::insert(netuid, BoundedVec::truncate_from(outcome.stake_weight));
		Consensus::<T>::insert(netuid, BoundedVec::truncate_from(outcome.consensus));
		Incentive::<T>::insert(netuid, BoundedVec::truncate_from(outcome.incentive));
		Dividends::<T>::insert(netuid, BoundedVec::truncate_from(outcome.dividends));
		ValidatorTrust::<T>::insert(netuid, BoundedVec::truncate_from(outcome.validator_trust));
		Emission::<T>::insert(netuid, BoundedVec::truncate_from(outcome.emission_rao));
		Active::<T>::insert(netuid, BoundedVec::truncate_from(outcome.active));
		ValidatorPermit::<T>::insert(netuid, BoundedVec::truncate_from(outcome.permits));
		for (uid, row) in (0u16..).zip(outcome.bonds) {
			if row.is_empty() {
				Bonds::<T>::remove(netuid, uid);
			} else {
				Bonds::<T>::insert(netuid, uid, BoundedVec::truncate_from(row));
			}
		}
	}
}
