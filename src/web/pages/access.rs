//! Who may see and do what: the one table of it.
//!
//! Statistics by group and what a model inferred of a patient are on no page of this room, so there is no right to them.
//! Neighbours: `guard` asks for every route. Left out: who somebody is.

use crate::config::Role;

/// What a route asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// How the node stands.
    Status,
    /// Studies: states, objects, reports in withheld form, deliveries.
    Studies,
    /// Model packages and the profile.
    Models,
    /// Sending a study again, analysing it again, closing it.
    Act,
    /// The configuration in force.
    Configuration,
    /// The activity log.
    Activity,
}

/// What nobody asked for a name may see: whoever is on this machine, where the configuration lists no users.
pub(super) const ANYBODY: &[Role] = &[Role::Viewer];

/// Whether one of these roles has the right.
pub(super) fn allows(roles: &[Role], right: Right) -> bool {
    use Role::{Admin, Auditor, Operator, Viewer};
    let who: &[Role] = match right {
        Right::Status | Right::Studies | Right::Models => &[Viewer, Auditor, Operator, Admin],
        Right::Act => &[Operator, Admin],
        Right::Configuration => &[Operator, Admin],
        Right::Activity => &[Auditor, Admin],
    };
    roles.iter().any(|role| who.contains(role))
}

impl Right {
    /// For the activity log.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Right::Status => "status",
            Right::Studies => "studies",
            Right::Models => "models",
            Right::Act => "acting on studies",
            Right::Configuration => "configuration",
            Right::Activity => "activity log",
        }
    }
}
