//! The integration tests, one binary: real processes, real peers (dcmtk, Orthanc), real files.

// A test that cannot set its scene up may stop there.
#![allow(clippy::unwrap_used)]

mod aliases;
mod architecture;
mod audit;

mod commitments;
mod conformance;
mod corpus;
mod crash;
mod delivery;
mod elsewhere;
mod evidence;
mod explain;
mod faults;
mod interop;
mod labels;
mod lifecycle;
mod models;
mod offline;
mod orthanc;
mod pages;
mod perturb;
mod pixels;
mod probe;
mod profiles;
mod query;
mod receive;
mod report;
mod road;
mod statement;
mod support;
mod tensors;
mod tls;
mod torture;
mod training;
mod validate;
mod web;
