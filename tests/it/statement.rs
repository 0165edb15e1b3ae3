//! The Conformance Statement against the node: the tables of `docs/conformance.md` that lie between `<!-- observed:
//! NAME -->` and `<!-- end -->` are what a running door answered to every SOP class and transfer syntax of the
//! Standard, and what a peer saw that the node called. `SIDELIGHT_BLESS=1` writes them anew.
//!
//! The classes and syntaxes are proposed from pydicom's dictionary, so that the list is not our own, and from the node's
//! list of syntaxes beside it. Left out: the
//! statuses of the statement, which unit tests hold (`receive::store_scp`).

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::process::Command;

use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, Pdu, PresentationContextProposed, PresentationContextResultReason, RequestorRoles,
    UserVariableItem, read_pdu, write_pdu,
};
use sidelight::config::{self, Destination, Endpoint, Mode};
use sidelight::deliver::{self, ReportFile};
use sidelight::dicom::{STORAGE_COMMITMENT, transfer_syntaxes};
use sidelight::domain::{AeTitle, Disclosure};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

use crate::receive::scu::{CT, Door, EXPLICIT, PATIENCE, Scu, association_rq, source};
use crate::report::alternatives;
use crate::report::deliver::no_tls;
use crate::support::{reference_python, root, run_ok};

const VERIFICATION: &str = "1.2.840.10008.1.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";
const COMPREHENSIVE_SR: &str = "1.2.840.10008.5.1.4.1.1.88.33";
const FIND: &str = "1.2.840.10008.5.1.4.1.2.2.1";
const GET: &str = "1.2.840.10008.5.1.4.1.2.2.3";

/// Presentation contexts of one association (PS3.8 9.3.2.2: odd ids of one byte).
const CONTEXTS_MAX: usize = 128;

/// The Standard's SOP classes and transfer syntaxes, UID to name, as pydicom knows them; and what the node says that it
/// takes, since a dictionary may be older.
struct Registry {
    classes: BTreeMap<String, String>,
    syntaxes: BTreeMap<String, String>,
}

/// What a block of the statement is called, and its text.
type Block = (&'static str, String);

fn registry() -> Registry {
    let script = "from pydicom._uid_dict import UID_dictionary as d\n\
                  for uid, (name, kind, *_) in d.items(): print(uid, kind.replace(' ', '_'), name, sep='\\t')";
    let text = run_ok(Command::new(reference_python()).args(["-c", script]));
    let mut registry = Registry { classes: BTreeMap::new(), syntaxes: BTreeMap::new() };
    for line in text.lines() {
        let [uid, kind, name] = line.split('\t').collect::<Vec<_>>()[..] else { panic!("{line}") };
        let list = match kind {
            "SOP_Class" | "Meta_SOP_Class" => &mut registry.classes,
            "Transfer_Syntax" => &mut registry.syntaxes,
            _ => continue,
        };
        list.insert(uid.to_owned(), name.to_owned());
    }
    for syntax in transfer_syntaxes() {
        registry.syntaxes.entry(syntax.uid.to_owned()).or_insert_with(|| syntax.name.to_owned());
    }
    assert!(registry.classes.len() > 250 && registry.syntaxes.len() > 40, "a registry of the Standard");
    registry
}

fn request(contexts: &[(String, Vec<String>)], items: Vec<UserVariableItem>) -> AssociationRQ {
    let Pdu::AssociationRQ(mut request) = association_rq("PACS", &[]) else { unreachable!("a request") };
    let propose = |(index, (class, syntaxes)): (usize, &(String, Vec<String>))| PresentationContextProposed {
        id: u8::try_from(2 * index + 1).expect("at most 128 contexts"),
        abstract_syntax: class.clone(),
        transfer_syntaxes: syntaxes.clone(),
    };
    request.presentation_contexts = contexts.iter().enumerate().map(propose).collect();
    request.user_variables.extend(items);
    request
}

async fn ask(door: &Door, request: AssociationRQ) -> AssociationAC {
    let mut scu = Scu::connect(door.port).await;
    scu.send(&Pdu::AssociationRQ(request)).await;
    match scu.receive().await {
        Some(Pdu::AssociationAC(answer)) => {
            assert!(scu.release().await);
            answer
        }
        other => panic!("no association: {other:?}"),
    }
}

/// Which of these contexts are accepted.
async fn accepted(door: &Door, contexts: &[(String, Vec<String>)]) -> Vec<bool> {
    let mut accepted = Vec::new();
    for some in contexts.chunks(CONTEXTS_MAX) {
        let answer = ask(door, request(some, vec![])).await;
        assert_eq!(answer.presentation_contexts.len(), some.len(), "an answer to each context");
        let yes =
            |c: &dicom_ul::pdu::PresentationContextResult| c.reason == PresentationContextResultReason::Acceptance;
        accepted.extend(answer.presentation_contexts.iter().map(yes));
    }
    accepted
}

/// SOP class to the transfer syntaxes that are accepted for it, each tried in a context of its own.
async fn offered(door: &Door, registry: &Registry) -> BTreeMap<String, Vec<String>> {
    let syntaxes: Vec<String> = registry.syntaxes.keys().cloned().collect();
    let all: Vec<_> = registry.classes.keys().map(|class| (class.clone(), syntaxes.clone())).collect();
    let known = accepted(door, &all).await;
    let pairs: Vec<(String, Vec<String>)> = all
        .iter()
        .zip(known)
        .filter(|(_, accepted)| *accepted)
        .flat_map(|((class, _), _)| syntaxes.iter().map(move |syntax| (class.clone(), vec![syntax.clone()])))
        .collect();
    let mut offered = BTreeMap::<String, Vec<String>>::new();
    for ((class, syntax), yes) in pairs.iter().zip(accepted(door, &pairs).await) {
        if yes {
            offered.entry(class.clone()).or_default().push(syntax[0].clone());
        }
    }
    offered
}

/// A source that may do everything.
fn trusted() -> config::Source {
    config::Source { commitment: true, query: true, audit: true, ..source("PACS", &[]) }
}

async fn acceptance(registry: &Registry) -> Vec<Block> {
    let door = Door::open(|setup| setup.sources = vec![trusted()]).await;
    let everything = offered(&door, registry).await;
    let plain = Door::open(|setup| setup.sources = vec![source("PACS", &[])]).await;
    let usual = offered(&plain, registry).await;
    let closed = Door::open(|setup| setup.sources.clear()).await;
    let without = offered(&closed, registry).await;

    let reporting = reporting_archive().await;

    let mut lists: Vec<&Vec<String>> = everything.values().collect();
    lists.sort_by_key(|list| list.len());
    lists.dedup();
    let letter = |list: &Vec<String>| {
        let at = lists.iter().position(|known| *known == list).expect("one of the lists");
        char::from(b'A' + u8::try_from(at).expect("a few lists"))
    };
    let mut table = String::from("| SOP class | UID | Transfer syntaxes | Accepted from |\n|---|---|---|---|\n");
    for (class, syntaxes) in &everything {
        let from = match (without.contains_key(class), usual.contains_key(class)) {
            (true, true) => "everybody who may call, and anybody while no source is listed",
            (false, true) => "sources",
            _ if reporting.contains(&class.as_str()) => {
                "sources that are allowed it; archives that were asked for it, in the SCP role"
            }
            _ => "sources that are allowed it",
        };
        assert!(!usual.contains_key(class) || usual[class] == *syntaxes, "{class}: the same syntaxes for every source");
        let _ = writeln!(table, "| {} | {class} | {} | {from} |", registry.classes[class], letter(syntaxes));
    }
    let mut syntaxes = String::from("| List | Transfer syntax | UID |\n|---|---|---|\n");
    for list in &lists {
        for syntax in *list {
            let _ = writeln!(syntaxes, "| {} | {} | {syntax} |", letter(list), registry.syntaxes[syntax]);
        }
    }
    vec![("accepted contexts", table), ("transfer syntaxes", syntaxes)]
}

/// The classes that are accepted from an archive that is no source, as the provider: of all that there are for a source
/// that may do everything, those that are not for storing.
async fn reporting_archive() -> Vec<&'static str> {
    let asked = Door::open(|setup| {
        let (name, host) = ("archive".into(), "127.0.0.1".into());
        setup.archives = vec![config::Archive { name, ae_title: source("PACS", &[]).ae_title, host, tls: None }];
        setup.sources = vec![source("OTHER", &[])];
    })
    .await;
    let classes = [STORAGE_COMMITMENT.uid, FIND, GET];
    let contexts = classes.map(|class| (class.to_owned(), vec![EXPLICIT.to_owned()]));
    let as_provider = RequestorRoles { scu: false, scp: true };
    let roles = classes.map(|class| UserVariableItem::ScuScpRoleSelectionSubItem(class.into(), as_provider));
    let answer = ask(&asked, request(&contexts, roles.to_vec())).await;
    let accepted = answer.presentation_contexts.iter().map(|c| c.reason == PresentationContextResultReason::Acceptance);
    classes.into_iter().zip(accepted).filter(|(_, accepted)| *accepted).map(|(class, _)| class).collect()
}

/// Result, source and reason of a rejection (PS3.8 table 9-21).
async fn rejection(door: &Door, request: AssociationRQ) -> [u8; 3] {
    let mut scu = Scu::connect(door.port).await;
    scu.send(&Pdu::AssociationRQ(request)).await;
    let answer = scu.receive().await.expect("an answer");
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &answer).expect("a PDU");
    match bytes[..] {
        [3, 0, 0, 0, 0, 4, 0, result, source, reason] => [result, source, reason],
        _ => panic!("no rejection: {answer:?}"),
    }
}

async fn rejections() -> Block {
    let usual = || request(&[(VERIFICATION.into(), vec![IMPLICIT.into()])], vec![]);
    let door =
        Door::open(|setup| setup.sources = vec![source("PACS", &["127.0.0.1"]), source("CT1", &["192.0.2.1"])]).await;
    let full = Door::open(|setup| setup.node.associations_max = 1).await;
    let _first = Scu::associate(full.port, &[(CT, EXPLICIT)]).await;
    let low = Door::open(|setup| setup.free_bytes_min = u64::MAX).await;
    let user = Door::open(|setup| {
        let user = Some(config::User { username: "pacs".into(), passcode_file: None });
        setup.sources = vec![config::Source { user, ..source("PACS", &[]) }];
    })
    .await;
    let edited = |edit: fn(&mut AssociationRQ)| {
        let mut request = usual();
        edit(&mut request);
        request
    };
    let rows = [
        ("called AE title not known", rejection(&door, edited(|r| r.called_ae_title = "OTHER".into())).await),
        ("calling AE title not listed", rejection(&door, edited(|r| r.calling_ae_title = "OTHER".into())).await),
        (
            "calling AE title not listed for its address",
            rejection(&door, edited(|r| r.calling_ae_title = "CT1".into())).await,
        ),
        ("user not named, or not the right one", rejection(&user, usual()).await),
        (
            "application context not that of DICOM",
            rejection(&door, edited(|r| r.application_context_name = "1.2.3".into())).await,
        ),
        (
            "a maximum PDU length of 1 to 7, in which no answer fits",
            rejection(&door, edited(|r| r.user_variables = vec![UserVariableItem::MaxLength(7)])).await,
        ),
        ("protocol version 1 not offered", rejection(&door, edited(|r| r.protocol_version = 2)).await),
        ("too many associations", rejection(&full, usual()).await),
        ("too little room on the disk", rejection(&low, usual()).await),
    ];
    let mut table = String::from("| Cause | Result | Source | Reason |\n|---|---|---|---|\n");
    for (cause, [result, source, reason]) in rows {
        let kind = if result == 1 { "permanent" } else { "transient" };
        let _ = writeln!(table, "| {cause} | {result} ({kind}) | {source} | {reason} |");
    }
    ("rejections", table)
}

async fn user_information() -> Block {
    let door = Door::open(|setup| setup.sources = vec![trusted()]).await;
    let contexts: Vec<(String, Vec<String>)> =
        [CT, COMPREHENSIVE_SR, FIND].map(|class| (class.to_owned(), vec![EXPLICIT.to_owned()])).to_vec();
    let both = RequestorRoles { scu: true, scp: true };
    let proposed = vec![
        UserVariableItem::Unknown(0x53, vec![0, 0, 0, 0]),
        UserVariableItem::ScuScpRoleSelectionSubItem(COMPREHENSIVE_SR.into(), both),
        UserVariableItem::ScuScpRoleSelectionSubItem(CT.into(), both),
        UserVariableItem::SopClassExtendedNegotiationSubItem(CT.into(), vec![2, 0, 3, 0, 0, 0]),
        UserVariableItem::SopClassExtendedNegotiationSubItem(FIND.into(), vec![1, 1, 1, 0, 0]),
    ];
    let answer = ask(&door, request(&contexts, proposed)).await;
    let mut table = String::from("| Item | Proposed | Answered |\n|---|---|---|\n");
    for item in &answer.user_variables {
        let line = match item {
            UserVariableItem::MaxLength(length) => format!("| Maximum length (51H) | any | {length} bytes |"),
            UserVariableItem::ImplementationClassUID(uid) => {
                format!("| Implementation class UID (52H) | any | {uid} |")
            }
            UserVariableItem::ImplementationVersionName(name) => {
                format!("| Implementation version name (55H) | any | {name} |")
            }
            UserVariableItem::Unknown(0x53, window) => format!(
                "| Asynchronous operations (53H) | no limit, no limit | {} invoked, {} performed |",
                u16::from_be_bytes([window[0], window[1]]),
                u16::from_be_bytes([window[2], window[3]])
            ),
            UserVariableItem::ScuScpRoleSelectionSubItem(class, roles) => format!(
                "| Roles (54H) of {class} | SCU and SCP | SCU {}, SCP {} |",
                u8::from(roles.scu),
                u8::from(roles.scp)
            ),
            UserVariableItem::SopClassExtendedNegotiationSubItem(class, information) => {
                let asked = if class == FIND { "01 01 01 00 00" } else { "02 00 03 00 00 00" };
                let told: Vec<String> = information.iter().map(|byte| format!("{byte:02X}")).collect();
                format!("| Extended negotiation (56H) of {class} | {asked} | {} |", told.join(" "))
            }
            other => panic!("an answer that nobody asked for: {other:?}"),
        };
        let _ = writeln!(table, "{line}");
    }
    ("user information", table)
}

/// What the node proposes when it delivers a report.
async fn initiation(registry: &Registry) -> Block {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    let heard = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a call");
        let mut bytes = Vec::new();
        loop {
            assert_ne!(stream.read_buf(&mut bytes).await.expect("a request"), 0, "the node hung up");
            if let Some(pdu) = read_pdu(&bytes[..], 1 << 18, true).expect("a PDU") {
                return pdu;
            }
        }
    });
    let destination = Destination {
        name: "peer".into(),
        endpoint: Endpoint::Dimse {
            ae_title: AeTitle::parse("PACS").expect("a valid title"),
            host: "127.0.0.1".into(),
            port,
            tls: None,
        },
        audit: true,
        disclose: Disclosure::Withheld,
        timeout: PATIENCE,
        associations_max: 1,
        per_minute_max: None,
        commitment: None,
    };
    let reports = alternatives();
    let files: Vec<ReportFile> = reports.iter().map(ReportFile::from).collect();
    let calling = AeTitle::parse("SIDELIGHT").expect("a valid title");
    let tls = no_tls();
    let (sent, heard) = tokio::join!(deliver::send(Mode::Shadow, &destination, &tls, &calling, &files), heard);
    assert!(sent.is_err(), "the listener answers nothing");
    let Ok(Pdu::AssociationRQ(request)) = heard else { panic!("a request") };
    let mut table = String::from("| Order | SOP class | UID | Transfer syntax | Role |\n|---|---|---|---|---|\n");
    for (order, context) in request.presentation_contexts.iter().enumerate() {
        let [syntax] = &context.transfer_syntaxes[..] else { panic!("one syntax in each context") };
        let (class, syntax) = (context.abstract_syntax.as_str(), syntax.as_str());
        let (name, syntax) = (&registry.classes[class], &registry.syntaxes[syntax]);
        let _ = writeln!(table, "| {} | {name} | {class} | {syntax} | SCU |", order + 1);
    }
    ("proposed contexts", table)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_conformance_statement_says_what_the_node_answers() {
    let registry = registry();
    let mut blocks = acceptance(&registry).await;
    blocks.push(rejections().await);
    blocks.push(user_information().await);
    blocks.push(initiation(&registry).await);

    let path = root().join("docs/conformance.md");
    let kept = fs::read_to_string(&path).expect("docs/conformance.md");
    let mut text = kept.clone();
    for (name, table) in &blocks {
        let begin = format!("<!-- observed: {name} -->\n");
        let from = text.find(&begin).unwrap_or_else(|| panic!("{begin} is not in docs/conformance.md")) + begin.len();
        let to = from + text[from..].find("<!-- end -->").expect("an end of the block");
        text.replace_range(from..to, table);
    }
    assert_eq!(text.matches("<!-- observed: ").count(), blocks.len(), "every block is observed");
    if std::env::var_os("SIDELIGHT_BLESS").is_some() {
        fs::write(&path, &text).expect("writable docs");
    } else {
        let differs: Vec<_> = text.lines().zip(kept.lines()).filter(|(now, then)| now != then).collect();
        assert!(
            text == kept,
            "docs/conformance.md differs from what the node answers (SIDELIGHT_BLESS=1): {differs:#?}"
        );
    }
}
