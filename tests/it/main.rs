//! The integration tests, one binary: real processes, real peers (dcmtk, Orthanc), real files.

// A test that cannot set its scene up may stop there.
#![allow(clippy::unwrap_used)]

mod architecture;

mod conformance;
mod corpus;
mod crash;
mod delivery;
mod lifecycle;
mod offline;
mod orthanc;
mod pixels;
mod receive;
mod report;
mod road;
mod support;
mod tensors;
