//! Stories, one file per theme. Each ends with every invariant checked (`build_and_execute`).

mod commit_reveal;
mod conservation;
mod delegation;
mod emission;
mod epoch_vectors;
mod extension;
mod fuzz;
mod hyperparams;
mod network;
mod owner;
mod pow;
mod registration;
mod scheduling;
mod serving;
mod staking;
mod trimming;
mod vouching;
mod weights;
