//! What the integration tests share: the node as a real process, dcmtk peers, phantoms. No test doubles.

pub mod certificates;
pub mod faults;
pub mod orthanc;
pub mod sender;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::receive::scu::split;

/// The binary under test.
pub const SIDELIGHT: &str = env!("CARGO_BIN_EXE_sidelight");

/// The checkout.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The shared references (corpus, report checker): `SIDELIGHT_SHARED`, else `../shared`.
pub fn shared() -> PathBuf {
    let folder = std::env::var_os("SIDELIGHT_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    assert!(folder.join("corpus").is_dir(), "no corpus in {}: set SIDELIGHT_SHARED", folder.display());
    folder
}

/// A Python with pydicom, its decoders and highdicom: `SIDELIGHT_PYTHON`, set up by `scripts/test`.
pub fn reference_python() -> std::ffi::OsString {
    std::env::var_os("SIDELIGHT_PYTHON").expect("SIDELIGHT_PYTHON names a Python with pydicom; scripts/test sets it up")
}

/// Compares a table with the one that is kept in `docs`; `SIDELIGHT_BLESS=1` writes it anew.
pub fn compare_with_docs(name: &str, text: &str) {
    let path = root().join("docs").join(name);
    if std::env::var_os("SIDELIGHT_BLESS").is_some() {
        fs::write(&path, text).expect("a written table");
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let missing: Vec<&str> = text.lines().filter(|line| !kept.lines().any(|k| k == *line)).collect();
    let gone: Vec<&str> = kept.lines().filter(|line| !text.lines().any(|t| t == *line)).collect();
    assert!(missing.is_empty() && gone.is_empty(), "docs/{name} lacks {missing:#?} and has {gone:#?}");
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("loopback has free ports").local_addr().expect("bound").port()
}

/// Runs a command to its end and returns its output.
pub fn run(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|e| panic!("{command:?} did not start: {e}"))
}

/// Runs a command that must succeed; its standard output as text.
pub fn run_ok(command: &mut Command) -> String {
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// `sidelight ARGS…` in the checkout.
pub fn sidelight(arguments: &[&str]) -> Command {
    let mut command = Command::new(SIDELIGHT);
    command.current_dir(root()).args(arguments).env_remove("RUST_LOG");
    command
}

/// Phantoms of a world, generated once per folder.
pub fn phantoms(out: &Path, world: &str, patients: u32, seed: u64) -> Vec<PathBuf> {
    run_ok(sidelight(&["phantom", "--world", world]).args([
        "--patients",
        &patients.to_string(),
        "--seed",
        &seed.to_string(),
        "--out",
        &out.display().to_string(),
    ]));
    dicom_files(out)
}

/// Every `*.dcm` below a folder, sorted.
pub fn dicom_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
            let path = entry.expect("readable folder").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "dcm") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The data sets below a folder as they lie there, by SOP Instance UID; one of each.
pub fn data_sets(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in dicom_files(folder) {
        let (meta, data_set) = split(&file).unwrap_or_else(|| panic!("{} is no DICOM file", file.display()));
        let uid = meta.media_storage_sop_instance_uid.trim_end_matches('\0').to_owned();
        assert!(found.insert(uid, data_set).is_none(), "{}: a second copy", file.display());
    }
    found
}

/// A sidelight node as a process of its own. Killed when dropped.
pub struct Node {
    child: Child,
    pub dicom_port: u16,
    /// 0 where there is none.
    pub dicom_tls_port: u16,
    pub web_port: u16,
    /// 0 where there is none.
    pub web_tls_port: u16,
    pub config: PathBuf,
    log: Arc<Mutex<String>>,
}

/// What a test sets; everything else is the demo configuration with the demo models.
pub struct NodeOptions<'a> {
    pub data_dir: &'a Path,
    pub sources: &'a [&'a str],
    /// `(name, AE title, port, audit, disclose)`.
    pub destinations: &'a [(&'a str, &'a str, u16, bool, &'a str)],
    pub quiet_period: &'a str,
    /// Lines appended to the file, with section headers.
    pub extra: &'a str,
}

impl Node {
    /// Writes the configuration beside the data folder, starts the node and waits until it is ready.
    pub fn start(options: &NodeOptions<'_>) -> Self {
        Self::start_with(options, &[])
    }

    /// As [`Node::start`], with more in its environment.
    pub fn start_with(options: &NodeOptions<'_>, environment: &[(&str, &Path)]) -> Self {
        let config = options.data_dir.with_extension("toml");
        fs::write(&config, configuration(options)).expect("the test folder is writable");
        Self::restart_with(&config, environment)
    }

    /// Starts the node with a configuration that was written before.
    pub fn restart(config: &Path) -> Self {
        Self::restart_with(config, &[])
    }

    /// As [`Node::restart`], with further variables in its environment.
    pub fn restart_with(config: &Path, environment: &[(&str, &Path)]) -> Self {
        let mut child = sidelight(&["serve", "--config"])
            .arg(config)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the node starts");
        let stderr = child.stderr.take().expect("piped");
        let log = Arc::new(Mutex::new(String::new()));
        let sink = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = sink.lock().expect("log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let config = config.to_owned();
        let mut node = Self { child, dicom_port: 0, dicom_tls_port: 0, web_port: 0, web_tls_port: 0, config, log };
        let start = Instant::now();
        loop {
            let log = node.log();
            if let Some(line) = log.lines().find(|l| l.contains("\"ready\"")) {
                let line: serde_json::Value = serde_json::from_str(line).expect("the log is JSON lines");
                let port = |key: &str| {
                    let address = line["fields"][key].as_str().expect("an address, or off");
                    address.rsplit_once(':').map_or(0, |(_, port)| port.parse().expect("a port"))
                };
                (node.dicom_port, node.web_port) = (port("dicom"), port("web"));
                (node.dicom_tls_port, node.web_tls_port) = (port("dicom_tls"), port("web_tls"));
                return node;
            }
            if let Some(status) = node.child.try_wait().expect("waitable") {
                panic!("the node ended with {status}:\n{log}");
            }
            assert!(start.elapsed() < Duration::from_secs(60), "the node is not ready:\n{log}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("log").clone()
    }

    /// The log, also of a node that has ended.
    pub fn shared_log(&self) -> Arc<Mutex<String>> {
        Arc::clone(&self.log)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("waitable").is_none()
    }

    /// The exit status of a node that ends by itself.
    pub fn ended(mut self, limit: Duration) -> std::process::ExitStatus {
        let mut status = None;
        wait_for("the node ends", limit, || {
            status = self.child.try_wait().expect("waitable");
            status.is_some()
        });
        status.expect("waited for")
    }

    /// SIGKILL: nothing gets a chance to tidy up.
    pub fn kill(mut self) {
        // It may have ended by itself just now.
        let _ = self.child.kill();
        self.child.wait().expect("waitable");
    }

    /// Sends a signal, e.g. `HUP`.
    pub fn signal(&self, name: &str) {
        run_ok(Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]));
    }

    /// SIGTERM, and the exit status within the drain time.
    pub fn stop(mut self) -> std::process::ExitStatus {
        self.signal("TERM");
        let mut status = None;
        wait_for("the node stops on SIGTERM", Duration::from_secs(40), || {
            status = self.child.try_wait().expect("waitable");
            status.is_some()
        });
        status.expect("waited for")
    }

    /// `sidelight studies list --json` on this node's index.
    pub fn studies(&self) -> Vec<serde_json::Value> {
        let text = run_ok(sidelight(&["studies", "list", "--json", "--limit", "100000", "--config"]).arg(&self.config));
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    /// Waits until these studies and no others are delivered; each has one current report then. `limit`: without that
    /// anything is read or delivered.
    pub fn delivers_each_once(&self, studies: &BTreeSet<String>, limit: Duration) {
        let (mut before, mut since) = (Vec::new(), Instant::now());
        loop {
            std::thread::sleep(Duration::from_millis(200));
            let states = ["received", "scored", "refused"].map(|s| format!("sidelight_instances{{state=\"{s}\"}}"));
            let read = states.map(|name| self.metric(&name));
            let rows = self.studies();
            let delivered = rows.iter().filter(|s| s["state"] == "delivered").count();
            if rows.len() == studies.len() && delivered == rows.len() {
                break;
            }
            let now = [Some(rows.len() as u64), Some(delivered as u64)].into_iter().chain(read).collect();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            let others = || rows.iter().filter(|s| s["state"] != "delivered").take(5).collect::<Vec<_>>();
            assert!(since.elapsed() < limit, "{delivered} of {} studies are delivered; {:?}", studies.len(), others());
        }
        for study in self.studies() {
            assert!(studies.contains(study["study"].as_str().expect("a UID")), "{study}");
            assert_eq!(study["current_reports"], 1, "{study}");
        }
    }

    /// `sidelight ARGS…` with this node's configuration, which must succeed; its standard output.
    pub fn command(&self, arguments: &[&str]) -> String {
        run_ok(sidelight(arguments).arg("--config").arg(&self.config))
    }

    /// As [`Node::command`], of JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let text = self.command(&[arguments, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
    }
}

impl Node {
    /// Value of a line of `/metrics`, e.g. `sidelight_instances{state="received"}`.
    pub fn metric(&self, name: &str) -> Option<u64> {
        use std::io::{Read as _, Write as _};
        let mut stream = TcpStream::connect(("127.0.0.1", self.web_port)).ok()?;
        write!(stream, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().parse().ok())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The text of a configuration file.
pub fn configuration(options: &NodeOptions<'_>) -> String {
    let models = root().join("models");
    let mut text = format!(
        r#"
[node]
listen = "127.0.0.1:0"
drain_timeout = "5s"
[store]
data_dir = "{data}"
free_bytes_min = "1MiB"
free_percent_min = 0
[web]
listen = "127.0.0.1:0"
dicomweb = true
[study]
quiet_period = "{quiet}"
[delivery]
retry_first = "200ms"
retry_max = "2s"
[models]
dir = "{models}"
race = "demo-race"
clinical = ["demo-clinical"]
device = "cpu"
[risk]
profile = "{models}/demo-profile.json"
profile_age_max = "never"
[log]
json = true
"#,
        data = options.data_dir.display(),
        quiet = options.quiet_period,
        models = models.display(),
    );
    text.push_str(options.extra);
    for source in options.sources {
        text.push_str(&format!("\n[[sources]]\nae_title = \"{source}\"\nhosts = [\"127.0.0.1\"]\n"));
    }
    for (name, ae_title, port, audit, disclose) in options.destinations {
        text.push_str(&format!(
            "\n[[destinations]]\nname = \"{name}\"\nkind = \"dimse\"\nae_title = \"{ae_title}\"\nhost = \"127.0.0.1\"\n\
             port = {port}\naudit = {audit}\ndisclose = \"{disclose}\"\ntimeout = \"10s\"\n"
        ));
    }
    text
}

/// dcmtk's storescp as a PACS. Killed when dropped.
pub struct Pacs {
    child: Child,
    pub port: u16,
    pub folder: PathBuf,
}

impl Pacs {
    pub fn start(folder: &Path) -> Self {
        Self::start_on(folder, free_port())
    }

    pub fn start_on(folder: &Path, port: u16) -> Self {
        Self::start_with(folder, port, &[])
    }

    /// With further options of storescp, e.g. `--bit-preserving`.
    pub fn start_with(folder: &Path, port: u16, options: &[&str]) -> Self {
        fs::create_dir_all(folder).expect("the test folder is writable");
        let child = Command::new("storescp")
            .args(["--aetitle", "PACS", "--output-directory"])
            .arg(folder)
            .args(["--filename-extension", ".dcm", "--fork"])
            .args(options)
            .arg(port.to_string())
            .env("TCP_NODELAY", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("storescp (dcmtk) is installed");
        wait_for("storescp listens", Duration::from_secs(10), || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, folder: folder.to_owned() }
    }

    /// The objects that arrived.
    pub fn files(&self) -> Vec<PathBuf> {
        dicom_files(&self.folder)
    }
}

impl Drop for Pacs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `storescu` to the node; the options go before the peer.
pub fn storescu(port: u16, options: &[&str], files: &[PathBuf]) -> Output {
    run(Command::new("storescu")
        .env("TCP_NODELAY", "1")
        .args(["--timeout", "20", "-aec", "SIDELIGHT"])
        .args(options)
        .args(["127.0.0.1", &port.to_string()])
        .args(files))
}

/// Value of a header element by dcmdump, e.g. `StudyInstanceUID`; empty where dcmdump finds none.
pub fn element(file: &Path, keyword: &str) -> String {
    let output = run(Command::new("dcmdump").args(["-q", "-Un", "+P", keyword, "+L"]).arg(file));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().next().unwrap_or("");
    match (line.find('['), line.find(']')) {
        (Some(from), Some(to)) if from < to => line[from + 1..to].to_owned(),
        _ => String::new(),
    }
}
