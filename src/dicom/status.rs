//! DIMSE statuses with their category and name (PS3.7 Annex C; PS3.4 B.2.3 for C-STORE).
//!
//! Neighbours: `receive` answers with them (its one table maps causes to statuses), `deliver` judges a peer's answer
//! by them. Left out: the statuses of services that the node does not offer.

use std::fmt;

/// A status (0000,0900).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Status(pub u16);

/// What a status means for the request (PS3.7 C.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusCategory {
    Success,
    /// Done, with a remark: the instance is stored.
    Warning,
    Failure,
    Cancel,
    Pending,
}

impl Status {
    pub const SUCCESS: Self = Self(0x0000);
    pub const PROCESSING_FAILURE: Self = Self(0x0110);
    pub const DUPLICATE_SOP_INSTANCE: Self = Self(0x0111);
    pub const NO_SUCH_SOP_INSTANCE: Self = Self(0x0112);
    pub const INVALID_SOP_INSTANCE: Self = Self(0x0117);
    pub const SOP_CLASS_NOT_SUPPORTED: Self = Self(0x0122);
    pub const CLASS_INSTANCE_CONFLICT: Self = Self(0x0119);
    pub const NO_SUCH_EVENT: Self = Self(0x0113);
    pub const NO_SUCH_ACTION: Self = Self(0x0123);
    pub const DUPLICATE_TRANSACTION: Self = Self(0x0131);
    pub const RESOURCE_LIMITATION: Self = Self(0x0213);
    pub const INVALID_ARGUMENT: Self = Self(0x0115);
    /// C-GET: the number of matches is too large to be served (PS3.4 C.4.3.1.4).
    pub const TOO_MANY_MATCHES: Self = Self(0xA701);
    /// C-GET: no sub-operation could be performed.
    pub const NO_SUB_OPERATION: Self = Self(0xA702);
    /// C-GET: some sub-operations failed, or succeeded with a warning.
    pub const SUB_OPERATIONS_FAILED: Self = Self(0xB000);
    pub const PENDING: Self = Self(0xFF00);
    /// Pending, and some of the keys are not supported.
    pub const PENDING_WITHOUT_KEYS: Self = Self(0xFF01);
    pub const NOT_AUTHORISED: Self = Self(0x0124);
    pub const DUPLICATE_INVOCATION: Self = Self(0x0210);
    pub const UNRECOGNISED_OPERATION: Self = Self(0x0211);
    pub const MISTYPED_ARGUMENT: Self = Self(0x0212);
    pub const OUT_OF_RESOURCES: Self = Self(0xA700);
    pub const DATA_SET_MISMATCH: Self = Self(0xA900);
    pub const COERCED: Self = Self(0xB000);
    pub const ELEMENTS_DISCARDED: Self = Self(0xB006);
    pub const DATA_SET_MISMATCH_WARNING: Self = Self(0xB007);
    pub const CANNOT_UNDERSTAND: Self = Self(0xC000);
    pub const CANCEL: Self = Self(0xFE00);

    pub fn category(self) -> StatusCategory {
        match self.0 {
            0x0000 => StatusCategory::Success,
            0xFE00 => StatusCategory::Cancel,
            0xFF00 | 0xFF01 => StatusCategory::Pending,
            0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF => StatusCategory::Warning,
            _ => StatusCategory::Failure,
        }
    }

    /// Whether the peer holds the instance now: success, or success with a remark.
    pub fn is_stored(self) -> bool {
        matches!(self.category(), StatusCategory::Success | StatusCategory::Warning)
    }

    /// The meaning as the Standard words it.
    pub fn name(self) -> &'static str {
        match self.0 {
            0x0000 => "success",
            0x0105 => "no such attribute",
            0x0106 => "invalid attribute value",
            0x0107 => "attribute list error",
            0x0110 => "processing failure",
            0x0111 => "duplicate SOP instance",
            0x0112 => "no such SOP instance",
            0x0113 => "no such event type",
            0x0114 => "no such argument",
            0x0115 => "invalid argument value",
            0x0116 => "attribute value out of range",
            0x0117 => "invalid SOP instance",
            0x0118 => "no such SOP class",
            0x0119 => "class-instance conflict",
            0x0120 => "missing attribute",
            0x0121 => "missing attribute value",
            0x0122 => "refused: SOP class not supported",
            0x0123 => "no such action",
            0x0124 => "refused: not authorised",
            0x0131 => "duplicate transaction UID",
            0x0210 => "duplicate invocation",
            0x0211 => "unrecognised operation",
            0x0212 => "mistyped argument",
            0x0213 => "resource limitation",
            0xA700..=0xA7FF => "refused: out of resources",
            0xA900..=0xA9FF => "error: data set does not match SOP class",
            0xB000 => "warning: coercion of data elements",
            0xB006 => "warning: elements discarded",
            0xB007 => "warning: data set does not match SOP class",
            0xC000..=0xCFFF => "error: cannot understand",
            0xFE00 => "cancel",
            0xFF00 | 0xFF01 => "pending",
            _ => "a status that the Standard does not name",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04X}H {}", self.0, self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_category_and_name_of_the_standard() {
        use StatusCategory::*;
        let rows = [
            (0x0000, Success, "0000H success"),
            (0xB000, Warning, "B000H warning: coercion of data elements"),
            (0xB007, Warning, "B007H warning: data set does not match SOP class"),
            (0xA700, Failure, "A700H refused: out of resources"),
            (0xA7FE, Failure, "A7FEH refused: out of resources"),
            (0xA900, Failure, "A900H error: data set does not match SOP class"),
            (0xC123, Failure, "C123H error: cannot understand"),
            (0x0111, Failure, "0111H duplicate SOP instance"),
            (0x0122, Failure, "0122H refused: SOP class not supported"),
            (0x0211, Failure, "0211H unrecognised operation"),
            (0x1234, Failure, "1234H a status that the Standard does not name"),
            (0xFE00, Cancel, "FE00H cancel"),
            (0xFF01, Pending, "FF01H pending"),
        ];
        for (code, category, text) in rows {
            assert_eq!(Status(code).category(), category, "{code:04X}");
            assert_eq!(Status(code).to_string(), text);
        }
    }

    #[test]
    fn only_success_and_warnings_mean_that_an_instance_is_stored() {
        for code in 0..=u16::MAX {
            let stored = matches!(code, 0x0000 | 0x0001 | 0x0107 | 0x0116 | 0xB000..=0xBFFF);
            assert_eq!(Status(code).is_stored(), stored, "{code:04X}");
        }
    }
}
