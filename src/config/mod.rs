//! Configuration: defaults ← TOML file ← environment `SIDELIGHT__SECTION__KEY` ← flags.
//!
//! [`load`] brings the layers together (`walk` reads TOML along the known keys) into a raw serde mirror (`raw`) that
//! knows every key; `parse` and `validate` turn it into this module's [`Config`], whose values are proven. Every
//! fault is returned at once, each with its key, the value, where it comes from and the remedy (`fault`). Neighbours:
//! `domain` below; every stage takes its own section. Left out: anything that needs the outside world (ports, folders,
//! peers) is asked by `sidelight check`.

mod archives;
mod evidence;
mod explain;
mod fault;
mod fingerprint;
mod load;
mod parse;
mod peers;
mod raw;
mod refit;
mod rules;
mod secret;
mod settings;
mod tls;
mod users;
mod validate;
mod walk;
mod web;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::domain::{AeTitle, Disclosure, Precision, PublicKey, Required};

pub use archives::{Archive, callers};
pub use evidence::Evidence;
pub use explain::{Explain, MapForm};
pub use fault::{ConfigError, FAULTS_MAX, Fault};
pub use fingerprint::Fingerprint;
pub use load::{environment, load, load_to_serve};
pub(crate) use parse::{host_fault, span};
pub use refit::{DRAWS, Refit};
pub use secret::{SecretFault, open_to_others, read_secret, read_secret_text};
pub use settings::{Setting, Settings};
pub use users::{Role, WebUser};
pub use walk::FILE_BYTES_MAX;

/// The whole configuration, valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub node: Node,
    pub tls: Tls,
    pub store: Store,
    pub web: Web,
    pub study: StudyRules,
    /// Who may send; nobody but those listed (an empty list lets everybody do C-ECHO and nothing else).
    pub sources: Vec<Source>,
    pub destinations: Vec<Destination>,
    pub delivery: Delivery,
    pub models: Models,
    pub pixels: Pixels,
    pub risk: Risk,
    pub explain: Explain,
    pub log: Log,
    /// All of it as it was written, for people.
    pub settings: Settings,
}

/// What may leave the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Silent trial: only destinations marked `audit` exist.
    Shadow,
    /// Reports may go to clinical destinations too.
    Active,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub ae_title: AeTitle,
    /// Further called AE titles that the node answers to, each with its rules.
    pub aliases: Vec<Alias>,
    /// For associations without TLS; `None`: none. One of the two listeners is there.
    pub listen: Option<SocketAddr>,
    /// For associations over TLS; `None`: none.
    pub listen_tls: Option<SocketAddr>,
    pub mode: Mode,
    /// Device Observer Name and serial number in reports.
    pub name: String,
    pub serial_number: String,
    pub associations_max: usize,
    /// Bytes; announced to peers and enforced on every PDU.
    pub pdu_bytes_max: u32,
    /// Bytes of one received object.
    pub object_bytes_max: u64,
    /// Longest silence within an association.
    pub idle_timeout: Duration,
    /// Longest time from connection to a negotiated association (ARTIM, PS3.8 9.1.5).
    pub negotiation_timeout: Duration,
    /// How long running work may take to end at shutdown.
    pub drain_timeout: Duration,
}

/// TLS for associations in both directions (PS3.15 Annex B), and for HTTPS.
#[derive(Debug, Clone, PartialEq)]
pub struct Tls {
    /// The node's own certificate and those between it and its authority, PEM. There is a key where there is one.
    pub certificate: Option<PathBuf>,
    /// Private key of the first certificate, PEM.
    pub key: Option<PathBuf>,
    /// Certificates of the authorities that vouch for peers, PEM.
    pub authorities: Option<PathBuf>,
    pub client_certificates: ClientCertificates,
    /// The same of those who come to `web.listen_tls`.
    pub web_client_certificates: ClientCertificates,
    pub profile: TlsProfile,
}

/// Whether those who connect over TLS have to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificates {
    Required,
    /// One that is shown is judged.
    Optional,
    /// Nobody is asked.
    None,
}

/// Which TLS is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsProfile {
    /// PS3.15 B.12: BCP 195 (RFC 8996, RFC 9325), TLS 1.2 and 1.3.
    Bcp195,
    /// The part of it that is TLS 1.3.
    Bcp195Tls13,
}

/// What a peer that is called over TLS has to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerTls {
    /// One of these; empty: one that an authority vouches for, with its name.
    pub certificates: Vec<Fingerprint>,
    /// The name in its certificate; `None`: the host.
    pub server_name: Option<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Store {
    pub data_dir: PathBuf,
    /// Below this many free bytes nothing more is accepted.
    pub free_bytes_min: u64,
    /// The same as a share of the file system, percent; the higher of the two holds.
    pub free_percent_min: u8,
    /// How long received objects of finished studies are kept; `None`: for ever.
    pub objects_kept: Option<Duration>,
    /// How long reports and index rows of finished studies are kept; `None`: for ever.
    pub reports_kept: Option<Duration>,
    /// How long race posteriors are kept (method.md §6: their own retention); `None`: as long as the study.
    pub posteriors_kept: Option<Duration>,
    /// How long answers to changed images are kept, which hold race posteriors; `None`: as long as the study.
    pub evidence_kept: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Web {
    /// For HTTP in the clear; `None`: none.
    pub listen: Option<SocketAddr>,
    /// For HTTPS; `None`: none.
    pub listen_tls: Option<SocketAddr>,
    /// Whether STOW-RS, QIDO-RS and WADO-RS are offered at all.
    pub dicomweb: bool,
    /// Who may use them; nobody but those listed.
    pub clients: Vec<WebClient>,
    /// Whether there are pages for people: on `listen_tls`, and on `listen` where that is of this machine alone.
    pub pages: bool,
    /// Who may log in. Nobody is listed only where all pages are on this machine: then whoever is there may read.
    pub users: Vec<WebUser>,
    /// A session ends after so long without a request…
    pub session_idle: Duration,
    /// …and so long after its login.
    pub session_max: Duration,
}

/// A peer that speaks DICOMweb, known by its bearer token.
#[derive(Debug, Clone, PartialEq)]
pub struct WebClient {
    /// Unique name, used in logs.
    pub name: String,
    /// Holds the token, or `sha256:` and its digest.
    pub token_file: PathBuf,
    /// May send objects (STOW-RS).
    pub store: bool,
    /// May find and retrieve the node's own reports (QIDO-RS, WADO-RS).
    pub query: bool,
    /// Addresses it may come from; empty: any.
    pub hosts: Vec<IpAddr>,
    /// Stands for the calling AE title of what it sends.
    pub ae_title: AeTitle,
    /// Part of the audit, so that it may see reports in shadow mode.
    pub audit: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct StudyRules {
    /// A study is complete when nothing arrived for this long…
    pub quiet_period: Duration,
    /// …or this long after its first instance, whatever still arrives.
    pub cap: Duration,
    /// What becomes of an image that arrives after its study was reported.
    pub late: Late,
    /// What has to be there, by kind of study.
    pub required: Vec<Required>,
}

/// What an image that arrives after its study was reported leads to. A study without a report begins anew anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Late {
    /// Nothing: it is kept and listed, and in no report until somebody requeues the study.
    Never,
    /// A new report, sent after the older ones, each of which is sent too.
    Always,
    /// A new report in place of the older ones: those that are not sent yet are withdrawn.
    Replace,
}

/// A further called AE title, with rules for the studies that are sent to it (see `rules`).
#[derive(Debug, Clone, PartialEq)]
pub struct Alias {
    pub ae_title: AeTitle,
    /// Overrides `study.quiet_period`; a source's own overrides this.
    pub quiet_period: Option<Duration>,
    /// The packages of `models.clinical` that are audited; empty: all.
    pub clinical: Vec<String>,
    /// Names of the destinations that get the reports; empty: all.
    pub destinations: Vec<String>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Source {
    pub ae_title: AeTitle,
    /// Addresses it may come from; empty: any.
    pub hosts: Vec<IpAddr>,
    /// Overrides `study.quiet_period` for what this source sends, and that of an alias.
    pub quiet_period: Option<Duration>,
    /// Who must be named in the user identity negotiation (PS3.7 D.3.3.7); `None`: nobody is asked for.
    pub user: Option<User>,
    /// Whether Storage Commitment is accepted.
    pub commitment: bool,
    /// Where its result goes once the association that asked is gone; `None`: nowhere.
    pub commitment_to: Option<Remote>,
    /// Whether the node's own reports can be queried and pulled.
    pub query: bool,
    /// An audit archive: the only kind that may pull in shadow mode.
    pub audit: bool,
    /// It may only come over TLS, and is called so too.
    pub tls: bool,
    /// Certificates that it may come with, and nobody else may; empty: any that an authority vouches for.
    pub certificates: Vec<Fingerprint>,
}

impl Source {
    /// How it is called, where it is called at all.
    pub fn peer_tls(&self) -> Option<PeerTls> {
        self.tls.then(|| PeerTls { certificates: self.certificates.clone(), server_name: None })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    pub username: String,
    /// Holds the passcode, or `sha256:` and the hash of it; `None`: the name is enough.
    pub passcode_file: Option<PathBuf>,
}

/// A peer that the node calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    pub ae_title: AeTitle,
    /// Host name or address.
    pub host: String,
    pub port: u16,
}

/// Where reports go.
#[derive(Debug, Clone, PartialEq)]
pub struct Destination {
    /// Unique name, used in tables and on the command line.
    pub name: String,
    pub endpoint: Endpoint,
    /// An audit archive: the only kind that shadow mode sends to.
    pub audit: bool,
    pub disclose: Disclosure,
    pub timeout: Duration,
    /// Associations at once.
    pub associations_max: usize,
    /// Reports per minute; `None`: as fast as it takes them.
    pub per_minute_max: Option<u32>,
    /// Whether it is asked for storage commitment of what it took: how long the association that asks waits for the
    /// answer, which may come later on one of its own.
    pub commitment: Option<Duration>,
}

/// How a destination is reached.
#[derive(Debug, Clone, PartialEq)]
pub enum Endpoint {
    /// C-STORE.
    Dimse {
        ae_title: AeTitle,
        /// Host name or address.
        host: String,
        port: u16,
        /// `None`: in the clear.
        tls: Option<PeerTls>,
    },
    /// STOW-RS.
    Stow {
        url: ServiceUrl,
        /// Holds the bearer token that is sent, if one is.
        token_file: Option<PathBuf>,
    },
}

/// The root of a DICOMweb service or a model server: `http://host:port/path` or `https://…`, without user, query and fragment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceUrl {
    pub https: bool,
    /// Host name or address, an IPv6 one without brackets.
    pub host: String,
    pub port: u16,
    /// Empty, or with a slash at its beginning and none at its end.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// First wait after a failed attempt; doubles up to `retry_max`.
    pub retry_first: Duration,
    pub retry_max: Duration,
    /// A delivery that keeps failing this long, and was tried so often, is marked failed.
    pub give_up_after: Duration,
    pub tries_min: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Models {
    /// Folder of the packages, `<dir>/<name>/model.toml`.
    pub dir: PathBuf,
    /// Package name of the race model; `None` where individual inference is switched off.
    pub race: Option<String>,
    /// Group mix by which race posteriors are reweighed, of `sidelight profile prior`.
    pub race_prior: Option<PathBuf>,
    /// Package names of the clinical models.
    pub clinical: Vec<String>,
    /// At least one, none twice; `Auto` and `Cpu` stand alone.
    pub devices: Vec<Device>,
    pub precision: PrecisionChoice,
    /// Images per batch; 0: as many as each model is fastest with.
    pub batch_max: usize,
    /// How long a batch waits for company that is being decoded.
    pub batch_delay: Duration,
    /// Intra-op threads of libtorch; 0: as many as there are cores.
    pub threads: usize,
    /// The same image gets the same score to the last bit, at the price of speed. `threads` is not 0 then.
    pub deterministic: bool,
}

/// What models compute in, as far as their cards permit it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrecisionChoice {
    /// Whatever is fastest on the device.
    Fastest,
    Named(Precision),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// Every CUDA device there is, else the CPU.
    Auto,
    Cpu,
    Cuda(usize),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Number of sandboxed decode processes.
    pub workers: usize,
    /// A worker that takes longer for one instance is killed.
    pub timeout: Duration,
    /// Address space of one worker, bytes.
    pub memory_max: u64,
    /// Largest rows × columns × frames × samples that is decoded.
    pub samples_max: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Risk {
    /// The site's profile file; `None`: every finding is indeterminate (IND-NOCAL).
    pub profile: Option<PathBuf>,
    /// Keys of whom one has to have signed the profile; none: it needs no signature.
    pub profile_keys: Vec<PublicKey>,
    /// δ of method.md §2: the excess or spread of error probability that matters, 0..1.
    pub delta: f64,
    /// Whether race posteriors are computed for individual studies at all.
    pub per_study_inference: bool,
    /// A profile older than this is stale; `None`: never by age.
    pub profile_age_max: Option<Duration>,
    pub refit: Refit,
    /// Where race posteriors are not computed for individual studies: whether they may be for a site's data set.
    pub dataset_audit: bool,
    pub evidence: Evidence,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    pub json: bool,
    /// An `EnvFilter` directive, e.g. `info`, `sidelight=debug`.
    pub filter: String,
}
