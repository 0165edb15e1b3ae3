//! The command line: what `sidelight` understands, and the help that teaches it.
//!
//! Types only; `models` has those of packages and profiles, `labels` those of labels, `studies` those of what the node
//! has, `evidence` those of its own, `probe` those of experiments, `worlds` those of phantoms, single arguments are
//! parsed in `values`, `main` dispatches, and [`Settings`] become the topmost layer of the configuration. clap ends wrong
//! use with exit code 2. Left out: doing anything.

mod audit;
mod evidence;
mod labels;
mod models;
mod people;
mod probe;
mod studies;
mod values;
mod worlds;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::domain::AeTitle;

pub use audit::Audit;
pub use evidence::{CoMovement, Evidence, EvidenceOut, FeaturesOf, Gradients, Leakage};
pub use labels::{Labels, LabelsImport};
pub use models::{Model, ModelAdd, OodFit, Profile, ProfileFit};
pub use people::{Log, LogList, LogVerify, Users};
pub use probe::{Probe, ProbeMerge, ProbeMode, ProbeReport, ProbeRun};
pub use studies::{Results, ResultsImport, Studies};
use values::key_value;
pub use values::{ImageSize, PeerAddress};
pub use worlds::{Phantom, Validate};

const AFTER_HELP: &str = "\
First steps:
  sidelight check --config conf/demo.toml       what is not ready yet, and what to do about it
  sidelight serve --config conf/demo.toml       the node, until Ctrl-C
  sidelight studies list --config conf/demo.toml
  sidelight help analyse                        more about one command, with examples

Where the configuration comes from, later ones win:
  1. the defaults, as conf/sidelight.toml explains them
  2. the TOML file named by --config or SIDELIGHT_CONFIG
  3. environment variables, e.g. SIDELIGHT__NODE__LISTEN=127.0.0.1:11112
  4. --set, e.g. --set study.quiet_period=5s
Relative paths in it are taken from the current directory.

Exit codes: 0 done, 1 failed, 2 wrong use.";

/// Audits a deployed imaging AI for race-dependent error risk
///
/// sidelight is a DICOM node. A PACS routes studies to it; for each it runs the deployed clinical model and an
/// audit model that predicts self-reported race, and answers with a Structured Report that says how far the
/// clinical result's error risk depends on race, or why that cannot be said.
///
/// It is a research and quality tool: its reports are no diagnosis, and inferred race is never a patient attribute.
#[derive(Debug, Parser)]
#[command(name = "sidelight", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    pub settings: Settings,
    #[command(subcommand)]
    pub command: Command,
}

/// Where the configuration comes from, besides the environment.
#[derive(Debug, Clone, Args)]
pub struct Settings {
    /// Configuration file (TOML); without one the defaults hold
    #[arg(long, global = true, value_name = "FILE", env = "SIDELIGHT_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Set one key of the configuration, above file and environment; may be repeated
    #[arg(long = "set", global = true, value_name = "KEY=VALUE", value_parser = key_value, action = ArgAction::Append)]
    pub overrides: Vec<(String, String)>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node: receive, score, assess, report, deliver
    ///
    /// Listens for associations until SIGTERM or Ctrl-C, then lets running work end within node.drain_timeout.
    /// What was acknowledged is on disk; a restart continues where the node stopped.
    #[command(after_help = "\
Examples:
  sidelight serve --config conf/shadow.toml
  SIDELIGHT__NODE__LISTEN=0.0.0.0:104 sidelight serve --config conf/shadow.toml")]
    Serve,

    /// Tell what is not ready: configuration, models, folders, ports, peers
    #[command(after_help = "\
Examples:
  sidelight check --config conf/shadow.toml
  sidelight check --config conf/shadow.toml --network --json")]
    Check(Check),

    /// Analyse files or folders offline, with the same code as the node
    ///
    /// Writes one Structured Report per study and result.json to DIR, and prints a table.
    /// Nothing is sent anywhere, and the node's store is not touched.
    #[command(after_help = "\
Examples:
  sidelight analyse study/ --out out/ --config conf/demo.toml
  sidelight analyse cohort/ --out scores/ --with-posteriors --config conf/demo.toml   # for `profile fit`
  sidelight analyse study/ --out out/ --explain gradcam --dicom --config conf/demo.toml")]
    Analyse(Analyse),

    /// See what the node has received and done, and have it done again
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight studies list --state failed
  sidelight studies show 1.2.840.113619.2.5.1762583153
  sidelight studies resend 1.2.840.113619.2.5.1762583153    # deliver the current report again
  sidelight studies resend --failed                         # everything that was given up
  sidelight studies requeue 1.2.840.113619.2.5.1762583153   # analyse again from the stored images
  sidelight studies close 1.2.840.113619.2.5.1762583153     # do not wait for more images
  sidelight studies destinations                            # which are down, and what waits for them"
    )]
    Studies(Studies),

    /// Results of clinical products that score images on their own
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight results import today.csv --model vendor-chest --dry-run   # what would be imported, and what not
  sidelight results import today.csv --model vendor-chest"
    )]
    Results(Results),

    /// What is true of studies: outcomes, self-reported race, covariates; for audits and `profile fit --index`
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight labels import outcomes.csv --dry-run --rejects rejected.csv   # what would be taken, and what not, and why
  sidelight labels import outcomes.csv
  sidelight labels import Patient.ndjson Observation.ndjson --mapping site-labels.toml --window-days 3
  sidelight labels import reports/*.dcm --mapping site-labels.toml
  sidelight profile fit --index --out profile.json"
    )]
    Labels(Labels),

    /// The people who may log in to the pages
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight users hash     # asks for the password; its output goes into a file, e.g. > /etc/sidelight/anna.password"
    )]
    Users(Users),

    /// The log of what people did, line by line, each bound to the one before it
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight log list --config conf/shadow.toml
  sidelight log verify --config conf/shadow.toml
  sidelight log verify --noted 120:3f9a… --config conf/shadow.toml"
    )]
    Log(Log),

    /// Copy the data folder as it is at one moment, while the node runs
    ///
    /// DIR becomes a data folder of its own: index, objects, reports. To restore, put it where store.data_dir points,
    /// run `sidelight fsck` and start the node. Objects that were acknowledged after the backup are not in it: their
    /// senders have to send them again.
    #[command(after_help = "\
Examples:
  sidelight backup /backup/sidelight-2026-01-01 --config conf/shadow.toml
  sidelight backup /backup/sidelight-2026-01-01 --copy --json")]
    Backup(Backup),

    /// Find what is wrong with the data folder, and put right what can be
    ///
    /// Needs the folder for itself: stop the node first. Without --repair nothing is changed but what any start changes
    /// (folders that are missing, a newer version of the index). With it, nothing is deleted that may be a last copy:
    /// it goes to damaged/ in the folder, which is yours to empty. Exit code 1 while something is wrong.
    #[command(after_help = "\
Examples:
  sidelight fsck --config conf/shadow.toml
  sidelight fsck --repair --digests --config conf/shadow.toml")]
    Fsck(FsckOptions),

    /// Model packages: what there is, whether it is intact, export
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight model list
  sidelight model verify demo-race
  sidelight model golden site-chest --from expected.safetensors
  sidelight model ood-fit site-chest images/ --method energy
  sidelight model export demo-race --out demo-race.pt"
    )]
    Model(Model),

    /// Run the paper's experiments on a site's own labelled images
    ///
    /// What of race do the images show, where, and does the clinical model live on the same? Rows of Gichoya et al. 2022
    /// with the node's own decoding, normalisation and inference; figures with intervals beside the published ones.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight probe list
  sidelight probe run detection filters patches --cohort cohort.csv --out run/ --config site.toml
  sidelight probe run detection --predictions posteriors.csv --out run/
  sidelight probe report run/"
    )]
    Probe(Probe),

    /// Error rates of the clinical models by self-reported group, of the studies that the node reported
    ///
    /// Reads outcomes and self-reports that `labels import` brought; writes audit.html, audit.pdf, audit.json, plots/, an
    /// addendum to the models' cards and an entry for a register of use. Numbers of 1 to 10 patients are in none of them.
    #[command(after_help = "\
Examples:
  sidelight audit --from 2026-03-01 --to 2026-03-31 --out audit-2026-03/ --config site.toml")]
    Audit(Audit),

    /// Write synthetic chest radiographs with a known, planted disparity
    ///
    /// DIR receives DICOM files and labels.csv (patient, study, self-reported group, findings, …). The same world,
    /// number and seed give the same patients. Phantoms test the software; they say nothing about people.
    #[command(after_help = "\
Examples:
  sidelight phantom --world null --patients 200 --seed 1 --out phantoms/null
  sidelight phantom --world biased --patients 20 --seed 7 --size 640x512 --out phantoms/biased")]
    Phantom(Phantom),

    /// Test the flag in worlds whose true error by group is known
    ///
    /// Writes a report (README.md, validation.json), tables (CSV) and plots (SVG) to DIR, and prints a verdict for each
    /// claim; exit code 1 says that one does not hold. Without --long it takes about a minute and finds what is broken;
    /// the long form runs thousands of replicates.
    #[command(after_help = "\
Examples:
  sidelight validate --out validation/
  sidelight validate --out docs/validation --long --seed 1")]
    Validate(Validate),

    /// Train a model by a recipe and export it as a package
    ///
    /// After each epoch a checkpoint, losses.csv and losses.svg (losses.html shows it) are written to the working folder. A training that was
    /// interrupted goes on with --resume, and ends with the same weights as one that was not.
    #[command(after_help = "\
Examples:
  sidelight train models/recipes/demo-race.toml --out trained/
  sidelight train models/recipes/demo-race.toml --out trained/ --resume   # after an interruption; docs/training.md")]
    Train(Train),

    /// Fit or read a profile: the site's reference for the assessment
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight analyse cohort/ --out scores/ --with-posteriors --config conf/demo.toml
  sidelight profile fit --results scores/result.json --labels cohort/labels.csv --out profile.json
  sidelight profile show profile.json
  sidelight profile fit --index --out new.json            # from the node's own studies, once they have labels
  sidelight profile diff profile.json new.json
  sidelight profile sign new.json --key site.pem
  sidelight profile check new.json"
    )]
    Profile(Profile),

    /// Evidence on whether a clinical model relies on image features that also predict race
    ///
    /// Lines are of a site's patients together, never of one patient; reports tell those of risk.evidence.file. Two lines
    /// that agree, with negative controls that passed, are "consistent with reliance", and less is no statement.
    #[command(
        subcommand,
        after_help = "\
Examples:
  sidelight evidence co-movement --out evidence.json --config conf/shadow.toml
  sidelight analyse cohort/ --out scores/ --with-posteriors --evidence
  sidelight evidence co-movement --results scores/result.json --labels cohort/labels.csv --out evidence.json
  sidelight evidence features images.csv --model chest --out features.csv
  sidelight evidence features images.csv --model chest --untrained --out untrained.csv
  sidelight evidence leakage features.csv --untrained untrained.csv --model chest --out evidence.json
  sidelight evidence gradients images.csv --model chest --strata view,sex --out evidence.json
  sidelight evidence show evidence.json"
    )]
    Evidence(Evidence),

    /// Ask a DICOM peer whether it is there (C-ECHO)
    #[command(after_help = "\
Examples:
  sidelight echo PACS@192.0.2.10:104
  sidelight echo PACS@pacs.example.org:11112 --calling SIDELIGHT
  sidelight echo PACS@pacs.example.org:2762 --tls")]
    Echo(Echo),

    /// Print version, implementation identifiers and what the build can do
    Version(Table),

    /// Write what a model sees of one image; debugging a site starts here
    #[command(after_help = "\
Examples:
  sidelight normalise image.dcm --contract minmax-unit --size 224 --npy seen.npy --png seen.png
  sidelight normalise image.dcm --contract demo-race --png seen.png")]
    Normalise(Normalise),

    /// Decode worker, started by the node itself
    #[command(name = "__worker", hide = true)]
    Worker,
}

/// How a command prints its table.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Table {
    /// Print JSON in place of a table
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct Check {
    /// Ask every destination by C-ECHO too
    #[arg(long)]
    pub network: bool,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct Analyse {
    /// DICOM files, or folders that are searched for them
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Folder for the reports and result.json; made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// A table with the results of a product, of the package NAME (format result-csv); may be given for several
    #[arg(long, value_name = "NAME=FILE", value_parser = key_value)]
    pub results: Vec<(String, String)>,
    /// Write race posteriors into result.json, as `profile fit` needs them; treat the file accordingly
    #[arg(long)]
    pub with_posteriors: bool,
    /// Change an image of each study as [risk.evidence] says, and write what both models say into result.json, for
    /// `evidence co-movement`
    #[arg(long, requires = "with_posteriors")]
    pub evidence: bool,
    /// Write reports as for a destination with disclose = "probabilities"
    #[arg(long)]
    pub disclose: bool,
    /// Write maps of what in an image speaks for each score, as PNG in DIR/maps: gradcam, occlusion or both; all else
    /// about them is in the section [explain]
    #[arg(long, value_name = "METHOD", value_parser = ["gradcam", "occlusion", "both"])]
    pub explain: Option<String>,
    /// Write the maps as DICOM objects too, to which the report refers
    #[arg(long, requires = "explain")]
    pub dicom: bool,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct Backup {
    /// Folder to write; not there yet, or empty
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Copy every file, also where a second name (hard link) would do
    #[arg(long)]
    pub copy: bool,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct FsckOptions {
    /// Put right what can be
    #[arg(long)]
    pub repair: bool,
    /// Read every file and compare its digest
    #[arg(long)]
    pub digests: bool,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct Train {
    /// Recipe (TOML): data, architecture, schedule, seed
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Folder that receives the package, <DIR>/<name>; without it models.dir
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on from the checkpoint, if there is one
    #[arg(long)]
    pub resume: bool,
    /// Let the package take the place of one of the same name with other weights
    #[arg(long)]
    pub replace: bool,
    /// Folder of checkpoint, loss curve and rejects; without it <OUT>/.training/<name>
    #[arg(long, value_name = "DIR")]
    pub work: Option<PathBuf>,
    /// Also write a checkpoint after every N batches of an epoch; 0: only after each epoch
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub checkpoint_batches: usize,
    /// Threads that load and change images; without it 1 beside a CPU, one for each core beside a GPU
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    pub loaders: usize,
    /// Decoded images are kept in memory up to this size, beyond it in a file in the working folder
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    pub memory: bytesize::ByteSize,
    #[command(flatten)]
    pub table: Table,
}

#[derive(Debug, Args)]
pub struct Echo {
    /// The peer, as AET@host:port
    #[arg(value_name = "AET@host:port")]
    pub peer: PeerAddress,
    /// AE title to call from; without it node.ae_title
    #[arg(long, value_name = "AET")]
    pub calling: Option<AeTitle>,
    /// Over TLS, with the files of [tls] and, where the peer is a destination, what is pinned for it
    #[arg(long)]
    pub tls: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("output").required(true).multiple(true).args(["npy", "png"]))]
pub struct Normalise {
    /// DICOM file with an image
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Input contract: imagenet-rgb, xrv-1024, minmax-unit, ct-window, mammo, or the name of a model package for its
    /// own
    #[arg(long, value_name = "NAME")]
    pub contract: String,
    /// Side of the square input in pixels, for a contract that is not a package's own
    #[arg(long, value_name = "PX", default_value_t = 224, value_parser = clap::value_parser!(u32).range(8..=4096))]
    pub size: u32,
    /// Values as a NumPy array: channel, row, column
    #[arg(long, value_name = "OUT")]
    pub npy: Option<PathBuf>,
    /// The same as a picture, its range stretched to black and white
    #[arg(long, value_name = "OUT")]
    pub png: Option<PathBuf>,
    #[command(flatten)]
    pub table: Table,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
