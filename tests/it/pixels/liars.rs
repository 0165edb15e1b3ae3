//! Workers that are late, die or lie, before and after they have greeted: refusals with their cause, in bounded words.

use super::locked::{named_exe, processes};
use super::*;

const GREETING: &str = r#"{"protections":{"no_new_privs":true,"landlock_abi":null,"seccomp":false,"missing":[]}}"#;

/// A message as it stands in the socket.
fn message(json: &str) -> Vec<u8> {
    [&(json.len() as u32).to_le_bytes(), json.as_bytes()].concat()
}

async fn refusal_of(exe: PathBuf, object: &Path) -> sidelight::domain::Refusal {
    let settings = config::Pixels { workers: 1, timeout: Duration::from_secs(2), ..settings() };
    Workers::start(&settings, exe).read_header(object).await.expect_err("a worker that misbehaves")
}

#[tokio::test]
async fn workers_that_never_greet_are_trouble_of_the_node_with_their_cause() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "sound", &sound(64, 64));
    // 9 bytes: length 5, then `hello`, which is no JSON
    let rows = [
        ("late", script(folder.path(), "late", "exec sleep 600"), "no answer from the decode worker within 2 s"),
        ("dead", script(folder.path(), "dead", "exit 7"), "ended with exit code 7"),
        ("killed", script(folder.path(), "killed", "kill -9 $$"), "ended with signal 9"),
        ("lying", script(folder.path(), "lying", r"printf '\005\000\000\000hello' >&0; exec sleep 600"), "no sense"),
        ("boasting", script(folder.path(), "boasting", r"printf '\377\377\377\377' >&0; exec sleep 600"), "no sense"),
        ("missing", folder.path().join("missing"), "could not be started"),
    ];
    for (name, exe, expected) in rows {
        let refusal = refusal_of(exe, &path).await;
        assert_eq!(refusal.code, RefusalCode::WorkerUnavailable, "{name}");
        assert!(refusal.detail.contains(expected), "{name}: {}", refusal.detail);
    }
}

#[tokio::test]
async fn workers_that_greet_and_then_die_or_lie_are_refusals_with_their_cause() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "sound", &sound(64, 64));
    write(folder.path(), "greeting", &message(GREETING));
    let refused = |code: &str, detail: &str| format!(r#"{{"Refused":{{"code":"{code}","detail":"{detail}"}}}}"#);
    let endless = "x\\n\\u001b".repeat(100_000);
    let said = |json: &str| ("cat reply >&0; exec sleep 600", message(json));
    let (died, malformed) = (RefusalCode::WorkerDied, RefusalCode::Malformed);
    let rows = [
        ("late", ("exec sleep 600", Vec::new()), died, "no answer from the decode worker within 2 s"),
        ("dead", ("exit 7", Vec::new()), died, "ended with exit code 7"),
        ("killed", ("kill -9 $$", Vec::new()), died, "ended with signal 9"),
        ("nonsense", said("hello"), died, "no sense"),
        ("too long", ("cat reply >&0; exec sleep 600", vec![0xFF; 4]), died, "a message of 4294967295 bytes"),
        ("of another question", said(r#"{"Normalised":{"pixel_digest":"00","frames":[1]}}"#), died, "no sense"),
        ("a probe", said(r#"{"Probed":"granted"}"#), died, "an answer to another question"),
        ("own report", said(&refused("own-report", "x")), died, "a refusal as own-report"),
        ("no image", said(&refused("not-an-image", "x")), died, "a refusal as not-an-image"),
        ("unavailable", said(&refused("worker-unavailable", "x")), died, "a refusal as worker-unavailable"),
        ("an endless name", said(&format!(r#"{{"{endless}":1}}"#)), died, "unknown variant `x??x??"),
        ("an endless reason", said(&refused("malformed", &endless)), malformed, "x??x??"),
        ("a reason", said(&refused("malformed", "why")), malformed, "why"),
    ];
    for (n, (name, (body, reply), code, expected)) in rows.into_iter().enumerate() {
        let own = folder.path().join(n.to_string());
        std::fs::create_dir(&own).expect("a folder");
        write(&own, "reply", &reply);
        // the first read takes the greeting of the node, the second its question
        let read = "dd of=/dev/null bs=65536 count=1 2> /dev/null";
        let body = format!("cd {}; {read}; cat ../greeting >&0; {read}; {body}", own.display());
        let refusal = refusal_of(script(&own, "worker", &body), &path).await;
        assert_eq!(refusal.code, code, "{name}: {refusal}");
        assert!(refusal.detail.contains(expected), "{name}: {refusal}");
        assert!(refusal.detail.chars().count() <= 512 && !refusal.detail.contains(char::is_control), "{name}");
    }
}

/// Whoever hangs at each object would hold its worker for as long as all their time limits together.
#[tokio::test]
async fn many_headers_take_no_longer_than_two_objects_may_and_what_is_unread_has_no_answer() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = write(folder.path(), "sound", &sound(64, 64));
    let greeting = write(folder.path(), "greeting", &message(GREETING));
    let read = "dd of=/dev/null bs=65536 count=1 2> /dev/null";
    let late = format!("{read}; cat {} >&0; exec sleep 600", greeting.display());
    for (name, body, answers) in [("late", late.as_str(), 1), ("mute", "exec sleep 600", 0)] {
        let settings = config::Pixels { workers: 1, timeout: Duration::from_secs(2), ..settings() };
        let workers = Workers::start(&settings, script(folder.path(), name, body));
        let codes: Vec<_> = workers.read_headers(vec![path.clone(); 64]).await.into_iter().map(|h| h.err()).collect();
        assert_eq!(codes.len(), answers, "{name}");
        assert!(codes.iter().flatten().all(|refusal| refusal.code == RefusalCode::WorkerDied), "{name}: {codes:?}");
    }
}

#[tokio::test]
async fn a_process_is_replaced_after_its_decoder_gave_up_and_not_for_what_the_pre_scan_refuses() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut rle = vec![0; 64];
    (rle[0], rle[4], rle[8]) = (2, 64, 66);
    rle.extend([0x81, 1, 0x7F, 0]);
    let pixels = element(0x7FE0_0010, "OW", &[0; 8192]);
    let files = [
        (write(folder.path(), "sound", &sound(3000, 3000)), None),
        (write(folder.path(), "empty", b""), Some(RefusalCode::Malformed)),
        (
            write(folder.path(), "depth", &[image(64, 64, 31, "1 ", EXPLICIT), pixels.clone()].concat()),
            Some(RefusalCode::Inconsistent),
        ),
        (
            write(folder.path(), "large", &[image(65_535, 65_535, 12, "1 ", EXPLICIT), pixels].concat()),
            Some(RefusalCode::TooLarge),
        ),
    ];
    let broken = write(folder.path(), "broken", &encapsulated(RLE, &rle));
    let exe = named_exe(folder.path());
    let workers = Workers::start(&config::Pixels { workers: 1, ..settings() }, exe.clone());
    let first = wait_for(|| workers.protections().and_then(|_| processes(&exe).pop()));
    // until it is old enough to be replaced where there is a reason; so many large images do not wear it out
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        assert!(workers.normalise(&files[0].0, &contracts(), Frames::First).await.is_ok());
    }
    for _ in 0..10 {
        for (path, expected) in &files {
            let answer = workers.normalise(path, &contracts(), Frames::First).await;
            assert_eq!(answer.map_err(|r| r.code).err(), *expected, "{}", path.display());
        }
    }
    assert!(processes(&exe) == std::slice::from_ref(&first), "replaced without need");
    let answer = workers.normalise(&broken, &contracts(), Frames::First).await;
    assert_eq!(answer.map_err(|r| r.code).err(), Some(RefusalCode::DecodeFailed));
    // at once, without another request
    let second = wait_for(|| processes(&exe).pop().filter(|process| *process != first));
    for _ in 0..3 {
        let answer = workers.normalise(&broken, &contracts(), Frames::First).await;
        assert_eq!(answer.map_err(|r| r.code).err(), Some(RefusalCode::DecodeFailed));
        assert!(workers.read_header(&files[0].0).await.is_ok());
    }
    println!("young and confused: {}, then {:?}", second.display(), processes(&exe));
}

#[tokio::test]
async fn a_worker_keeps_no_file_that_the_node_left_open() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    // without waiting for a writer
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC;
    let reader = rustix::fs::open(&pipe, flags, rustix::fs::Mode::empty()).expect("a pipe");
    // a shell's redirections are inherited by what it becomes; 9 is the one that its standard input is not
    let body = format!("exec 9> {}; echo open >&9; exec {EXE} \"$@\"", pipe.display());
    let workers = Workers::start(&config::Pixels { workers: 1, ..settings() }, script(folder.path(), "worker", &body));
    wait_for(|| workers.protections());
    let mut bytes = [0; 16];
    assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(5), "the worker's parent had it open");
    // the end: nobody holds the other end any more; a worker that did would make this EAGAIN
    assert_eq!(rustix::io::read(&reader, &mut bytes), Ok(0));
    assert!(workers.probe(sidelight::pixels::Attempt::ReadFile).await.is_ok(), "and it lives");
}
