//! A chain across an upgrade of its runtime.

use super::*;
use crate::VERSION;
use frame_support::{
	assert_storage_noop,
	migrations::VersionedMigration,
	storage::unhashed,
	traits::{GetStorageVersion, StorageVersion, UncheckedOnRuntimeUpgrade},
	weights::Weight,
};
use frame_system::{LastRuntimeUpgrade, LastRuntimeUpgradeInfo};

/// A version of the subnets' storage that no chain will have for long.
const BEFORE: u16 = 40_000;
const RUNS: &[u8] = b"runs of the example";

/// How a migration looks; part of `Migrations` in tests.
pub type Example = VersionedMigration<
	BEFORE,
	{ BEFORE + 1 },
	Counted,
	SubtensorModule,
	<Runtime as frame_system::Config>::DbWeight,
>;

pub struct Counted;

impl UncheckedOnRuntimeUpgrade for Counted {
	fn on_runtime_upgrade() -> Weight {
		unhashed::put(RUNS, &(runs() + 1));
		Weight::from_parts(1, 0)
	}
}

fn runs() -> u32 {
	unhashed::get_or_default(RUNS)
}

/// As if all blocks so far were an older runtime's.
fn age() {
	LastRuntimeUpgrade::<Runtime>::put(LastRuntimeUpgradeInfo {
		spec_version: (VERSION.spec_version - 1).into(),
		spec_name: VERSION.spec_name,
	});
}

#[test]
fn genesis_is_of_the_storage_versions_of_the_code() {
	on("development", || {
		assert_eq!(
			SubtensorModule::on_chain_storage_version(),
			SubtensorModule::in_code_storage_version()
		);
		assert_eq!(
			Balances::on_chain_storage_version(),
			Balances::in_code_storage_version()
		);
		assert_eq!(
			crate::Grandpa::on_chain_storage_version(),
			crate::Grandpa::in_code_storage_version()
		);
	});
}

#[test]
fn a_migration_runs_once_in_the_first_block_of_a_new_runtime() {
	on("development", || {
		execute_block(1, 1_000);
		StorageVersion::new(BEFORE).put::<SubtensorModule>();
		execute_block(2, 1_000);
		assert_eq!(runs(), 0, "the runtime is not new");
		age();
		execute_block(3, 1_000);
		assert_eq!(runs(), 1);
		assert_eq!(SubtensorModule::on_chain_storage_version(), BEFORE + 1);
		let last = LastRuntimeUpgrade::<Runtime>::get().unwrap();
		assert_eq!(last.spec_version.0, VERSION.spec_version);
		execute_block(4, 1_000);
		age();
		execute_block(5, 1_000);
		assert_eq!(runs(), 1, "what is migrated is not migrated again");
	});
}

#[test]
fn an_upgrade_without_a_migration_changes_nothing() {
	for (preset, slot_ms) in [("development", 1_000), ("local", 12_000)] {
		on(preset, || {
			execute_block(1, slot_ms);
			age();
			assert_storage_noop!(Executive::execute_on_runtime_upgrade());
		});
	}
}

/// What `try-runtime` would say of an upgrade: everything decodes, and all books agree.
#[cfg(feature = "try-runtime")]
#[test]
fn the_state_after_an_upgrade_decodes_and_keeps_every_invariant() {
	for (preset, slot_ms) in [("development", 1_000), ("local", 12_000)] {
		on(preset, || {
			execute_block(1, slot_ms);
			register_alice();
			execute_block(2, slot_ms);
			age();
			let checks = frame_try_runtime::UpgradeCheckSelect::All;
			assert_ok!(Executive::try_runtime_upgrade(checks));
		});
	}
}
