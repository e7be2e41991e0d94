//! Registration by work.

use crate::{mock::*, pow::*, *};
use codec::Encode;
use frame_support::{
	assert_noop, assert_ok,
	dispatch::{GetDispatchInfo, Pays},
	traits::fungible::Inspect,
};
use sp_runtime::{
	traits::DispatchTransaction,
	transaction_validity::{InvalidTransaction, TransactionSource, TransactionValidityError},
};

/// A coldkey that never had an account.
const POOR: AccountId = 777_777;
const DIFFICULTY: u64 = 8;

fn open() -> ExtBuilder {
	ExtBuilder::default().with(|h| {
		h.network_pow_registration_allowed = Some(true);
		h.difficulty = Some(DIFFICULTY);
		h.min_difficulty = Some(DIFFICULTY);
		h.burn_half_life = Some(10);
	})
}

/// The first nonce whose seal meets the difficulty, or does not.
fn mine(coldkey: AccountId, hotkey: AccountId, block: u64, good: bool) -> (u64, Seal) {
	let difficulty = Difficulty::<Test>::get(NETUID);
	let sealed = |nonce| {
		(
			nonce,
			seal(NETUID, hash(block as u8), &hotkey, &coldkey, nonce),
		)
	};
	let mut tried = (0..).map(sealed);
	let (nonce, seal) = tried
		.find(|(_, seal)| meets(seal, difficulty) == good)
		.unwrap();
	(nonce, seal.to_vec().try_into().unwrap())
}

fn call(coldkey: AccountId, hotkey: AccountId, block: u64) -> Call<Test> {
	let (nonce, work) = mine(coldkey, hotkey, block, true);
	Call::pow_register {
		netuid: NETUID,
		work_block: block,
		nonce,
		work,
		hotkey,
	}
}

fn join(coldkey: AccountId, hotkey: AccountId, block: u64) -> sp_runtime::DispatchResult {
	let (nonce, work) = mine(coldkey, hotkey, block, true);
	Subnet::pow_register(signed(coldkey), NETUID, block, nonce, work, hotkey)
}

type Checks = (CheckNonce<Test>, CheckFreeCalls<Test>);

fn checks(nonce: u32) -> Checks {
	(CheckNonce::from(nonce), CheckFreeCalls::new())
}

/// Puts a transaction into a block: the reason if the author had to leave it out.
fn include(
	coldkey: AccountId,
	nonce: u32,
	call: Call<Test>,
) -> Result<sp_runtime::DispatchResult, InvalidTransaction> {
	let call = RuntimeCall::Subnet(call);
	let info = call.get_dispatch_info();
	let included = frame_support::storage::with_storage_layer(|| {
		checks(nonce)
			.dispatch_transaction(signed(coldkey), call, &info, 0, 0)
			.map_err(|error| match error {
				TransactionValidityError::Invalid(reason) => Refused(reason),
				other => panic!("{other:?}"),
			})
	});
	included
		.map(|result| result.map(drop).map_err(|e| e.error))
		.map_err(|Refused(reason)| reason)
}

struct Refused(InvalidTransaction);

impl From<sp_runtime::DispatchError> for Refused {
	fn from(error: sp_runtime::DispatchError) -> Self {
		panic!("{error:?}")
	}
}

#[test]
fn a_wallet_without_tokens_joins_by_work() {
	open().build_and_execute(|| {
		run_to(5);
		let issuance = Balances::total_issuance();
		let work = call(POOR, hotkey(0), 4);
		assert_eq!(
			RuntimeCall::Subnet(work.clone())
				.get_dispatch_info()
				.pays_fee,
			Pays::No
		);
		assert_eq!(include(POOR, 0, work), Ok(Ok(())));
		assert_eq!(Owner::<Test>::get(hotkey(0)), Some(POOR));
		assert_eq!(Uids::<Test>::get(NETUID, hotkey(0)), Some(0));
		assert_eq!(LastPowRegistrationBlock::<Test>::get(hotkey(0)), Some(5));
		assert_eq!(Balances::total_issuance(), issuance);
		assert!(events().contains(&Event::NeuronRegistered {
			netuid: NETUID,
			uid: 0,
			hotkey: hotkey(0),
			price_rao: 0
		}));
		// The nonce moved, and the hotkey can sign without a balance.
		assert_eq!(System::account_nonce(POOR), 1);
		assert_eq!(System::account(hotkey(0)).sufficients, 1);
		run_to(6);
		assert_ok!(vote(0, &[(0, 1)]));
	});
}

#[test]
fn the_door_is_open_for_work_only() {
	open().build_and_execute(|| {
		run_to(5);
		let axon = Call::serve_axon {
			netuid: NETUID,
			version: 1,
			ip: 0x0808_0808,
			port: 80,
			ip_type: 4,
			protocol: 0,
			placeholder1: 0,
			placeholder2: 0,
		};
		let paid = Call::burned_register {
			netuid: NETUID,
			hotkey: hotkey(0),
		};
		for other in [axon, paid] {
			assert_eq!(include(POOR, 0, other), Err(InvalidTransaction::Payment));
		}
		let batched = Call::pow_register {
			netuid: NETUID,
			work_block: 4,
			nonce: 0,
			work: vec![0; 32].try_into().unwrap(),
			hotkey: hotkey(0),
		};
		// Without work nothing is left behind: no account, no nonce.
		assert!(include(POOR, 0, batched).is_err());
		assert!(!frame_system::Account::<Test>::contains_key(POOR));
	});
}

#[test]
fn a_transaction_counts_once_whatever_becomes_of_the_nonce() {
	open()
		.with(|h| {
			h.max_allowed_uids = Some(1);
			h.min_non_immune_uids = Some(0);
		})
		.build_and_execute(|| {
			run_to(50);
			let work = call(POOR, hotkey(0), 49);
			assert_eq!(include(POOR, 0, work.clone()), Ok(Ok(())));
			assert_eq!(
				include(POOR, 0, work.clone()),
				Err(InvalidTransaction::Stale)
			);
			assert!(matches!(
				include(POOR, 1, work.clone()),
				Err(InvalidTransaction::Custom(_))
			));

			// The hotkey loses its slot, the coldkey gets tokens, spends them and is reaped.
			BlockAtRegistration::<Test>::insert(NETUID, 0, 0);
			register(1);
			assert!(!Uids::<Test>::contains_key(NETUID, hotkey(0)));
			let pay = |from, to, all| {
				use frame_support::traits::tokens::Preservation;
				let rao = if all {
					Balances::balance(&from)
				} else {
					1_000_000
				};
				<Balances as frame_support::traits::fungible::Mutate<_>>::transfer(
					&from,
					&to,
					rao,
					Preservation::Expendable,
				)
				.unwrap()
			};
			pay(NOMINATOR, POOR, false);
			assert_eq!(System::account_nonce(POOR), 1);
			pay(POOR, NOMINATOR, true);
			assert_eq!(System::account_nonce(POOR), 0);
			BlockAtRegistration::<Test>::insert(NETUID, 0, 0);

			// The replay has the right nonce again, and a block young enough; its seal is used up.
			assert_eq!(include(POOR, 0, work), Err(InvalidTransaction::Custom(255)));
			assert_noop!(join(POOR, hotkey(0), 49), Error::<Test>::InvalidWorkBlock);
			// With a younger block it is new work.
			run_to(52);
			assert_eq!(include(POOR, 0, call(POOR, hotkey(0), 51)), Ok(Ok(())));
		});
}

#[test]
fn a_pool_keeps_one_transaction_per_seal() {
	open().build_and_execute(|| {
		run_to(5);
		let valid = |nonce| {
			let call = RuntimeCall::Subnet(call(POOR, hotkey(0), 4));
			let info = call.get_dispatch_info();
			checks(nonce)
				.validate_only(
					signed(POOR),
					&call,
					&info,
					0,
					TransactionSource::External,
					0,
				)
				.unwrap()
				.0
		};
		let (first, second) = (valid(0), valid(1));
		assert!(first.requires.is_empty());
		assert_eq!(first.provides[0], (POOR, 0u32).encode());
		assert_eq!(second.requires, [first.provides[0].clone()]);
		assert_eq!(first.provides[1], second.provides[1]);
		assert!(first.longevity <= 4);
	});
}

#[test]
fn work_is_checked_down_to_the_bit() {
	open().build_and_execute(|| {
		run_to(50);
		let (nonce, work) = mine(POOR, hotkey(0), 48, true);
		let try_as = |who, netuid, block, nonce, work: &Seal, hotkey| {
			Subnet::pow_register(signed(who), netuid, block, nonce, work.clone(), hotkey)
		};
		let mine_is =
			|who, block, nonce, work: &Seal| try_as(who, NETUID, block, nonce, work, hotkey(0));
		let seal = || Error::<Test>::InvalidSeal;
		assert_noop!(mine_is(POOR + 1, 48, nonce, &work), seal());
		assert_noop!(mine_is(POOR, 47, nonce, &work), seal());
		assert_noop!(mine_is(POOR, 48, nonce + 1, &work), seal());
		assert_noop!(try_as(POOR, NETUID, 48, nonce, &work, hotkey(1)), seal());
		let mut other = work.clone();
		other[31] ^= 1;
		assert_noop!(mine_is(POOR, 48, nonce, &other), seal());
		let short: Seal = work[..31].to_vec().try_into().unwrap();
		assert_noop!(mine_is(POOR, 48, nonce, &short), seal());
		let (nonce, weak) = mine(POOR, hotkey(0), 48, false);
		assert_noop!(
			mine_is(POOR, 48, nonce, &weak),
			Error::<Test>::InvalidDifficulty
		);
		for block in [45, 50, 51, u64::MAX] {
			assert_noop!(
				mine_is(POOR, block, nonce, &weak),
				Error::<Test>::InvalidWorkBlock
			);
		}
		assert_ok!(join(POOR, hotkey(0), 46)); // the oldest that is young enough
		let again = join(POOR, hotkey(0), 49);
		assert_noop!(again, Error::<Test>::HotKeyAlreadyRegisteredInSubNet);
	});
}

#[test]
fn work_is_off_unless_the_subnet_wants_it() {
	ExtBuilder::default()
		.with(|h| {
			h.difficulty = Some(1);
			h.min_difficulty = Some(1);
		})
		.build_and_execute(|| {
			run_to(5);
			assert_noop!(
				join(POOR, hotkey(0), 4),
				Error::<Test>::SubNetRegistrationDisabled
			);
			register(0);
			run_to(20);
			assert_eq!(Difficulty::<Test>::get(NETUID), 1);
		});
	open()
		.with(|h| h.registration_allowed = Some(false))
		.build_and_execute(|| {
			run_to(5);
			assert_noop!(
				join(POOR, hotkey(0), 4),
				Error::<Test>::SubNetRegistrationDisabled
			);
		});
}

#[test]
fn every_registration_raises_the_price_and_the_difficulty() {
	open()
		.with(|h| {
			h.difficulty = Some(1_000);
			h.min_difficulty = Some(100);
			h.max_difficulty = Some(1_500);
		})
		.build_and_execute(|| {
			let costs = || (Burn::<Test>::get(NETUID), Difficulty::<Test>::get(NETUID));
			register(0); // in block 1, before any decay
			assert_eq!(costs(), (PRICE * 126 / 100, 1_260));
			run_to(2);
			let (price, difficulty) = costs();
			assert!(difficulty < 1_260);
			assert_ok!(join(POOR, hotkey(1), 1));
			let risen = (difficulty * 126).div_ceil(100);
			assert_eq!(costs(), ((price * 126).div_ceil(100), risen.min(1_500)));
			run_to(12); // a half-life
			let (_, halved) = costs();
			assert!(
				halved <= risen / 2 && halved > risen / 2 - 20,
				"{risen} {halved}"
			);
			run_to(100);
			assert_eq!(costs(), (PRICE / 2, 100));
			(10..16).for_each(register);
			assert_eq!(costs().1, 1_500.min(costs().1));
		});
}

#[test]
fn a_block_takes_no_more_registrations_by_work_than_it_may() {
	open()
		.with(|h| h.max_registrations_per_block = Some(2))
		.build_and_execute(|| {
			run_to(5);
			for k in 0..2 {
				assert_ok!(join(coldkey(k), hotkey(k), 4));
			}
			let third = call(coldkey(2), hotkey(2), 4);
			assert_eq!(
				include(coldkey(2), 0, third),
				Err(InvalidTransaction::Custom(6))
			);
			register(3); // the price is another way
			assert_eq!(RegistrationsThisBlock::<Test>::get(NETUID), 2);
			run_to(6);
			assert_eq!(RegistrationsThisBlock::<Test>::get(NETUID), 0);
			assert_ok!(join(coldkey(2), hotkey(2), 5));
		});
}

#[test]
fn newcomers_by_work_prune_as_others_do_and_take_nobodys_hotkey() {
	open()
		.with(|h| {
			h.max_allowed_uids = Some(1);
			h.min_non_immune_uids = Some(0);
		})
		.build_and_execute(|| {
			register(0);
			run_to(50);
			assert_noop!(
				join(POOR, hotkey(0), 49),
				Error::<Test>::HotKeyAlreadyRegisteredInSubNet
			);
			assert_ok!(join(POOR, hotkey(1), 49));
			assert_eq!(Keys::<Test>::get(NETUID, 0), Some(hotkey(1)));
			run_to(51);
			assert_noop!(
				join(POOR, hotkey(0), 50),
				Error::<Test>::NonAssociatedColdKey
			);
		});
	open()
		.with(|h| h.max_allowed_uids = Some(1))
		.build_and_execute(|| {
			assert_ok!(Subnet::burned_register(signed(OWNER), NETUID, OWNER));
			run_to(50);
			assert_noop!(
				join(POOR, hotkey(1), 49),
				Error::<Test>::NoNeuronIdAvailable
			);
		});
}

#[test]
fn a_seal_is_a_little_endian_number_against_a_limit() {
	let lowest = [0; 32];
	let mut highest = [0xff; 32];
	assert!(meets(&lowest, u64::MAX) && meets(&highest, 1));
	assert!(!meets(&highest, 2) && !meets(&lowest, 0));
	highest[31] = 0x7f; // 2²⁵⁵ − 1
	assert!(meets(&highest, 2) && !meets(&highest, 3));
}
