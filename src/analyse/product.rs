//! Clinical products that score images on their own: whose report it is, and what it says.
//!
//! Pure. Neighbours: `pixels` reads a report in its workers by the rules that are given here, `results` says what
//! several come to. Left out: waiting for them (`assemble`).

use crate::assemble::ResultWait;
use crate::domain::{
    AeTitle, ClinicalResult, InstanceHeader, Refusal, RefusalCode, ReportRules, ResultDocument, ResultSource,
};
use crate::infer::{Elsewhere, Package, ProductKind};
use crate::report;

/// Characters of the reasons why a report is no product's.
const REASONS_MAX: usize = 400;

/// Whether the object is a Structured Report that is not the node's own.
pub(super) fn is_report(header: &InstanceHeader) -> bool {
    /// Key Object Selection Document: it marks, and says nothing.
    const KEY_OBJECTS: &str = "1.2.840.10008.5.1.4.1.1.88.59";
    let class = header.sop_class.as_str();
    let is_class = class.starts_with("1.2.840.10008.5.1.4.1.1.88.") && class != KEY_OBJECTS;
    (header.modality == "SR" || is_class) && !report::is_own(header)
}

/// How reports of the package's product are read and known, if it gives any.
pub(super) fn report_rules(package: &Package) -> Option<(&ReportRules, &ResultSource)> {
    match package.elsewhere.as_ref()? {
        Elsewhere::Product(product) => match &product.kind {
            ProductKind::Report { rules, from } => Some((&**rules, &**from)),
            ProductKind::Table { .. } => None,
        },
        Elsewhere::Server(_) => None,
    }
}

/// How long the package's results are waited for, if a product gives them.
pub(super) fn wait(package: &Package) -> Option<ResultWait> {
    match package.elsewhere.as_ref()? {
        Elsewhere::Product(product) => {
            Some(ResultWait { model: package.key(), name: package.identity.name.clone(), wait: product.wait })
        }
        Elsewhere::Server(_) => None,
    }
}

/// The results in a report that was read by the rules of these products, in their order; and what is said of the
/// object, which holds no image either way.
pub(super) fn results_of(
    products: &[(&Package, (&ReportRules, &ResultSource))],
    documents: Vec<Result<ResultDocument, String>>,
    header: &InstanceHeader,
    sender: Option<&AeTitle>,
) -> (Vec<ClinicalResult>, Refusal) {
    let (mut results, mut names, mut reasons) = (Vec::new(), Vec::new(), Vec::new());
    for ((package, (_, from)), document) in products.iter().zip(documents) {
        let name = &package.identity.name;
        let admitted = document.and_then(|document| match from.admits(&document.device, sender) {
            Ok(()) => Ok(document),
            Err(what) => Err(what.to_owned()),
        });
        match admitted {
            Ok(document) => {
                names.push(format!("{name} ({} statements)", document.said.len()));
                results.push(ClinicalResult {
                    study: header.study.clone(),
                    model: package.key(),
                    source: header.sop_instance.to_string(),
                    observed_at: document.observed_at,
                    // known to whoever keeps it
                    received_at: chrono::DateTime::UNIX_EPOCH,
                    version: document.device.software_versions.join(", "),
                    predecessors: document.predecessors,
                    said: document.said,
                });
            }
            Err(reason) => reasons.push(format!("{name}: {reason}")),
        }
    }
    let refusal = if results.is_empty() {
        let detail = format!("a structured report of no product in use: {}", reasons.join("; "));
        Refusal::new(RefusalCode::NotAnImage, detail.chars().take(REASONS_MAX).collect::<String>())
    } else {
        Refusal::new(RefusalCode::ClinicalResult, format!("a result of {}", names.join(", ")))
    };
    (results, refusal)
}

/// A report that cannot be read is nobody's result: no image is lost with it, and a study that is reported stays so.
/// What is the worker's trouble stays that.
pub(super) fn unread(refusal: Refusal) -> Refusal {
    match refusal.code {
        RefusalCode::WorkerDied | RefusalCode::WorkerUnavailable => refusal,
        _ => Refusal::new(RefusalCode::NotAnImage, format!("a structured report that cannot be read: {refusal}")),
    }
}
