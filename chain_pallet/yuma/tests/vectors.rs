//! Every integer of the shared vectors, through the `replay` example.

#![allow(
	clippy::arithmetic_side_effects,
	clippy::indexing_slicing,
	clippy::unwrap_used
)]

#[allow(dead_code)]
#[path = "../examples/replay.rs"]
mod replay;

use serde_json::{json, Value};

const VECTORS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/");

fn read(name: &str) -> Value {
	serde_json::from_str(&std::fs::read_to_string(format!("{VECTORS}{name}")).unwrap()).unwrap()
}

fn document() -> Value {
	read("yuma.json")
}

fn scenario(n: usize, steps: Value) -> Value {
	let mut document = document();
	let mut scenario = document["vectors"][0].take();
	scenario["config"]["n"] = json!(n);
	scenario["steps"] = steps;
	document["vectors"] = json!([scenario]);
	document
}

/// How many epochs of a document come out as it says.
fn matching_epochs(expected: &Value) -> usize {
	let computed = replay::replay(expected.clone()).unwrap();
	let mut epochs = 0;
	for (expected, computed) in list(&expected["vectors"]).zip(list(&computed["vectors"])) {
		let name = &expected["name"];
		for (step, computed) in list(&expected["steps"]).zip(list(&computed["steps"])) {
			assert_eq!(step["stored"], computed["stored"], "{name}");
			for (field, value) in step["expect"].as_object().into_iter().flatten() {
				if *value != "omitted" {
					assert_eq!(*value, computed["expect"][field], "{name}: {field}");
				}
			}
			epochs += usize::from(step["op"] == "epoch");
		}
	}
	epochs
}

#[test]
fn every_scenario_matches_to_the_bit() {
	assert_eq!(matching_epochs(&document()), 32);
}

/// Expected by an independent model of the same rules; chosen to tell every rule from its
/// neighbours: `<` from `≤`, which rows, whose stake, which of two equals.
#[test]
fn every_random_scenario_matches_to_the_bit() {
	assert_eq!(matching_epochs(&read("yuma_random.json")), 63);
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
	value.as_array().unwrap().iter()
}

#[test]
fn what_was_expected_before_does_not_matter() {
	let mut blank = document();
	for scenario in blank["vectors"].as_array_mut().unwrap() {
		for step in scenario["steps"].as_array_mut().unwrap() {
			step.as_object_mut()
				.unwrap()
				.retain(|field, _| field != "stored" && field != "expect");
		}
	}
	assert_eq!(
		replay::replay(blank).unwrap(),
		replay::replay(document()).unwrap()
	);
}

#[test]
fn a_malformed_document_is_refused_with_its_place() {
	let says = |document: Value| replay::replay(document).unwrap_err().to_string();
	for garbage in [json!(null), json!([1]), json!({}), json!({"format": 1})] {
		assert!(says(garbage).contains("yuma-vectors/1"));
	}
	assert!(says(json!({"format": "yuma-vectors/1"})).contains("vectors"));
	let document = |vectors| json!({"format": "yuma-vectors/1", "vectors": vectors});
	assert!(says(document(json!([7]))).contains("scenario 0 (unnamed): no \"config\""));
	assert!(says(scenario(9, json!([]))).contains("(self_weights_10): config: 10 `stakes`"));
	assert!(says(scenario(10, json!({}))).contains("no list \"steps\""));
	for (step, complaint) in [
		(json!(3), "missing field `op`"),
		(json!({"op": 3}), "`op`: invalid type"),
		(json!({"op": "epochs"}), "unknown `op` \"epochs\""),
		(json!({"op": "block"}), "missing field `to`"),
		(
			json!({"op": "epoch", "emission": 1.5}),
			"`emission`: invalid", // how it goes on differs with serde_json's features
		),
		(
			json!({"op": "reregister", "uid": 10, "stake": 0}),
			"uid 10 is not below n = 10",
		),
		(
			json!({"op": "reregister", "uid": 1, "stake": -1}),
			"`stake`: invalid",
		),
		(
			json!({"op": "drop_bonds_on", "uid": 10}),
			"uid 10 is not below",
		),
		(
			json!({"op": "weights", "uid": 0, "dests": [1], "values": []}),
			"1 dests but 0 values",
		),
		(
			json!({"op": "weights", "uid": 0, "dests": [1], "values": [65_536]}),
			"`values`: invalid",
		),
		(
			json!({"op": "weights", "uid": 0, "dests": [10], "values": [1]}),
			"uid 10 is not below",
		),
		(
			json!({"op": "weights", "uid": 10, "dests": [], "values": []}),
			"uid 10 is not below",
		),
		(
			json!({"op": "weights", "uid": 0, "dests": [1, 1], "values": [1, 1]}),
			"given twice",
		),
	] {
		let text = says(scenario(10, json!([{"op": "block", "to": 1}, step])));
		assert!(
			text.contains("step 1") && text.contains(complaint),
			"{text}"
		);
	}
}

#[test]
fn every_field_of_a_config_is_needed_and_named_when_wrong() {
	let config = document()["vectors"][0]["config"].take();
	let says = |config: Value| {
		let mut document = document();
		document["vectors"] = json!([{"config": config, "steps": []}]);
		replay::replay(document).map_err(|error| error.to_string())
	};
	assert!(says(config.clone()).is_ok());
	for field in config.as_object().unwrap().keys() {
		let mut without = config.clone();
		without.as_object_mut().unwrap().remove(field);
		let text = says(without).unwrap_err();
		assert!(
			text.ends_with(&format!("config: missing field `{field}`")),
			"{text}"
		);
		let mut wrong = config.clone();
		wrong[field] = json!("many");
		let text = says(wrong).unwrap_err();
		assert!(
			text.contains(&format!("config: `{field}`: invalid type")),
			"{text}"
		);
	}
	let mut with_stranger = config.clone();
	with_stranger["owner_uid"] = json!(10);
	let text = says(with_stranger).unwrap_err();
	assert!(text.contains("`owner_uid`: uid 10 is not below"), "{text}");
}
