//! Tables of labels: what is read, who is meant, what contradicts.

use proptest::prelude::*;

use super::super::statement::*;
use super::super::{GroupName, SelfReport};
use super::*;
use crate::domain::Uid;

fn uid(text: &str) -> Uid {
    Uid::parse(text).unwrap()
}

fn known(rows: &[(&str, &str, &str, &str, &str)]) -> Vec<KnownStudy> {
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let one = |(study, accession, patient, issuer, date): &(&str, &str, &str, &str, &str)| KnownStudy {
        study: uid(study),
        accession: some(accession),
        patient: some(patient),
        issuer: some(issuer),
        date: date.parse().ok(),
    };
    rows.iter().map(one).collect()
}

pub(super) fn here() -> Vec<KnownStudy> {
    known(&[
        ("1.1", "A1", "p1", "", "2026-03-01"),
        ("1.2", "A2", "p1", "", "2026-03-11"),
        ("1.3", "A3", "p2", "", "2026-03-01"),
        ("1.4", "A3", "p3", "x", "2026-03-01"),
        ("1.5", "A5", "p3", "y", ""),
        ("1.6", "A6", "", "", ""),
        ("1.7", "A7", "p4", "", "2026-03-01"),
        ("1.8", "A7", "p4", "", "2026-03-01"),
    ])
}

pub(super) fn vocabulary() -> Vocabulary {
    let group = |key: &str, code: &str| GroupName { key: key.into(), code: code.into() };
    Vocabulary::new(
        ["ptx", "effusion", "ptx"].map(str::to_owned),
        vec![group("A", "2028-9"), group("B", "2054-5")],
        &["insurance".to_owned()],
    )
}

/// What a table comes to: statements by study as `1.1 2028-9 ptx+ effusion-`, and rejects.
fn read(text: &str) -> Result<(Vec<String>, Vec<Reject>), String> {
    let vocabulary = vocabulary();
    let (statements, mut rejects) = split(CsvTable::open(text.as_bytes(), 0, &vocabulary)?);
    let shown = settle(statements, &mut rejects, 2, &vocabulary);
    Ok((shown, rejects))
}

fn split(all: impl Iterator<Item = Result<Statement, Reject>>) -> (Vec<Statement>, Vec<Reject>) {
    let (good, bad): (Vec<_>, Vec<_>) = all.partition(Result::is_ok);
    (good.into_iter().map(Result::unwrap).collect(), bad.into_iter().filter_map(Result::err).collect())
}

pub(super) fn settle(
    statements: Vec<Statement>,
    rejects: &mut Vec<Reject>,
    window_days: u32,
    vocabulary: &Vocabulary,
) -> Vec<String> {
    let here = here();
    let places = Places::of(&here, window_days);
    let mut placed = Vec::new();
    for statement in statements {
        let at = statement.says.at;
        match places.place(statement) {
            Ok(one) => placed.push(one),
            Err(reason) => rejects.push(Reject { at, reason }),
        }
    }
    let agreed = agree(placed, vocabulary);
    rejects.extend(agreed.rejects);
    rejects.sort_by_key(|r| r.at);
    let mut studies: std::collections::BTreeMap<&Uid, (SelfReport, std::collections::BTreeSet<String>)> =
        std::collections::BTreeMap::new();
    for one in &agreed.statements {
        for study in one.everyone.iter() {
            studies.entry(study).or_default().0 = one.says.person.as_deref().cloned().unwrap();
        }
        for hit in &one.hits {
            let said = &mut studies.entry(&hit.study).or_default().1;
            let sign = |present| if present { '+' } else { '-' };
            let outcome = |o: &Outcome| format!("{}{}", vocabulary.findings[usize::from(o.finding)], sign(o.present));
            said.extend(one.says.outcomes.iter().map(outcome));
            let covariate = |c: &Covariate| format!("{}={}", vocabulary.covariates[usize::from(c.name)], c.value);
            said.extend(one.says.covariates.iter().map(covariate));
        }
    }
    let one = |(study, (report, said)): (&Uid, (SelfReport, std::collections::BTreeSet<String>))| {
        let race = report.race.into_iter().chain(report.ethnicity).collect::<Vec<_>>().join(",");
        [study.to_string(), race].into_iter().chain(said).filter(|w| !w.is_empty()).collect::<Vec<_>>().join(" ")
    };
    studies.into_iter().map(one).collect()
}

#[test]
fn studies_are_found_by_uid_number_or_patient_and_race_holds_for_all_of_a_patient() {
    let text = "\u{feff}study,accession,patient,group,ptx,effusion,remark\n1.1,,p1,,1,0,x\n,A2,,A,0,,\n1.6,,,B,,,\n,,p2,B,,,\n";
    let vocabulary = vocabulary();
    assert_eq!(CsvTable::open(text.as_bytes(), 0, &vocabulary).unwrap().unused, ["remark"]);
    let (shown, rejects) = read(text).unwrap();
    assert_eq!(rejects, []);
    assert_eq!(shown, ["1.1 2028-9 effusion- ptx+", "1.2 2028-9 ptx-", "1.3 2054-5", "1.6 2054-5"]);
    // An accession number of two patients is one study's once the patient is named.
    assert_eq!(read("accession,patient,ptx\nA3,p2,1\n").unwrap().0, ["1.3 ptx+"]);
    assert_eq!(read("patient,issuer,group\np3,y,A\n").unwrap().0, ["1.5 2028-9"]);
    // Covariates, several categories, an answer that is none.
    let text = "study,race,ethnicity,bmi,portable,device,insurance\n1.1,Asian; 2106-3,2186-5,23.50,yes,D1,a b\n1.3,declined,,,,,\n1.6,UNK,,,,,\n";
    let expected = [
        "1.1 2028-9,2106-3,2186-5 bmi=23.5 device=D1 insurance=a b portable=1",
        "1.2 2028-9,2106-3,2186-5",
        "1.3 ASKU",
        "1.6 UNK",
    ];
    assert_eq!(read(text).unwrap(), (expected.map(str::to_owned).to_vec(), vec![]));
}

#[test]
fn a_line_with_a_fault_says_why_and_tells_no_cell() {
    let rows = [
        ("1.9,,,A,1,,,,,,", "its study is not here"),
        ("x,,,A,1,,,,,,", "study is no UID"),
        (",A3,,A,1,,,,,,", "2 studies of several patients have its accession number"),
        (",A7,,A,1,,,,,,", "2 studies have what it names"),
        (",A9,,A,1,,,,,,", "no study here has its accession number"),
        ("1.1,A1,,A,1,,,,,,", "both study and accession"),
        ("1.1,,p2,A,1,,,,,,", "its study is of another patient"),
        (",,p3,A,,,,,,,", "several issuers give its Patient ID"),
        (",,p9,A,,,,,,,", "no study here is of its patient"),
        (",,p3,A,,,,z,,,", "no study here is of its patient"),
        (",,,A,,,,,,,", "neither study nor patient"),
        (",,p1,,1,,,,,,", "names neither that nor a date"),
        ("1.1,,,C,1,,,,,,", "none of those of the race model: A, B"),
        ("1.1,,,A,yes,,,,,,", "ptx is neither 0 nor 1 nor empty"),
        ("1.1,,,,,,,,,,", "says nothing"),
        ("1.1,,,,,,Martian,,,,", "its race is none of the categories"),
        ("1.1,,,A,,,White,,,,", "both group and race"),
        ("1.1,,,,,,UNK;White,,,,", "unknown or declined, and a category too"),
        ("1.1,,,,,,,,,Martian,", "its ethnicity is none"),
        ("1.1,,,,1,,,,,,900", "bmi is no number from 5 to 150"),
        (",,p1,,1,,,,yesterday,,", "its date is not like"),
        ("1.1,,,A,1,0,,,,,,8", "12 fields, not 11"),
    ];
    for (row, reason) in rows {
        let title = "study,accession,patient,group,ptx,effusion,race,issuer,date,ethnicity,bmi";
        let (shown, rejects) = read(&format!("{title}\n{row}\n1.3,,,B,0,,,,,,\n")).unwrap();
        let [fault] = rejects.as_slice() else { panic!("{row}: {rejects:?}") };
        let told = ["Martian", "yesterday", "900", "p9"].iter().any(|cell| fault.reason.contains(cell));
        assert!(fault.at.line == 2 && fault.reason.contains(reason) && !told, "{row}: {fault:?}");
        assert_eq!(shown, ["1.3 2054-5 ptx-"], "{row}");
    }
    for (text, reason) in [
        ("group,ptx\nA,1\n", "lacks a column study, accession or patient"),
        ("study,other\n1.1,1\n", "one for a finding: ptx, effusion"),
        ("study,ptx,ptx\n1.1,1,1\n", "is there twice"),
    ] {
        assert!(read(text).unwrap_err().contains(reason), "{text}");
    }
}

#[test]
fn a_quote_that_is_never_closed_does_not_make_a_line_of_the_file() {
    let text = format!("study,ptx\n1.3,1\n1.1,\"{}", "x,1\n".repeat(1 << 20));
    let (shown, rejects) = read(&text).unwrap();
    assert_eq!(shown, ["1.3 ptx+"]);
    assert!(rejects.len() == 1 && rejects[0].reason.contains("more than 1048576 bytes"), "{rejects:?}");
}

#[test]
fn statements_that_contradict_each_other_are_all_refused() {
    let (shown, rejects) = read("study,group,ptx\n1.1,A,1\n1.2,B,0\n1.3,A,1\n1.3,,0\n1.6,,1\n1.6,,1\n").unwrap();
    assert_eq!(shown, ["1.6 ptx+"]);
    assert_eq!(rejects.iter().map(|f| f.at.line).collect::<Vec<_>>(), [2, 3, 4, 5]);
    assert!(rejects[0].reason.contains("another self-reported group"), "1.1 and 1.2 are of one patient");
    assert!(rejects[3].reason.contains("another outcome of ptx"));
    let (shown, rejects) = read("study,device,race\n1.3,a,\n1.3,b,\n1.6,a,White\n1.6,,White;Asian\n").unwrap();
    assert_eq!((shown.len(), rejects.len()), (0, 4));
    assert!(rejects[0].reason.contains("another device"));
    // One line for each image: the finding is there if any image has it.
    let (shown, rejects) = read("study,instance,ptx\n1.3,9.1,0\n1.3,9.2,1\n1.6,9.3,0\n").unwrap();
    assert_eq!((shown, rejects), (vec!["1.3 ptx+".to_owned(), "1.6 ptx-".to_owned()], vec![]));
}

#[test]
fn a_date_means_the_one_study_of_its_patient_within_the_window() {
    let rows = [
        ("p1", "2026-03-03", Ok("1.1 ptx+")),
        ("p1", "2026-02-27", Ok("1.1 ptx+")),
        ("p1", "2026-03-04", Err("within 2 days")),
        ("p1", "2026-03-13", Ok("1.2 ptx+")),
        ("p1", "2026-03-14", Err("within 2 days")),
        ("p4", "2026-03-01", Err("2 studies of its patient are near its date")),
        ("p3", "2026-03-01", Err("several issuers")),
    ];
    for (patient, date, expected) in rows {
        let (shown, rejects) = read(&format!("patient,date,ptx\n{patient},{date},1\n")).unwrap();
        match expected {
            Ok(one) => assert_eq!((shown, rejects), (vec![one.to_owned()], vec![]), "{patient} {date}"),
            Err(reason) => assert!(shown.is_empty() && rejects[0].reason.contains(reason), "{date}: {rejects:?}"),
        }
    }
    // A window that holds both studies of a patient chooses none, unless all are meant.
    let vocabulary = vocabulary();
    let text = "patient,date,ptx\np1,2026-03-06,1\n";
    let (statements, mut rejects) = split(CsvTable::open(text.as_bytes(), 0, &vocabulary).unwrap());
    let mut all = statements.clone();
    all.iter_mut().for_each(|s| s.says.reach = Reach::All);
    assert!(settle(statements, &mut rejects, 5, &vocabulary).is_empty() && rejects.len() == 1);
    assert_eq!(settle(all, &mut vec![], 5, &vocabulary), ["1.1 ptx+", "1.2 ptx+"]);
}

#[test]
fn the_nearest_of_several_in_time_is_kept_where_that_is_asked_for() {
    let vocabulary = vocabulary();
    let near = |text: &str| {
        let (mut statements, mut rejects) = split(CsvTable::open(text.as_bytes(), 0, &vocabulary).unwrap());
        statements.iter_mut().for_each(|s| s.says.reach = Reach::Nearest);
        (settle(statements, &mut rejects, 30, &vocabulary), rejects.len())
    };
    let title = "patient,date,bmi\n";
    let shown = near(&format!("{title}p1,2026-02-20,30\np1,2026-03-02,25\np1,2026-03-10,26\n"));
    assert_eq!(shown, (vec!["1.1 bmi=25".to_owned(), "1.2 bmi=26".to_owned()], 0));
    let tie = near(&format!("{title}p2,2026-02-27,30\np2,2026-03-03,25\n"));
    assert_eq!(tie, (vec![], 2), "as near as each other, and different");
}

proptest! {
    #[test]
    fn no_table_panics_and_each_line_comes_to_something(text in "(study|patient|accession|ptx|group|race|bmi|date|,|\n|\"|1\\.1|p1|A|;|é|0|1| ){0,60}") {
        let vocabulary = vocabulary();
        if let Ok(table) = CsvTable::open(text.as_bytes(), 0, &vocabulary) {
            let (statements, mut rejects) = split(table);
            settle(statements, &mut rejects, 2, &vocabulary);
        }
    }
}
