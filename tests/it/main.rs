//! The integration tests, one binary: real processes, real peers (dcmtk, Orthanc), real files.

mod architecture;
mod corpus;
mod crash;
mod offline;
mod orthanc;
mod pixels;
mod receive;
mod report;
mod road;
mod support;
