//! A command set that arrives in fragments (PS3.7 6.3.1, PS3.8 Annex E.1), for both roles. Left out: data sets, which
//! only one role keeps in memory.

use dicom_ul::pdu::{PDataValue, PDataValueType};

use crate::dicom::{COMMAND_BYTES_MAX, CommandError};

/// What has arrived of a command set.
#[derive(Debug, Default)]
pub struct Fragments {
    context: Option<u8>,
    bytes: Vec<u8>,
}

/// Why a fragment does not belong to it.
#[derive(Debug, thiserror::Error)]
pub enum FragmentError {
    #[error("a data set without a command")]
    DataSet,
    #[error("a message changed from presentation context {from} to {to}")]
    ChangedContext { from: u8, to: u8 },
    #[error(transparent)]
    Command(#[from] CommandError),
}

impl Fragments {
    pub fn is_empty(&self) -> bool {
        self.context.is_none()
    }

    /// Takes one; with the last one all bytes come out, and the next command set may begin.
    pub fn take(&mut self, value: &PDataValue) -> Result<Option<Vec<u8>>, FragmentError> {
        if value.value_type == PDataValueType::Data {
            return Err(FragmentError::DataSet);
        }
        let to = value.presentation_context_id;
        let from = *self.context.get_or_insert(to);
        if from != to {
            return Err(FragmentError::ChangedContext { from, to });
        }
        let total = self.bytes.len() + value.data.len();
        if total > COMMAND_BYTES_MAX {
            return Err(CommandError::TooLong(total).into());
        }
        self.bytes.extend_from_slice(&value.data);
        Ok(value.is_last.then(|| std::mem::take(self).bytes))
    }
}
