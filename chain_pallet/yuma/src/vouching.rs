//! Whose votes are heard: those that other validators vouch for.

use crate::{
	fixed::Fixed,
	sparse::{self, Matrix},
	Neuron,
};
use alloc::vec::Vec;

/// `active_stake` without that of voters whose votes are not heard, of sum 1 again. A voter is who
/// has active stake and a row of `weights`.
///
/// A vote is heard if of the other voters' stake more than half vouches for its voter. Where those
/// who would be heard hold no more than half of the voters' stake, as before anybody vouched and
/// where there is one voter, all are.
pub(crate) fn heard_stake(
	neurons: &[Neuron],
	weights: &Matrix,
	active_stake: Vec<Fixed>,
) -> Vec<Fixed> {
	let voters: Vec<(u16, &Neuron, Fixed)> = (0u16..)
		.zip(neurons)
		.zip(weights)
		.zip(&active_stake)
		.filter(|((_, row), stake)| !row.is_empty() && **stake != Fixed::ZERO)
		.map(|(((uid, neuron), _), stake)| (uid, neuron, *stake))
		.collect();
	let is_heard = |voter: u16| {
		let (vouch, silent): (Vec<_>, Vec<_>) = voters
			.iter()
			.filter(|(other, _, _)| *other != voter)
			.partition(|(_, other, _)| other.vouches_for.binary_search(&voter).is_ok());
		total(vouch) > total(silent)
	};
	let (heard, unheard): (Vec<_>, Vec<_>) = voters.iter().partition(|(uid, _, _)| is_heard(*uid));
	let mut stake = active_stake;
	if unheard.is_empty() || total(heard) <= total(unheard.clone()) {
		return stake;
	}
	for (uid, _, _) in unheard {
		if let Some(stake) = stake.get_mut(usize::from(*uid)) {
			*stake = Fixed::ZERO;
		}
	}
	sparse::normalised(stake)
}

fn total(voters: Vec<&(u16, &Neuron, Fixed)>) -> Fixed {
	sparse::sum(voters.into_iter().map(|(_, _, stake)| *stake))
}
