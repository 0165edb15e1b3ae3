//! The node's door on port 0 with a real store behind it, and a peer that speaks PDU by PDU, so that it can err.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dicom_ul::pdu::{
    AssociationAC, AssociationRQ, PDataValue, PDataValueType, Pdu, PresentationContextProposed,
    PresentationContextResultReason, UserVariableItem, read_pdu, write_pdu,
};
use sidelight::config;
use sidelight::dicom::{Response, StoreRq};
use sidelight::domain::{AeTitle, Uid};
use sidelight::receive::{Drained, Gate, Receiver};
use sidelight::store::Store;
use sidelight::wire::Tls;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub const CT: &str = "1.2.840.10008.5.1.4.1.1.2";
pub const EXPLICIT: &str = "1.2.840.10008.1.2.1";

/// A wait that is never reached when all is well.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What a test may change before the door opens.
pub struct Setup {
    pub node: config::Node,
    pub sources: Vec<config::Source>,
    pub archives: Vec<config::Archive>,
    pub tls: config::Tls,
    pub free_bytes_min: u64,
}

/// A receiver that is serving. Known callers: `PACS` from anywhere, `ELSEWHERE` from another host only.
pub struct Door {
    /// 0 where there is none.
    pub port: u16,
    pub port_tls: u16,
    pub tls: Arc<Tls>,
    /// With the settings to change the rules by.
    pub gate: Gate,
    pub node: config::Node,
    pub store: Store,
    pub cancel: CancellationToken,
    folder: TempDir,
    task: JoinHandle<Drained>,
}

/// One association from the calling side.
pub struct Scu {
    stream: TcpStream,
    buffer: Vec<u8>,
    message_id: u16,
}

pub fn uid(text: &str) -> Uid {
    Uid::parse(text).expect("a valid uid")
}

pub fn source(title: &str, hosts: &[&str]) -> config::Source {
    config::Source {
        ae_title: AeTitle::parse(title).expect("a valid title"),
        hosts: hosts.iter().map(|host| host.parse().expect("an address")).collect(),
        quiet_period: None,
        user: None,
        commitment: false,
        commitment_to: None,
        query: false,
        audit: false,
        tls: false,
        certificates: Vec::new(),
    }
}

pub fn alias(title: &str) -> config::Alias {
    config::Alias {
        ae_title: AeTitle::parse(title).expect("a valid title"),
        quiet_period: None,
        clinical: Vec::new(),
        destinations: Vec::new(),
    }
}

/// `[tls]` without files.
pub fn no_tls() -> config::Tls {
    config::load(None, [], &[]).expect("the defaults").tls
}

impl Door {
    pub async fn open(edit: impl FnOnce(&mut Setup)) -> Self {
        let title = |text| AeTitle::parse(text).expect("a valid title");
        let node = config::Node {
            ae_title: title("SIDELIGHT"),
            aliases: vec![alias("ALIAS")],
            listen: Some("127.0.0.1:0".parse().expect("an address")),
            listen_tls: None,
            mode: config::Mode::Shadow,
            name: "sidelight".into(),
            serial_number: "1".into(),
            associations_max: 64,
            pdu_bytes_max: 1 << 18,
            object_bytes_max: 4 << 30,
            idle_timeout: PATIENCE,
            negotiation_timeout: PATIENCE,
            drain_timeout: PATIENCE,
        };
        let sources = vec![source("PACS", &[]), source("ELSEWHERE", &["192.0.2.1"])];
        let mut setup = Setup { node, sources, archives: Vec::new(), tls: no_tls(), free_bytes_min: 0 };
        edit(&mut setup);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let folder_config = config::Store {
            data_dir: folder.path().join("data"),
            free_bytes_min: setup.free_bytes_min,
            free_percent_min: 0,
            objects_kept: None,
            reports_kept: None,
            posteriors_kept: None,
            evidence_kept: None,
        };
        let store = Store::open(&folder_config).await.expect("a store");
        let tls = Tls::load(&setup.tls, &setup.sources).expect("usable files");
        let receiver = Receiver::bind(&setup.node, &setup.sources, &setup.archives, &tls).await;
        let receiver = receiver.expect("a free port");
        let port = receiver.local_addr().expect("bound").map_or(0, |a| a.port());
        let port_tls = receiver.local_addr_tls().expect("bound").map_or(0, |a| a.port());
        let (gate, node) = (receiver.gate(), setup.node);
        let cancel = CancellationToken::new();
        let task = tokio::spawn(receiver.run(store.clone(), cancel.clone()));
        Self { port, port_tls, tls, gate, node, store, cancel, folder, task }
    }

    /// Files below a folder of the store: `incoming`, `spool`, `conflicts`.
    pub fn files(&self, below: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.folder.path().join("data").join(below)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
                match entry.path() {
                    path if path.is_dir() => folders.push(path),
                    path => found.push(path),
                }
            }
        }
        found
    }

    /// The stored file of an instance.
    pub fn stored(&self, instance: &str) -> Option<PathBuf> {
        let start = format!("{instance}.");
        let starts = |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&start));
        self.files("spool").into_iter().find(starts)
    }

    pub async fn wait_for(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let wait = async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"));
    }

    /// Asks for the end and waits for it.
    pub async fn close(self) -> Drained {
        self.cancel.cancel();
        let drained = timeout(PATIENCE, self.task).await.expect("an end in time").expect("no panic");
        self.store.close().await;
        drained
    }
}

impl Scu {
    /// Connects without saying anything.
    pub async fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a listener");
        Self { stream, buffer: Vec::new(), message_id: 0 }
    }

    /// Connects with so little room for what it receives that a peer soon cannot send any more.
    pub async fn connect_deaf(port: u16) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        let stream = socket.connect(([127, 0, 0, 1], port).into()).await.expect("a listener");
        Self { stream, buffer: Vec::new(), message_id: 0 }
    }

    /// An association as `PACS`, one context (1, 3, 5, …) for each class and transfer syntax.
    pub async fn associate(port: u16, contexts: &[(&str, &str)]) -> Self {
        let mut scu = Self::connect(port).await;
        match scu.negotiate("PACS", contexts).await {
            Some(Pdu::AssociationAC(_)) => scu,
            other => panic!("no association: {other:?}"),
        }
    }

    /// Proposes an association and returns the answer.
    pub async fn negotiate(&mut self, calling: &str, contexts: &[(&str, &str)]) -> Option<Pdu> {
        self.send(&association_rq(calling, contexts)).await;
        self.receive().await
    }

    pub async fn send(&mut self, pdu: &Pdu) {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).expect("a pdu that can be written");
        self.send_bytes(&bytes).await;
    }

    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("a peer that reads");
    }

    /// Sends what the peer may not want to hear any more.
    pub async fn try_send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
        let _ = self.stream.shutdown().await;
    }

    /// Sends to a peer that may be gone; false if it is.
    pub async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Ends what it sends, and still reads.
    pub async fn half_close(&mut self) -> bool {
        self.stream.shutdown().await.is_ok()
    }

    /// Ends the connection with a reset: nothing that was sent is waited for.
    pub fn reset(self) {
        self.stream.set_zero_linger().expect("an open connection");
    }

    /// Whether the peer says something, be it that it closes, within this time.
    pub async fn hears_within(&mut self, pause: Duration) -> bool {
        timeout(pause, self.stream.read_buf(&mut self.buffer)).await.is_ok()
    }

    pub async fn send_fragment(&mut self, context: u8, kind: PDataValueType, is_last: bool, data: &[u8]) {
        let value = PDataValue { presentation_context_id: context, value_type: kind, is_last, data: data.to_vec() };
        self.send(&Pdu::PData { data: vec![value] }).await;
    }

    /// The next PDU; `None` once the peer has closed.
    pub async fn receive(&mut self) -> Option<Pdu> {
        let next = async {
            loop {
                let mut cursor = std::io::Cursor::new(&self.buffer);
                if let Some(pdu) = read_pdu(&mut cursor, 1 << 20, true).expect("a well-formed answer") {
                    let used = usize::try_from(cursor.position()).expect("a small buffer");
                    self.buffer.drain(..used);
                    return Some(pdu);
                }
                match self.stream.read_buf(&mut self.buffer).await {
                    Ok(1..) => {}
                    Ok(0) | Err(_) => return None,
                }
            }
        };
        timeout(PATIENCE, next).await.expect("an answer in time")
    }

    /// The next DIMSE response.
    pub async fn response(&mut self) -> Response {
        match self.receive().await {
            Some(Pdu::PData { data }) => Response::parse(&data[0].data).expect("a response"),
            other => panic!("no response: {other:?}"),
        }
    }

    /// The next message part, put together from its fragments: a command set or a data set.
    pub async fn part(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            match self.receive().await {
                Some(Pdu::PData { data }) => {
                    let [value] = &data[..] else { panic!("one fragment in each PDU: {data:?}") };
                    bytes.extend_from_slice(&value.data);
                    if value.is_last {
                        return bytes;
                    }
                }
                other => panic!("no message: {other:?}"),
            }
        }
    }

    /// The command of a C-STORE, without its data set.
    pub async fn begin_store(&mut self, context: u8, class: &str, instance: &str) {
        self.message_id += 1;
        let command = StoreRq::new(self.message_id, uid(class), uid(instance)).encode();
        self.send_fragment(context, PDataValueType::Command, true, &command).await;
    }

    /// So much of a data set that it goes to a file: what is small waits in memory until it is complete.
    pub async fn send_to_disk(&mut self, context: u8) {
        for _ in 0..6 {
            self.send_fragment(context, PDataValueType::Data, false, &[1; 200_000]).await;
        }
    }

    /// A whole C-STORE; its status.
    pub async fn store(&mut self, context: u8, class: &str, instance: &str, data_set: &[u8]) -> u16 {
        self.begin_store(context, class, instance).await;
        let mut fragments = data_set.chunks(16_000).peekable();
        while let Some(fragment) = fragments.next() {
            self.send_fragment(context, PDataValueType::Data, fragments.peek().is_none(), fragment).await;
        }
        let response = self.response().await;
        assert_eq!(response.responded_to, self.message_id);
        response.status.0
    }

    /// Releases; true if the peer confirmed and closed.
    pub async fn release(mut self) -> bool {
        self.send(&Pdu::ReleaseRQ).await;
        let confirmed = self.receive().await == Some(Pdu::ReleaseRP);
        self.stream.shutdown().await.expect("an open connection");
        confirmed && self.receive().await.is_none()
    }
}

pub fn association_rq(calling: &str, contexts: &[(&str, &str)]) -> Pdu {
    let propose = |(index, (class, syntax)): (usize, &(&str, &str))| PresentationContextProposed {
        id: u8::try_from(2 * index + 1).expect("at most 128 contexts"),
        abstract_syntax: (*class).into(),
        transfer_syntaxes: vec![(*syntax).into()],
    };
    Pdu::AssociationRQ(AssociationRQ {
        protocol_version: 1,
        calling_ae_title: calling.into(),
        called_ae_title: "SIDELIGHT".into(),
        application_context_name: "1.2.840.10008.3.1.1.1".into(),
        presentation_contexts: contexts.iter().enumerate().map(propose).collect(),
        user_variables: vec![UserVariableItem::MaxLength(16_384)],
    })
}

/// Whether the first proposed context was accepted.
pub fn first_accepted(answer: &AssociationAC) -> bool {
    answer.presentation_contexts[0].reason == PresentationContextResultReason::Acceptance
}

/// The data set of a DICOM file as it lies there, with its meta group.
pub fn split(file: &Path) -> Option<(dicom_object::FileMetaTable, Vec<u8>)> {
    let bytes = fs::read(file).expect("a readable file");
    let meta = dicom_object::FileMetaTable::from_reader(bytes.get(128..)?).ok()?;
    let data_set = 128 + 4 + 12 + meta.information_group_length as usize;
    Some((meta, bytes.get(data_set..)?.to_vec()))
}
