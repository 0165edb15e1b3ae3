//! PDUs, items, fragments and command sets, byte by byte: every length and every id may be a lie.

use super::super::scu::{CT, EXPLICIT};

pub const VERIFICATION: &str = "1.2.840.10008.1.1";
pub const IMPLICIT: &str = "1.2.840.10008.1.2";
/// A storage class that the node does not accept.
pub const RT_DOSE: &str = "1.2.840.10008.5.1.4.1.1.481.2";
const APPLICATION_CONTEXT: &[u8] = b"1.2.840.10008.3.1.1.1";

// PDU types (PS3.8 9.3.1).
pub const ASSOCIATE_RQ: u8 = 1;
pub const ASSOCIATE_AC: u8 = 2;
pub const ASSOCIATE_RJ: u8 = 3;
pub const P_DATA_TF: u8 = 4;
pub const RELEASE_RQ: u8 = 5;
pub const RELEASE_RP: u8 = 6;
pub const ABORT: u8 = 7;

// Message control header (PS3.8 E.2): bit 0 command, bit 1 last fragment.
pub const DATA: u8 = 0;
pub const COMMAND: u8 = 1;
pub const LAST_DATA: u8 = 2;
pub const LAST_COMMAND: u8 = 3;

/// Header and content of a PDU that tells the truth about its length.
pub fn pdu(kind: u8, content: &[u8]) -> Vec<u8> {
    pdu_claiming(kind, u32::try_from(content.len()).expect("a short PDU"), content)
}

pub fn pdu_claiming(kind: u8, length: u32, content: &[u8]) -> Vec<u8> {
    [&[kind, 0], &length.to_be_bytes()[..], content].concat()
}

/// A-RELEASE-RQ, A-RELEASE-RP or A-ABORT of the service user: four reserved bytes.
pub fn short(kind: u8) -> Vec<u8> {
    pdu(kind, &[0; 4])
}

/// An item or sub-item of an association PDU.
pub fn item(kind: u8, value: &[u8]) -> Vec<u8> {
    item_claiming(kind, u16::try_from(value.len()).expect("a short item"), value)
}

pub fn item_claiming(kind: u8, length: u16, value: &[u8]) -> Vec<u8> {
    [&[kind, 0], &length.to_be_bytes()[..], value].concat()
}

pub fn context(id: u8, abstract_syntax: &str, transfer_syntax: &str) -> Vec<u8> {
    context_of(id, &[item(0x30, abstract_syntax.as_bytes()), item(0x40, transfer_syntax.as_bytes())])
}

pub fn context_of(id: u8, sub_items: &[Vec<u8>]) -> Vec<u8> {
    item(0x20, &[&[id, 0, 0, 0], &sub_items.concat()[..]].concat())
}

pub fn max_length(bytes: u32) -> Vec<u8> {
    item(0x51, &bytes.to_be_bytes())
}

/// An A-ASSOCIATE-RQ in parts.
pub struct Request {
    pub version: u16,
    pub called: Vec<u8>,
    pub calling: Vec<u8>,
    pub reserved: [u8; 32],
    pub application_context: Vec<u8>,
    pub contexts: Vec<Vec<u8>>,
    /// Whatever comes after the contexts: the user information, mostly.
    pub rest: Vec<Vec<u8>>,
}

impl Request {
    /// A sound one with contexts 1 and 3 for CT, 5 for Verification, and 7 for a class that is not accepted.
    pub fn sound() -> Self {
        Self {
            version: 1,
            called: b"SIDELIGHT       ".to_vec(),
            calling: b"PACS            ".to_vec(),
            reserved: [0; 32],
            application_context: item(0x10, APPLICATION_CONTEXT),
            contexts: vec![
                context(1, CT, EXPLICIT),
                context(3, CT, EXPLICIT),
                context(5, VERIFICATION, IMPLICIT),
                context(7, RT_DOSE, EXPLICIT),
            ],
            rest: vec![item(0x50, &max_length(16_384))],
        }
    }

    /// The variable field of the PDU.
    pub fn content(&self) -> Vec<u8> {
        let version = self.version.to_be_bytes();
        let fixed = [&version, &[0, 0][..], &self.called, &self.calling, &self.reserved].concat();
        [fixed, self.application_context.clone(), self.contexts.concat(), self.rest.concat()].concat()
    }

    pub fn bytes(&self) -> Vec<u8> {
        pdu(ASSOCIATE_RQ, &self.content())
    }
}

/// A sound A-ASSOCIATE-RQ.
pub fn request() -> Vec<u8> {
    Request::sound().bytes()
}

/// An A-ASSOCIATE-RQ with one thing changed.
pub fn request_with(edit: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut request = Request::sound();
    edit(&mut request);
    request.bytes()
}

/// The A-ASSOCIATE-AC that an acceptor would send.
pub fn accept() -> Vec<u8> {
    let mut parts = Request::sound();
    parts.contexts = vec![item(0x21, &[&[1, 0, 0, 0], &item(0x40, EXPLICIT.as_bytes())[..]].concat())];
    pdu(ASSOCIATE_AC, &parts.content())
}

/// The A-ASSOCIATE-RJ that an acceptor would send.
pub fn reject() -> Vec<u8> {
    pdu(ASSOCIATE_RJ, &[0, 1, 1, 1])
}

/// A presentation data value with its header.
pub fn pdv(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    pdv_claiming(u32::try_from(data.len() + 2).expect("a short fragment"), context, control, data)
}

pub fn pdv_claiming(length: u32, context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[context, control], data].concat()
}

/// A P-DATA-TF with one fragment.
pub fn p_data(context: u8, control: u8, data: &[u8]) -> Vec<u8> {
    pdu(P_DATA_TF, &pdv(context, control, data))
}

/// An element of a command set: Implicit VR Little Endian (PS3.7 6.3.1).
pub fn element(group: u16, element: u16, value: &[u8]) -> Vec<u8> {
    element_claiming(group, element, u32::try_from(value.len()).expect("a short value"), value)
}

pub fn element_claiming(group: u16, element: u16, length: u32, value: &[u8]) -> Vec<u8> {
    [&group.to_le_bytes(), &element.to_le_bytes(), &length.to_le_bytes()[..], value].concat()
}

pub fn us(tag: u16, value: u16) -> Vec<u8> {
    element(0, tag, &value.to_le_bytes())
}

/// The elements of a command set, by element number of group 0000; none where a test takes it away.
#[derive(Clone)]
pub struct Command(pub Vec<Vec<u8>>);

// Where the elements of `Command::store` lie.
pub const SOP_CLASS: usize = 0;
pub const FIELD: usize = 1;
pub const MESSAGE_ID: usize = 2;
pub const DATA_SET_TYPE: usize = 4;
pub const SOP_INSTANCE: usize = 5;

impl Command {
    /// A sound C-STORE-RQ.
    pub fn store(instance: &[u8]) -> Self {
        Self(vec![
            element(0, 0x0002, &even(CT.as_bytes())),
            us(0x0100, 0x0001),
            us(0x0110, 7),
            us(0x0700, 0),
            us(0x0800, 1),
            element(0, 0x1000, instance),
        ])
    }

    pub fn echo(message_id: u16) -> Self {
        let class = element(0, 0x0002, &even(VERIFICATION.as_bytes()));
        Self(vec![class, us(0x0100, 0x0030), us(0x0110, message_id), us(0x0800, 0x0101)])
    }

    pub fn with(mut self, at: usize, element: Vec<u8>) -> Self {
        self.0[at] = element;
        self
    }

    pub fn without(mut self, at: usize) -> Self {
        self.0.remove(at);
        self
    }

    pub fn and(mut self, element: Vec<u8>) -> Self {
        self.0.push(element);
        self
    }

    /// With a true group length.
    pub fn bytes(&self) -> Vec<u8> {
        let body = self.0.concat();
        let length = u32::try_from(body.len()).expect("a short command");
        [element(0, 0, &length.to_le_bytes()), body].concat()
    }

    /// As one P-DATA-TF.
    pub fn on(&self, context: u8) -> Vec<u8> {
        p_data(context, LAST_COMMAND, &self.bytes())
    }
}

/// A UID as the Standard pads it.
pub fn even(uid: &[u8]) -> Vec<u8> {
    let mut value = uid.to_vec();
    if value.len() % 2 == 1 {
        value.push(0);
    }
    value
}

/// C-ECHO on the context of Verification: shows that the association is still usable.
pub fn echo() -> Vec<u8> {
    Command::echo(99).on(5)
}

/// A whole C-STORE: the command and a data set of 4 bytes.
pub fn store(instance: &str) -> Vec<u8> {
    [begun(instance), p_data(1, LAST_DATA, &[1, 2, 3, 4])].concat()
}

/// The command of a C-STORE, whose data set has to follow.
pub fn begun(instance: &str) -> Vec<u8> {
    Command::store(&even(instance.as_bytes())).on(1)
}
