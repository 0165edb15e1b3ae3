//! What is understood, what is not, and what the help promises.

use clap::{CommandFactory, error::ErrorKind};

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("sidelight").chain(line.split_whitespace()))
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_of_the_manual_is_understood() {
    let uid = "1.2.840.10008.1";
    for line in [
        "serve --config conf/demo.toml",
        "--config conf/demo.toml serve --set node.listen=127.0.0.1:0 --set study.quiet_period=1s",
        "check",
        "check --network --json",
        "analyse a.dcm b/ --out out",
        "analyse a.dcm --out out --with-posteriors --disclose --json",
        "studies list --state failed --limit 3 --json",
        &format!("studies show {uid} --json"),
        &format!("studies resend {uid}"),
        &format!("studies resend {uid} --destination pacs"),
        "studies resend --destination pacs --failed",
        &format!("studies requeue {uid}"),
        &format!("studies close {uid} --incomplete"),
        &format!("studies purge {uid} --force"),
        "studies destinations --json",
        "backup there --copy --json",
        "fsck --repair --digests --json",
        "users hash",
        "log list --limit 3 --before 9 --json",
        "log verify --noted 3:0f --json",
        "model list --json",
        "model verify",
        "model verify demo-race --json",
        "model export demo-race --out x.pt",
        "phantom --world biased --patients 20 --seed 7 --out p --size 640x512",
        "phantom --world-file w.toml --patients 20 --out p",
        "validate --out v",
        "validate --out v --long --seed 3 --worlds w.toml --only drift --json",
        "train models/recipes/demo-race.toml",
        "train models/recipes/demo-race.toml --out trained",
        "profile fit --results a.json b.json --labels l.csv --out p.json --seed 3 --bootstrap 500",
        "profile fit --index --out p.json",
        "profile fit --index --results a.json --labels l.csv --out p.json",
        "labels import l.csv --dry-run --replace --rejects r.csv --json",
        "labels import Patient.ndjson report.dcm --mapping m.toml --window-days 3",
        "profile show p.json --json",
        "profile approve",
        "profile approve profile-0123456789abcdef --key k.pem",
        "profile check --json",
        "profile check p.json",
        "profile diff a.json b.json --json",
        "profile key --out k.pem",
        "profile sign p.json --key k.pem",
        "echo PACS@localhost:11112 --calling ME",
        "echo PACS@localhost:2762 --tls",
        "version",
        "normalise a.dcm --contract xrv-1024 --npy a.npy --png a.png --size 512",
        "normalise a.dcm --contract demo-race --png a.png --json",
        "__worker",
    ] {
        if let Err(error) = parse(line) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn wrong_use_ends_with_code_2_and_help_with_0() {
    let rows = [
        ("", 2),
        ("frobnicate", 2),
        ("analyse --out x", 2),
        ("studies show ../../etc/passwd", 2),
        ("studies list --state lost", 2),
        ("studies list --limit 0", 2),
        ("studies resend", 2),
        ("studies close 1.2.3 --complete --incomplete", 2),
        ("phantom --world mars --patients 1 --out x", 2),
        ("phantom --world null --patients 1 --out x --size 10", 2),
        ("phantom --patients 1 --out x", 2),
        ("phantom --world null --world-file w.toml --patients 1 --out x", 2),
        ("validate --out x --only something", 2),
        ("echo localhost:104", 2),
        ("echo PACS@localhost:104 --calling SEVENTEEN_LETTERS", 2),
        ("normalise a.dcm --contract minmax-unit", 2),
        ("profile fit --out p.json", 2),
        ("profile approve --key k.pem", 2),
        ("profile fit --results a.json --out p.json", 2),
        ("profile fit --labels l.csv --out p.json", 2),
        ("serve --set node.listen", 2),
        ("--help", 0),
        ("--version", 0),
        ("help studies", 0),
    ];
    for (line, code) in rows {
        assert_eq!(parse(line).expect_err(line).exit_code(), code, "{line}");
    }
    assert_eq!(parse("").unwrap_err().kind(), ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand);
}

#[test]
fn overrides_keep_their_order_and_what_follows_the_first_equals_sign() {
    let cli = parse("serve --set a.b=1 --set log.filter=info,sidelight=debug").unwrap();
    let expected = [("a.b", "1"), ("log.filter", "info,sidelight=debug")];
    assert_eq!(cli.settings.overrides, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
}

#[test]
fn the_help_names_exit_codes_and_where_the_configuration_comes_from() {
    let help = Cli::command().render_long_help().to_string();
    for part in ["Exit codes: 0 done, 1 failed, 2 wrong use", "SIDELIGHT__NODE__LISTEN", "SIDELIGHT_CONFIG", "--set"] {
        assert!(help.contains(part), "{part} is missing in\n{help}");
    }
    assert!(!help.contains("__worker"));
}

#[test]
fn every_command_has_an_example_that_it_understands() {
    let command = Cli::command();
    for sub in command.get_subcommands().filter(|s| !s.is_hide_set() && s.get_name() != "version") {
        let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples: Vec<&str> = help
            .lines()
            .filter_map(|l| l.find("sidelight ").map(|at| l[at + 10..].split('#').next().unwrap()))
            .collect();
        assert!(!examples.is_empty(), "{} has no example", sub.get_name());
        for example in examples {
            assert!(parse(example).is_ok(), "{example}");
        }
    }
}
