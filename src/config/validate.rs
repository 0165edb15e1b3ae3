//! From the raw mirror to the valid [`Config`]: bounds of every key, and the rules that bind several keys.
//!
//! `parse` turns one value into its type, `load` brings the mirror; a `Config` exists only if no fault was found.
//! Left out: the outside world (ports, folders, peers), which `sidelight check` asks.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::domain::{AeTitle, Disclosure, Required};

use super::fault::{Faults, Problem};
use super::parse::{self, Parsed};
use super::raw::{self, Entry, Raw};
use super::web;
use super::{
    Alias, Config, Delivery, Destination, Log, Mode, Models, Node, Pixels, PrecisionChoice, Risk, Settings, Source,
    Store, StudyRules, load::Origins,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);
pub(super) const MILLISECOND: Duration = Duration::from_millis(1);
const CENTURY: Duration = Duration::from_secs(36_525 * 86_400);

/// Most sources, and most destinations, that one node has.
pub(super) const PEERS_MAX: usize = 1024;

/// Whether the node will analyse studies with this configuration, and so needs its models named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    AnyCommand,
    Serve,
}

/// The valid configuration; `None` if `faults` has grown.
pub(super) fn validate(raw: &Raw, need: Need, origins: &Origins, faults: &mut Faults) -> Option<Config> {
    let mut check = Check { origins, faults };
    check.listeners(raw);
    check.tls_rules(raw);
    check.shadow_mode(raw);
    check.loops(raw);
    check.models_named(raw, need);
    check.disclosure(raw);
    check.answers_kept(raw);
    // Every section is built, whatever became of the others, so that all faults are found.
    let aliases = check.aliases(raw);
    let node = check.node(&raw.node, aliases);
    let tls = check.tls(&raw.tls);
    let store = check.store(&raw.store);
    let web = check.web(raw);
    let study = check.study(&raw.study);
    let sources = check.sources(raw);
    let destinations = check.destinations(&raw.destinations);
    let delivery = check.delivery(&raw.delivery);
    let models = check.models(&raw.models);
    let pixels = check.pixels(&raw.pixels);
    let risk = check.risk(&raw.risk);
    let explain = check.explain(&raw.explain);
    let json = check.get("log.json", &raw.log.json, parse::switch);
    let filter = check.get("log.filter", &raw.log.filter, parse::log_filter);
    Some(Config {
        node: node?,
        tls: tls?,
        store: store?,
        web: web?,
        study: study?,
        sources: sources?,
        destinations: destinations?,
        delivery: delivery?,
        models: models?,
        pixels: pixels?,
        risk: risk?,
        explain: explain?,
        log: Log { json: json?, filter: filter? },
        settings: Settings::of(raw),
    })
}

/// Reads values and notes what is wrong with them.
pub(super) struct Check<'a> {
    origins: &'a Origins,
    faults: &'a mut Faults,
}

impl Check<'_> {
    pub(super) fn get<T>(&mut self, key: &str, entry: &Entry, parser: impl Fn(&Entry) -> Parsed<T>) -> Option<T> {
        parser(entry).map_err(|problem| self.refuse(key, entry, problem)).ok()
    }

    pub(super) fn refuse(&mut self, key: &str, entry: &Entry, problem: Problem) {
        self.faults.push(self.origins.fault(key, Some(entry), problem));
    }

    /// Notes a contradiction between several keys at the first of them.
    pub(super) fn contradiction(&mut self, key: &str, entry: &Entry, what: String, remedy: &str) {
        self.refuse(key, entry, Problem::new(what, remedy));
    }

    fn node(&mut self, raw: &raw::Node, aliases: Option<Vec<Alias>>) -> Option<Node> {
        let ae_title = self.get("node.ae_title", &raw.ae_title, parse::ae_title);
        let listen = self.get("node.listen", &raw.listen, parse::listen_if_given);
        let listen_tls = self.get("node.listen_tls", &raw.listen_tls, parse::listen_if_given);
        let mode = self.get("node.mode", &raw.mode, parse::mode);
        let name = self.get("node.name", &raw.name, parse::label);
        let serial_number = self.get("node.serial_number", &raw.serial_number, parse::label);
        let associations_max = self.get("node.associations_max", &raw.associations_max, parse::count(1..=4096));
        // dicom-rs holds an A-ASSOCIATE-RQ to this limit too, and the largest known ones reach 157 kB.
        let pdu_bytes_max = self.get("node.pdu_bytes_max", &raw.pdu_bytes_max, parse::size(192 * KIB..=16 * MIB));
        let object_bytes_max = self.get("node.object_bytes_max", &raw.object_bytes_max, parse::size(MIB..=TIB));
        let idle_timeout = self.get("node.idle_timeout", &raw.idle_timeout, parse::duration(SECOND..=HOUR));
        let negotiation_timeout =
            self.get("node.negotiation_timeout", &raw.negotiation_timeout, parse::duration(100 * MILLISECOND..=HOUR));
        let drain_timeout = self.get("node.drain_timeout", &raw.drain_timeout, parse::duration(MILLISECOND..=HOUR));
        Some(Node {
            ae_title: ae_title?,
            aliases: aliases?,
            listen: listen?,
            listen_tls: listen_tls?,
            mode: mode?,
            name: name?,
            serial_number: serial_number?,
            associations_max: associations_max?,
            pdu_bytes_max: u32::try_from(pdu_bytes_max?).expect("the range ends at 16 MiB"),
            object_bytes_max: object_bytes_max?,
            idle_timeout: idle_timeout?,
            negotiation_timeout: negotiation_timeout?,
            drain_timeout: drain_timeout?,
        })
    }

    fn store(&mut self, raw: &raw::Store) -> Option<Store> {
        let data_dir = self.get("store.data_dir", &raw.data_dir, parse::path);
        let free_bytes_min = self.get("store.free_bytes_min", &raw.free_bytes_min, parse::size(0..=1024 * TIB));
        let free_percent_min = self.get("store.free_percent_min", &raw.free_percent_min, parse::count(0..=90));
        let kept = parse::duration_or("forever", HOUR..=CENTURY);
        let objects_kept = self.get("store.retention.objects", &raw.retention.objects, &kept);
        let reports_kept = self.get("store.retention.reports", &raw.retention.reports, &kept);
        let posteriors_kept = self.get("store.retention.posteriors", &raw.retention.posteriors, &kept);
        let evidence_kept = self.get("store.retention.evidence", &raw.retention.evidence, &kept);
        let shown = |entry: &Entry| parse::text(entry).unwrap_or_default().to_owned();
        let reports = reports_kept.flatten();
        for (key, entry, kept) in [
            ("store.retention.objects", &raw.retention.objects, objects_kept),
            ("store.retention.posteriors", &raw.retention.posteriors, posteriors_kept),
            ("store.retention.evidence", &raw.retention.evidence, evidence_kept),
        ] {
            if let (Some(Some(kept)), Some(reports)) = (kept, reports)
                && kept > reports
            {
                let what = format!("is longer than store.retention.reports ({})", shown(&raw.retention.reports));
                self.contradiction(key, entry, what, "shorten it, or keep reports and index rows as long");
            }
        }
        Some(Store {
            data_dir: data_dir?,
            free_bytes_min: free_bytes_min?,
            free_percent_min: u8::try_from(free_percent_min?).expect("the range ends at 90"),
            objects_kept: objects_kept?,
            reports_kept: reports_kept?,
            posteriors_kept: posteriors_kept?,
            evidence_kept: evidence_kept?,
        })
    }

    fn study(&mut self, raw: &raw::Study) -> Option<StudyRules> {
        let quiet_period = self.get("study.quiet_period", &raw.quiet_period, parse::duration(MILLISECOND..=DAY));
        let cap = self.get("study.cap", &raw.cap, parse::duration(MILLISECOND..=7 * DAY));
        self.ordered("study.quiet_period", &raw.quiet_period, quiet_period, "study.cap", &raw.cap, cap);
        let late = self.get("study.late", &raw.late, parse::late);
        let required = self.required(raw);
        Some(StudyRules { quiet_period: quiet_period?, cap: cap?, late: late?, required: required? })
    }

    fn required(&mut self, raw: &raw::Study) -> Option<Vec<Required>> {
        if !self.few_enough("study.required", raw.required.len()) {
            return None;
        }
        let cap = parse::duration(MILLISECOND..=7 * DAY)(&raw.cap).ok();
        collect_all(raw.required.iter().enumerate().map(|(i, rule)| {
            let key = |name: &str| format!("study.required[{i}].{name}");
            let modality = self.get(&key("modality"), &rule.modality, parse::code_if_given);
            let body_part = self.get(&key("body_part"), &rule.body_part, parse::code_if_given);
            let views = self.get(&key("views"), &rule.views, parse::list(16, parse::required_view));
            let images_min = self.get(&key("images_min"), &rule.images_min, parse::integer(0..=100_000));
            let series_min = self.get(&key("series_min"), &rule.series_min, parse::integer(0..=1000));
            let bounds = parse::duration_if_given(MILLISECOND..=DAY);
            let quiet_period = self.get(&key("quiet_period"), &rule.quiet_period, bounds);
            let wait = self.get(&key("wait"), &rule.wait, parse::switch);
            let quiet_key = key("quiet_period");
            self.ordered(&quiet_key, &rule.quiet_period, quiet_period.flatten(), "study.cap", &raw.cap, cap);
            if let (Some(views), Some(0), Some(0)) = (&views, images_min, series_min)
                && views.is_empty()
            {
                let what = "asks for nothing".to_owned();
                self.contradiction(&key("views"), &rule.views, what, "name views, images_min or series_min");
            }
            Some(Required {
                modality: modality?,
                body_part: body_part?,
                views: views?,
                images_min: images_min?,
                series_min: series_min?,
                quiet_period: quiet_period?,
                wait: wait?,
            })
        }))
    }

    fn sources(&mut self, raw: &Raw) -> Option<Vec<Source>> {
        if !self.few_enough("sources", raw.sources.len()) {
            return None;
        }
        let cap = parse::duration(MILLISECOND..=7 * DAY)(&raw.study.cap).ok();
        let mut seen = BTreeMap::new();
        collect_all(raw.sources.iter().enumerate().map(|(i, source)| {
            let key = |name: &str| format!("sources[{i}].{name}");
            let ae_title = self.get(&key("ae_title"), &source.ae_title, parse::ae_title);
            if let Some(ae_title) = &ae_title
                && let Some(first) = seen.insert(ae_title.clone(), i)
            {
                let what = format!("is the AE title of sources[{first}] too");
                self.contradiction(&key("ae_title"), &source.ae_title, what, "put all its hosts into one entry");
            }
            let hosts = self.get(&key("hosts"), &source.hosts, parse::list(256, parse::ip_address));
            let bounds = parse::duration_if_given(MILLISECOND..=DAY);
            let quiet = self.get(&key("quiet_period"), &source.quiet_period, bounds);
            let quiet_key = key("quiet_period");
            self.ordered(&quiet_key, &source.quiet_period, quiet.flatten(), "study.cap", &raw.study.cap, cap);
            let user = self.user(i, source);
            let tls = self.get(&key("tls"), &source.tls, parse::switch);
            let certificates = self.certificates(&key("certificates"), &source.certificates);
            let services = self.services(i, source, raw);
            let (commitment, commitment_to, query, audit) = services?;
            Some(Source {
                ae_title: ae_title?,
                hosts: hosts?,
                quiet_period: quiet?,
                user: user?,
                commitment,
                commitment_to,
                query,
                audit,
                tls: tls?,
                certificates: certificates?,
            })
        }))
    }

    fn destinations(&mut self, raw: &[raw::Destination]) -> Option<Vec<Destination>> {
        if !self.few_enough("destinations", raw.len()) {
            return None;
        }
        let mut seen = BTreeMap::new();
        let destinations = collect_all(raw.iter().enumerate().map(|(i, destination)| {
            let key = |name: &str| format!("destinations[{i}].{name}");
            let name = self.get(&key("name"), &destination.name, parse::name);
            if let Some(name) = &name
                && let Some(first) = seen.insert(name.clone(), i)
            {
                let what = format!("is the name of destinations[{first}] too");
                self.contradiction(&key("name"), &destination.name, what, "give each destination a name of its own");
            }
            let endpoint = self.endpoint(&key, destination);
            let audit = self.get(&key("audit"), &destination.audit, parse::switch);
            let disclose = self.get(&key("disclose"), &destination.disclose, parse::disclosure);
            let timeout = self.get(&key("timeout"), &destination.timeout, parse::duration(100 * MILLISECOND..=HOUR));
            let associations_max =
                self.get(&key("associations_max"), &destination.associations_max, parse::count(1..=64));
            let per_minute_max =
                self.get(&key("per_minute_max"), &destination.per_minute_max, parse::integer(0..=60_000));
            let commitment = self.commitment(&key, destination);
            Some(Destination {
                name: name?,
                endpoint: endpoint?,
                audit: audit?,
                disclose: disclose?,
                timeout: timeout?,
                associations_max: associations_max?,
                per_minute_max: u32::try_from(per_minute_max?).ok().filter(|rate| *rate > 0),
                commitment: commitment?,
            })
        }))?;
        self.archives_of_one_title(raw, &destinations);
        Some(destinations)
    }

    fn delivery(&mut self, raw: &raw::Delivery) -> Option<Delivery> {
        let retry_first = self.get("delivery.retry_first", &raw.retry_first, parse::duration(10 * MILLISECOND..=DAY));
        let retry_max = self.get("delivery.retry_max", &raw.retry_max, parse::duration(10 * MILLISECOND..=7 * DAY));
        let give_up_after =
            self.get("delivery.give_up_after", &raw.give_up_after, parse::duration(10 * MILLISECOND..=365 * DAY));
        let (first, max, end) = (&raw.retry_first, &raw.retry_max, &raw.give_up_after);
        self.ordered("delivery.retry_first", first, retry_first, "delivery.retry_max", max, retry_max);
        self.ordered("delivery.retry_first", first, retry_first, "delivery.give_up_after", end, give_up_after);
        let tries_min = self.get("delivery.tries_min", &raw.tries_min, parse::integer(1..=100_000));
        Some(Delivery {
            retry_first: retry_first?,
            retry_max: retry_max?,
            give_up_after: give_up_after?,
            tries_min: u32::try_from(tries_min?).expect("the range ends at 100,000"),
        })
    }

    fn models(&mut self, raw: &raw::Models) -> Option<Models> {
        let dir = self.get("models.dir", &raw.dir, parse::path);
        let race = self.get("models.race", &raw.race, parse::name_if_given);
        let race_prior = self.get("models.race_prior", &raw.race_prior, parse::path_if_given);
        let clinical = self.get("models.clinical", &raw.clinical, parse::list(16, parse::name));
        if let Some(clinical) = &clinical {
            if let Some(twice) = first_repeated(clinical) {
                let what = format!("names {twice} twice");
                self.contradiction("models.clinical", &raw.clinical, what, "name each package once");
            }
            if let Some(Some(race)) = &race
                && clinical.contains(race)
            {
                let what = "is among models.clinical too".to_owned();
                self.contradiction("models.race", &raw.race, what, "a package is either the race or a clinical model");
            }
        }
        let devices = self.get("models.device", &raw.device, parse::devices);
        let precision = self.get("models.precision", &raw.precision, parse::precision);
        let batch_max = self.get("models.batch_max", &raw.batch_max, parse::count(0..=1024));
        let batch_delay =
            self.get("models.batch_delay", &raw.batch_delay, parse::duration(Duration::ZERO..=10 * SECOND));
        let threads = self.get("models.threads", &raw.threads, parse::count(0..=1024));
        let deterministic = self.get("models.deterministic", &raw.deterministic, parse::switch);
        if deterministic == Some(true) && threads == Some(0) {
            let what =
                "leaves the number of threads to the machine, and the last bits of a score depend on it".to_owned();
            let remedy = "write how many, e.g. 4, or set models.deterministic = false";
            self.contradiction("models.threads", &raw.threads, what, remedy);
        }
        if deterministic == Some(true) && precision == Some(PrecisionChoice::Fastest) {
            let what = "takes what is fastest at each start, and scores depend on it".to_owned();
            let remedy = "name one, e.g. \"fp32\", or set models.deterministic = false";
            self.contradiction("models.precision", &raw.precision, what, remedy);
        }
        Some(Models {
            dir: dir?,
            race: race?,
            race_prior: race_prior?,
            clinical: clinical?,
            devices: devices?,
            precision: precision?,
            batch_max: batch_max?,
            batch_delay: batch_delay?,
            threads: threads?,
            deterministic: deterministic?,
        })
    }

    fn pixels(&mut self, raw: &raw::Pixels) -> Option<Pixels> {
        let workers = self.get("pixels.workers", &raw.workers, parse::count(1..=256));
        let timeout = self.get("pixels.timeout", &raw.timeout, parse::duration(SECOND..=HOUR));
        let memory_max = self.get("pixels.memory_max", &raw.memory_max, parse::size(256 * MIB..=TIB));
        let samples_max = self.get("pixels.samples_max", &raw.samples_max, parse::integer(1..=1 << 40));
        Some(Pixels { workers: workers?, timeout: timeout?, memory_max: memory_max?, samples_max: samples_max? })
    }

    fn risk(&mut self, raw: &raw::Risk) -> Option<Risk> {
        let profile = self.get("risk.profile", &raw.profile, parse::path_if_given);
        let profile_keys = self.get("risk.profile_keys", &raw.profile_keys, parse::list(16, parse::public_key));
        let delta = self.get("risk.delta", &raw.delta, parse::fraction);
        let per_study_inference = self.get("risk.per_study_inference", &raw.per_study_inference, parse::switch);
        let profile_age_max =
            self.get("risk.profile_age_max", &raw.profile_age_max, parse::duration_or("never", DAY..=CENTURY));
        let refit = self.refit(&raw.refit);
        let dataset_audit = self.get("risk.dataset_audit", &raw.dataset_audit, parse::switch);
        let evidence = self.evidence(raw);
        Some(Risk {
            profile: profile?,
            profile_keys: profile_keys?,
            delta: delta?,
            per_study_inference: per_study_inference?,
            profile_age_max: profile_age_max?,
            refit: refit?,
            dataset_audit: dataset_audit?,
            evidence: evidence?,
        })
    }

    /// In shadow mode nothing reaches a destination that is not marked as an audit destination.
    fn shadow_mode(&mut self, raw: &Raw) {
        if parse::mode(&raw.node.mode) != Ok(Mode::Shadow) {
            return;
        }
        for (i, destination) in raw.destinations.iter().take(PEERS_MAX).enumerate() {
            if parse::switch(&destination.audit) == Ok(false) {
                let what = "is not an audit destination, and node.mode is \"shadow\"".to_owned();
                let remedy = "set audit = true if this is an audit archive, or node.mode = \"active\"";
                self.contradiction(&format!("destinations[{i}].audit"), &destination.audit, what, remedy);
            }
        }
    }

    /// A destination that is this node itself.
    fn loops(&mut self, raw: &Raw) {
        let listeners = [&raw.node.listen, &raw.node.listen_tls].map(parse::listen_if_given);
        let ports: Vec<u16> = listeners.into_iter().flatten().flatten().map(|address| address.port()).collect();
        let titles = raw.aliases.iter().take(PEERS_MAX).map(|alias| &alias.ae_title).chain([&raw.node.ae_title]);
        let own: Vec<AeTitle> = titles.filter_map(|title| parse::ae_title(title).ok()).collect();
        let web = parse::listen_if_given(&raw.web.listen).ok().flatten();
        for (i, destination) in raw.destinations.iter().take(PEERS_MAX).enumerate() {
            if let Some(listen) = web
                && parse::text(&destination.kind) == Ok("stow")
                && web::is_at(&destination.url, listen)
            {
                let what = format!("is this node's own web.listen ({listen}): reports would come back");
                let remedy = "name the archive that is to receive the reports";
                self.contradiction(&format!("destinations[{i}].url"), &destination.url, what, remedy);
            }
            let (Ok(title), Ok(port)) = (parse::ae_title(&destination.ae_title), parse::port(&destination.port)) else {
                continue;
            };
            if ports.contains(&port) && own.contains(&title) {
                let what = format!("is this node's own AE title, at its own port {port}: reports would come back");
                let remedy = "name the PACS that is to receive the reports";
                self.contradiction(&format!("destinations[{i}].ae_title"), &destination.ae_title, what, remedy);
            }
        }
    }

    /// What an analysis cannot do without.
    fn models_named(&mut self, raw: &Raw, need: Need) {
        let models = &raw.models;
        let Entry::List(clinical) = &models.clinical else {
            return;
        };
        if clinical.is_empty() && need == Need::Serve {
            let what = "names no clinical model, so there is nothing to audit".to_owned();
            let remedy = "name at least one package of models.dir (`sidelight model list` shows them)";
            self.contradiction("models.clinical", &models.clinical, what, remedy);
        }
        let wanted = parse::switch(&raw.risk.per_study_inference) == Ok(true);
        if wanted && parse::name_if_given(&models.race) == Ok(None) && (!clinical.is_empty() || need == Need::Serve) {
            let what = "names no race model, and risk.per_study_inference is true".to_owned();
            let remedy = "name a package of models.dir, or set risk.per_study_inference = false";
            self.contradiction("models.race", &models.race, what, remedy);
        }
    }

    /// Probabilities are disclosed only where they are computed.
    fn disclosure(&mut self, raw: &Raw) {
        if parse::switch(&raw.risk.per_study_inference) != Ok(false) {
            return;
        }
        for (i, destination) in raw.destinations.iter().take(PEERS_MAX).enumerate() {
            if parse::disclosure(&destination.disclose) == Ok(Disclosure::Probabilities) {
                let what = "asks for what risk.per_study_inference = false does not compute".to_owned();
                let remedy = "set disclose = \"withheld\"";
                self.contradiction(&format!("destinations[{i}].disclose"), &destination.disclose, what, remedy);
            }
        }
    }

    /// `short` must not exceed `long`.
    pub(super) fn ordered(
        &mut self,
        key: &str,
        entry: &Entry,
        short: Option<Duration>,
        long_key: &str,
        long_entry: &Entry,
        long: Option<Duration>,
    ) {
        if let (Some(short), Some(long)) = (short, long)
            && short > long
        {
            let what = format!("is longer than {long_key} ({})", parse::text(long_entry).unwrap_or_default());
            self.contradiction(key, entry, what, "shorten the one or lengthen the other");
        }
    }

    pub(super) fn few_enough(&mut self, key: &str, length: usize) -> bool {
        if length <= PEERS_MAX {
            return true;
        }
        let problem = Problem::new(format!("has {length} entries"), format!("write at most {PEERS_MAX}"));
        self.faults.push(self.origins.fault(key, None, problem));
        false
    }
}

/// All values, or `None` if one is missing; every element is asked, so that every fault is found.
pub(super) fn collect_all<T>(found: impl Iterator<Item = Option<T>>) -> Option<Vec<T>> {
    let found: Vec<Option<T>> = found.collect();
    found.into_iter().collect()
}

/// The first element that stands twice in a short list.
pub(super) fn first_repeated<T: PartialEq>(list: &[T]) -> Option<&T> {
    list.iter().enumerate().find(|(i, item)| list[..*i].contains(item)).map(|(_, item)| item)
}
