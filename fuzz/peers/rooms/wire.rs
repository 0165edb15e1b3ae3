//! What `negotiate` wants of its room.

pub use crate::receive::PEER_PDU_BYTES_MIN;
