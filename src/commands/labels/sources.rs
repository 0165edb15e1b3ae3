//! The files of an import: told apart by their content, read piece by piece, and held against the studies that are here.
//!
//! Neighbours: `results` understands lines and resources, `pixels` reads reports in its locked workers. Left out: what
//! becomes of statements (`super`).

use std::collections::{BTreeMap, HashSet};
use std::fs::File;
use std::io::{BufReader, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use serde::Serialize;
use sidelight::config::Config;
use sidelight::domain::{Refusal, RefusalCode};
use sidelight::pixels::Workers;
use sidelight::report;
use sidelight::results::{
    At, CsvTable, FhirReader, Lines, Mapping, Placed, Places, Reject, SelfReport, Statement, Vocabulary, Wanted,
    sr_statement,
};
use sidelight::store::Store;

/// Statements that are held against the index at once.
const AT_ONCE: usize = 10_000;
/// Bytes of one file.
const BYTES_MAX: u64 = 8 << 30;
/// Files of one import; a folder of reports has many.
const FILES_MAX: usize = 100_000;

/// What was read, by kind.
#[derive(Debug, Default, Serialize)]
pub(super) struct Counts {
    /// `table line`, `structured report`, and the types of FHIR resources.
    pub kinds: BTreeMap<String, Kind>,
    /// Statements that others are nearer to their study than.
    pub passed_over: u64,
    #[serde(skip)]
    pub columns_unused: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Kind {
    pub read: u64,
    /// Of these, how many say something that the import is about.
    pub used: u64,
}

#[derive(PartialEq)]
enum Format {
    Csv,
    Ndjson,
    Dicom,
}

/// What has been read so far.
pub(super) struct Sources<'a> {
    store: &'a Store,
    vocabulary: &'a Vocabulary,
    mapping: Option<&'a Mapping>,
    window_days: u32,
    waiting: Vec<Statement>,
    /// A few different ones, whom very many people share.
    reports: HashSet<Arc<SelfReport>>,
    pub placed: Vec<Placed>,
    pub rejects: Vec<Reject>,
    pub counts: Counts,
}

impl<'a> Sources<'a> {
    pub(super) fn new(
        store: &'a Store,
        vocabulary: &'a Vocabulary,
        mapping: Option<&'a Mapping>,
        window_days: u32,
    ) -> Self {
        let (waiting, placed, rejects, counts) = (Vec::new(), Vec::new(), Vec::new(), Counts::default());
        let reports = HashSet::new();
        Self { store, vocabulary, mapping, window_days, waiting, reports, placed, rejects, counts }
    }

    /// Reads all files. An error where one of them as a whole is nothing that can be imported.
    pub(super) async fn read(&mut self, config: &Config, files: &[PathBuf]) -> anyhow::Result<()> {
        anyhow::ensure!(files.len() <= FILES_MAX, "more than {FILES_MAX} files; import some of them after the others");
        let mut fhir: Option<FhirReader<'_>> = None;
        let mut workers: Option<Workers> = None;
        for (number, path) in (0u32..).zip(files) {
            let (mut file, format) = open(path)?;
            let mapping = || {
                self.mapping.with_context(|| format!("{}: what its codes mean is not known; name a file with --mapping (conf/labels.toml explains it)", path.display()))
            };
            match format {
                Format::Csv => {
                    let table = CsvTable::open(BufReader::new(file), number, self.vocabulary)
                        .map_err(|reason| anyhow::anyhow!("{}: {reason}", path.display()))?;
                    self.table(table).await?;
                }
                Format::Ndjson => {
                    let reader = match &mut fhir {
                        Some(reader) => reader,
                        none => none.insert(FhirReader::new(mapping()?, self.vocabulary)),
                    };
                    file.rewind().with_context(|| format!("{} cannot be read", path.display()))?;
                    for (line, text) in Lines::of(BufReader::new(file)) {
                        let at = At { file: number, line };
                        match text {
                            Ok(text) => reader.add(at, &text),
                            Err(reason) => self.rejects.push(Reject { at, reason }),
                        }
                    }
                }
                Format::Dicom => {
                    let mapping = mapping()?;
                    let pool = match &workers {
                        Some(workers) => workers.clone(),
                        None => {
                            let executable = std::env::current_exe().context("this program's own path is not known")?;
                            workers.insert(Workers::start(&config.pixels, executable)).clone()
                        }
                    };
                    self.report(&pool, mapping, path, At { file: number, line: 0 }).await?;
                }
            }
        }
        if let Some(reader) = fhir {
            let read = reader.finish();
            for (kind, (read, used)) in read.counts {
                let own = self.counts.kinds.entry(kind).or_default();
                (own.read, own.used) = (own.read + read, own.used + used);
            }
            self.rejects.extend(read.rejects);
            for statement in read.statements {
                self.add(statement).await?;
            }
        }
        self.place().await
    }

    async fn table(&mut self, table: CsvTable<'_, BufReader<File>>) -> anyhow::Result<()> {
        let unused = table.unused.iter().filter(|column| !self.counts.columns_unused.contains(column));
        let unused: Vec<String> = unused.cloned().collect();
        self.counts.columns_unused.extend(unused);
        let (mut read, mut used) = (0, 0);
        for line in table {
            read += 1;
            match line {
                Ok(statement) => {
                    used += 1;
                    self.add(statement).await?;
                }
                Err(reject) => self.rejects.push(reject),
            }
        }
        let own = self.counts.kinds.entry("table line".into()).or_default();
        (own.read, own.used) = (own.read + read, own.used + used);
        Ok(())
    }

    /// A report is read in the locked workers, as any that a peer sends.
    async fn report(&mut self, workers: &Workers, mapping: &Mapping, path: &Path, at: At) -> anyhow::Result<()> {
        let read = async {
            let header = workers.read_header(path).await?;
            if report::is_own(&header) {
                return Err(Refusal::new(RefusalCode::OwnReport, "a report of sidelight says nothing of what is true"));
            }
            let rules = mapping.report_rules();
            let documents = workers.read_results(path, &rules).await?;
            Ok((header, documents))
        };
        let own = self.counts.kinds.entry("structured report".into()).or_default();
        own.read += 1;
        let (header, documents) = match read.await {
            Ok(read) => read,
            Err(refusal) if matches!(refusal.code, RefusalCode::WorkerUnavailable) => anyhow::bail!("{refusal}"),
            Err(refusal) => {
                self.rejects.push(Reject { at, reason: format!("it cannot be used: {}", refusal.detail) });
                return Ok(());
            }
        };
        match sr_statement(at, &header, documents, mapping, self.vocabulary) {
            Ok(statement) => {
                own.used += 1;
                self.add(statement).await?;
            }
            Err(reason) => self.rejects.push(Reject { at, reason }),
        }
        Ok(())
    }

    async fn add(&mut self, mut statement: Statement) -> anyhow::Result<()> {
        if let Some(person) = &mut statement.says.person {
            match self.reports.get(person) {
                Some(same) => *person = Arc::clone(same),
                None => drop(self.reports.insert(Arc::clone(person))),
            }
        }
        self.waiting.push(statement);
        if self.waiting.len() >= AT_ONCE { self.place().await } else { Ok(()) }
    }

    /// Finds the studies of what waits.
    async fn place(&mut self) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let whole = waiting.iter().any(|statement| statement.says.person.is_some());
        let here = self.store.find_studies(&Wanted::of(&waiting), whole).await?;
        let places = Places::of(&here, self.window_days);
        for statement in waiting {
            let at = statement.says.at;
            match places.place(statement) {
                Ok(placed) => self.placed.push(placed),
                Err(reason) => self.rejects.push(Reject { at, reason }),
            }
        }
        Ok(())
    }
}

/// The file, at its beginning, and what it holds.
fn open(path: &Path) -> anyhow::Result<(File, Format)> {
    let unreadable = || format!("{} cannot be read", path.display());
    let mut file = File::open(path).with_context(unreadable)?;
    let meta = file.metadata().with_context(unreadable)?;
    anyhow::ensure!(meta.is_file(), "{} is no file; name the files in it", path.display());
    anyhow::ensure!(meta.len() <= BYTES_MAX, "{} has more than {BYTES_MAX} bytes; split it", path.display());
    let mut start = Vec::new();
    file.by_ref().take(1024).read_to_end(&mut start).with_context(unreadable)?;
    file.rewind().with_context(unreadable)?;
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&start);
    let first = text.iter().find(|byte| !byte.is_ascii_whitespace());
    let format = match (start.get(128..132), first) {
        (Some(b"DICM"), _) => Format::Dicom,
        (_, Some(b'{')) => Format::Ndjson,
        _ => Format::Csv,
    };
    Ok((file, format))
}
