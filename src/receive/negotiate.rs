//! The answer to an A-ASSOCIATE-RQ, as a pure function of the request, the peer's address and the configuration
//! (PS3.8 7.1, 9.3.2 to 9.3.4; PS3.7 Annex D).
//!
//! Neighbours: `association` asks and sends the answer. dicom-ul's acceptor is not used: its access control sees no
//! peer address, its rejections are always permanent, and it names itself as the implementation. Left out: limits of
//! the moment (associations, disk), which `mod` asks after this said yes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason,
    AssociationRJServiceProviderPresentationReason, AssociationRJServiceUserReason, AssociationRJSource, AssociationRQ,
    DEFAULT_MAX_PDU, Pdu, PresentationContextProposed, PresentationContextResult, PresentationContextResultReason,
    UserVariableItem,
};

use crate::config;
use crate::dicom::{
    IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, VERIFICATION, is_storage_accepted,
    is_transfer_syntax_accepted,
};
use crate::domain::{AeTitle, Uid};

/// Who may call whom, and what is announced.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    /// Called AE titles that the node answers to.
    pub(super) titles: Vec<AeTitle>,
    pub(super) sources: Vec<config::Source>,
    pub(super) pdu_bytes_max: u32,
}

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) abstract_syntax: Uid,
    pub(super) transfer_syntax: Uid,
}

/// What both sides agreed on.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Agreement {
    pub(super) calling: AeTitle,
    pub(super) called: AeTitle,
    /// Accepted presentation contexts by id.
    pub(super) contexts: BTreeMap<u8, Context>,
    /// Longest PDU that the peer takes, bytes; 0: no limit.
    pub(super) peer_pdu_bytes_max: u32,
    pub(super) answer: AssociationAC,
}

/// Why there is no association; each has its result, source and reason in [`Rejection::pdu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error("protocol version 1 is not offered")]
    ProtocolVersion,
    #[error("the application context is not that of DICOM")]
    ApplicationContext,
    #[error("the called AE title is not one of node.ae_title and node.aliases")]
    CalledAe,
    #[error("the calling AE title is not listed in sources, or not for this address")]
    CallingAe,
    #[error("the disk is below its floor of free space, or cannot be written to")]
    Congestion,
    #[error("node.associations_max is reached")]
    LimitExceeded,
}

/// Why a request gets no association.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Reject(Rejection),
    /// The PDU contradicts itself: a presentation context id that is even, zero or used twice (PS3.8 9.3.2.2).
    InvalidParameter,
}

const APPLICATION_CONTEXT: &str = "1.2.840.10008.3.1.1.1";

impl Policy {
    pub(super) fn new(node: &config::Node, sources: &[config::Source]) -> Self {
        Self {
            titles: std::iter::once(&node.ae_title).chain(&node.aliases).cloned().collect(),
            sources: sources.to_vec(),
            pdu_bytes_max: node.pdu_bytes_max,
        }
    }

    /// Judges a request from `peer`. The transfer syntax of a context is the first proposed one that is accepted.
    pub(super) fn negotiate(&self, request: &AssociationRQ, peer: IpAddr) -> Result<Agreement, Refusal> {
        if request.protocol_version & 1 == 0 {
            return Err(Refusal::Reject(Rejection::ProtocolVersion));
        }
        if request.application_context_name.trim_end_matches(['\0', ' ']) != APPLICATION_CONTEXT {
            return Err(Refusal::Reject(Rejection::ApplicationContext));
        }
        let called = self.called(&request.called_ae_title).ok_or(Refusal::Reject(Rejection::CalledAe))?;
        let calling = self.calling(&request.calling_ae_title, peer).ok_or(Refusal::Reject(Rejection::CallingAe))?;

        let mut ids = BTreeSet::new();
        if !request.presentation_contexts.iter().all(|context| context.id % 2 == 1 && ids.insert(context.id)) {
            return Err(Refusal::InvalidParameter);
        }
        let mut contexts = BTreeMap::new();
        let mut results = Vec::with_capacity(request.presentation_contexts.len());
        for proposed in &request.presentation_contexts {
            let judged = self.judge(proposed);
            let (reason, transfer_syntax) = match &judged {
                Ok(context) => (PresentationContextResultReason::Acceptance, context.transfer_syntax.as_str()),
                // Not significant for a refused context, but the item has to be there (PS3.8 9.3.3.2).
                Err(reason) => (reason.clone(), "1.2.840.10008.1.2"),
            };
            results.push(PresentationContextResult {
                id: proposed.id,
                reason,
                transfer_syntax: transfer_syntax.into(),
            });
            contexts.extend(judged.ok().map(|context| (proposed.id, context)));
        }

        let answer = AssociationAC {
            protocol_version: 1,
            calling_ae_title: request.calling_ae_title.clone(),
            called_ae_title: request.called_ae_title.clone(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: results,
            // No answer to role selection, asynchronous operations or user identity: the defaults hold, that is
            // requestor = SCU, one operation at a time, no identity checked (PS3.7 D.3.3.3, D.3.3.4, D.3.3.7).
            user_variables: vec![
                UserVariableItem::MaxLength(self.pdu_bytes_max),
                UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
                UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.into()),
            ],
        };
        let peer_pdu_bytes_max = request.user_variables.iter().find_map(|item| match item {
            UserVariableItem::MaxLength(length) => Some(*length),
            _ => None,
        });
        let peer_pdu_bytes_max = peer_pdu_bytes_max.unwrap_or(DEFAULT_MAX_PDU);
        Ok(Agreement { calling, called, contexts, peer_pdu_bytes_max, answer })
    }

    fn called(&self, title: &str) -> Option<AeTitle> {
        AeTitle::parse(title).ok().filter(|title| self.titles.contains(title))
    }

    /// A caller is known by its title and, where the source lists hosts, by its address too. A node without any
    /// source takes no objects, but answers C-ECHO, so that the network can be tried before the sources are listed.
    fn calling(&self, title: &str, peer: IpAddr) -> Option<AeTitle> {
        let title = AeTitle::parse(title).ok()?;
        let peer = peer.to_canonical();
        let from_here = |hosts: &[IpAddr]| hosts.is_empty() || hosts.iter().any(|host| host.to_canonical() == peer);
        let listed = self.sources.iter().any(|source| source.ae_title == title && from_here(&source.hosts));
        (listed || self.sources.is_empty()).then_some(title)
    }

    fn judge(&self, proposed: &PresentationContextProposed) -> Result<Context, PresentationContextResultReason> {
        let abstract_syntax = Uid::parse(&proposed.abstract_syntax)
            .map_err(|_| PresentationContextResultReason::AbstractSyntaxNotSupported)?;
        let is_verification = abstract_syntax.as_str() == VERIFICATION.uid;
        if !is_verification && !is_storage_accepted(&abstract_syntax) {
            return Err(PresentationContextResultReason::AbstractSyntaxNotSupported);
        }
        if !is_verification && self.sources.is_empty() {
            return Err(PresentationContextResultReason::UserRejection);
        }
        let mut proposals = proposed.transfer_syntaxes.iter().filter_map(|text| Uid::parse(text).ok());
        let transfer_syntax = proposals
            .find(is_transfer_syntax_accepted)
            .ok_or(PresentationContextResultReason::TransferSyntaxesNotSupported)?;
        Ok(Context { abstract_syntax, transfer_syntax })
    }
}

impl Rejection {
    /// The A-ASSOCIATE-RJ (PS3.8 table 9-21). What may pass by itself is transient: a sender then tries again.
    pub(super) fn pdu(self) -> Pdu {
        use AssociationRJServiceProviderPresentationReason::{LocalLimitExceeded, TemporaryCongestion};
        use AssociationRJServiceUserReason::{
            ApplicationContextNameNotSupported, CalledAETitleNotRecognized, CallingAETitleNotRecognized,
        };
        use AssociationRJSource::{ServiceProviderASCE, ServiceProviderPresentation, ServiceUser};
        let (result, source) = match self {
            Rejection::ProtocolVersion => (
                AssociationRJResult::Permanent,
                ServiceProviderASCE(AssociationRJServiceProviderASCEReason::ProtocolVersionNotSupported),
            ),
            Rejection::ApplicationContext => {
                (AssociationRJResult::Permanent, ServiceUser(ApplicationContextNameNotSupported))
            }
            Rejection::CalledAe => (AssociationRJResult::Permanent, ServiceUser(CalledAETitleNotRecognized)),
            Rejection::CallingAe => (AssociationRJResult::Permanent, ServiceUser(CallingAETitleNotRecognized)),
            Rejection::Congestion => (AssociationRJResult::Transient, ServiceProviderPresentation(TemporaryCongestion)),
            Rejection::LimitExceeded => {
                (AssociationRJResult::Transient, ServiceProviderPresentation(LocalLimitExceeded))
            }
        };
        Pdu::AssociationRJ(AssociationRJ { result, source })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use dicom_ul::pdu::write_pdu;

    use super::*;

    const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
    const EXPLICIT: &str = "1.2.840.10008.1.2.1";

    fn source(title: &str, hosts: &[&str]) -> config::Source {
        let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
        config::Source { ae_title: AeTitle::parse(title).unwrap(), hosts, quiet_period: None }
    }

    fn policy(sources: Vec<config::Source>) -> Policy {
        let titles = ["SIDELIGHT", "ALIAS"].map(|title| AeTitle::parse(title).unwrap()).to_vec();
        Policy { titles, sources, pdu_bytes_max: 1 << 18 }
    }

    fn request(calling: &str, called: &str, contexts: &[(u8, &str, &[&str])]) -> AssociationRQ {
        let propose = |(id, class, syntaxes): &(u8, &str, &[&str])| PresentationContextProposed {
            id: *id,
            abstract_syntax: (*class).into(),
            transfer_syntaxes: syntaxes.iter().map(|text| (*text).into()).collect(),
        };
        AssociationRQ {
            protocol_version: 1,
            calling_ae_title: calling.into(),
            called_ae_title: called.into(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: contexts.iter().map(propose).collect(),
            user_variables: vec![],
        }
    }

    #[test]
    fn callers_are_known_by_title_and_address() {
        let sources = || vec![source("PACS", &[]), source("CT1", &["10.0.0.1", "::1"])];
        let reject = |reason| Some(Refusal::Reject(reason));
        let rows = [
            ("PACS", "SIDELIGHT", "192.0.2.1", sources(), None),
            (" PACS ", "ALIAS  ", "192.0.2.1", sources(), None),
            ("CT1", "SIDELIGHT", "10.0.0.1", sources(), None),
            ("CT1", "SIDELIGHT", "::ffff:10.0.0.1", sources(), None),
            ("CT1", "SIDELIGHT", "::1", sources(), None),
            ("CT1", "SIDELIGHT", "10.0.0.2", sources(), reject(Rejection::CallingAe)),
            ("pacs", "SIDELIGHT", "10.0.0.1", sources(), reject(Rejection::CallingAe)),
            ("", "SIDELIGHT", "10.0.0.1", sources(), reject(Rejection::CallingAe)),
            ("PACS", "OTHER", "10.0.0.1", sources(), reject(Rejection::CalledAe)),
            ("NOBODY", "OTHER", "10.0.0.1", sources(), reject(Rejection::CalledAe)),
            ("NOBODY", "SIDELIGHT", "10.0.0.1", vec![], None),
        ];
        for (calling, called, peer, sources, expected) in rows {
            let got = policy(sources).negotiate(&request(calling, called, &[]), peer.parse().unwrap());
            assert_eq!(got.err(), expected, "{calling} to {called} from {peer}");
        }
    }

    #[test]
    fn presentation_contexts_are_judged_one_by_one() {
        use PresentationContextResultReason::*;
        let proposals: &[(u8, &str, &[&str])] = &[
            (1, VERIFICATION.uid, &["1.2.840.10008.1.2"]),
            (3, CT, &["1.2.840.10008.1.2.4.100", "1.2.840.10008.1.2.4.90", EXPLICIT]),
            (5, CT, &["1.2.840.10008.1.2.4.100"]),
            (7, "1.2.840.10008.5.1.4.1.1.481.2", &[EXPLICIT]),
            (9, "not a uid", &[EXPLICIT]),
            (11, CT, &[]),
            (255, "1.2.840.10008.5.1.4.1.1.88.33\0", &["1.2.840.10008.1.2.1\0"]),
        ];
        let check = |sources: Vec<config::Source>, expected: &[(u8, PresentationContextResultReason)]| {
            let agreement = policy(sources)
                .negotiate(&request("PACS", "SIDELIGHT", proposals), "10.0.0.1".parse().unwrap())
                .unwrap();
            let got: Vec<_> = agreement.answer.presentation_contexts.iter().map(|c| (c.id, c.reason.clone())).collect();
            assert_eq!(got, expected);
            let accepted: Vec<_> = agreement.contexts.into_keys().collect();
            let wanted: Vec<_> =
                expected.iter().filter(|(_, reason)| *reason == Acceptance).map(|(id, _)| *id).collect();
            assert_eq!(accepted, wanted);
        };
        check(
            vec![source("PACS", &[])],
            &[
                (1, Acceptance),
                (3, Acceptance),
                (5, TransferSyntaxesNotSupported),
                (7, AbstractSyntaxNotSupported),
                (9, AbstractSyntaxNotSupported),
                (11, TransferSyntaxesNotSupported),
                (255, Acceptance),
            ],
        );
        check(
            vec![],
            &[
                (1, Acceptance),
                (3, UserRejection),
                (5, UserRejection),
                (7, AbstractSyntaxNotSupported),
                (9, AbstractSyntaxNotSupported),
                (11, UserRejection),
                (255, UserRejection),
            ],
        );
    }

    #[test]
    fn the_first_accepted_syntax_of_a_proposal_is_taken() {
        let proposals: &[(u8, &str, &[&str])] = &[(3, CT, &["1.2.840.10008.1.2.4.100", EXPLICIT, "1.2.840.10008.1.2"])];
        let mut request = request("PACS", "SIDELIGHT", proposals);
        request.user_variables = vec![UserVariableItem::MaxLength(16384)];
        let got = policy(vec![source("PACS", &[])]).negotiate(&request, "10.0.0.1".parse().unwrap()).unwrap();
        let uid = |text| Uid::parse(text).unwrap();
        assert_eq!(got.contexts[&3], Context { abstract_syntax: uid(CT), transfer_syntax: uid(EXPLICIT) });
        assert_eq!(got.peer_pdu_bytes_max, 16384);
        assert!(got.answer.user_variables.contains(&UserVariableItem::MaxLength(1 << 18)));
        let implementation = UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into());
        assert!(got.answer.user_variables.contains(&implementation));
    }

    #[test]
    fn requests_that_contradict_themselves_are_not_answered_with_an_association() {
        let fault = |edit: fn(&mut AssociationRQ)| {
            let mut request = request("PACS", "SIDELIGHT", &[(1, CT, &[EXPLICIT]), (3, CT, &[EXPLICIT])]);
            edit(&mut request);
            policy(vec![source("PACS", &[])]).negotiate(&request, "10.0.0.1".parse().unwrap()).err()
        };
        assert_eq!(fault(|_| ()), None);
        assert_eq!(fault(|r| r.protocol_version = 3), None);
        assert_eq!(fault(|r| r.protocol_version = 2), Some(Refusal::Reject(Rejection::ProtocolVersion)));
        assert_eq!(
            fault(|r| r.application_context_name = "1.2.3".into()),
            Some(Refusal::Reject(Rejection::ApplicationContext))
        );
        assert_eq!(fault(|r| r.presentation_contexts[1].id = 1), Some(Refusal::InvalidParameter));
        assert_eq!(fault(|r| r.presentation_contexts[1].id = 4), Some(Refusal::InvalidParameter));
        assert_eq!(fault(|r| r.presentation_contexts[1].id = 0), Some(Refusal::InvalidParameter));
    }

    #[test]
    fn a_rejection_carries_the_codes_of_the_standard() {
        let rows = [
            (Rejection::ProtocolVersion, [1, 2, 2]),
            (Rejection::ApplicationContext, [1, 1, 2]),
            (Rejection::CallingAe, [1, 1, 3]),
            (Rejection::CalledAe, [1, 1, 7]),
            (Rejection::Congestion, [2, 3, 1]),
            (Rejection::LimitExceeded, [2, 3, 2]),
        ];
        for (rejection, [result, source, reason]) in rows {
            let mut bytes = Vec::new();
            write_pdu(&mut bytes, &rejection.pdu()).unwrap();
            assert_eq!(bytes, [3, 0, 0, 0, 0, 4, 0, result, source, reason], "{rejection}");
        }
    }
}
