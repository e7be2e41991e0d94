//! A fuzzer with a memory: random calls from random accounts, thousands on one chain.
//!
//! After every call every invariant holds, the issuance is the sum of all balances, the pallet's
//! account holds what it owes, and a call that failed left no trace. A call makes nobody richer, and
//! nobody but its signer poorer; blocks make nobody poorer. Free calls succeed exactly if the guard
//! of the pool lets them in. Epochs are never overdue nor forgotten, votes move `LastUpdate` only of
//! their voter and only forward, and a promise that is due can be kept whatever happened since. A
//! failure is shrunk to few steps and printed.
//!
//! `FUZZ_SECONDS` (15) says how long, `FUZZ_SEED` where to begin; `cargo test -p pallet-subnet fuzz
//! -- --nocapture` shows what was reached.

use crate::{mock::*, *};
use frame_support::traits::{fungible::Inspect, GetCallName};
use polkadot_sdk::sp_io;
use scale_info::TypeInfo;
use sp_core::H256;
use sp_runtime::{traits::Dispatchable, DispatchError, ModuleError};
use std::{
	collections::BTreeMap,
	panic::{catch_unwind, AssertUnwindSafe},
	time::{Duration, Instant},
};

const STEPS_PER_CHAIN: usize = 400;
const SHRINK_SECONDS: u64 = 30;
const PEOPLE: u64 = 10;
const NETUIDS: u64 = 3;

/// One step of a life: blocks pass, a call is made, or somebody sends the pallet money.
#[derive(Clone, Debug)]
enum Step {
	Blocks(u64),
	Call(Who, Box<Call<Test>>),
	Gift(u64),
}

#[derive(Clone, Copy, Debug)]
enum Who {
	Root,
	Account(AccountId),
}

/// Weights to be committed and revealed.
struct Promise {
	netuid: NetUid,
	hotkey: AccountId,
	uids: Column<Test, Uid>,
	values: Column<Test, u16>,
	salt: Salt,
}

impl Promise {
	const VERSION_KEY: u64 = 2;

	fn hash(&self) -> H256 {
		let version_key = Self::VERSION_KEY;
		Subnet::commit_hash(
			&self.hotkey,
			self.netuid,
			&self.uids,
			&self.values,
			&self.salt,
			version_key,
		)
	}

	fn committed(self) -> (Who, Call<Test>) {
		let (netuid, commit_hash) = (self.netuid, self.hash());
		let call = Call::commit_weights {
			netuid,
			commit_hash,
		};
		(Who::Account(self.hotkey), call)
	}

	/// In its own subnet and in `others`.
	fn committed_in_batch(self, others: usize) -> (Who, Call<Test>) {
		let netuids = (self.netuid..).take(1 + others);
		let call = Call::batch_commit_weights {
			netuids: netuids
				.map(codec::Compact)
				.collect::<Vec<_>>()
				.try_into()
				.unwrap(),
			commit_hashes: vec![self.hash(); 1 + others].try_into().unwrap(),
		};
		(Who::Account(self.hotkey), call)
	}

	fn revealed(self) -> (Who, Call<Test>) {
		let Self {
			netuid,
			hotkey,
			uids,
			values,
			salt,
		} = self;
		let version_key = Self::VERSION_KEY;
		let call = Call::reveal_weights {
			netuid,
			uids,
			values,
			salt,
			version_key,
		};
		(Who::Account(hotkey), call)
	}

	/// So many times.
	fn revealed_in_batch(self, times: usize) -> (Who, Call<Test>) {
		let call = Call::batch_reveal_weights {
			netuid: self.netuid,
			uids_list: vec![self.uids; times].try_into().unwrap(),
			values_list: vec![self.values; times].try_into().unwrap(),
			salts_list: vec![self.salt; times].try_into().unwrap(),
			version_keys: vec![Self::VERSION_KEY; times].try_into().unwrap(),
		};
		(Who::Account(self.hotkey), call)
	}
}

/// SplitMix64: small, and the same on every machine.
struct Dice(u64);

impl Dice {
	fn next(&mut self) -> u64 {
		self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
		let mut z = self.0;
		z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
		z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
		z ^ (z >> 31)
	}

	fn below(&mut self, end: u64) -> u64 {
		self.next() % end
	}

	fn chance(&mut self, percent: u64) -> bool {
		self.below(100) < percent
	}

	fn coldkey(&mut self) -> AccountId {
		if self.chance(8) {
			return OWNER;
		}
		coldkey(self.below(PEOPLE))
	}

	/// Some more often than others, so that people meet.
	fn skewed(&mut self, end: u64) -> u64 {
		self.below(end).min(self.below(end))
	}

	fn hotkey(&mut self) -> AccountId {
		if self.chance(4) {
			return OWNER;
		}
		hotkey(self.skewed(PEOPLE))
	}

	/// Existing ones, mostly.
	fn netuid(&mut self) -> NetUid {
		if self.chance(3) {
			return self.below(12) as NetUid;
		}
		1 + self.skewed(NETUIDS) as NetUid
	}

	/// Small, likely, or extreme.
	fn rao(&mut self) -> u64 {
		match self.below(10) {
			0 => 0,
			1 => u64::MAX - self.below(2),
			2 | 3 => self.below(5_000),
			_ => self.below(WEALTH / 50),
		}
	}

	fn small(&mut self) -> u64 {
		match self.below(12) {
			0 => u64::MAX,
			1 => 0,
			_ => self.below(20),
		}
	}

	fn row(&mut self) -> (Column<Test, Uid>, Column<Test, u16>) {
		let length = self.below(5);
		let mut uids: Vec<Uid> = (0..length).map(|_| self.below(8) as Uid).collect();
		if self.chance(80) {
			uids.sort_unstable();
			uids.dedup();
		}
		let missing = self.chance(3) as usize;
		let values = uids.iter().skip(missing).map(|_| match self.below(4) {
			0 => 0,
			1 => u16::MAX,
			_ => self.next() as u16,
		});
		let values = values.collect::<Vec<_>>();
		(uids.try_into().unwrap(), values.try_into().unwrap())
	}

	fn maybe<T>(&mut self, percent: u64, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
		self.chance(percent).then(|| value(self))
	}

	fn update(&mut self) -> HyperparamsUpdate {
		HyperparamsUpdate {
			tempo: self.maybe(15, |d| d.small() as u16),
			burn: self.maybe(8, Self::rao),
			max_allowed_uids: self.maybe(15, |d| 1 + d.below(8) as u16),
			commit_reveal_weights_enabled: self.maybe(15, |d| d.chance(60)),
			weights_set_rate_limit: self.maybe(8, |d| d.below(4)),
			min_allowed_weights: self.maybe(5, |d| d.below(4) as u16),
			reveal_period_epochs: self.maybe(10, |d| d.below(5)),
			kappa: self.maybe(5, |d| d.next() as u16),
			yuma3: self.maybe(10, |d| d.chance(50)),
			liquid_alpha: self.maybe(10, |d| d.chance(50)),
			bonds_penalty: self.maybe(5, |d| d.next() as u16),
			max_allowed_validators: self.maybe(8, |d| d.below(5) as u16),
			stake_threshold_rao: self.maybe(4, Self::rao),
			immunity_period: self.maybe(8, |d| d.below(40) as u16),
			weights_version_key: self.maybe(3, |d| d.below(3)),
			serving_rate_limit: self.maybe(5, |d| d.below(3)),
			registration_allowed: self.maybe(4, |d| d.chance(80)),
			burn_half_life: self.maybe(5, |d| d.next() as u16),
			owner_cut: self.maybe(8, |d| d.next() as u16),
			..Default::default()
		}
	}

	/// Weights whose commit can be found again: few rows, few salts.
	fn promise(&mut self, hotkey: AccountId) -> Promise {
		Promise {
			netuid: self.netuid(),
			hotkey,
			uids: vec![self.below(3) as Uid].try_into().unwrap(),
			values: vec![u16::MAX].try_into().unwrap(),
			salt: salt(self.below(2) as u8),
		}
	}

	/// Somebody who may vote where votes are plain or promised, if there is one.
	fn voter(&mut self, promised: bool) -> Option<(NetUid, AccountId)> {
		let voters: Vec<_> = Keys::<Test>::iter()
			.filter(|(netuid, _, _)| CommitRevealWeightsEnabled::<Test>::get(netuid) == promised)
			.filter(|(netuid, uid, _)| Subnet::has_permit(*netuid, *uid))
			.map(|(netuid, _, hotkey)| (netuid, hotkey))
			.collect();
		let at = self.below(voters.len().max(1) as u64) as usize;
		voters.get(at).copied().filter(|_| self.chance(80))
	}

	/// Where somebody has stake, the more likely the more there are.
	fn staked_on(&mut self) -> Option<(NetUid, AccountId)> {
		let stakes: Vec<_> = Stake::<Test>::iter_keys().collect();
		let at = self.below(stakes.len().max(1) as u64) as usize;
		let (netuid, hotkey, _) = stakes.get(at).copied().filter(|_| self.chance(70))?;
		Some((netuid, hotkey))
	}

	/// Something that was promised, if anything was; what is due now, mostly.
	fn owed_reveal(&mut self) -> Option<Promise> {
		let now_only = self.chance(70);
		let commits: Vec<_> = WeightCommits::<Test>::iter()
			.flat_map(|(netuid, hotkey, queue)| queue.into_iter().map(move |c| (netuid, hotkey, c)))
			.filter(|(netuid, _, commit)| {
				!now_only || commit.reveal_epoch == Subnet::current_epoch(*netuid)
			})
			.collect();
		let at = self.below(commits.len().max(1) as u64) as usize;
		let (netuid, hotkey, commit) = commits.get(at)?;
		let wanted = commit.hash;
		(0..3)
			.flat_map(|target| [(target, 0), (target, 1)])
			.map(|(target, byte)| Promise {
				netuid: *netuid,
				hotkey: *hotkey,
				uids: vec![target].try_into().unwrap(),
				values: vec![u16::MAX].try_into().unwrap(),
				salt: salt(byte),
			})
			.find(|promise| promise.hash() == wanted)
	}

	/// A registration by work, whose seal is right if the difficulty is low.
	fn work(&mut self, netuid: NetUid, coldkey: AccountId, hotkey: AccountId) -> Call<Test> {
		let work_block = System::block_number().saturating_sub(self.below(6));
		let nonce = self.next();
		let seal = pow_seal(
			netuid,
			System::block_hash(work_block),
			&hotkey,
			&coldkey,
			nonce,
		);
		Call::pow_register {
			netuid,
			work_block,
			nonce,
			work: seal.to_vec().try_into().unwrap(),
			hotkey,
		}
	}

	/// Any call, signed by whom it is meant for, mostly.
	fn call(&mut self) -> (Who, Call<Test>) {
		let hot = self.hotkey();
		let cold = match Owner::<Test>::get(hot) {
			Some(owner) if self.chance(85) => owner,
			_ => self.coldkey(),
		};
		let (by_cold, by_hot) = (Who::Account(cold), Who::Account(hot));
		let (netuid, hotkey) = (self.netuid(), hot);
		match self.below(23) {
			0 | 1 => (by_cold, Call::burned_register { netuid, hotkey }),
			2 => {
				let limit_price = self.rao();
				(
					by_cold,
					Call::register_limit {
						netuid,
						hotkey,
						limit_price,
					},
				)
			}
			3 | 4 => {
				let amount_staked = self.rao();
				let who = Who::Account(self.coldkey());
				// Where others are, so that lists of nominators fill.
				let (netuid, hotkey) = self.staked_on().unwrap_or((netuid, hotkey));
				(
					who,
					Call::add_stake {
						hotkey,
						netuid,
						amount_staked,
					},
				)
			}
			5 => {
				let (amount_staked, limit_price) =
					(self.rao(), 900_000_000 + self.below(2) * 200_000_000);
				let allow_partial = self.chance(50);
				(
					by_cold,
					Call::add_stake_limit {
						hotkey,
						netuid,
						amount_staked,
						limit_price,
						allow_partial,
					},
				)
			}
			6 | 7 => {
				let stakes: Vec<_> = Stake::<Test>::iter_keys().collect();
				let at = self.below(stakes.len().max(1) as u64) as usize;
				let some = stakes.get(at).copied().filter(|_| self.chance(60));
				let (netuid, hotkey, cold) = some.unwrap_or((netuid, hotkey, cold));
				let amount_unstaked = match self.chance(40) {
					true => Stake::<Test>::get((netuid, hotkey, cold)),
					false => self.rao(),
				};
				(
					Who::Account(cold),
					Call::remove_stake {
						hotkey,
						netuid,
						amount_unstaked,
					},
				)
			}
			8 => {
				let (amount_unstaked, limit_price) =
					(self.rao(), 900_000_000 + self.below(2) * 200_000_000);
				let allow_partial = self.chance(50);
				(
					by_cold,
					Call::remove_stake_limit {
						hotkey,
						netuid,
						amount_unstaked,
						limit_price,
						allow_partial,
					},
				)
			}
			9 if self.chance(30) => {
				let (commitment, is_open) = (hash(self.below(9) as u8), self.chance(50));
				(
					by_hot,
					Call::commit_model {
						netuid,
						commitment,
						is_open,
					},
				)
			}
			9 => {
				let (ip, port) = (
					u128::from(u32::from_be_bytes([8, 8, 8, 8])),
					self.below(9) as u16,
				);
				let (version, ip_type) = (1, 4 + u8::from(self.chance(10)));
				let (protocol, placeholder1, placeholder2) = (0, 0, 0);
				(
					by_hot,
					Call::serve_axon {
						netuid,
						version,
						ip,
						port,
						ip_type,
						protocol,
						placeholder1,
						placeholder2,
					},
				)
			}
			10 | 11 => {
				let (dests, weights) = self.row();
				let (mecid, version_key) = (self.chance(3).into(), 2 * u64::from(self.chance(90)));
				let (netuid, voter) = self.voter(false).unwrap_or((netuid, hotkey));
				if self.chance(20) {
					return (
						Who::Account(voter),
						Call::set_weights {
							netuid,
							dests,
							weights,
							version_key,
						},
					);
				}
				(
					Who::Account(voter),
					Call::set_mechanism_weights {
						netuid,
						mecid,
						dests,
						weights,
						version_key,
					},
				)
			}
			12 | 13 => {
				let mut promise = self.promise(hot);
				if let Some((netuid, voter)) = self.voter(true) {
					(promise.netuid, promise.hotkey) = (netuid, voter);
				}
				match self.chance(30) {
					true => promise.committed_in_batch(self.below(3) as usize),
					false => promise.committed(),
				}
			}
			14 | 15 => {
				let owed = self.owed_reveal().filter(|_| self.chance(85));
				let promise = owed.unwrap_or_else(|| self.promise(hot));
				match self.chance(30) {
					true => promise.revealed_in_batch(self.below(3) as usize),
					false => promise.revealed(),
				}
			}
			16 => {
				let take = self.below(13_000) as u16;
				match self.chance(50) {
					true => (by_cold, Call::increase_take { hotkey, take }),
					false => (by_cold, Call::decrease_take { hotkey, take }),
				}
			}
			17 => {
				let who = if self.chance(60) {
					Who::Root
				} else {
					Who::Account(OWNER)
				};
				let update = self.update();
				(who, Call::set_hyperparams { netuid, update })
			}
			18 => {
				let shares = (0..self.below(4)).map(|_| (self.netuid(), self.next() as u16));
				let shares = shares.collect::<Vec<_>>().try_into().unwrap();
				(Who::Root, Call::set_emission_shares { shares })
			}
			19 => {
				let max_n = 1 + self.below(7) as u16;
				let who = Who::Account(SubnetOwner::<Test>::get(netuid).unwrap_or(OWNER));
				(who, Call::trim_subnet { netuid, max_n })
			}
			20 => {
				let name: Label = vec![self.next() as u8; 3].try_into().unwrap();
				let symbol = name.clone();
				let owner = SubnetOwner::<Test>::get(netuid).unwrap_or(cold);
				let call = Call::set_subnet_name {
					netuid,
					name,
					symbol,
				};
				(Who::Account(owner), call)
			}
			21 => match self.chance(20) {
				true => (by_cold, Call::register_network { hotkey }),
				false => (by_cold, self.work(netuid, cold, hotkey)),
			},
			_ => {
				let (hash, url) = (H256::repeat_byte(1), Default::default());
				(
					Who::Account(self.coldkey()),
					Call::set_subnet_spec { netuid, hash, url },
				)
			}
		}
	}

	fn step(&mut self) -> Step {
		match self.below(10) {
			0 | 1 => Step::Blocks(1 + self.below(15)),
			2 if self.chance(10) => Step::Gift(self.rao() % WEALTH),
			_ => {
				let (mut who, call) = self.call();
				if self.chance(4) {
					who = Who::Account(self.below(30));
				}
				Step::Call(who, Box::new(call))
			}
		}
	}
}

/// What the steps reached: successes by call, failures by error.
#[derive(Default)]
struct Reached {
	done: BTreeMap<&'static str, u64>,
	failed: BTreeMap<String, u64>,
	deferred: u64,
	displaced: u64,
	steps: u64,
}

fn chain() -> sp_io::TestExternalities {
	let subnets = vec![subnet(1), secret_subnet(2), secret_subnet(3)];
	ExtBuilder::of(subnets)
		.with(|h| {
			h.max_allowed_uids = Some(6);
			h.min_non_immune_uids = Some(1);
			h.owner_cut = Some(11_796);
			h.network_pow_registration_allowed = Some(true);
			h.difficulty = Some(1);
			h.min_difficulty = Some(1);
		})
		.genesis(|g| {
			g.limits.admin_freeze_window = Some(2);
			g.limits.min_owner_tempo = Some(3);
			g.limits.min_owner_uids = Some(2);
			g.limits.network_min_lock_cost = Some(1_000_000);
			g.limits.trim_rate_limit = Some(10);
			g.limits.tx_delegate_take_rate_limit = Some(20);
			g.max_epochs_per_block = Some(1);
		})
		.build()
}

fn all_balances() -> u64 {
	frame_system::Account::<Test>::iter_values()
		.map(|account| account.data.free + account.data.reserved)
		.sum()
}

/// What everybody has, free and staked.
fn wealth() -> BTreeMap<AccountId, u64> {
	let mut wealth: BTreeMap<_, _> = frame_system::Account::<Test>::iter()
		.filter(|(account, _)| *account != Subnet::account_id())
		.map(|(account, info)| (account, info.data.free + info.data.reserved))
		.collect();
	for ((_, _, coldkey), rao) in Stake::<Test>::iter() {
		*wealth.entry(coldkey).or_default() += rao;
	}
	wealth
}

/// Who has more, or less, than before.
fn changed(
	before: &BTreeMap<AccountId, u64>,
	is_worse: impl Fn(u64, u64) -> bool,
) -> Vec<AccountId> {
	let after = wealth();
	let had = |account| before.get(account).copied().unwrap_or(0);
	let has = |account| after.get(account).copied().unwrap_or(0);
	let everybody = before.keys().chain(after.keys());
	everybody
		.filter(|account| is_worse(had(*account), has(*account)))
		.copied()
		.collect()
}

/// Block of the last vote of each neuron.
fn last_votes() -> BTreeMap<(NetUid, AccountId), u64> {
	let last = |netuid, uid| LastUpdate::<Test>::get(netuid)[usize::from(uid)];
	Keys::<Test>::iter()
		.map(|(netuid, uid, hotkey)| ((netuid, hotkey), last(netuid, uid)))
		.collect()
}

/// Lets one block pass and checks what the scheduler did in it.
fn pass_block() {
	let epochs = |netuid: &NetUid| SubnetEpochIndex::<Test>::get(netuid);
	let netuids = Subnet::netuids();
	let before: Vec<_> = netuids.iter().map(epochs).collect();
	let now = System::block_number() + 1;
	run_to(now);
	let ran: Vec<_> = events()
		.into_iter()
		.filter_map(|event| match event {
			Event::EpochRan { netuid, epoch, .. } => Some((netuid, epoch)),
			_ => None,
		})
		.collect();
	assert!(ran.len() <= usize::from(MaxEpochsPerBlock::<Test>::get()));
	for (netuid, _) in &ran {
		// Until the next epoch there may be more: root may lower the limit.
		let permits = ValidatorPermit::<Test>::get(netuid).into_iter();
		let most = SubnetHyperparams::<Test>::get(netuid).max_allowed_validators;
		let given = permits.filter(|permit| *permit).count();
		assert!(given <= usize::from(most) + 1, "too many permits");
	}
	for (netuid, before) in netuids.iter().zip(before) {
		let expected: Vec<_> = ran.iter().filter(|(of, _)| of == netuid).collect();
		assert_eq!(before + expected.len() as u64, epochs(netuid));
		assert!(expected.iter().all(|(_, epoch)| *epoch == before));
		let next = Subnet::next_epoch_start_block(*netuid);
		assert!(next.is_none_or(|next| next > now), "an epoch is overdue");
	}
}

/// Whether the call reveals what its hotkey promised for the epoch of now.
fn is_due(call: &Call<Test>, who: &Who) -> bool {
	let (
		Call::reveal_weights {
			netuid,
			uids,
			values,
			salt,
			version_key,
		},
		Who::Account(hotkey),
	) = (call, who)
	else {
		return false;
	};
	let hash = Subnet::commit_hash(hotkey, *netuid, uids, values, salt, *version_key);
	let epoch = Subnet::current_epoch(*netuid);
	WeightCommits::<Test>::get(netuid, hotkey)
		.iter()
		.any(|commit| commit.hash == hash && commit.reveal_epoch == epoch)
}

/// What may keep a promise from being kept: the voter itself, its vote, or a rule of root's.
const BROKEN_PROMISES: [&str; 5] = [
	"NeuronNoValidatorPermit",
	"NotEnoughStakeToSetWeights",
	"UidVecContainInvalidOne",
	"IncorrectWeightVersionKey",
	"WeightVecLengthIsLow",
];

/// Takes one step and checks everything. Panics if something is wrong.
fn take(step: &Step, gifts: &mut u64, reached: &mut Reached) {
	reached.steps += 1;
	let had = wealth();
	match step {
		Step::Blocks(count) => {
			for _ in 0..*count {
				pass_block();
				let is_deferral =
					|event: &Event<Test>| matches!(event, Event::EpochDeferred { .. });
				reached.deferred +=
					events().iter().filter(|event| is_deferral(event)).count() as u64;
			}
			*gifts = 0; // shared out with the emission
			let poorer = changed(&had, |had, has| has < had);
			assert!(poorer.is_empty(), "time took from {poorer:?}");
		}
		Step::Gift(rao) => {
			use frame_support::traits::{fungible::Mutate, tokens::Preservation};
			let keep = Preservation::Preserve;
			let to = Subnet::account_id();
			if <Balances as Mutate<_>>::transfer(&NOMINATOR, &to, *rao, keep).is_ok() {
				*gifts += rao;
			}
		}
		Step::Call(who, call) => {
			let origin = match who {
				Who::Root => RuntimeOrigin::root(),
				Who::Account(account) => signed(*account),
			};
			let guarded = match who {
				Who::Account(account) => Subnet::check_free_call(account, call).is_ok(),
				Who::Root => true,
			};
			// Dear, so now and then.
			let root = || sp_io::storage::root(sp_core::storage::StateVersion::V1);
			System::reset_events();
			let before = reached.steps.is_multiple_of(10).then(root);
			let (votes, due) = (last_votes(), is_due(call, who));
			let outcome = RuntimeCall::Subnet((**call).clone()).dispatch(origin);
			let name = call.get_call_name();
			match outcome {
				Ok(_) => {
					assert!(guarded, "the guard refuses a call that succeeds");
					*reached.done.entry(name).or_default() += 1;
				}
				Err(failed) => {
					if let Some(before) = before {
						assert_eq!(before, root(), "a call that failed left a trace");
					}
					let is_free = FREE.contains(&name);
					assert!(
						!(is_free && guarded),
						"the guard lets a free call in that fails"
					);
					let error = name_of(failed.error);
					assert!(
						!due || BROKEN_PROMISES.contains(&error.as_str()),
						"a promise that is due is refused: {error}"
					);
					*reached.failed.entry(error).or_default() += 1;
				}
			}
			let signer = match who {
				Who::Root => None,
				Who::Account(account) => Some(*account),
			};
			let is_displaced = |event: &Event<Test>| matches!(event, Event::StakeRemoved { coldkey, .. } if Some(*coldkey) != signer);
			reached.displaced += events().iter().filter(|event| is_displaced(event)).count() as u64;
			let richer = changed(&had, |had, has| has > had);
			assert!(richer.is_empty(), "a call gave to {richer:?}");
			let mut poorer = changed(&had, |had, has| has < had);
			poorer.retain(|account| Some(*account) != signer);
			assert!(poorer.is_empty(), "a call took from {poorer:?}");
			for ((netuid, hotkey), after) in last_votes() {
				let before = votes.get(&(netuid, hotkey)).copied().unwrap_or(0);
				let voted = Some(hotkey) == signer || before == 0;
				assert!(after >= before && (after == before || voted));
			}
		}
	}
	Subnet::do_try_state().unwrap();
	assert_eq!(
		Balances::total_issuance(),
		all_balances(),
		"issuance is not what people have"
	);
	let held = Balances::total_balance(&Subnet::account_id());
	assert_eq!(
		held,
		owed() + *gifts,
		"the account does not hold what it owes"
	);
}

const FREE: [&str; 9] = [
	"batch_commit_weights",
	"batch_reveal_weights",
	"commit_model",
	"pow_register",
	"serve_axon",
	"set_weights",
	"set_mechanism_weights",
	"commit_weights",
	"reveal_weights",
];

fn name_of(error: DispatchError) -> String {
	match error {
		DispatchError::Module(ModuleError {
			message: Some(name),
			..
		}) => name.into(),
		other => format!("{other:?}"),
	}
}

/// Whether the steps end well on a new chain.
fn ends_well(steps: &[Step]) -> bool {
	catch_unwind(AssertUnwindSafe(|| {
		chain().execute_with(|| {
			let (mut gifts, mut reached) = (0, Reached::default());
			steps
				.iter()
				.for_each(|step| take(step, &mut gifts, &mut reached));
		})
	}))
	.is_ok()
}

/// Leaves out what is not needed for the failure: halves first, then ever smaller pieces.
fn shrunk(mut steps: Vec<Step>) -> Vec<Step> {
	let until = Instant::now() + Duration::from_secs(SHRINK_SECONDS);
	let mut piece = steps.len() / 2;
	while piece > 0 {
		let mut at = 0;
		while at < steps.len() && Instant::now() < until {
			let mut fewer = steps.clone();
			fewer.drain(at..(at + piece).min(steps.len()));
			match ends_well(&fewer) {
				true => at += piece,
				false => steps = fewer,
			}
		}
		piece /= 2;
	}
	steps
}

fn number(name: &str, default: u64) -> u64 {
	std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn fuzz_random_calls_break_nothing() {
	let until = Instant::now() + Duration::from_secs(number("FUZZ_SECONDS", 15));
	let mut seed = number("FUZZ_SEED", 1);
	let mut reached = Reached::default();
	let mut chains = 0u64;
	while chains == 0 || Instant::now() < until {
		let mut dice = Dice(seed);
		let mut steps = Vec::new();
		let ended = catch_unwind(AssertUnwindSafe(|| {
			chain().execute_with(|| {
				let mut gifts = 0;
				for _ in 0..STEPS_PER_CHAIN {
					steps.push(dice.step());
					take(steps.last().unwrap(), &mut gifts, &mut reached);
				}
			})
		}));
		if ended.is_err() {
			let few = shrunk(steps);
			panic!("FUZZ_SEED={seed} fails; these steps do it:\n{few:#?}");
		}
		seed += 1;
		chains += 1;
	}
	println!(
		"{chains} chains, {} steps, {} epochs deferred, {} nominators displaced",
		reached.steps, reached.deferred, reached.displaced
	);
	println!("succeeded: {:?}", reached.done);
	println!("failed: {:?}", reached.failed);
	let never: Vec<_> = Call::<Test>::get_call_names()
		.iter()
		.filter(|name| !reached.done.contains_key(**name))
		.collect();
	println!("never succeeded: {never:?}");
	let scale_info::TypeDef::Variant(errors) = Error::<Test>::type_info().type_def else {
		panic!("errors are an enum")
	};
	let names = errors.variants.iter().map(|variant| variant.name);
	let never: Vec<_> = names
		.filter(|name| !reached.failed.contains_key(*name))
		.collect();
	println!("errors never met: {never:?}");
}
