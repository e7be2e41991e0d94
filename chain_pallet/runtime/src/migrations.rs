//! What an upgrade does to the state that it finds.
//!
//! Whoever changes what a pallet stores raises its `STORAGE_VERSION` and appends a
//! [`VersionedMigration`](polkadot_sdk::frame_support::migrations::VersionedMigration) from the
//! version before. It runs in the first block of the new runtime, before anything else, and only
//! where the chain has that version; so it stays here as long as there may be such a chain.
//! `spec_version` must be raised too, or nothing runs.

/// Oldest first. None yet: no release stored anything in another way.
#[cfg(not(test))]
pub type Migrations = ();

/// The tests' own, to see that these run at all.
#[cfg(test)]
pub type Migrations = (crate::tests::upgrade::Example,);
