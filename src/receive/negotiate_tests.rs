//! Who gets an association, with which contexts and answers; every rejection with its codes.

use dicom_ul::pdu::{UserIdentity, UserIdentityType, write_pdu};

use super::*;

const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

fn source(title: &str, hosts: &[&str]) -> Source {
    let hosts = hosts.iter().map(|host| host.parse().unwrap()).collect();
    Source { ae_title: AeTitle::parse(title).unwrap(), hosts, user: None, commitment: false, query: false }
}

/// A source that may ask for everything.
fn trusted() -> Source {
    Source { commitment: true, query: true, ..source("PACS", &[]) }
}

fn policy(sources: Vec<Source>) -> Policy {
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
        let got = policy(sources).negotiate(&request(calling, called, &[]), peer.parse().unwrap(), false);
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
    let check = |sources: Vec<Source>, expected: &[(u8, PresentationContextResultReason)]| {
        let agreement = policy(sources)
            .negotiate(&request("PACS", "SIDELIGHT", proposals), "10.0.0.1".parse().unwrap(), false)
            .unwrap();
        let got: Vec<_> = agreement.answer.presentation_contexts.iter().map(|c| (c.id, c.reason.clone())).collect();
        assert_eq!(got, expected);
        let accepted: Vec<_> = agreement.contexts.into_keys().collect();
        let wanted: Vec<_> = expected.iter().filter(|(_, reason)| *reason == Acceptance).map(|(id, _)| *id).collect();
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
    let got = policy(vec![source("PACS", &[])]).negotiate(&request, "10.0.0.1".parse().unwrap(), false).unwrap();
    let uid = |text| Uid::parse(text).unwrap();
    let roles = RequestorRoles { scu: true, scp: false };
    assert_eq!(got.contexts[&3], Context { abstract_syntax: uid(CT), transfer_syntax: uid(EXPLICIT), roles });
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
        policy(vec![source("PACS", &[])]).negotiate(&request, "10.0.0.1".parse().unwrap(), false).err()
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
        (Rejection::User, [1, 1, 1]),
        (Rejection::MaximumLength, [1, 1, 1]),
        (Rejection::Congestion, [2, 3, 1]),
        (Rejection::LimitExceeded, [2, 3, 2]),
    ];
    for (rejection, [result, source, reason]) in rows {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, &rejection.pdu()).unwrap();
        assert_eq!(bytes, [3, 0, 0, 0, 0, 4, 0, result, source, reason], "{rejection}");
    }
}

#[test]
fn commitment_and_query_are_offered_to_the_sources_that_have_them() {
    use PresentationContextResultReason::*;
    let all = [IMPLICIT, EXPLICIT, "1.2.840.10008.1.2.2"];
    let proposals: Vec<(u8, &str, &[&str])> = vec![
        (1, STORAGE_COMMITMENT.uid, &all),
        (3, STUDY_ROOT_FIND.uid, &all),
        (5, STUDY_ROOT_GET.uid, &all),
        (7, "1.2.840.10008.5.1.4.1.2.1.1", &all),
        (9, "1.2.840.10008.5.1.4.1.2.2.2", &all),
        (11, STUDY_ROOT_FIND.uid, &all[2..]),
    ];
    let check = |source: Source, expected: [PresentationContextResultReason; 6]| {
        let request = request("PACS", "SIDELIGHT", &proposals);
        let agreement = policy(vec![source]).negotiate(&request, "10.0.0.1".parse().unwrap(), false).unwrap();
        let got: Vec<_> = agreement.answer.presentation_contexts.into_iter().map(|c| c.reason).collect();
        assert_eq!(got, expected);
    };
    let no = AbstractSyntaxNotSupported;
    let syntax = TransferSyntaxesNotSupported;
    check(trusted(), [Acceptance, Acceptance, Acceptance, no.clone(), no.clone(), syntax]);
    let refused = [UserRejection, UserRejection, UserRejection, no.clone(), no.clone(), UserRejection];
    check(source("PACS", &[]), refused);
    let only_commitment = Source { commitment: true, ..source("PACS", &[]) };
    check(only_commitment, [Acceptance, UserRejection, UserRejection, no.clone(), no, UserRejection]);
}

#[test]
fn shadow_mode_lets_only_audit_archives_query() {
    let toml = |mode: &str, audit: bool| {
        format!("node.mode = \"{mode}\"\n[[sources]]\nae_title = \"PACS\"\nquery = true\naudit = {audit}\n")
    };
    for (mode, audit, expected) in [("active", false, true), ("active", true, true), ("shadow", true, true)] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, toml(mode, audit).as_bytes()).unwrap();
        let mut config = config::load(Some(file.path()), [], &[]).unwrap();
        assert_eq!(Policy::new(&config.node, &config.sources).unwrap().sources[0].query, expected, "{mode} {audit}");
        // Not even where a configuration says so that nobody validated.
        config.node.mode = Mode::Shadow;
        assert_eq!(Policy::new(&config.node, &config.sources).unwrap().sources[0].query, audit, "{mode} {audit}");
    }
}

#[test]
fn roles_are_granted_as_far_as_there_is_somebody_to_play_the_other() {
    let sr = REPORT_STORAGE[0];
    let check = |source: Source, class: &str, wished: Option<(bool, bool)>, expected: Option<(bool, bool)>| {
        let mut request = request("PACS", "SIDELIGHT", &[(1, class, &[EXPLICIT])]);
        let item = |(scu, scp)| UserVariableItem::ScuScpRoleSelectionSubItem(class.into(), RequestorRoles { scu, scp });
        request.user_variables = wished.map(item).into_iter().collect();
        let got = policy(vec![source]).negotiate(&request, "10.0.0.1".parse().unwrap(), false).unwrap();
        let roles = got.contexts.get(&1).map(|context| (context.roles.scu, context.roles.scp));
        assert_eq!(roles, expected, "{class} {wished:?}");
        let answered = got.answer.user_variables.iter().any(|answer| expected.map(item).as_ref() == Some(answer));
        assert_eq!(answered, wished.is_some() && expected.is_some(), "{class} {wished:?}");
    };
    let yes = Some((true, false));
    check(trusted(), sr, None, yes);
    check(trusted(), sr, Some((true, true)), Some((true, true)));
    check(trusted(), sr, Some((false, true)), Some((false, true)));
    check(source("PACS", &[]), sr, Some((true, true)), yes);
    check(source("PACS", &[]), sr, Some((false, true)), None);
    check(trusted(), CT, Some((true, true)), yes);
    check(trusted(), CT, Some((false, true)), None);
    check(trusted(), CT, Some((false, false)), None);
    check(trusted(), STORAGE_COMMITMENT.uid, Some((true, true)), yes);
    check(trusted(), STUDY_ROOT_GET.uid, Some((true, false)), yes);
}

#[test]
fn what_the_node_sends_itself_is_agreed_on_in_an_encoding_that_it_writes() {
    let sr = REPORT_STORAGE[0];
    let roles = UserVariableItem::ScuScpRoleSelectionSubItem(sr.into(), RequestorRoles { scu: true, scp: true });
    let check = |syntaxes: &[&str], roles: Vec<UserVariableItem>, expected: Option<&str>| {
        let mut request = request("PACS", "SIDELIGHT", &[(1, sr, syntaxes)]);
        request.user_variables = roles;
        let got = policy(vec![trusted()]).negotiate(&request, "10.0.0.1".parse().unwrap(), false).unwrap();
        assert_eq!(got.contexts.get(&1).map(|context| context.transfer_syntax.as_str()), expected, "{syntaxes:?}");
    };
    let deflated = "1.2.840.10008.1.2.1.99";
    check(&[deflated, IMPLICIT], vec![], Some(deflated));
    check(&[deflated, IMPLICIT], vec![roles.clone()], Some(IMPLICIT));
    check(&[deflated], vec![roles], None);
}

#[test]
fn a_source_with_a_user_takes_nobody_else() {
    let user = |passcode_file| config::User { username: "anna".into(), passcode_file };
    let pacs = || Source { user: Some(Credentials::load(&user(None)).unwrap()), ..source("PACS", &[]) };
    let check = |name: Option<&str>, expected: Result<User, Refusal>| {
        let mut request = request("PACS", "SIDELIGHT", &[]);
        let identity = |name: &str| UserIdentity::new(true, UserIdentityType::Username, name.into(), vec![]);
        request.user_variables =
            name.map(|name| UserVariableItem::UserIdentityItem(identity(name))).into_iter().collect();
        let got = policy(vec![pacs()]).negotiate(&request, "10.0.0.1".parse().unwrap(), false);
        let positive = UserVariableItem::Unknown(0x59, vec![0, 0]);
        let heard = got.as_ref().is_ok_and(|agreement| agreement.answer.user_variables.contains(&positive));
        assert_eq!(heard, expected.is_ok());
        assert_eq!(got.map(|agreement| agreement.user), expected);
    };
    check(Some("anna"), Ok(User::Checked("anna".into())));
    check(Some("bert"), Err(Refusal::Reject(Rejection::User)));
    check(None, Err(Refusal::Reject(Rejection::User)));
}

#[test]
fn an_archive_that_was_asked_may_report_commitment_as_its_provider_and_nothing_else() {
    use RequestorRoles as Roles;
    let (scu, scp) = (Roles { scu: true, scp: false }, Roles { scu: false, scp: true });
    let negotiate = |sources: Vec<Source>, archive: bool, class: &str, roles: Option<Roles>| {
        let mut request = request("ARCHIVE", "SIDELIGHT", &[(1, class, &[IMPLICIT])]);
        request.user_variables.extend(roles.map(|r| UserVariableItem::ScuScpRoleSelectionSubItem(class.into(), r)));
        policy(sources).negotiate(&request, "10.0.0.1".parse().unwrap(), archive)
    };
    let agreed = |sources, archive, class, roles| {
        negotiate(sources, archive, class, roles).unwrap().contexts.remove(&1).map(|context| context.roles)
    };
    let listed = |commitment| {
        let archive = Source { commitment, ..source("ARCHIVE", &[]) };
        vec![archive, source("PACS", &[])]
    };
    let others = || vec![source("PACS", &[])];
    let commitment = STORAGE_COMMITMENT.uid;
    assert_eq!(negotiate(others(), false, commitment, Some(scp)), Err(Refusal::Reject(Rejection::CallingAe)));
    assert_eq!(agreed(others(), true, commitment, Some(scp)), Some(scp));
    assert_eq!(agreed(others(), true, commitment, None), None, "a user of the service it may not be");
    assert_eq!(agreed(others(), true, CT, None), None, "it is no source");
    assert_eq!(agreed(others(), true, VERIFICATION.uid, None), Some(scu));
    assert_eq!(agreed(listed(false), true, commitment, Some(scp)), Some(scp));
    assert_eq!(agreed(listed(false), true, commitment, Some(scu)), None);
    assert_eq!(
        agreed(listed(true), true, commitment, Some(Roles { scu: true, scp: true })),
        Some(Roles { scu: true, scp: true })
    );
    assert_eq!(agreed(listed(true), false, commitment, Some(scp)), None, "a source that was not asked");
    let elsewhere = vec![source("ARCHIVE", &["10.0.0.2"])];
    let rejected = negotiate(elsewhere, true, commitment, Some(scp));
    assert_eq!(rejected, Err(Refusal::Reject(Rejection::CallingAe)), "not from where the source may come");
}
