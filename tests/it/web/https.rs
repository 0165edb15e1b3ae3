//! STOW-RS over TLS: whom the node trusts, and whom not.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use super::*;
use crate::support::{run, sidelight};

/// A DICOMweb service with a certificate for `localhost`: answers a search where the token is the right one.
const SERVICE: &str = r#"
import http.server, ssl, sys
class Service(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = self.headers["Authorization"] == "Bearer " + sys.argv[2] and self.path == "/dicom-web/studies?limit=1"
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()
    def log_message(self, *arguments):
        pass
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem")
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
"#;

struct Service {
    child: Child,
    port: u16,
}

impl Service {
    fn start(folder: &Path) -> Self {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .args(["-keyout", "key.pem", "-out", "cert.pem"])
            .current_dir(folder)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let mut child = Command::new(reference_python())
            .args(["-c", SERVICE])
            .arg(folder)
            .arg(TOKEN)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("Python starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a port");
        Self { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_service_is_reached_over_tls_where_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let service = Service::start(folder.path());
    fs::write(folder.path().join("token"), TOKEN).expect("writable");
    fs::write(folder.path().join("other-token"), "another-one").expect("writable");
    let check = |host: &str, token: &str, trusted: Option<&str>| -> Value {
        let config = folder.path().join("site.toml");
        let text = format!(
            "[store]\ndata_dir = \"{0}/data\"\n[[destinations]]\nname = \"archive\"\nkind = \"stow\"\naudit = true\n\
             url = \"https://{host}:{1}/dicom-web\"\ntoken_file = \"{0}/{token}\"\n",
            folder.path().display(),
            service.port
        );
        fs::write(&config, text).expect("writable");
        let mut command = sidelight(&["check", "--network", "--json", "--config"]);
        if let Some(file) = trusted {
            command.env("SSL_CERT_FILE", folder.path().join(file));
        }
        let output = run(command.arg(&config));
        let items: Vec<Value> = serde_json::from_slice(&output.stdout).expect("JSON");
        items.into_iter().find(|i| i["what"] == "destination archive").expect("it was asked")
    };
    let rows = [
        ("localhost", "token", Some("cert.pem"), true, "answers QIDO-RS"),
        ("localhost", "other-token", Some("cert.pem"), false, "answered HTTP 401"),
        ("localhost", "no-token", Some("cert.pem"), false, "cannot be used"),
        ("localhost", "token", None, false, "invalid peer certificate"),
        ("127.0.0.1", "token", Some("cert.pem"), false, "certificate"),
    ];
    for (host, token, trusted, ok, note) in rows {
        let item = check(host, token, trusted);
        let told = item["note"].as_str().unwrap_or_default();
        assert!(item["ok"] == ok && told.contains(note), "{host} {token} {trusted:?}: {item}");
        assert!(!told.contains(TOKEN), "{told}");
    }
}
