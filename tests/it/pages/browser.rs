//! As much of a browser as a test needs: cookies, forms, and the headers that say where a request comes from.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::PASSWORD;

/// Cookies of one person at one node.
pub struct Browser {
    pub port: u16,
    pub cookies: BTreeMap<String, String>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    /// All values of a header field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.head.lines().filter_map(|line| line.split_once(':'));
        fields.filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> &str {
        self.all(name).first().copied().unwrap_or_default()
    }

    /// What the first form of the page carries.
    pub fn token(&self) -> &str {
        let marker = "name=\"token\" value=\"";
        self.body.split(marker).nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default()
    }
}

/// Sends bytes and reads to the end; `None` where the node closed without an answer.
pub fn exchange(port: u16, request: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a valid timeout");
    let _ = stream.write_all(request);
    read(&mut stream)
}

pub fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

/// As a form writes it.
pub fn encoded(fields: &[(&str, &str)]) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    let one = |text: &str| -> String {
        text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
    };
    fields.iter().map(|(name, value)| format!("{}={}", one(name), one(value))).collect::<Vec<_>>().join("&")
}

impl Browser {
    pub fn new(port: u16) -> Self {
        Self { port, cookies: BTreeMap::new() }
    }

    /// Somebody who is logged in.
    pub fn of(port: u16, name: &str) -> Self {
        let mut browser = Self::new(port);
        let answer = browser.log_in(name, PASSWORD);
        assert_eq!((answer.status, answer.header("location")), (303, "/"), "{name}: {answer:?}");
        browser
    }

    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, "", "")
    }

    /// Posts a form from a page of the node itself.
    pub fn post(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let own = "Sec-Fetch-Site: same-origin\r\nOrigin: null\r\n";
        self.send("POST", path, own, &encoded(fields))
    }

    /// With further header lines, each with its CRLF.
    pub fn send(&mut self, method: &str, path: &str, lines: &str, body: &str) -> Answer {
        let cookies: Vec<String> = self.cookies.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let cookies = if cookies.is_empty() { String::new() } else { format!("Cookie: {}\r\n", cookies.join("; ")) };
        let form = match method {
            "POST" => format!("Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n", body.len()),
            _ => String::new(),
        };
        let port = self.port;
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n{cookies}{form}{lines}\r\n{body}"
        );
        let answer = exchange(port, request.as_bytes()).expect("an answer");
        for set in answer.all("set-cookie") {
            let (name, value) = set.split(';').next().and_then(|pair| pair.split_once('=')).expect("a cookie");
            match set.contains("Max-Age=0") {
                true => self.cookies.remove(name),
                false => self.cookies.insert(name.to_owned(), value.to_owned()),
            };
        }
        answer
    }

    pub fn log_in(&mut self, name: &str, password: &str) -> Answer {
        let form = self.get("/login");
        let token = form.token().to_owned();
        self.post("/login", &[("token", &token), ("name", name), ("password", password)])
    }
}
