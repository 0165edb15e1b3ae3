//! `users …` and `log …`: passwords of people, and the log of what people did.
//!
//! Left out: doing anything.

use clap::{Args, Subcommand};

use super::Table;

#[derive(Debug, Subcommand)]
pub enum Users {
    /// Make the hash of a password, for a password file of [[web_users]]
    ///
    /// Reads one line from standard input, without showing it where that is a terminal, and prints the hash (argon2id,
    /// PHC form).
    Hash,
}

#[derive(Debug, Subcommand)]
pub enum Log {
    /// List the activity log, the newest line first
    List(LogList),
    /// Go through the chain of the activity log; exit code 1 and the first line that is not as it was written, if there
    /// is one
    ///
    /// Prints the number and digest of the last line. Noted elsewhere and given with --noted, they tell whether lines at
    /// the end were taken away later.
    Verify(LogVerify),
}

#[derive(Debug, Args)]
pub struct LogList {
    /// At most so many lines
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub limit: u32,
    /// Only lines before this number
    #[arg(long, value_name = "NUMBER")]
    pub before: Option<u64>,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct LogVerify {
    /// A line that was noted before: it has to be there, as it was
    #[arg(long, value_name = "NUMBER:DIGEST")]
    pub noted: Option<String>,
    #[command(flatten)]
    pub table: Table,
}
