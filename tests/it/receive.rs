//! The door of the node, tried by real peers (dcmtk's echoscu and storescu) and by one of our own: who gets in, what
//! is kept, what is answered, and how it ends. Hostile peers are in `hostile`.

mod commitment;
mod hostile;
mod query;
pub mod scu;
mod services;

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use dicom_ul::pdu::{PDataValueType, Pdu};
use sidelight::dicom::{CommandField, EchoRq, Status, storage_sop_classes, transfer_syntaxes};
use sidelight::receive::Drained;
use tokio::process::Command;

use scu::{CT, Door, EXPLICIT, Scu, first_accepted, split};

const VERIFICATION: &str = "1.2.840.10008.1.1";
const IMPLICIT: &str = "1.2.840.10008.1.2";

/// Runs a dcmtk tool against the door; whether it succeeded, and all it said.
async fn dcmtk(tool: &str, calling: &str, called: &str, port: u16, arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new(tool);
    command.args(["-v", "-aet", calling, "-aec", called, "127.0.0.1", &port.to_string()]).args(arguments);
    let output = command.kill_on_drop(true).output().await.unwrap_or_else(|e| panic!("{tool} (Debian: dcmtk): {e}"));
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// Every file of the shared corpus.
fn corpus() -> Vec<PathBuf> {
    let beside = || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared");
    let shared = std::env::var_os("SIDELIGHT_SHARED").map_or_else(beside, PathBuf::from).join("corpus");
    let folders = fs::read_dir(&shared).unwrap_or_else(|e| panic!("{}: {e}; set SIDELIGHT_SHARED", shared.display()));
    let folders = folders.flatten().map(|entry| entry.path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).expect("a readable folder").flatten());
    let mut files: Vec<_> = files.map(|entry| entry.path()).filter(|path| path.extension().is_some()).collect();
    files.sort();
    files
}

pub fn corpus_file(name: &str) -> String {
    let found = corpus().into_iter().find(|path| path.ends_with(name));
    found.unwrap_or_else(|| panic!("{name} in the corpus")).display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn echoscu_is_answered() {
    let door = Door::open(|_| ()).await;
    for called in ["SIDELIGHT", "ALIAS"] {
        let (done, said) = dcmtk("echoscu", "PACS", called, door.port, &[]).await;
        assert!(done && said.contains("Received Echo Response (Success)"), "{said}");
    }
    assert_eq!(door.close().await, Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_peer_reads_why() {
    let check = async |door: &Door, calling, called, lines: [&str; 2]| {
        let (done, said) = dcmtk("echoscu", calling, called, door.port, &[]).await;
        assert!(!done && lines.iter().all(|line| said.contains(line)), "{calling} to {called}: {said}");
    };
    let permanent = "Rejected Permanent, Source: Service User";
    let door = Door::open(|_| ()).await;
    check(&door, "PACS", "NOBODY", [permanent, "Reason: Called AE Title Not Recognized"]).await;
    check(&door, "NOBODY", "SIDELIGHT", [permanent, "Reason: Calling AE Title Not Recognized"]).await;
    check(&door, "ELSEWHERE", "SIDELIGHT", [permanent, "Reason: Calling AE Title Not Recognized"]).await;

    let transient = "Rejected Transient, Source: Service Provider (Presentation Related)";
    let full = Door::open(|setup| setup.free_bytes_min = u64::MAX).await;
    check(&full, "PACS", "SIDELIGHT", [transient, "Reason: Temporary Congestion"]).await;
    check(&full, "PACS", "NOBODY", [permanent, "Reason: Called AE Title Not Recognized"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_associations_are_served_at_once_and_the_next_is_told_to_wait() {
    let door = Door::open(|_| ()).await;
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(Scu::associate(door.port, &[(CT, EXPLICIT)]).await);
    }
    let (done, said) = dcmtk("echoscu", "PACS", "SIDELIGHT", door.port, &[]).await;
    assert!(!done && said.contains("Rejected Transient") && said.contains("Local Limit Exceeded"), "{said}");
    let mut all = tokio::task::JoinSet::new();
    for (index, mut scu) in open.into_iter().enumerate() {
        all.spawn(
            async move { (scu.store(1, CT, &format!("1.2.3.{index}"), &[7; 50_000]).await, scu.release().await) },
        );
    }
    for ended in all.join_all().await {
        assert_eq!(ended, (0, true));
    }
    assert_eq!(door.files("spool").len(), 64);
    assert!(dcmtk("echoscu", "PACS", "SIDELIGHT", door.port, &[]).await.0, "places are free again");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sources_only_verification_is_offered() {
    let door = Door::open(|setup| setup.sources.clear()).await;
    assert!(dcmtk("echoscu", "ANYONE", "SIDELIGHT", door.port, &[]).await.0);
    let (done, said) = dcmtk("storescu", "ANYONE", "SIDELIGHT", door.port, &[&corpus_file("CR/RG3_J2KR.dcm")]).await;
    assert!(!done && said.contains("No Acceptable Presentation Contexts"), "{said}");
    assert!(door.files("spool").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_corpus_file_of_an_accepted_class_is_kept_byte_for_byte() {
    let door = Door::open(|_| ()).await;
    let (mut kept, mut repeated, mut refused) = (0, 0, 0);
    for file in corpus() {
        // A few files have no usable meta group: their class and syntax are not known, so nobody could propose them.
        let Some((meta, data_set)) = split(&file) else { continue };
        let text = |value: &str| value.trim_end_matches(['\0', ' ']).to_owned();
        let (class, syntax) = (text(&meta.media_storage_sop_class_uid), text(&meta.transfer_syntax));
        let instance = text(&meta.media_storage_sop_instance_uid);
        let expected =
            storage_sop_classes().iter().any(|c| c.uid == class) && transfer_syntaxes().iter().any(|s| s.uid == syntax);
        let mut scu = Scu::connect(door.port).await;
        let Some(Pdu::AssociationAC(answer)) = scu.negotiate("PACS", &[(&class, &syntax)]).await else {
            panic!("no association for {}", file.display())
        };
        assert_eq!(first_accepted(&answer), expected, "{}: {class} in {syntax}", file.display());
        if !expected {
            refused += 1;
            continue;
        }
        let (before, status) = (door.stored(&instance), scu.store(1, &class, &instance, &data_set).await);
        if before.is_some() {
            // Several files are one instance in different encodings.
            assert!([0, 0x0111].contains(&status), "{}: {status:04X}", file.display());
            repeated += 1;
            continue;
        }
        assert_eq!(status, 0, "{}", file.display());
        let (stored_meta, stored) = split(&door.stored(&instance).expect("stored by the time of the answer"))
            .expect("a file with a meta group");
        assert!(stored == data_set, "{} is kept byte for byte", file.display());
        assert_eq!(text(&stored_meta.transfer_syntax), syntax);
        assert_eq!(stored_meta.source_application_entity_title.as_deref().map(text).as_deref(), Some("PACS"));
        assert!(scu.release().await);
        kept += 1;
    }
    assert!(kept >= 50 && refused >= 3, "{kept} kept, {repeated} repeated, {refused} refused");
    assert!(kept + repeated + refused >= 65, "{kept} kept, {repeated} repeated, {refused} refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_storescu_at_once_lose_nothing() {
    let door = Door::open(|_| ()).await;
    let file = corpus_file("CR/RG3_J2KR.dcm");
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (file, port) = (file.clone(), door.port);
        senders.spawn(async move {
            let mut arguments = vec!["-xv", "+II"];
            arguments.extend(std::iter::repeat_n(file.as_str(), 10));
            dcmtk("storescu", "PACS", "SIDELIGHT", port, &arguments).await
        });
    }
    for (done, said) in senders.join_all().await {
        assert!(done && said.matches("Received Store Response (Success)").count() == 10, "{said}");
    }
    let spooled = door.files("spool");
    assert_eq!(spooled.len(), 80);
    assert!(spooled.iter().all(|path| split(path).is_some_and(|(_, data_set)| data_set.len() > 800_000)));
    assert_eq!(door.close().await, Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_has_its_status_and_leaves_the_association_usable() {
    let door = Door::open(|setup| setup.node.object_bytes_max = 1 << 20).await;
    let mr = "1.2.840.10008.5.1.4.1.1.4";
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT), (VERIFICATION, IMPLICIT)]).await;
    assert_eq!(scu.store(1, CT, "1.2.3", &[1; 1000]).await, 0x0000, "new");
    assert_eq!(scu.store(1, CT, "1.2.3", &[1; 1000]).await, 0x0000, "the same again");
    assert_eq!(scu.store(1, CT, "1.2.3", &[2; 1000]).await, 0x0111, "another under the same UID");
    assert_eq!(scu.store(1, CT, "1.2.4", &[1; 3 << 20]).await, 0xA700, "larger than the limit");
    assert_eq!(scu.store(1, mr, "1.2.5", &[1; 1000]).await, 0xA900, "not the class of the context");
    assert_eq!(scu.store(3, CT, "1.2.5", &[1; 1000]).await, 0xA900, "on the context of Verification");
    assert_eq!(scu.store(1, "1.2.840.10008.5.1.4.1.1.481.2", "1.2.5", &[1; 9]).await, 0x0122, "a class not offered");
    scu.begin_store(1, CT, "1.2.5").await;
    scu.send_fragment(1, PDataValueType::Data, true, &[]).await;
    assert_eq!(scu.response().await.status, Status::CANNOT_UNDERSTAND, "an empty data set");

    let echo = EchoRq { message_id: 500, has_data_set: false }.encode();
    scu.send_fragment(1, PDataValueType::Command, true, &echo).await;
    assert_eq!(scu.response().await.status, Status::SOP_CLASS_NOT_SUPPORTED, "C-ECHO on a storage context");
    // In pieces, as the Standard allows.
    scu.send_fragment(3, PDataValueType::Command, false, &echo[..20]).await;
    scu.send_fragment(3, PDataValueType::Command, false, &[]).await;
    scu.send_fragment(3, PDataValueType::Command, true, &echo[20..]).await;
    assert_eq!(scu.response().await.status, Status::SUCCESS, "C-ECHO");

    // The command field (0000,0100) of a C-STORE-RQ becomes that of a C-MOVE-RQ.
    let mut move_rq = sidelight::dicom::StoreRq::new(9, scu::uid(CT), scu::uid("1.2.3")).encode();
    let at = move_rq.windows(10).position(|w| w == [0, 0, 0, 1, 2, 0, 0, 0, 1, 0]).expect("a command field");
    move_rq[at + 8] = 0x21;
    scu.send_fragment(1, PDataValueType::Command, true, &move_rq).await;
    scu.send_fragment(1, PDataValueType::Data, true, &[0; 64]).await;
    let answer = scu.response().await;
    assert_eq!((answer.status, answer.field), (Status::UNRECOGNISED_OPERATION, CommandField(0x8021)));

    assert_eq!(scu.store(1, CT, "1.2.6", &[1; 1 << 20]).await, 0x0000, "the association is still usable");
    assert!(scu.release().await);
    assert_eq!((door.files("spool").len(), door.files("conflicts").len()), (2, 1));
    door.wait_for("no temporary file stays", |door| door.files("incoming").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_transfer_leaves_nothing() {
    let door = Door::open(|_| ()).await;
    let abort = [0x07, 0, 0, 0, 0, 4, 0, 0, 0, 0]; // A-ABORT of the service user
    for last_words in [&abort[..], &[]] {
        let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
        scu.begin_store(1, CT, "1.2.3").await;
        scu.send_to_disk(1).await;
        door.wait_for("the upload has begun", |door| !door.files("incoming").is_empty()).await;
        scu.send_bytes(last_words).await;
        drop(scu);
        door.wait_for("the upload is gone", |door| door.files("incoming").is_empty()).await;
    }
    assert!(door.files("spool").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_peers_are_let_go_and_block_nobody() {
    let quick = Duration::from_millis(300);
    let door = Door::open(|setup| (setup.node.negotiation_timeout, setup.node.idle_timeout) = (quick, quick)).await;
    let mut silent = Vec::new();
    for words in 0..100 {
        let mut scu = Scu::connect(door.port).await;
        scu.send_bytes(&[0x01, 0, 0, 0][..words % 5]).await;
        silent.push(scu);
    }
    assert!(dcmtk("echoscu", "PACS", "SIDELIGHT", door.port, &[]).await.0, "others are served meanwhile");
    for mut scu in silent {
        assert_eq!(scu.receive().await, None, "closed without a word (PS3.8 9.2, state 2)");
    }
    let mut asleep = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    asleep.begin_store(1, CT, "1.2.3").await;
    asleep.send_fragment(1, PDataValueType::Data, false, &[1; 1000]).await;
    assert!(matches!(asleep.receive().await, Some(Pdu::AbortRQ { .. })));
    door.wait_for("its upload is gone", |door| door.files("incoming").is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_500_mb_takes_little_memory() {
    const FRAGMENTS: u32 = 4000;
    const FRAGMENT_BYTES: usize = 125_000;
    let resident_mb = || {
        let status = fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") / 1024
    };
    let door = Door::open(|_| ()).await;
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    scu.begin_store(1, CT, "1.2.3").await;
    let (before, mut peak) = (resident_mb(), 0);
    for index in 0..FRAGMENTS {
        let data = index.to_le_bytes().repeat(FRAGMENT_BYTES / 4);
        scu.send_fragment(1, PDataValueType::Data, index + 1 == FRAGMENTS, &data).await;
        if index % 100 == 0 {
            peak = peak.max(resident_mb());
        }
    }
    assert_eq!(scu.response().await.status, Status::SUCCESS);
    // Other tests run in this process too, so the bound is far from the few MB that it takes, and far below 500.
    assert!(peak < before + 150, "{before} MB before, {peak} MB at most");

    let mut file = fs::File::open(door.stored("1.2.3").expect("stored")).expect("readable");
    let length = file.metadata().expect("metadata").len();
    let data_set = FRAGMENTS as usize * FRAGMENT_BYTES;
    let mut head = vec![0; usize::try_from(length).expect("64 bits") - data_set];
    file.read_exact(&mut head).expect("the meta group");
    assert_eq!(&head[128..132], b"DICM");
    let mut chunk = vec![0; FRAGMENT_BYTES];
    for index in 0..FRAGMENTS {
        file.read_exact(&mut chunk).expect("the data set");
        assert!(chunk == index.to_le_bytes().repeat(FRAGMENT_BYTES / 4), "fragment {index}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_finishes_the_message_that_has_begun() {
    let door = Door::open(|_| ()).await;
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    let mut idle = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    scu.begin_store(1, CT, "1.2.3").await;
    scu.send_to_disk(1).await;
    door.wait_for("the upload has begun", |door| !door.files("incoming").is_empty()).await;
    door.cancel.cancel();
    assert!(matches!(idle.receive().await, Some(Pdu::AbortRQ { .. })), "an idle association ends at once");
    drop(idle);
    scu.send_fragment(1, PDataValueType::Data, true, &[1; 1000]).await;
    assert_eq!(scu.response().await.status, Status::SUCCESS);
    assert!(matches!(scu.receive().await, Some(Pdu::AbortRQ { .. })), "and nothing more is taken");
    drop(scu);
    assert!(door.stored("1.2.3").is_some());
    assert_eq!(door.close().await, Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_does_not_wait_for_a_peer_that_sleeps() {
    let door = Door::open(|setup| setup.node.drain_timeout = Duration::from_millis(200)).await;
    let mut scu = Scu::associate(door.port, &[(CT, EXPLICIT)]).await;
    scu.begin_store(1, CT, "1.2.3").await;
    scu.send_to_disk(1).await;
    door.wait_for("the upload has begun", |door| !door.files("incoming").is_empty()).await;
    door.cancel.cancel();
    assert_eq!(scu.receive().await, None);
    door.wait_for("the upload is gone", |door| door.files("incoming").is_empty()).await;
    assert_eq!(door.close().await, Drained::Cut { connections: 1 });
}
