//! A relay before a port for TLS, which reads off the wire what server and client agreed on: the ServerHello crosses the
//! network in the clear (RFC 8446 4.1.3), so neither side has to be believed.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, spawn};

/// Takes no more connections once it is dropped.
pub struct Relay {
    pub port: u16,
    seen: Arc<Mutex<BTreeSet<(String, String)>>>,
    over: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Relay {
    /// A port whose connections go on to this port.
    pub fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let own = listener.local_addr().expect("bound").port();
        let (seen, over) = (Arc::<Mutex<BTreeSet<_>>>::default(), Arc::new(AtomicBool::new(false)));
        let (sink, ends) = (Arc::clone(&seen), Arc::clone(&over));
        let accepting = spawn(move || {
            while let Ok((client, _)) = listener.accept() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                let (Ok(to_server), Ok(to_client)) = (server.try_clone(), client.try_clone()) else { continue };
                let sink = Arc::clone(&sink);
                spawn(move || copy(client, to_server, |_| true));
                spawn(move || {
                    let mut hello = Vec::new();
                    copy(server, to_client, |bytes| {
                        hello.extend_from_slice(bytes);
                        let agreed = server_hello(&hello);
                        if let Some(agreed) = &agreed {
                            sink.lock().expect("a list").insert(agreed.clone());
                        }
                        agreed.is_some()
                    });
                });
            }
        });
        Self { port: own, seen, over, accepting: Some(accepting) }
    }

    /// Version and cipher suite, which were the same for every connection.
    pub fn agreed(&self) -> [String; 2] {
        let seen = self.seen.lock().expect("a list");
        let all: Vec<_> = seen.iter().collect();
        let [(version, suite)] = all[..] else { panic!("not one version and suite: {all:?}") };
        [version.clone(), suite.clone()]
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

/// Copies until the end; `look` sees the bytes until it has seen enough.
fn copy(mut from: TcpStream, mut to: TcpStream, mut look: impl FnMut(&[u8]) -> bool) {
    let (mut buffer, mut enough) = (vec![0; 1 << 16], false);
    let _ = to.set_nodelay(true);
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        enough = enough || look(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// What a stream of a server begins with, once enough of it is there.
fn server_hello(bytes: &[u8]) -> Option<(String, String)> {
    const SUPPORTED_VERSIONS: u16 = 43;
    let number = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    let record_end = 5 + usize::from(number(3)?);
    // A handshake record (22) with a ServerHello (2): version, 32 random bytes, session, suite, compression, extensions.
    if bytes.len() < record_end || bytes[0] != 22 || bytes[5] != 2 {
        return None;
    }
    let suite_at = 5 + 4 + 2 + 32 + 1 + usize::from(bytes[43]);
    let (mut version, suite) = (number(9)?, number(suite_at)?);
    let mut at = suite_at + 5;
    while at + 4 <= record_end {
        if number(at)? == SUPPORTED_VERSIONS {
            version = number(at + 4)?;
        }
        at += 4 + usize::from(number(at + 2)?);
    }
    let version = match version {
        0x0303 => "1.2".to_owned(),
        0x0304 => "1.3".to_owned(),
        other => format!("{other:04X}H"),
    };
    let suite = match suite {
        0x1301 => "TLS_AES_128_GCM_SHA256".to_owned(),
        0x1302 => "TLS_AES_256_GCM_SHA384".to_owned(),
        0x1303 => "TLS_CHACHA20_POLY1305_SHA256".to_owned(),
        0xC02F => "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256".to_owned(),
        0xC030 => "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384".to_owned(),
        other => format!("{other:04X}H"),
    };
    Some((version, suite))
}
