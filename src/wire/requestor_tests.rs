//! The requestor against scripted acceptors on a real socket; each test runs on a current-thread runtime.

use dicom_ul::pdu::{PDataValue, PresentationContextResult};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;
use crate::dicom::{EchoRq, Response, Status};

const COMMITMENT: &str = "1.2.840.10008.1.20.1";
const VERIFICATION: &str = "1.2.840.10008.1.1";
const EXPLICIT: &str = "1.2.840.10008.1.2.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const PATIENCE: Duration = Duration::from_secs(30);

const PROPOSALS: &[Proposal<'_>] = &[
    Proposal { abstract_syntax: COMMITMENT, transfer_syntaxes: &[EXPLICIT, IMPLICIT], roles: Some(Roles::SCP) },
    Proposal { abstract_syntax: VERIFICATION, transfer_syntaxes: &[IMPLICIT], roles: None },
];

fn title(text: &str) -> AeTitle {
    AeTitle::parse(text).unwrap()
}

/// A listener whose first peer is served by `script`.
async fn acceptor<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    script: impl FnOnce(Wire) -> F + Send + 'static,
) -> (u16, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (tcp, _) = listener.accept().await.unwrap();
        script(Wire::new(tcp, PATIENCE).unwrap()).await
    });
    (port, serving)
}

async fn open(port: u16, timeout: Duration) -> Result<Requestor, RequestError> {
    let (calling, called) = (title("SIDELIGHT"), title("PACS"));
    let call = Call {
        host: "127.0.0.1",
        port,
        security: &Security::Plain,
        calling: &calling,
        called: &called,
        proposals: PROPOSALS,
        timeout,
    };
    Requestor::open(&call).await
}

async fn read_request(wire: &mut Wire) -> AssociationRQ {
    match wire.receive(1 << 18).await.unwrap() {
        Pdu::AssociationRQ(request) => request,
        other => panic!("{other:?}"),
    }
}

fn answer(results: &[(u8, PresentationContextResultReason, &str)], items: Vec<UserVariableItem>) -> AssociationAC {
    AssociationAC {
        protocol_version: 1,
        calling_ae_title: "SIDELIGHT".into(),
        called_ae_title: "PACS".into(),
        application_context_name: APPLICATION_CONTEXT.into(),
        presentation_contexts: results
            .iter()
            .map(|(id, reason, ts)| PresentationContextResult {
                id: *id,
                reason: reason.clone(),
                transfer_syntax: (*ts).into(),
            })
            .collect(),
        user_variables: items,
    }
}

fn granted(scu: bool, scp: bool) -> UserVariableItem {
    UserVariableItem::ScuScpRoleSelectionSubItem(COMMITMENT.into(), RequestorRoles { scu, scp })
}

/// An acceptor that takes everything as proposed, with PDUs of 1 KiB.
async fn accept(wire: &mut Wire) {
    use PresentationContextResultReason::Acceptance;
    read_request(wire).await;
    let items = vec![granted(false, true), UserVariableItem::MaxLength(1024)];
    let answer = answer(&[(1, Acceptance, EXPLICIT), (3, Acceptance, IMPLICIT)], items);
    wire.send(&Pdu::AssociationAC(answer)).await.unwrap();
}

fn values(parts: &[(u8, PDataValueType, bool, &[u8])]) -> Pdu {
    let value = |(id, kind, is_last, data): &(u8, PDataValueType, bool, &[u8])| PDataValue {
        presentation_context_id: *id,
        value_type: kind.clone(),
        is_last: *is_last,
        data: data.to_vec(),
    };
    Pdu::PData { data: parts.iter().map(value).collect() }
}

#[tokio::test]
async fn the_request_names_this_implementation_and_the_roles() {
    let (port, serving) = acceptor(|mut wire| async move {
        let request = read_request(&mut wire).await;
        wire.abort(AbortRQSource::ServiceProvider(AbortRQServiceProviderReason::ReasonNotSpecified)).await;
        request
    })
    .await;
    let error = open(port, PATIENCE).await.unwrap_err();
    assert!(matches!(error, RequestError::Aborted(_)), "{error}");
    let request = serving.await.unwrap();
    assert_eq!((request.calling_ae_title.trim(), request.called_ae_title.trim()), ("SIDELIGHT", "PACS"));
    assert_eq!(request.presentation_contexts.iter().map(|c| c.id).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(request.presentation_contexts[0].transfer_syntaxes, [EXPLICIT, IMPLICIT]);
    let expected = [
        UserVariableItem::MaxLength(PDU_BYTES_MAX),
        UserVariableItem::ImplementationClassUID(IMPLEMENTATION_CLASS_UID.into()),
        UserVariableItem::ImplementationVersionName(IMPLEMENTATION_VERSION_NAME.into()),
        granted(false, true),
    ];
    assert_eq!(request.user_variables, expected);
}

#[test]
fn an_answer_is_held_against_what_was_proposed() {
    use PresentationContextResultReason::{Acceptance, UserRejection};
    let check =
        |results: &[(u8, PresentationContextResultReason, &str)], items, expected: Result<[bool; 2], &str>| match (
            accepted(PROPOSALS, &answer(results, items)),
            expected,
        ) {
            (Ok((contexts, _)), Ok(expected)) => {
                assert_eq!(contexts.iter().map(Option::is_some).collect::<Vec<_>>(), expected, "{results:?}");
            }
            (Err(fault), Err(part)) => assert!(fault.contains(part), "{fault}"),
            (got, _) => panic!("{results:?}: {got:?}"),
        };
    check(&[(1, Acceptance, IMPLICIT), (3, Acceptance, "1.2.840.10008.1.2\0")], vec![], Ok([true, true]));
    check(&[(3, Acceptance, IMPLICIT), (1, UserRejection, IMPLICIT)], vec![], Ok([false, true]));
    check(&[], vec![], Ok([false, false]));
    check(&[(3, Acceptance, EXPLICIT)], vec![], Ok([false, false]));
    check(&[(3, Acceptance, IMPLICIT), (3, UserRejection, IMPLICIT)], vec![], Err("context 3 twice"));
    for stray in [0, 2, 5, 255] {
        check(&[(stray, Acceptance, IMPLICIT)], vec![], Err("was not proposed"));
    }
    for (most, expected) in [(1, Err("PDUs of 1 bytes")), (7, Err("PDUs of 7")), (8, Ok([false; 2]))] {
        check(&[], vec![UserVariableItem::MaxLength(most)], expected);
    }
}

#[test]
fn a_role_is_what_both_sides_agreed_on() {
    use PresentationContextResultReason::Acceptance;
    let rows = [
        (vec![], Roles::SCU),
        (vec![granted(false, true)], Roles::SCP),
        (vec![granted(true, true)], Roles::SCP),
        (vec![granted(false, false)], Roles { scu: false, scp: false }),
    ];
    for (items, expected) in rows {
        let answer = answer(&[(1, Acceptance, EXPLICIT), (3, Acceptance, IMPLICIT)], items.clone());
        let (contexts, _) = accepted(PROPOSALS, &answer).unwrap();
        let roles: Vec<_> = contexts.iter().flatten().map(|c| c.roles).collect();
        assert_eq!(roles, [expected, Roles::SCU], "{items:?}");
    }
}

#[tokio::test]
async fn a_message_with_a_data_set_goes_out_in_pieces_and_one_comes_back() {
    let (port, serving) = acceptor(|mut wire| async move {
        accept(&mut wire).await;
        let (mut command, mut data_set, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        let mut ended = false;
        while !ended {
            let Pdu::PData { data } = wire.receive(1024).await.unwrap() else { panic!("no data") };
            for value in data {
                ended = value.is_last && value.value_type == PDataValueType::Data;
                lengths.push(value.data.len());
                match value.value_type {
                    PDataValueType::Command => command.extend(value.data),
                    PDataValueType::Data => data_set.extend(value.data),
                }
            }
        }
        // A request of the acceptor's own, its command with a data set, in uneven pieces.
        let echo = EchoRq { message_id: 7, has_data_set: true }.encode();
        let (command_part, data_part) = (PDataValueType::Command, PDataValueType::Data);
        wire.send(&values(&[(1, command_part.clone(), false, &echo[..9])])).await.unwrap();
        let rest = values(&[(1, command_part, true, &echo[9..]), (1, data_part.clone(), false, b"12")]);
        wire.send(&rest).await.unwrap();
        wire.send(&values(&[(1, data_part, true, b"3456")])).await.unwrap();
        // A release on both sides at once (PS3.8 9.2, state 9).
        assert_eq!(wire.receive(1024).await.unwrap(), Pdu::ReleaseRQ);
        wire.send(&Pdu::ReleaseRQ).await.unwrap();
        assert_eq!(wire.receive(1024).await.unwrap(), Pdu::ReleaseRP);
        wire.send(&Pdu::ReleaseRP).await.unwrap();
        assert!(matches!(wire.receive(1024).await, Err(WireError::Closed)));
        (command, data_set, lengths)
    })
    .await;
    let mut requestor = open(port, PATIENCE).await.unwrap();
    let accepted = requestor.accepted(0).unwrap();
    assert_eq!(accepted, Accepted { context: 1, transfer_syntax: EXPLICIT, roles: Roles::SCP });
    let echo = EchoRq { message_id: 1, has_data_set: true }.encode();
    requestor.send(1, &echo, Some(&[5; 3000])).await.unwrap();
    let message = requestor.receive().await.unwrap();
    assert_eq!((message.context, message.data_set.as_deref()), (1, Some(&b"123456"[..])));
    assert_eq!(message.command, EchoRq { message_id: 7, has_data_set: true }.encode());
    requestor.release().await;
    let (command, data_set, lengths) = serving.await.unwrap();
    assert_eq!((command, data_set), (echo, vec![5; 3000]));
    assert_eq!(lengths[1..], [1018, 1018, 964]);
}

#[tokio::test]
async fn an_acceptor_that_breaks_the_protocol_is_told_so() {
    let stray = answer(&[(9, PresentationContextResultReason::Acceptance, IMPLICIT)], vec![]);
    let rows = [
        (Pdu::ReleaseRQ, AbortRQServiceProviderReason::UnexpectedPdu),
        (values(&[(1, PDataValueType::Data, true, b"1")]), AbortRQServiceProviderReason::UnexpectedPdu),
        (Pdu::AssociationAC(stray), AbortRQServiceProviderReason::InvalidPduParameter),
    ];
    for (pdu, reason) in rows {
        let sent = pdu.clone();
        let (port, serving) = acceptor(|mut wire| async move {
            read_request(&mut wire).await;
            wire.send(&sent).await.unwrap();
            wire.receive(1024).await.unwrap()
        })
        .await;
        let error = open(port, PATIENCE).await.unwrap_err();
        assert!(matches!(error, RequestError::Violation(_)), "{pdu:?}: {error}");
        assert_eq!(serving.await.unwrap(), Pdu::AbortRQ { source: AbortRQSource::ServiceProvider(reason) });
    }
}

#[tokio::test]
async fn what_is_no_message_is_refused() {
    use PDataValueType::{Command, Data};
    let response = {
        let request = EchoRq { message_id: 1, has_data_set: false };
        Response::to_echo(&request, Status::SUCCESS).encode()
    };
    let rows: Vec<(Pdu, &str)> = vec![
        (values(&[(1, Data, true, b"12")]), "a data set without a command"),
        (values(&[(5, Command, true, &response)]), "context 5 was not agreed"),
        (
            values(&[(1, Command, false, &response[..4]), (3, Command, true, &response[4..])]),
            "from presentation context",
        ),
        (values(&[(1, Command, true, &response), (1, Command, true, &response)]), "two messages"),
        (values(&[(1, Command, true, &[0, 0, 0, 0, 255, 255, 255, 255])]), "claims 4294967295 bytes"),
        (values(&[(1, Command, false, &[0; 64_000]), (1, Command, false, &[0; 64_000])]), "at most 65536 are read"),
        (Pdu::ReleaseRQ, "A-RELEASE-RQ within a message"),
        (Pdu::AbortRQ { source: AbortRQSource::ServiceUser }, "aborted"),
    ];
    for (pdu, part) in rows {
        let (port, serving) = acceptor(|mut wire| async move {
            accept(&mut wire).await;
            wire.send(&pdu).await.unwrap();
            wire.receive(1024).await
        })
        .await;
        let mut requestor = open(port, PATIENCE).await.unwrap();
        let error = requestor.receive().await.unwrap_err();
        assert!(error.to_string().contains(part), "{error}, expected {part}");
        requestor.abort().await;
        let _ = serving.await.unwrap();
    }
}

#[tokio::test]
async fn a_silent_acceptor_costs_no_more_than_the_timeout() {
    let quick = Duration::from_millis(200);
    let (port, serving) = acceptor(|mut wire| async move {
        read_request(&mut wire).await;
        wire.receive(1024).await
    })
    .await;
    let error = open(port, quick).await.unwrap_err();
    assert!(matches!(error, RequestError::Timeout { step: Step::Connecting, .. }), "{error}");
    assert!(matches!(serving.await.unwrap(), Err(WireError::Closed)));

    let (port, serving) = acceptor(|mut wire| async move {
        accept(&mut wire).await;
        wire.receive(1024).await
    })
    .await;
    let mut requestor = open(port, quick).await.unwrap();
    let error = requestor.receive().await.unwrap_err();
    assert!(matches!(error, RequestError::Timeout { step: Step::Answering, .. }), "{error}");
    requestor.abort().await;
    assert_eq!(serving.await.unwrap().unwrap(), Pdu::AbortRQ { source: AbortRQSource::ServiceUser });
}

#[test]
fn more_contexts_than_there_are_ids_are_not_proposed() {
    let (calling, called) = (title("A"), title("B"));
    let check = |count: usize, expected: bool| {
        let proposals = vec![PROPOSALS[1]; count];
        let call = Call {
            host: "h",
            port: 1,
            security: &Security::Plain,
            calling: &calling,
            called: &called,
            proposals: &proposals,
            timeout: PATIENCE,
        };
        assert_eq!(request(&call).is_ok(), expected, "{count}");
    };
    check(128, true);
    check(129, false);
}
