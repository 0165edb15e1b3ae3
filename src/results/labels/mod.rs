//! What is true of studies, out of the files in which a site has it: outcomes, self-reported race, covariates. Pure.
//!
//! ```text
//! csv ─┐
//! fhir ┼─▶ Statement ─▶ placing (which studies?) ─▶ agreement (contradictions) ─▶ store
//! sr ──┘
//! ```
//! Nothing is guessed: what is not clear is listed with its line and the reason, and never with what a cell holds.

mod agreement;
mod csv;
mod fhir;
mod lines;
mod mapping;
mod placing;
mod sr;
#[cfg(test)]
mod tests;

pub use agreement::{Agreed, agree};
pub use csv::CsvTable;
pub use fhir::{FhirRead, FhirReader};
pub use lines::Lines;
pub use mapping::Mapping;
pub use placing::{KnownStudy, Places, Wanted};
pub use sr::sr_statement;
