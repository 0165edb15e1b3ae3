//! The parts of `receive` that need no socket: framing and negotiation.

#[path = "../../../src/wire/frame.rs"]
mod frame;
#[path = "../../../src/receive/identity.rs"]
mod identity;
#[path = "../../../src/receive/negotiate.rs"]
mod negotiate;
#[path = "../../../src/receive/user_information.rs"]
mod user_information;

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use dicom_ul::pdu::{Pdu, write_pdu};

use crate::config;
use frame::HEADER_BYTES;
pub use frame::PEER_PDU_BYTES_MIN;
use negotiate::{Policy, Refusal};

const PDU_BYTES_MAX: u32 = 1 << 18;

/// One caller that may do everything, under the configuration's own defaults.
const CONFIG: &str = "
[node]
ae_title = 'SIDELIGHT'
[[sources]]
ae_title = 'PACS'
commitment = true
query = true
audit = true
";

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let file = std::env::temp_dir().join(format!("sidelight-fuzz-{}.toml", std::process::id()));
    fs::write(&file, CONFIG).expect("a writable folder");
    let config = config::load(Some(&file), [], &[]).expect("a valid configuration");
    fs::remove_file(&file).expect("its own file");
    Policy::new(&config.node, &config.sources).expect("no passcode files")
});

/// Reads PDUs as long as the node would, and negotiates every association that is asked for.
pub fn converse(mut stream: &[u8]) {
    while let Some(header) = stream.first_chunk::<HEADER_BYTES>() {
        let (kind, whole) = match frame::announced(*header, PDU_BYTES_MAX) {
            Ok(announced) => announced,
            Err(error) => return drop(error.abort_reason()),
        };
        let Some((frame, rest)) = stream.split_at_checked(whole) else { return };
        stream = rest;
        match frame::read(frame) {
            Ok(Pdu::AssociationRQ(request)) => {
                assert_eq!(kind, frame::ASSOCIATE_RQ);
                negotiate(&request);
            }
            Ok(Pdu::PData { data }) => assert!(!data.is_empty(), "a P-DATA-TF without a value"),
            Ok(_) => {}
            Err(error) => {
                assert_ne!(kind, frame::ABORT, "an abort is never answered with one: {error}");
                error.abort_reason();
            }
        }
    }
}

/// The answer can be written, says the same when it is read, and agrees to nothing that was not proposed.
fn negotiate(request: &dicom_ul::pdu::AssociationRQ) {
    let answer = match POLICY.negotiate(request, IpAddr::V4(Ipv4Addr::LOCALHOST), false) {
        Ok(agreement) => {
            for (id, context) in &agreement.contexts {
                let proposed = request.presentation_contexts.iter().find(|proposed| proposed.id == *id);
                let proposed = proposed.expect("only what was proposed is agreed");
                let syntax = context.transfer_syntax.as_str();
                assert!(id % 2 == 1);
                assert!(proposed.transfer_syntaxes.iter().any(|s| s.trim_end_matches(['\0', ' ']) == syntax));
            }
            assert_eq!(agreement.answer.presentation_contexts.len(), request.presentation_contexts.len());
            Pdu::AssociationAC(agreement.answer)
        }
        Err(Refusal::Reject(rejection)) => rejection.pdu(),
        Err(Refusal::InvalidParameter) => return,
    };
    let mut bytes = Vec::new();
    write_pdu(&mut bytes, &answer).expect("an answer that can be written");
    assert_eq!(frame::read(&bytes).expect("an answer that can be read"), answer);
}
