//! Papers that an audit leaves for others: an addendum to the models' cards, and an entry for a register of use.
//!
//! Neighbours: `report` has the page. Left out: what was done about what was found, which people write.

use super::Audit;
use super::report::About;
use super::words::{in_words, named, p, told, verdict};

/// For the card of each clinical model.
pub(super) fn addendum(audit: &Audit, about: &About) -> String {
    let mut text = format!(
        "# Performance by self-reported race, {} to {}\n\nMeasured in operation by sidelight {}; data {}.\n\n\
         | finding | measure | largest difference between groups (95 %) | p, adjusted | what follows |\n|---|---|---|---|---|\n",
        about.from, about.to, about.sidelight, about.data
    );
    for finding in &audit.findings {
        for gap in &finding.gaps.primary {
            let cells = [
                cell(&finding.finding),
                named(gap.metric).to_owned(),
                told(&gap.gap),
                p(gap.p_adjusted),
                verdict(gap).to_owned(),
            ];
            text.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
    }
    text.push_str(
        "\nA difference is no proof of its cause and no evidence about any one patient. \"Indeterminate\" is no clearance.\n",
    );
    text
}

/// What 45 CFR 92.210 asks of whoever uses patient care decision support tools: which there are, what in them may
/// discriminate, and what was done to find out.
pub(super) fn register(audit: &Audit, about: &About) -> String {
    let mut text = format!(
        "# Use of patient care decision support tools (45 CFR 92.210)\n\nEffort to identify and to mitigate, studies of {} to {}.\n\n\
         ## Tools\n\n",
        about.from, about.to
    );
    about.models.iter().for_each(|model| text.push_str(&format!("- {}\n", cell(model))));
    text.push_str("\n## What was found\n\n");
    for finding in &audit.findings {
        for gap in &finding.gaps.primary {
            text.push_str(&format!("- {}, {}: {}\n", cell(&finding.finding), named(gap.metric), in_words(gap)));
        }
    }
    text.push_str(&format!(
        "\n## What was done about it\n\n(to be filled in by whoever is responsible)\n\n## Evidence\n\naudit.json, data {}, sidelight {}\n",
        about.data, about.sidelight
    ));
    text
}

/// Text in a line of Markdown.
fn cell(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || "|<>[]`*\\".contains(c) { ' ' } else { c }).collect()
}
