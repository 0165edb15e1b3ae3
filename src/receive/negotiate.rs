//! The answer to an A-ASSOCIATE-RQ, as a pure function of the request, the peer's address and the configuration
//! (PS3.8 7.1, 9.3.2 to 9.3.4; PS3.7 Annex D).
//!
//! Neighbours: `association` asks and sends the answer. dicom-ul's acceptor is not used: its access control sees no
//! peer address, its rejections are always permanent, and it names itself as the implementation. `identity` judges the
//! user, `user_information` words the answers besides contexts. Left out: limits of the moment (associations, disk),
//! which `mod` asks after this said yes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;

use dicom_ul::pdu::{
    AssociationAC, AssociationRJ, AssociationRJResult, AssociationRJServiceProviderASCEReason,
    AssociationRJServiceProviderPresentationReason, AssociationRJServiceUserReason, AssociationRJSource, AssociationRQ,
    Pdu, PresentationContextProposed, PresentationContextResult, PresentationContextResultReason, RequestorRoles,
    UserVariableItem,
};

use crate::config::{self, Mode};
use crate::dicom::{
    Encoding, IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, REPORT_STORAGE, STORAGE_COMMITMENT,
    STUDY_ROOT_FIND, STUDY_ROOT_GET, VERIFICATION, is_storage_accepted, is_transfer_syntax_accepted,
};
use crate::domain::{AeTitle, Uid};
use crate::wire::PEER_PDU_BYTES_MIN;

use super::identity::{self, Credentials, User};
use super::user_information::Proposed;

/// Who may call whom, and what is announced.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    /// Called AE titles that the node answers to.
    pub(super) titles: Vec<AeTitle>,
    sources: Vec<Source>,
    pub(super) pdu_bytes_max: u32,
}

/// A known caller and what it may ask for.
#[derive(Debug, Clone)]
struct Source {
    ae_title: AeTitle,
    hosts: Vec<IpAddr>,
    user: Option<Credentials>,
    commitment: bool,
    query: bool,
}

/// An accepted presentation context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Context {
    pub(super) abstract_syntax: Uid,
    pub(super) transfer_syntax: Uid,
    /// Whether the requestor is the user of the service, as by default, or its provider too (PS3.7 D.3.3.4).
    pub(super) roles: RequestorRoles,
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
    /// Operations that the peer may have outstanding.
    pub(super) window: u16,
    pub(super) user: User,
    pub(super) answer: AssociationAC,
}

/// Why there is no association; each has its result, source and reason in [`Rejection::pdu`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Rejection {
    #[error("protocol version 1 is not offered")]
    ProtocolVersion,
    #[error("the application context is not that of DICOM")]
    ApplicationContext,
    #[error("the called AE title is not one of node.ae_title and aliases")]
    CalledAe,
    #[error("the calling AE title is not listed in sources, or not for this address or way of connecting")]
    CallingAe,
    #[error("the user is not the one that the source must name, or the passcode is wrong")]
    User,
    #[error("it takes PDUs of less than {PEER_PDU_BYTES_MIN} bytes only (PS3.8 D.1), in which no answer fits")]
    MaximumLength,
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
    /// Reads the passcode files of the sources, so it can fail. In shadow mode only audit archives may query, whatever
    /// the configuration says.
    pub(super) fn new(node: &config::Node, sources: &[config::Source]) -> io::Result<Self> {
        let source = |source: &config::Source| {
            Ok(Source {
                ae_title: source.ae_title.clone(),
                hosts: source.hosts.clone(),
                user: source.user.as_ref().map(Credentials::load).transpose()?,
                commitment: source.commitment,
                query: source.query && (source.audit || node.mode == Mode::Active),
            })
        };
        Ok(Self {
            titles: node.aliases.iter().map(|alias| &alias.ae_title).chain([&node.ae_title]).cloned().collect(),
            sources: sources.iter().map(source).collect::<io::Result<_>>()?,
            pdu_bytes_max: node.pdu_bytes_max,
        })
    }

    /// Judges a request from `peer`, who may be an archive that was asked for storage commitment. The transfer syntax
    /// of a context is the first proposed one that is accepted.
    pub(super) fn negotiate(&self, request: &AssociationRQ, peer: IpAddr, archive: bool) -> Result<Agreement, Refusal> {
        if request.protocol_version & 1 == 0 {
            return Err(Refusal::Reject(Rejection::ProtocolVersion));
        }
        if request.application_context_name.trim_end_matches(['\0', ' ']) != APPLICATION_CONTEXT {
            return Err(Refusal::Reject(Rejection::ApplicationContext));
        }
        let called = self.called(&request.called_ae_title).ok_or(Refusal::Reject(Rejection::CalledAe))?;
        let (calling, source) =
            self.calling(&request.calling_ae_title, peer, archive).ok_or(Refusal::Reject(Rejection::CallingAe))?;
        let proposed = Proposed::read(&request.user_variables);
        let user = identity::check(proposed.identity.as_ref(), source.and_then(|source| source.user.as_ref()))
            .map_err(|_| Refusal::Reject(Rejection::User))?;
        // What it sent would be kept, and it could not be told so.
        if (1..PEER_PDU_BYTES_MIN).contains(&proposed.pdu_bytes_max) {
            return Err(Refusal::Reject(Rejection::MaximumLength));
        }

        let mut ids = BTreeSet::new();
        if !request.presentation_contexts.iter().all(|context| context.id % 2 == 1 && ids.insert(context.id)) {
            return Err(Refusal::InvalidParameter);
        }
        let mut contexts = BTreeMap::new();
        let mut results = Vec::with_capacity(request.presentation_contexts.len());
        let mut agreed = BTreeMap::new();
        for context in &request.presentation_contexts {
            let judged = judge(context, source, archive, &proposed);
            let (reason, transfer_syntax) = match &judged {
                Ok(context) => (PresentationContextResultReason::Acceptance, context.transfer_syntax.as_str()),
                // Not significant for a refused context, but the item has to be there (PS3.8 9.3.3.2).
                Err(reason) => (reason.clone(), "1.2.840.10008.1.2"),
            };
            results.push(PresentationContextResult { id: context.id, reason, transfer_syntax: transfer_syntax.into() });
            if let Ok(accepted) = judged {
                agreed.insert(accepted.abstract_syntax.clone(), accepted.roles);
                contexts.insert(context.id, accepted);
            }
        }

        let mut user_variables = vec![
            UserVariableItem::MaxLength(self.pdu_bytes_max),
            UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
            UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.into()),
        ];
        user_variables.extend(proposed.answers(&agreed, matches!(user, User::Checked(_))));
        let answer = AssociationAC {
            protocol_version: 1,
            calling_ae_title: request.calling_ae_title.clone(),
            called_ae_title: request.called_ae_title.clone(),
            application_context_name: APPLICATION_CONTEXT.into(),
            presentation_contexts: results,
            user_variables,
        };
        let (peer_pdu_bytes_max, window) = (proposed.pdu_bytes_max, proposed.window(&agreed));
        Ok(Agreement { calling, called, contexts, peer_pdu_bytes_max, window, user, answer })
    }

    /// Whether anybody may try C-ECHO, since there is no source yet.
    pub(super) fn is_open(&self) -> bool {
        self.sources.is_empty()
    }

    pub(super) fn has_source(&self, title: &AeTitle) -> bool {
        self.sources.iter().any(|source| source.ae_title == *title)
    }

    /// Whether the source of this title and address may query.
    pub(super) fn may_query(&self, title: &AeTitle, peer: IpAddr) -> bool {
        self.source(title, peer).is_some_and(|source| source.query)
    }

    fn source(&self, title: &AeTitle, peer: IpAddr) -> Option<&Source> {
        let peer = peer.to_canonical();
        let from_here = |hosts: &[IpAddr]| hosts.is_empty() || hosts.iter().any(|host| host.to_canonical() == peer);
        self.sources.iter().find(|source| source.ae_title == *title && from_here(&source.hosts))
    }

    fn called(&self, title: &str) -> Option<AeTitle> {
        AeTitle::parse(title).ok().filter(|title| self.titles.contains(title))
    }

    /// A caller is known by its title and, where the source lists hosts, by its address too. A node without any
    /// source takes no objects, but answers C-ECHO, so that the network can be tried before the sources are listed.
    fn calling(&self, title: &str, peer: IpAddr, archive: bool) -> Option<(AeTitle, Option<&Source>)> {
        let title = AeTitle::parse(title).ok()?;
        let source = self.source(&title, peer);
        // An archive that is listed as a source comes from where that may come.
        let archive = archive && !self.has_source(&title);
        (source.is_some() || archive || self.sources.is_empty()).then_some((title, source))
    }
}

/// Judges one presentation context for a source; none: a node that has no sources, or an archive that is none.
fn judge(
    context: &PresentationContextProposed,
    source: Option<&Source>,
    archive: bool,
    proposed: &Proposed,
) -> Result<Context, PresentationContextResultReason> {
    use PresentationContextResultReason::{AbstractSyntaxNotSupported, TransferSyntaxesNotSupported, UserRejection};
    let abstract_syntax = Uid::parse(&context.abstract_syntax).map_err(|_| AbstractSyntaxNotSupported)?;
    let class = abstract_syntax.as_str();
    let storage = is_storage_accepted(&abstract_syntax);
    let allowed = match class {
        _ if storage => source.is_some(),
        _ if class == VERIFICATION.uid => true,
        _ if class == STORAGE_COMMITMENT.uid => archive || source.is_some_and(|source| source.commitment),
        _ if class == STUDY_ROOT_FIND.uid || class == STUDY_ROOT_GET.uid => source.is_some_and(|source| source.query),
        _ => return Err(AbstractSyntaxNotSupported),
    };
    if !allowed {
        return Err(UserRejection);
    }
    // The node is the provider of every class, of storage commitment to those who may ask for it. It is a user too of
    // the classes of its own reports, towards peers that may pull them: it sends them on the peer's association; and of
    // storage commitment, towards an archive that was asked for it and reports it now (PS3.4 J.3.3).
    let commitment = class == STORAGE_COMMITMENT.uid;
    let provider = !commitment || source.is_some_and(|source| source.commitment);
    let user = match commitment {
        true => archive,
        false => REPORT_STORAGE.contains(&class) && source.is_some_and(|source| source.query),
    };
    let roles = match proposed.roles(&abstract_syntax) {
        None => RequestorRoles { scu: provider, scp: false },
        Some(wished) => RequestorRoles { scu: wished.scu && provider, scp: wished.scp && user },
    };
    if !roles.scu && !roles.scp {
        return Err(UserRejection);
    }
    // What is read or written here, and not only kept, is in one of the two plain encodings.
    let fits = |uid: &Uid| match storage && !roles.scp {
        true => is_transfer_syntax_accepted(uid),
        false => Encoding::of(uid).is_some(),
    };
    let mut proposals = context.transfer_syntaxes.iter().filter_map(|text| Uid::parse(text).ok());
    let transfer_syntax = proposals.find(fits).ok_or(TransferSyntaxesNotSupported)?;
    Ok(Context { abstract_syntax, transfer_syntax, roles })
}

impl Rejection {
    /// The A-ASSOCIATE-RJ (PS3.8 table 9-21). What may pass by itself is transient: a sender then tries again.
    pub(super) fn pdu(self) -> Pdu {
        use AssociationRJServiceProviderPresentationReason::{LocalLimitExceeded, TemporaryCongestion};
        use AssociationRJServiceUserReason::{
            ApplicationContextNameNotSupported, CalledAETitleNotRecognized, CallingAETitleNotRecognized, NoReasonGiven,
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
            // The Standard has no reason for it, and a peer need not learn which of name and passcode was wrong.
            Rejection::User => (AssociationRJResult::Permanent, ServiceUser(NoReasonGiven)),
            Rejection::MaximumLength => (AssociationRJResult::Permanent, ServiceUser(NoReasonGiven)),
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
#[path = "negotiate_tests.rs"]
mod tests;
