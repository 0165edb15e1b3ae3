//! Files that nobody wrote: deep, wide, mutated, random.

use std::time::Instant;

use proptest::prelude::*;

use super::*;

#[test]
fn deep_and_wide_files_neither_overflow_the_stack_nor_flood_the_answer() {
    let dotted = vec!["a"; 79].join(".");
    let deep = format!("[{dotted}]\n{}{}", format!("{dotted} = {{ ").repeat(78), "}".repeat(78));
    let rows = [
        deep,
        format!("a = {}", "[".repeat(50_000)),
        format!("a = {}", "{a=".repeat(20_000)),
        format!("{} = 1", "a.".repeat(40_000)),
        "[[sources]]\n".repeat(40_000),
        "[[destinations]]\n".repeat(20_000),
        (0..40_000).map(|i| format!("k{i} = 1\n")).collect(),
        format!("\"{}\" = 1", "k".repeat(1_000_000)),
        format!("node.name = \"{}\"", "\\u0007".repeat(150_000)),
        format!("models.clinical = [{}]", "\"\\\\\",".repeat(90_000)),
        format!("study.cap = \"{}s\"", "9".repeat(1_000_000)),
        "\"sources[999999999]\" = 1\n\"node.listen\" = 2\n\"store[4].x\" = 3".to_owned(),
    ];
    for toml in rows {
        let began = Instant::now();
        let error = load_text(&toml).unwrap_err();
        let start: String = toml.chars().take(40).collect();
        assert!(error.faults.len() <= FAULTS_MAX, "{start}");
        assert!(error.to_string().len() < 400_000, "{start}: {}", error.to_string().len());
        assert!(began.elapsed() < Duration::from_secs(10), "{start}: {:?}", began.elapsed());
    }
}

/// A real file with bytes replaced, removed, doubled or inserted.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let texts = ["sidelight.toml", "demo.toml", "shadow.toml"].map(|name| std::fs::read(conf(name)).unwrap());
    let edit = (any::<prop::sample::Index>(), 0..5_u8, any::<u8>(), 0..40_usize);
    (prop::sample::select(texts.to_vec()), prop::collection::vec(edit, 1..12)).prop_map(|(mut bytes, edits)| {
        for (at, kind, byte, length) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            match kind {
                0 => bytes.truncate(at.max(1)),
                1 => drop(bytes.drain(at..end)),
                2 => drop(bytes.splice(at..at, bytes[at..end].to_vec())),
                3 => bytes.insert(at, b"[]{}.=\"'#,\\\n0a_-"[usize::from(byte % 16)]),
                _ => bytes.insert(at, byte),
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_files_give_a_configuration_or_faults(bytes in mutated()) {
        if let Err(error) = load_bytes(&bytes, &[], &[]) {
            prop_assert!(!error.faults.is_empty());
            let told = error.to_string();
            prop_assert!(!told.contains(['\u{7}', '\u{1b}']), "a control character in {:?}", told);
        }
    }

    #[test]
    fn random_bytes_give_a_configuration_or_faults(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = load_bytes(&bytes, &[], &[]);
    }

    #[test]
    fn any_text_for_any_key_gives_a_configuration_or_faults(
        (key, _) in prop::sample::select(leaves()),
        text in r#"[0-9]{0,20}[ .a-zA-Zµ]{0,8}|[\[\]{}=,"'a-z0-9.\n]{0,40}|\PC{0,40}"#,
    ) {
        if let Err(error) = load(None, [], &[(key, text)]) {
            prop_assert!(error.faults.iter().all(|f| !f.problem.is_empty() && !f.remedy.is_empty()));
        }
    }
}
