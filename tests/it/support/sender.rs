//! A modality of few words: one association, objects one after the other, and what was answered to each.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dicom_ul::pdu::{PDataValue, PDataValueType, Pdu, read_pdu, write_pdu};
use sidelight::dicom::{Response, StoreRq};
use sidelight::domain::Uid;

use super::element;
use crate::receive::scu::{association_rq, split};

/// An object as it is sent.
#[derive(Debug, Clone)]
pub struct Object {
    pub class: String,
    pub syntax: String,
    pub study: String,
    pub instance: String,
    pub data_set: Vec<u8>,
}

/// An open association; dropping it cuts the connection.
pub struct Sender {
    stream: TcpStream,
    message_id: u16,
}

impl Object {
    pub fn read(file: &Path) -> Self {
        let (meta, data_set) = split(file).expect("a DICOM file");
        let uid = |text: &str| text.trim_end_matches('\0').to_owned();
        Self {
            class: uid(&meta.media_storage_sop_class_uid),
            syntax: uid(&meta.transfer_syntax),
            study: element(file, "StudyInstanceUID"),
            instance: uid(&meta.media_storage_sop_instance_uid),
            data_set,
        }
    }

    /// Those of the files that the demo models take, of one SOP class and transfer syntax, so that one association
    /// does.
    pub fn in_scope(files: &[PathBuf]) -> Vec<Self> {
        let frontal = files.iter().filter(|file| ["PA", "AP"].contains(&element(file, "ViewPosition").as_str()));
        let mut objects: Vec<Self> = frontal.map(|file| Self::read(file)).collect();
        let (class, syntax) = (objects[0].class.clone(), objects[0].syntax.clone());
        objects.retain(|object| object.class == class && object.syntax == syntax);
        objects
    }

    /// The same picture as another object: the last digits of its UIDs become these numbers.
    pub fn renumbered(&self, study: u32, instance: u32) -> Self {
        let ending = |uid: &str, number: u32| format!("{}{number:08}", &uid[..uid.len() - 8]);
        let mut copy = self.clone();
        (copy.study, copy.instance) = (ending(&self.study, study), ending(&self.instance, instance));
        for (from, to) in [(&self.study, &copy.study), (&self.instance, &copy.instance)] {
            let at: Vec<usize> = (0..copy.data_set.len() - from.len())
                .filter(|i| copy.data_set[*i..].starts_with(from.as_bytes()))
                .collect();
            assert!(!at.is_empty(), "the data set names {from}");
            at.iter().for_each(|at| copy.data_set[*at..*at + to.len()].copy_from_slice(to.as_bytes()));
        }
        copy
    }
}

impl Sender {
    /// An association as `STORESCU` for objects like this one. An error where there is none, whatever the reason.
    pub fn open(port: u16, like: &Object) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        let mut sender = Self { stream, message_id: 0 };
        sender.send(&association_rq("STORESCU", &[(&like.class, &like.syntax)]))?;
        match sender.receive()? {
            Pdu::AssociationAC(_) => Ok(sender),
            other => Err(io::Error::other(format!("no association: {other:?}"))),
        }
    }

    /// Sends an object; its status.
    pub fn store(&mut self, object: &Object) -> io::Result<u16> {
        self.message_id = self.message_id.wrapping_add(1);
        let uid = |text: &str| Uid::parse(text).expect("a UID");
        let command = StoreRq::new(self.message_id, uid(&object.class), uid(&object.instance)).encode();
        self.fragment(PDataValueType::Command, true, &command)?;
        let mut fragments = object.data_set.chunks(16_000).peekable();
        while let Some(fragment) = fragments.next() {
            self.fragment(PDataValueType::Data, fragments.peek().is_none(), fragment)?;
        }
        match self.receive()? {
            Pdu::PData { data } => {
                Ok(Response::parse(&data[0].data).map_err(|e| io::Error::other(e.to_string()))?.status.0)
            }
            other => Err(io::Error::other(format!("no response: {other:?}"))),
        }
    }

    fn fragment(&mut self, value_type: PDataValueType, is_last: bool, data: &[u8]) -> io::Result<()> {
        let value = PDataValue { presentation_context_id: 1, value_type, is_last, data: data.to_vec() };
        self.send(&Pdu::PData { data: vec![value] })
    }

    fn send(&mut self, pdu: &Pdu) -> io::Result<()> {
        let mut bytes = Vec::new();
        write_pdu(&mut bytes, pdu).map_err(|e| io::Error::other(e.to_string()))?;
        self.stream.write_all(&bytes)
    }

    fn receive(&mut self) -> io::Result<Pdu> {
        let mut bytes = vec![0; 6];
        self.stream.read_exact(&mut bytes)?;
        let length = u32::from_be_bytes(bytes[2..6].try_into().expect("four bytes"));
        bytes.resize(6 + length as usize, 0);
        self.stream.read_exact(&mut bytes[6..])?;
        let pdu = read_pdu(&bytes[..], 1 << 20, true).map_err(|e| io::Error::other(e.to_string()))?;
        pdu.ok_or_else(|| io::Error::other("half a PDU"))
    }
}
