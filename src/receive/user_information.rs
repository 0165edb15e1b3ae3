//! The sub-items of the user information beside length and implementation (PS3.7 D.3.3.3 to D.3.3.7): what the
//! requestor proposes, and what is answered.
//!
//! | item | proposal | answer |
//! |---|---|---|
//! | 53H | asynchronous operations | at most [`WINDOW_MAX`] invoked, one where there are queries; one performed |
//! | 54H | roles by SOP class | SCU of what is offered; SCP of report storage for who may pull |
//! | 56H | extended negotiation | storage: level 2, signatures kept, nothing coerced; query: relational |
//! | 57H | common extended negotiation | none: it is not answered (D.3.3.6), and no class is taken for its relative |
//! | 58H | user identity | 59H, where it was checked and an answer is asked for |
//!
//! Neighbours: `negotiate` puts these together with the presentation contexts. Left out: who the user is (`identity`).

use std::collections::BTreeMap;

use dicom_ul::pdu::{DEFAULT_MAX_PDU, RequestorRoles, UserIdentity, UserVariableItem};

use crate::dicom::{STUDY_ROOT_FIND, STUDY_ROOT_GET, is_storage_accepted};
use crate::domain::Uid;

/// Operations that a requestor may have outstanding: enough for the sync of one object to pass while the next
/// arrives, few enough for a peer that stops reading its answers to cost nothing.
pub(super) const WINDOW_MAX: u16 = 8;

/// What a requestor proposes.
#[derive(Debug, Clone, Default)]
pub(super) struct Proposed {
    /// Longest PDU that it takes, bytes; 0: no limit.
    pub(super) pdu_bytes_max: u32,
    pub(super) identity: Option<UserIdentity>,
    roles: BTreeMap<String, RequestorRoles>,
    /// Operations invoked; 0: no limit.
    window: Option<u16>,
    extended: BTreeMap<String, Vec<u8>>,
}

impl Proposed {
    /// Items that are repeated count once, the first of them; those that are not known, not at all.
    pub(super) fn read(items: &[UserVariableItem]) -> Self {
        let (mut pdu_bytes_max, mut found) = (None, Self::default());
        for item in items {
            match item {
                UserVariableItem::MaxLength(length) => drop(pdu_bytes_max.get_or_insert(*length)),
                UserVariableItem::ScuScpRoleSelectionSubItem(class, roles) => {
                    found.roles.entry(plain(class)).or_insert(*roles);
                }
                UserVariableItem::SopClassExtendedNegotiationSubItem(class, information) => {
                    found.extended.entry(plain(class)).or_insert_with(|| information.clone());
                }
                UserVariableItem::UserIdentityItem(identity) => drop(found.identity.get_or_insert(identity.clone())),
                UserVariableItem::Unknown(0x53, value) => {
                    if let [high, low, _, _] = value[..] {
                        found.window.get_or_insert(u16::from_be_bytes([high, low]));
                    }
                }
                _ => {}
            }
        }
        Self { pdu_bytes_max: pdu_bytes_max.unwrap_or(DEFAULT_MAX_PDU), ..found }
    }

    /// The roles that it proposes for a class, if it proposes any.
    pub(super) fn roles(&self, class: &Uid) -> Option<RequestorRoles> {
        self.roles.get(class.as_str()).copied()
    }

    /// Operations that it may have outstanding. One where it may query or retrieve: a request that is sent ahead would
    /// come between the sub-operations of a C-GET.
    pub(super) fn window(&self, agreed: &BTreeMap<Uid, RequestorRoles>) -> u16 {
        let queries = [STUDY_ROOT_FIND.uid, STUDY_ROOT_GET.uid];
        match self.window {
            None => 1,
            Some(_) if agreed.keys().any(|class| queries.contains(&class.as_str())) => 1,
            Some(0) => WINDOW_MAX,
            Some(wished) => wished.min(WINDOW_MAX),
        }
    }

    /// The answers, given the roles that were agreed on for each accepted class, and whether the user was checked.
    pub(super) fn answers(&self, agreed: &BTreeMap<Uid, RequestorRoles>, user_checked: bool) -> Vec<UserVariableItem> {
        let mut items = Vec::new();
        if self.window.is_some() {
            let [high, low] = self.window(agreed).to_be_bytes();
            items.push(UserVariableItem::Unknown(0x53, vec![high, low, 0, 1]));
        }
        for (class, roles) in agreed.iter().filter(|(class, _)| self.roles.contains_key(class.as_str())) {
            items.push(UserVariableItem::ScuScpRoleSelectionSubItem(class.as_str().into(), *roles));
        }
        for (class, asked) in &self.extended {
            let known = Uid::parse(class).ok().filter(|class| agreed.contains_key(class));
            if let Some(information) = known.and_then(|class| application_information(&class, asked)) {
                items.push(UserVariableItem::SopClassExtendedNegotiationSubItem(class.clone(), information));
            }
        }
        if user_checked && self.identity.as_ref().is_some_and(UserIdentity::positive_response_requested) {
            // Server Response Length: names and passcodes have none (PS3.7 D.3.3.7.2).
            items.push(UserVariableItem::Unknown(0x59, vec![0, 0]));
        }
        items
    }
}

/// The answer to an extended negotiation of a class; none where the Standard defines nothing for it.
fn application_information(class: &Uid, asked: &[u8]) -> Option<Vec<u8>> {
    if is_storage_accepted(class) {
        // PS3.4 B.3.1: level 2 (all attributes are kept), signature level 3 (kept to the bit), no coercion.
        return Some(vec![2, 0, 3, 0, 0, 0]);
    }
    let options_max = match class.as_str() {
        // PS3.4 C.5.1.1: relational, date-time matching, fuzzy names, time zones, enhanced multi-frame conversion.
        find if find == STUDY_ROOT_FIND.uid => 5,
        // PS3.4 C.5.3.1: relational, enhanced multi-frame conversion.
        get if get == STUDY_ROOT_GET.uid => 2,
        _ => return None,
    };
    let mut answer = vec![0; asked.len().clamp(1, options_max)];
    answer[0] = u8::from(asked.first() == Some(&1));
    Some(answer)
}

/// A UID as it came, without padding.
fn plain(text: &str) -> String {
    text.trim_end_matches(['\0', ' ']).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dicom_ul::pdu::UserIdentityType;

    use super::*;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";

    fn agreed(classes: &[&str]) -> BTreeMap<Uid, RequestorRoles> {
        classes.iter().map(|c| (Uid::parse(c).unwrap(), RequestorRoles { scu: true, scp: false })).collect()
    }

    #[test]
    fn a_window_is_answered_with_what_is_really_done() {
        let rows: [(&[u8], u16, Option<&[u8]>); 6] = [
            (&[0, 1, 0, 1], 1, Some(&[0, 1, 0, 1])),
            (&[0, 0, 0, 0], WINDOW_MAX, Some(&[0, 8, 0, 1])),
            (&[0, 3, 0, 9], 3, Some(&[0, 3, 0, 1])),
            (&[255, 255, 0, 1], WINDOW_MAX, Some(&[0, 8, 0, 1])),
            (&[0, 3], 1, None),
            (&[], 1, None),
        ];
        for (value, window, answer) in rows {
            let proposed = Proposed::read(&[UserVariableItem::Unknown(0x53, value.to_vec())]);
            assert_eq!(proposed.window(&agreed(&[CT])), window, "{value:?}");
            let with_query = proposed.window(&agreed(&[CT, STUDY_ROOT_GET.uid]));
            assert_eq!(with_query, 1, "{value:?}");
            let expected: Vec<_> = answer.map(|a| UserVariableItem::Unknown(0x53, a.to_vec())).into_iter().collect();
            assert_eq!(proposed.answers(&agreed(&[]), false), expected, "{value:?}");
        }
        assert_eq!(Proposed::read(&[]).window(&agreed(&[CT])), 1, "the default is one operation at a time");
    }

    #[test]
    fn extended_negotiation_is_answered_for_accepted_classes_that_have_one() {
        let check = |class: &str, asked: &[u8], expected: Option<&[u8]>| {
            let item = UserVariableItem::SopClassExtendedNegotiationSubItem(class.into(), asked.to_vec());
            let answer =
                Proposed::read(&[item]).answers(&agreed(&[CT, STUDY_ROOT_FIND.uid, STUDY_ROOT_GET.uid]), false);
            let item = |a: &[u8]| UserVariableItem::SopClassExtendedNegotiationSubItem(class.into(), a.to_vec());
            assert_eq!(answer, expected.map(item).into_iter().collect::<Vec<_>>(), "{class} {asked:?}");
        };
        check(CT, &[3, 0, 0, 0, 2, 0], Some(&[2, 0, 3, 0, 0, 0]));
        check("1.2.840.10008.5.1.4.1.1.4", &[3, 0, 0, 0, 2, 0], None);
        check(STUDY_ROOT_FIND.uid, &[1, 1, 1], Some(&[1, 0, 0]));
        check(STUDY_ROOT_FIND.uid, &[0, 1, 1, 1, 1, 1, 1], Some(&[0; 5]));
        check(STUDY_ROOT_GET.uid, &[1], Some(&[1]));
        check(STUDY_ROOT_GET.uid, &[], Some(&[0]));
        check("not a uid", &[1], None);
        let twice = [[1_u8], [0]].map(|asked| {
            UserVariableItem::SopClassExtendedNegotiationSubItem(STUDY_ROOT_GET.uid.into(), asked.to_vec())
        });
        let answer = Proposed::read(&twice).answers(&agreed(&[STUDY_ROOT_GET.uid]), false);
        assert_eq!(answer, twice[..1], "the first counts, once");
        let common = UserVariableItem::Unknown(0x57, vec![0, 1, b'1', 0, 0, 0, 0]);
        assert_eq!(Proposed::read(&[common]).answers(&agreed(&[CT]), false), [], "57H is not answered");
    }

    #[test]
    fn a_user_hears_of_its_identity_if_it_was_checked_and_asked_to() {
        for (asked, checked, answered) in [(true, true, true), (true, false, false), (false, true, false)] {
            let identity = UserIdentity::new(asked, UserIdentityType::Username, b"anna".to_vec(), vec![]);
            let answer = Proposed::read(&[UserVariableItem::UserIdentityItem(identity)]).answers(&agreed(&[]), checked);
            let expected = if answered { vec![UserVariableItem::Unknown(0x59, vec![0, 0])] } else { vec![] };
            assert_eq!(answer, expected, "{asked} {checked}");
        }
    }
}
