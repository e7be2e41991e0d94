//! What clients know of the chain, as a text under version control.
//!
//! A change of `metadata.txt` is a change for every client: look at the difference, raise
//! `spec_version` (and `transaction_version` if the encoding of a call or an extension changed),
//! and accept it with `ACCEPT_METADATA=1 cargo test -p moesubnet-runtime metadata`.

use super::compat::metadata;
use super::*;
use alloc::{collections::BTreeSet, format, string::String};
use frame_metadata::v15::{RuntimeMetadataV15, StorageEntryType};
use scale_info::{form::PortableForm, Field, TypeDef, TypeDefPrimitive};
use sp_core::hexdisplay::HexDisplay;

const ACCEPTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/tests/metadata.txt");
/// Types of these crates are ours; the others are the SDK's.
const OURS: [&str; 3] = [
	"pallet_subnet",
	"pallet_subnet_runtime_api",
	"moesubnet_runtime",
];

struct Names<'a>(&'a RuntimeMetadataV15);

impl Names<'_> {
	/// A type as one writes it in Rust, without paths.
	fn of(&self, id: u32) -> String {
		let ty = self.0.types.resolve(id).unwrap();
		let list = |ids: Vec<u32>| {
			ids.into_iter()
				.map(|id| self.of(id))
				.collect::<Vec<_>>()
				.join(", ")
		};
		match &ty.type_def {
			TypeDef::Primitive(TypeDefPrimitive::Str) => "str".into(),
			TypeDef::Primitive(primitive) => format!("{primitive:?}").to_lowercase(),
			TypeDef::Sequence(of) => format!("Vec<{}>", self.of(of.type_param.id)),
			TypeDef::Array(of) => format!("[{}; {}]", self.of(of.type_param.id), of.len),
			TypeDef::Tuple(of) => format!("({})", list(of.fields.iter().map(|id| id.id).collect())),
			TypeDef::Compact(of) => format!("Compact<{}>", self.of(of.type_param.id)),
			TypeDef::BitSequence(_) => "BitVec".into(),
			TypeDef::Composite(_) | TypeDef::Variant(_) => {
				let name = ty.path.segments.last().unwrap();
				let parameters: Vec<_> = ty.type_params.iter().filter_map(|p| p.ty).collect();
				match parameters.is_empty() {
					true => name.clone(),
					false => format!(
						"{name}<{}>",
						list(parameters.iter().map(|id| id.id).collect())
					),
				}
			}
		}
	}

	fn fields(&self, fields: &[Field<PortableForm>]) -> String {
		let field = |field: &Field<PortableForm>| match &field.name {
			Some(name) => format!("{name}: {}", self.of(field.ty.id)),
			None => self.of(field.ty.id),
		};
		fields.iter().map(field).collect::<Vec<_>>().join(", ")
	}

	/// One line for each variant of an enum: `kind index name(fields)`.
	fn variants(&self, kind: &str, id: u32, lines: &mut Vec<String>) {
		if let TypeDef::Variant(variants) = &self.0.types.resolve(id).unwrap().type_def {
			for variant in &variants.variants {
				let fields = self.fields(&variant.fields);
				lines.push(format!(
					"\t{kind} {} {}({fields})",
					variant.index, variant.name
				));
			}
		}
	}
}

fn snapshot() -> String {
	let metadata = metadata();
	let names = Names(&metadata);
	let mut lines = vec![format!(
		"transaction version {}",
		crate::VERSION.transaction_version
	)];
	for extension in &metadata.extrinsic.signed_extensions {
		let (ty, signed) = (
			names.of(extension.ty.id),
			names.of(extension.additional_signed.id),
		);
		lines.push(format!(
			"extension {}: {ty}, signed with {signed}",
			extension.identifier
		));
	}
	for pallet in &metadata.pallets {
		lines.push(format!("\npallet {} {}", pallet.index, pallet.name));
		for calls in pallet.calls.iter() {
			names.variants("call", calls.ty.id, &mut lines);
		}
		for entry in pallet.storage.iter().flat_map(|storage| &storage.entries) {
			let what = match &entry.ty {
				StorageEntryType::Plain(value) => names.of(value.id),
				StorageEntryType::Map {
					hashers,
					key,
					value,
				} => {
					let (key, value) = (names.of(key.id), names.of(value.id));
					format!("{hashers:?} {key} => {value}")
				}
			};
			let default = HexDisplay::from(&entry.default);
			lines.push(format!(
				"\tstorage {}: {what}, {:?} 0x{default}",
				entry.name, entry.modifier
			));
		}
		for events in pallet.event.iter() {
			names.variants("event", events.ty.id, &mut lines);
		}
		for errors in pallet.error.iter() {
			names.variants("error", errors.ty.id, &mut lines);
		}
		for constant in &pallet.constants {
			let value = match constant.value.len() {
				0..=16 => format!(" = 0x{}", HexDisplay::from(&constant.value)),
				_ => String::new(), // large, and names the version
			};
			let ty = names.of(constant.ty.id);
			lines.push(format!("\tconstant {}: {ty}{value}", constant.name));
		}
	}
	for api in &metadata.apis {
		lines.push(format!("\nruntime api {}", api.name));
		for method in &api.methods {
			let inputs = method
				.inputs
				.iter()
				.map(|p| format!("{}: {}", p.name, names.of(p.ty.id)));
			let inputs = inputs.collect::<Vec<_>>().join(", ");
			lines.push(format!(
				"\t{}({inputs}) -> {}",
				method.name,
				names.of(method.output.id)
			));
		}
	}
	let mut types = BTreeSet::new();
	for (id, ty) in metadata.types.types.iter().map(|ty| (ty.id, &ty.ty)) {
		let ours = OURS
			.iter()
			.any(|krate| ty.path.segments.first().is_some_and(|s| s == krate));
		match &ty.type_def {
			TypeDef::Composite(of) if ours => {
				types.insert(format!(
					"type {} {{ {} }}",
					names.of(id),
					names.fields(&of.fields)
				));
			}
			TypeDef::Variant(_) if ours && ty.path.segments.iter().all(|s| s != "pallet") => {
				let mut variants = vec![format!("type {}", names.of(id))];
				names.variants("variant", id, &mut variants);
				types.insert(variants.join("\n"));
			}
			_ => {}
		}
	}
	lines.push(String::new());
	lines.extend(types);
	lines.join("\n") + "\n"
}

/// Lines of one text that the other lacks, each behind `sign` and the pallet or API it stands in.
fn lacking(text: &str, other: &str, sign: char) -> Vec<String> {
	let placed = |text: &str| {
		let mut place = String::new();
		let mut lines = Vec::new();
		for line in text.lines() {
			if !line.starts_with('\t') {
				place = line.into();
			}
			let inside = line.strip_prefix('\t');
			lines.push(inside.map_or(line.into(), |inside| format!("{place}: {inside}")));
		}
		lines
	};
	let known: BTreeSet<_> = placed(other).into_iter().collect();
	let new = placed(text)
		.into_iter()
		.filter(|line| !known.contains(line));
	new.map(|line| format!("{sign} {line}")).collect()
}

#[test]
fn what_clients_know_of_the_chain_changes_only_on_purpose() {
	on("development", || {
		let now = snapshot();
		if std::env::var_os("ACCEPT_METADATA").is_some() {
			std::fs::write(ACCEPTED, &now).unwrap();
		}
		let accepted = std::fs::read_to_string(ACCEPTED).unwrap_or_default();
		let mut changes = lacking(&accepted, &now, '-');
		changes.extend(lacking(&now, &accepted, '+'));
		assert!(
			now == accepted,
			"clients will see this change:\n\n{}\n\nIf it is meant: raise spec_version (and \
			 transaction_version if a call's or an extension's encoding changed), then\n\
			 ACCEPT_METADATA=1 cargo test -p moesubnet-runtime metadata\n",
			changes.join("\n")
		);
	});
}
