//! Logging in, what each role gets, and how sessions end.

use std::fs;
use std::time::Duration;

use super::browser::Browser;
use super::{EVERYBODY, PASSWORD, hash_of, start, users};
use crate::support::{phantoms, run, sidelight, storescu, wait_for};

/// Method and path, and whether viewer, auditor, operator and admin get there.
const TABLE: &[(&str, &str, [bool; 4])] = &[
    ("GET", "/", [true, true, true, true]),
    ("GET", "/studies", [true, true, true, true]),
    ("GET", "/studies/STUDY", [true, true, true, true]),
    ("GET", "/models", [true, true, true, true]),
    ("GET", "/configuration", [false, false, true, true]),
    ("GET", "/activity", [false, true, false, true]),
    ("POST", "/studies/STUDY/resend", [false, false, true, true]),
    ("POST", "/studies/STUDY/analyse", [false, false, true, true]),
    ("POST", "/studies/STUDY/close", [false, false, true, true]),
];

#[test]
fn each_role_gets_what_the_table_says_and_nobody_else_gets_anything() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let files = phantoms(&folder.path().join("phantoms"), "biased", 1, 21);
    let node = start(folder.path(), &["STORESCU"], &[], "", &users(folder.path(), EVERYBODY));
    assert!(storescu(node.dicom_port, &[], &files).status.success());
    wait_for("the study ends", Duration::from_secs(60), || node.studies().iter().any(|s| s["state"] == "delivered"));
    let study = node.studies()[0]["study"].as_str().expect("a UID").to_owned();

    // The routes of the program are those of the table.
    let source = fs::read_to_string(crate::support::root().join("src/web/pages/mod.rs")).expect("readable");
    let routes = source.matches(".route(\"").count();
    assert_eq!(routes, TABLE.len() + 3, "a route that is not in the table (beside login, logout and assets)");

    for (method, path, _) in TABLE {
        let path = path.replace("STUDY", &study);
        let mut nobody = Browser::new(node.web_port);
        let answer = if *method == "GET" { nobody.get(&path) } else { nobody.post(&path, &[("token", "x")]) };
        assert_eq!((answer.status, answer.header("location")), (303, "/login"), "{method} {path}");
    }
    for (column, (name, _)) in EVERYBODY.iter().enumerate() {
        let mut person = Browser::of(node.web_port, name);
        let token = person.get("/").token().to_owned();
        for (method, path, allowed) in TABLE {
            let path = path.replace("STUDY", &study);
            let answer = if *method == "GET" { person.get(&path) } else { person.post(&path, &[("token", &token)]) };
            let got = answer.status != 403;
            assert_eq!(got, allowed[column], "{name} {method} {path}: {}", answer.status);
            // Nothing but what may be seen is linked, and no page names a group.
            for word in ["Asian", "Black", "White", "2028-9", "CDCREC"] {
                assert!(!answer.body.contains(word), "{name} {path} holds {word}");
            }
        }
        let links = person.get("/").body;
        assert_eq!(links.contains("href=\"/activity\""), TABLE[5].2[column], "{name}");
        assert_eq!(links.contains("href=\"/configuration\""), TABLE[4].2[column], "{name}");
        let page = person.get(&format!("/studies/{study}")).body;
        assert_eq!(page.contains("<form method=\"post\" action=\"/studies/"), TABLE[6].2[column], "{name}");
    }
    // What was seen, done and refused is told; whom it is about is not.
    let log = node.json(&["log", "list", "--limit", "1000"]);
    let lines: Vec<String> = log
        .as_array()
        .expect("lines")
        .iter()
        .map(|l| ["user", "action", "object", "outcome"].map(|key| l[key].as_str().expect("text")).join("|"))
        .collect();
    for expected in [
        "vera|login|from 127.0.0.1|done",
        "vera|refused|configuration|no role allows it",
        "vera|refused|acting on studies|no role allows it",
        "aude|read|activity log|done",
        "otto|read|configuration|done",
    ] {
        assert!(lines.iter().any(|l| l == expected), "{expected} is not in {lines:#?}");
    }
    assert!(lines.iter().any(|l| l.starts_with("otto|analyse|study ") && l.ends_with("|done")), "{lines:#?}");
    assert!(
        lines.iter().any(|l| l.starts_with("otto|resend|study ") && l.ends_with("|refused: no report")),
        "{lines:#?}"
    );
    assert!(!lines.iter().any(|l| l.contains(&study)), "{lines:#?}");
    assert!(node.command(&["log", "verify"]).contains(&format!("{} lines, each as it was written", lines.len())));
    assert!(node.stop().success());
}

#[test]
fn a_session_begins_at_its_login_and_ends_in_every_way() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), &[], &[], "", &users(folder.path(), EVERYBODY));
    let port = node.web_port;
    // A token that somebody else chose is never the session's.
    let mut browser = Browser::new(port);
    let chosen = "a".repeat(64);
    browser.cookies.insert("sidelight".into(), chosen.clone());
    assert_eq!(browser.log_in("vera", PASSWORD).status, 303);
    let own = browser.cookies["sidelight"].clone();
    assert_ne!(own, chosen);
    assert_eq!(browser.get("/").status, 200);
    let mut other = Browser::new(port);
    other.cookies.insert("sidelight".into(), chosen);
    assert_eq!(other.get("/").status, 303);
    // Two of a name are none: another host of the domain could have put one there.
    let twice = browser.send("GET", "/", &format!("Cookie: sidelight={own}\r\n"), "");
    assert_eq!(twice.status, 303);
    // A second login ends what was there before, with another token.
    let answer = browser.get("/login");
    assert_eq!(answer.header("location"), "/", "who is logged in needs no form");
    let token = browser.get("/").token().to_owned();
    assert_eq!(browser.post("/logout", &[("token", "wrong")]).status, 403);
    assert_eq!(browser.get("/").status, 200);
    let answer = browser.post("/logout", &[("token", &token)]);
    assert_eq!((answer.status, answer.header("location")), (303, "/login"));
    assert!(!browser.cookies.contains_key("sidelight"));
    other.cookies.insert("sidelight".into(), own);
    assert_eq!(other.get("/").status, 303, "the token is worth nothing any more");

    // A reload ends the sessions of who is gone or has another password, and of nobody else.
    let [mut vera, mut aude, mut otto] = ["vera", "aude", "otto"].map(|name| Browser::of(port, name));
    fs::write(folder.path().join("other"), hash_of("another password here")).expect("writable");
    let text = fs::read_to_string(&node.config).expect("readable");
    let gone = text.replace("name = \"vera\"", "name = \"vero\"");
    let at = gone.find("name = \"aude\"").expect("listed");
    let (before, after) = gone.split_at(at);
    fs::write(&node.config, format!("{before}{}", after.replacen("/password\"", "/other\"", 1))).expect("writable");
    node.signal("HUP");
    wait_for("vera is logged out", Duration::from_secs(30), || vera.get("/").status == 303);
    assert_eq!((aude.get("/").status, otto.get("/").status), (303, 200));
    assert_eq!(Browser::new(port).log_in("aude", "another password here").status, 303);
    // A password file with a fault changes nothing.
    fs::write(folder.path().join("other"), "no hash").expect("writable");
    node.signal("HUP");
    wait_for("a word of it", Duration::from_secs(30), || node.log().contains("holds no argon2 hash"));
    assert_eq!(otto.get("/").status, 200);
    // Switched off they are gone.
    fs::write(&node.config, fs::read_to_string(&node.config).unwrap().replace("pages = true", "pages = false"))
        .unwrap();
    node.signal("HUP");
    wait_for("the pages are gone", Duration::from_secs(30), || otto.get("/").status == 404);
    assert_eq!((otto.get("/login").status, otto.get("/health").status), (404, 200));
    assert!(node.stop().success());
}

#[test]
fn wrong_names_and_wrong_passwords_are_answered_alike_and_ever_later() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), &[], &[], "", &users(folder.path(), EVERYBODY));
    let port = node.web_port;
    let rows =
        [("vera", "wrong password"), ("mallory-unknown", "wrong password"), ("vera", ""), ("", ""), ("VERA", PASSWORD)];
    let mut bodies = Vec::new();
    for (name, password) in rows {
        let mut browser = Browser::new(port);
        let answer = browser.log_in(name, password);
        assert_eq!(answer.status, 401, "{name}");
        assert!(
            !browser.cookies.contains_key("sidelight") && answer.body.contains("The name or the password is wrong.")
        );
        bodies.push(answer.body.replace(answer.token(), ""));
    }
    assert!(bodies.windows(2).all(|pair| pair[0] == pair[1]), "{bodies:#?}");
    // From here on waits grow, so that one is met soon, however slow the machine is; the right password waits too.
    let waited = (0..30).find_map(|_| {
        let answer = Browser::new(port).log_in("mallory-unknown", "x");
        (answer.status == 429).then_some(answer)
    });
    let waited = waited.expect("a wait");
    assert!(waited.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{waited:?}");
    assert_eq!(Browser::new(port).log_in("vera", PASSWORD).status, 429);
    wait_for("the wait ends", Duration::from_secs(60), || Browser::new(port).log_in("vera", PASSWORD).status == 303);
    let log = node.json(&["log", "list"]);
    let outcomes: Vec<&str> = log.as_array().expect("lines").iter().filter_map(|l| l["outcome"].as_str()).collect();
    assert_eq!(outcomes.iter().filter(|o| **o == "refused: wrong password").count(), 2, "{outcomes:?}");
    assert!(outcomes.iter().filter(|o| **o == "refused: no such user").count() >= 3, "{outcomes:?}");
    assert!(!log.to_string().contains("mallory"), "who mistypes may type a password");
    assert!(
        !node.log().contains("mallory") && !node.log().contains("wrong password\"") && !node.log().contains(PASSWORD)
    );
    assert!(node.stop().success());
}

#[test]
fn without_users_this_machine_may_read_and_nobody_may_do_anything() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let node = start(folder.path(), &[], &[], "", "");
    let mut browser = Browser::new(node.web_port);
    for (path, status) in [("/", 200), ("/studies", 200), ("/models", 200), ("/configuration", 403), ("/activity", 403)]
    {
        assert_eq!(browser.get(path).status, status, "{path}");
    }
    assert_eq!((browser.get("/login").status, browser.post("/logout", &[]).status), (404, 404));
    assert_eq!(browser.post("/studies/1.2.3/analyse", &[("token", "")]).status, 403);
    // A page elsewhere whose name was made to mean this machine.
    let request = b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    let answer = super::browser::exchange(node.web_port, request).expect("an answer");
    assert_eq!(answer.status, 421);
    assert!(node.log().contains("pages without users"));
    let check = run(sidelight(&["check", "--json", "--config"]).arg(&node.config));
    assert!(String::from_utf8_lossy(&check.stdout).contains("nobody logs in: whoever is on this machine may read"));
    assert!(node.stop().success());
}
