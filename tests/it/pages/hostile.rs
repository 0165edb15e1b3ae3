//! What should not get through: forms of others, text that would be markup, paths that lead elsewhere, requests that are
//! huge, slow or in the clear.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use super::browser::{Answer, Browser, encoded, exchange, read};
use super::{EVERYBODY, PASSWORD, start, users};
use crate::support::certificates::{Authority, NOW};
use crate::support::{phantoms, run, run_ok, storescu, wait_for};

/// What all answers say to the browser.
fn check_headers(what: &str, answer: &Answer) {
    let policy = answer.header("content-security-policy");
    for part in [
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    ] {
        assert!(policy.split("; ").any(|p| p == part), "{what}: {part} is not in {policy:?}");
    }
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        assert_eq!(answer.header(name), value, "{what}");
    }
    let cache = answer.header("cache-control");
    assert!(cache == "no-store" || (what.starts_with("/assets/") && cache.contains("immutable")), "{what}: {cache}");
}

#[test]
fn forms_of_others_and_odd_requests_do_nothing() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let quick = "negotiation_timeout = \"1s\"\n";
    let extra = users(folder.path(), EVERYBODY);
    let node = start(folder.path(), &[], &[], "", &extra);
    let mut otto = Browser::of(node.web_port, "otto");
    let token = otto.get("/").token().to_owned();
    let path = "/studies/1.2.3/analyse";
    let good = encoded(&[("token", &token)]);
    let own = "Sec-Fetch-Site: same-origin\r\n";
    // With everything right it reaches the study, which is not known.
    assert_eq!(otto.send("POST", path, own, &good).status, 404);
    let rows: &[(&str, &str, &str)] = &[
        ("no token", own, ""),
        ("a wrong token", own, "token=0123456789abcdef"),
        ("the token twice", own, &format!("{good}&{good}")),
        ("no word of where it comes from", "", &good),
        ("another site", "Sec-Fetch-Site: cross-site\r\n", &good),
        ("another host of the site", "Sec-Fetch-Site: same-site\r\n", &good),
        ("another origin", "Origin: https://evil.example\r\n", &good),
        ("another origin that lies", "Sec-Fetch-Site: same-origin\r\nOrigin: https://evil.example\r\n", &good),
        ("a sandboxed page", "Origin: null\r\n", &good),
    ];
    for (what, lines, body) in rows {
        let answer = otto.send("POST", path, lines, body);
        assert!(matches!(answer.status, 400 | 403), "{what}: {}", answer.status);
        assert!(answer.body.contains("othing was done"), "{what}");
        check_headers(what, &answer);
    }
    // Of another session, and of the form of the login.
    let mut adam = Browser::of(node.web_port, "adam");
    let foreign = encoded(&[("token", adam.get("/").token())]);
    assert_eq!(otto.send("POST", path, own, &foreign).status, 403);
    // Nobody is logged in by another site either.
    let login = encoded(&[("token", "x"), ("name", "vera"), ("password", PASSWORD)]);
    for lines in [own, "Sec-Fetch-Site: cross-site\r\n"] {
        let mut fresh = Browser::new(node.web_port);
        assert_eq!(fresh.send("POST", "/login", lines, &login).status, 403);
        fresh.get("/login");
        assert_eq!(fresh.send("POST", "/login", lines, &login).status, 403);
        assert!(!fresh.cookies.contains_key("sidelight"));
    }
    // A GET never does anything.
    assert_eq!(otto.get(path).status, 405);
    assert_eq!(otto.get("/logout").status, 405);
    // A form that is too large, and one of another kind.
    assert_eq!(otto.send("POST", path, own, &format!("token={}", "x".repeat(20_000))).status, 413);

    // Headers on every answer, whatever it is.
    let style =
        otto.get("/").body.split("href=\"/assets/").nth(1).expect("a style").split('"').next().unwrap().to_owned();
    let mut nobody = Browser::new(node.web_port);
    for path in [
        "/",
        "/studies",
        "/studies?level=x",
        "/studies?after=x",
        "/studies/1.2.3",
        "/studies/%2e%2e%2f",
        "/models",
        "/configuration",
        "/activity",
        "/login",
        "/nothing",
        "/assets/none.css",
        &format!("/assets/{style}"),
        "/studies?named=%ff",
        "/studies/%ff",
        "/studies?named=a&named=b",
    ] {
        check_headers(path, &nobody.get(path));
        check_headers(path, &otto.get(path));
    }
    for method in ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"] {
        let answer = otto.send(method, "/studies", "", "");
        assert_eq!(answer.status, 405, "{method}");
        check_headers(method, &answer);
    }
    // Paths that lead elsewhere lead nowhere.
    for path in [
        "/assets/../../../etc/passwd",
        "/assets/..%2f..%2f..%2fetc%2fpasswd",
        "/studies/..%2f..%2fetc%2fpasswd",
        "/studies/../../etc/passwd",
        "//etc/passwd",
        "/studies/1.2.3%00.html",
        "/.git/config",
    ] {
        let answer = otto.get(path);
        assert!(answer.status == 404 && !answer.body.contains("root:"), "{path}: {}", answer.status);
        check_headers(path, &answer);
    }
    // Where somebody is sent depends on nothing that they said.
    let request = "GET / HTTP/1.1\r\nHost: evil.example\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n";
    let answer = exchange(node.web_port, request.as_bytes()).expect("an answer");
    assert_eq!((answer.status, answer.header("location")), (303, "/login"));
    assert!(!answer.body.contains("evil"));
    assert!(node.stop().success());

    // A head and a body that trickle are cut off; a head that never ends is refused.
    let folder = tempfile::tempdir().expect("temporary folder");
    let extra = users(folder.path(), EVERYBODY);
    let node = start(folder.path(), &[], &[], "", &extra);
    let text = fs::read_to_string(&node.config).unwrap().replace("[node]\n", &format!("[node]\n{quick}"));
    let config = node.config.clone();
    assert!(node.stop().success());
    fs::write(&config, text).unwrap();
    let node = crate::support::Node::restart(&config);
    for (begun, limit) in [
        ("GET / HTTP/1.1\r\nHost: localhost\r\n".to_owned(), 10),
        (
            "POST /login HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nSec-Fetch-Site: same-origin\r\nCookie: sidelight-form="
                .to_owned() + &"a".repeat(64) + "\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100\r\n\r\ntoken=",
            30,
        ),
    ] {
        let mut stream = TcpStream::connect(("127.0.0.1", node.web_port)).expect("the node listens");
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a valid timeout");
        stream.write_all(begun.as_bytes()).expect("a fresh connection");
        let start = Instant::now();
        let answer = read(&mut stream);
        assert!(answer.as_ref().is_none_or(|a| a.status == 408), "{answer:?}");
        assert!(start.elapsed() < Duration::from_secs(limit), "{:?}", start.elapsed());
    }
    let head = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "x".repeat(300_000));
    assert!(exchange(node.web_port, head.as_bytes()).is_none_or(|a| a.status == 431));
    assert!(node.stop().success());
}

#[test]
fn text_of_dicom_and_of_people_stays_text() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let title = "'><b>x&<!--";
    let node = start(folder.path(), &[title], &[], "", &users(folder.path(), EVERYBODY));
    let files = phantoms(&folder.path().join("phantoms"), "biased", 1, 22);
    for file in &files {
        run_ok(Command::new("dcmodify").args(["-nb", "-m", "AccessionNumber=<i>\"'&{{7*7}}</"]).arg(file));
    }
    assert!(storescu(node.dicom_port, &["-aet", title], &files).status.success());
    wait_for("the study ends", Duration::from_secs(60), || node.studies().iter().any(|s| s["state"] == "delivered"));
    let study = node.studies()[0]["study"].as_str().expect("a UID").to_owned();
    let mut otto = Browser::of(node.web_port, "otto");
    let listed = otto.get("/studies").body;
    assert!(listed.contains("&#60;i&#62;&#34;&#39;&#38;{{7*7}}&#60;/"), "{listed}");
    let by_number = otto.get(&format!("/studies?{}", encoded(&[("named", "<i>\"'&{{7*7}}</")])));
    assert!(by_number.status == 200 && by_number.body.contains(&study), "{}", by_number.body);
    let by_source = otto.get(&format!("/studies?{}", encoded(&[("source", title)])));
    assert!(by_source.status == 200 && by_source.body.contains(&study), "{}", by_source.body);
    let injection = ["' OR 1=1 --", "\" UNION SELECT value FROM node --", "%' ; DROP TABLE studies; --", "\u{202e}x"];
    for text in injection {
        for field in ["named", "state", "source", "level", "from", "to", "after"] {
            let answer = otto.get(&format!("/studies?{}", encoded(&[(field, text)])));
            assert!(matches!(answer.status, 200 | 400), "{field} {text}: {}", answer.status);
            assert!(!answer.body.contains(&format!("/studies/{study}")), "{field} {text}");
            assert!(!answer.body.contains('\u{202e}'), "{field}");
        }
    }
    for path in ["/studies".to_owned(), format!("/studies/{study}"), "/".to_owned(), "/configuration".to_owned()] {
        let body = otto.get(&path).body;
        for markup in ["<b>x", "<i>", "'><b", "<!--"] {
            assert!(!body.contains(markup), "{path} holds {markup}");
        }
    }
    for secret in ["$argon2id$", PASSWORD] {
        assert!(!otto.get("/configuration").body.contains(secret));
    }
    assert!(otto.get("/configuration").body.contains(&folder.path().join("password").display().to_string()));
    assert!(node.stop().success());
}

#[test]
fn over_tls_cookies_are_of_this_host_alone_and_nothing_is_said_in_the_clear() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let authority = Authority::new(folder.path(), "authority");
    let own = authority.issue("node", &NOW);
    fs::set_permissions(&own.key, fs::Permissions::from_mode(0o600)).expect("our own file");
    let extra = format!("\n{}{}", own.section(&authority), users(folder.path(), EVERYBODY));
    let node = start(folder.path(), &[], &[], "listen_tls = \"127.0.0.1:0\"\n", &extra);
    let jar = folder.path().join("jar");
    let curl = |path: &str, arguments: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args(["--silent", "--show-error", "--include", "--max-time", "30", "--cacert"])
            .arg(&authority.certificate);
        command.arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar).args(arguments);
        let output = run(command.arg(format!("https://localhost:{}{path}", node.web_tls_port)));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let form = curl("/login", &[]);
    let token = form.split("name=\"token\" value=\"").nth(1).and_then(|t| t.split('"').next()).expect("a token");
    let fields = encoded(&[("token", token), ("name", "vera"), ("password", PASSWORD)]);
    let origin = format!("Origin: https://localhost:{}", node.web_tls_port);
    let answer = curl("/login", &["--data", &fields, "-H", &origin]);
    let cookie =
        answer.lines().find(|l| l.to_lowercase().starts_with("set-cookie: __host-sidelight=")).expect("a cookie");
    for flag in ["; Path=/", "; HttpOnly", "; SameSite=Strict", "; Secure"] {
        assert!(cookie.contains(flag), "{cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    assert!(curl("/", &[]).starts_with("HTTP/1.1 200"));
    // The other port is in the clear, for this machine: its cookie has another name.
    let mut plain = Browser::of(node.web_port, "vera");
    assert!(plain.cookies.contains_key("sidelight") && plain.get("/").status == 200);
    // Without TLS the port says so and nothing else.
    let request =
        format!("GET / HTTP/1.1\r\nHost: localhost\r\nCookie: sidelight={}\r\n\r\n", plain.cookies["sidelight"]);
    let answer = exchange(node.web_tls_port, request.as_bytes()).expect("an answer");
    assert!(answer.status == 400 && answer.body.contains("speaks HTTPS"), "{answer:?}");
    assert!(node.stop().success());
}
