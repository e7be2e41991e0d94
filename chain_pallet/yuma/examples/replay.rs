//! Replays scenarios of `tests/vectors/yuma.json` through this crate.
//!
//! Reads a document of the format `yuma-vectors/1` from standard input, ignores every `stored` and
//! `expect` in it, and prints the same document with both filled in. Comparing documents compares
//! implementations. Every field of the format must be there; others pass through unread:
//!
//! ```sh
//! cargo run --release -p yuma --example replay < tests/vectors/yuma.json
//! ```

use serde::Deserialize;
use serde_json::{json, Map, Value};
use std::{
	error::Error,
	io::{self, Write},
	process::ExitCode,
};
use yuma::{epoch, max_upscale, Neuron, Outcome, Params, Row};

fn main() -> ExitCode {
	let replayed = serde_json::from_reader(io::stdin().lock())
		.map_err(Into::into)
		.and_then(replay)
		.and_then(|document| Ok(writeln!(io::stdout(), "{document}")?));
	match replayed {
		Ok(()) => ExitCode::SUCCESS,
		Err(error) => {
			// `eprintln` would panic where nobody listens.
			let _ = writeln!(io::stderr(), "replay: {error}");
			ExitCode::FAILURE
		}
	}
}

type Failure = Box<dyn Error>;

/// The document with every `stored` and `expect` computed.
pub fn replay(mut document: Value) -> Result<Value, Failure> {
	let format = document.get("format").and_then(Value::as_str);
	if format != Some("yuma-vectors/1") {
		return Err(format!("the format is {format:?}, not \"yuma-vectors/1\"").into());
	}
	let scenarios = document.get_mut("vectors").and_then(Value::as_array_mut);
	for (index, scenario) in scenarios
		.ok_or("no list \"vectors\"")?
		.iter_mut()
		.enumerate()
	{
		let name = scenario
			.get("name")
			.and_then(Value::as_str)
			.unwrap_or("unnamed")
			.to_owned();
		replay_scenario(scenario).map_err(|error| format!("scenario {index} ({name}): {error}"))?;
	}
	Ok(document)
}

fn replay_scenario(scenario: &mut Value) -> Result<(), Failure> {
	let config = scenario.get("config").ok_or("no \"config\"")?;
	let mut subnet = Subnet::new(config).map_err(|error| format!("config: {error}"))?;
	let steps = scenario.get_mut("steps").and_then(Value::as_array_mut);
	for (index, step) in steps.ok_or("no list \"steps\"")?.iter_mut().enumerate() {
		let computed = subnet
			.apply(step)
			.map_err(|error| format!("step {index}: {error}"))?;
		if let (Some((field, value)), Some(step)) = (computed, step.as_object_mut()) {
			step.insert(field.to_owned(), value);
		}
	}
	Ok(())
}

fn field<'a, T: Deserialize<'a>>(object: &'a Value, name: &str) -> Result<T, Failure> {
	let value = object
		.get(name)
		.ok_or_else(|| format!("missing field `{name}`"))?;
	T::deserialize(value).map_err(|error| format!("`{name}`: {error}").into())
}

/// A field of a step and what we computed for it.
type Computed = Option<(&'static str, Value)>;

struct Subnet {
	params: Params,
	neurons: Vec<Neuron>,
	weights: Vec<Row>,
	bonds: Vec<Row>,
}

impl Subnet {
	fn new(config: &Value) -> Result<Self, Failure> {
		let n: usize = field(config, "n")?;
		let stakes: Vec<u64> = field(config, "stakes")?;
		if stakes.len() != n {
			return Err(format!("{} `stakes` for n = {n}", stakes.len()).into());
		}
		let params = Params {
			block: field(config, "block")?,
			tempo: field(config, "tempo")?,
			last_step: field(config, "last_step")?,
			kappa: field(config, "kappa")?,
			bonds_moving_average: field(config, "bonds_ma")?,
			bonds_penalty: field(config, "bonds_penalty")?,
			yuma3: field(config, "yuma3")?,
			liquid_alpha: field(config, "liquid")?,
			alpha_low: field(config, "alpha_low")?,
			alpha_high: field(config, "alpha_high")?,
			alpha_sigmoid_steepness: field(config, "steepness")?,
			max_validators: field(config, "max_validators")?,
			activity_cutoff_blocks: field(config, "activity_cutoff")?,
			stake_threshold_rao: field(config, "stake_threshold")?,
			owner_uid: field(config, "owner_uid")?,
			commit_reveal: false,
		};
		let neurons = stakes.into_iter().map(|stake_rao| registered(0, stake_rao));
		let mut subnet = Self {
			neurons: neurons.collect(),
			weights: vec![Row::new(); n],
			bonds: vec![Row::new(); n],
			params,
		};
		if let Some(uid) = subnet.params.owner_uid {
			subnet
				.neuron(uid)
				.map_err(|error| format!("`owner_uid`: {error}"))?;
		}
		Ok(subnet)
	}

	fn apply(&mut self, step: &Value) -> Result<Computed, Failure> {
		match field::<String>(step, "op")?.as_str() {
			"block" => self.params.block = field(step, "to")?,
			"last_step" => self.params.last_step = field(step, "to")?,
			"weights" => {
				let (dests, values) = (field(step, "dests")?, field(step, "values")?);
				let stored = self.set_weights(field(step, "uid")?, dests, values)?;
				return Ok(Some(("stored", json!(stored))));
			}
			"reregister" => self.reregister(field(step, "uid")?, field(step, "stake")?)?,
			"drop_bonds_on" => {
				let uid = field(step, "uid")?;
				self.neuron(uid)?;
				self.bonds
					.iter_mut()
					.for_each(|row| row.retain(|(target, _)| *target != uid));
			}
			"epoch" => return Ok(Some(("expect", self.epoch(field(step, "emission")?)))),
			op => return Err(format!("unknown `op` \"{op}\"").into()),
		}
		Ok(None)
	}

	fn neuron(&mut self, uid: u16) -> Result<&mut Neuron, Failure> {
		let n = self.neurons.len();
		let neuron = self.neurons.get_mut(usize::from(uid));
		neuron.ok_or_else(|| format!("uid {uid} is not below n = {n}").into())
	}

	fn set_weights(&mut self, uid: u16, dests: Vec<u16>, values: Vec<u16>) -> Result<Row, Failure> {
		if dests.len() != values.len() {
			return Err(format!("{} dests but {} values", dests.len(), values.len()).into());
		}
		for (index, dest) in dests.iter().enumerate() {
			self.neuron(*dest)?;
			if dests.iter().take(index).any(|earlier| earlier == dest) {
				return Err(format!("dest {dest} is given twice").into());
			}
		}
		let block = self.params.block;
		self.neuron(uid)?.last_update = block;
		let row: Row = dests.into_iter().zip(max_upscale(&values)).collect();
		replace(&mut self.weights, uid, row.clone());
		Ok(row)
	}

	fn reregister(&mut self, uid: u16, stake_rao: u64) -> Result<(), Failure> {
		let block = self.params.block;
		*self.neuron(uid)? = registered(block, stake_rao);
		replace(&mut self.weights, uid, Row::new());
		replace(&mut self.bonds, uid, Row::new());
		for (target, value) in self.weights.iter_mut().flatten() {
			if *target == uid {
				*value = 0;
			}
		}
		Ok(())
	}

	fn epoch(&mut self, emission_rao: u64) -> Value {
		let outcome = epoch(
			&self.params,
			&self.neurons,
			&self.weights,
			&self.bonds,
			emission_rao,
		);
		for (neuron, permit) in self.neurons.iter_mut().zip(&outcome.permits) {
			neuron.permit = *permit;
		}
		self.bonds.clone_from(&outcome.bonds);
		expectation(outcome)
	}
}

fn registered(block: u64, stake_rao: u64) -> Neuron {
	Neuron {
		stake_rao,
		last_update: block,
		registered_at: block,
		permit: false,
		commit_block: u64::MAX,
		vouches_for: Vec::new(),
	}
}

fn replace(rows: &mut [Row], uid: u16, row: Row) {
	if let Some(old) = rows.get_mut(usize::from(uid)) {
		*old = row;
	}
}

/// An outcome under the names of the format.
fn expectation(outcome: Outcome) -> Value {
	Value::Object(Map::from_iter([
		("stake_weight".to_owned(), json!(outcome.stake_weight)),
		("permits".to_owned(), json!(outcome.permits)),
		("active".to_owned(), json!(outcome.active)),
		("consensus".to_owned(), json!(outcome.consensus)),
		("vtrust".to_owned(), json!(outcome.validator_trust)),
		("incentive".to_owned(), json!(outcome.incentive)),
		("dividends".to_owned(), json!(outcome.dividends)),
		("emission".to_owned(), json!(outcome.emission_rao)),
		("server_emission".to_owned(), json!(outcome.server_rao)),
		(
			"validator_emission".to_owned(),
			json!(outcome.validator_rao),
		),
		("bonds".to_owned(), json!(outcome.bonds)),
	]))
}
