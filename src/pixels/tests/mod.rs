//! Tests that cross the room's files: structures, pixel formats, value transforms, and the corpus of real objects.

mod codestreams;
mod corpus;
mod formats;
mod objects;
mod structure;
mod values;
