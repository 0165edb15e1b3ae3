//! What is true of studies, from a table: outcomes of findings and the patients' self-reported groups. Pure.
//!
//! Columns: `study` or `accession`, `patient`, `group`, `instance` (all but one of the first three optional) and one
//! per finding, with 1, 0 or nothing. A group needs a patient or a study, and holds for all studies of the patient that
//! are here. Nothing is guessed: lines that contradict each other are refused, all of them, and a fault never says what
//! a cell holds. Only with `instance` (a line for each image) a study may have lines with different outcomes; then the
//! finding is there if any image has it. Neighbours: `table`, `store` keeps what comes out, `assess` fits with it. Left
//! out: what a study's scores are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::table::{RowFault, text_of};
use crate::domain::Uid;

/// Bytes of a file.
const BYTES_MAX: usize = 64 << 20;

/// What is said of one study.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StudyLabels {
    /// Key of the patient's self-reported group.
    pub group: Option<String>,
    /// By key of a finding, whether it is truly there.
    pub outcomes: BTreeMap<String, bool>,
}

/// What one line says. It holds as a whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelLine {
    pub line: u64,
    /// All studies of its patient that are here: its group holds for them.
    pub patient: Arc<[Uid]>,
    pub group: Option<String>,
    /// The study of its outcomes; none where it names a patient alone.
    pub study: Option<Uid>,
    /// By key of a finding, as all lines of the study together say it.
    pub outcomes: BTreeMap<String, bool>,
}

impl LabelLine {
    /// Study, finding and outcome.
    pub fn said(&self) -> impl Iterator<Item = (&Uid, &str, bool)> {
        let of = |study| self.outcomes.iter().map(move |(finding, value)| (study, finding.as_str(), *value));
        self.study.iter().flat_map(of)
    }
}

/// A study that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownStudy {
    pub study: Uid,
    pub accession: Option<String>,
    pub patient: Option<String>,
    pub issuer: Option<String>,
}

/// What a file comes to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Labels {
    pub lines: Vec<LabelLine>,
    /// Lines that are not used, and why.
    pub faults: Vec<RowFault>,
    /// Columns that are none of the known ones.
    pub unused: Vec<String>,
}

/// Reads a table of labels for these findings, groups (keys; none: any) and studies. An error where the file as a whole is none.
pub fn read_labels(
    bytes: &[u8],
    findings: &[String],
    groups: &[String],
    known: &[KnownStudy],
) -> Result<Labels, String> {
    if bytes.len() > BYTES_MAX {
        return Err(format!("it has {} bytes, {BYTES_MAX} are read at most; split it", bytes.len()));
    }
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(bytes);
    let header = reader.headers().map_err(|e| format!("its first line cannot be read: {e}"))?.clone();
    let titles: Vec<String> = header.iter().map(|t| t.trim_start_matches('\u{feff}').to_owned()).collect();
    if let Some(twice) = titles.iter().enumerate().find(|(i, t)| titles[..*i].contains(t)) {
        return Err(format!("its column {} is there twice", twice.1));
    }
    let columns = Columns { titles: &titles, findings, groups };
    if !["study", "accession", "patient"].iter().any(|t| columns.place(t).is_some()) {
        return Err("it lacks a column study, accession or patient".into());
    }
    if columns.place("group").is_none() && !findings.iter().any(|f| columns.place(f).is_some()) {
        return Err(format!("it lacks a column group, and one for a finding: {}", findings.join(", ")));
    }
    let places = Places::of(known);
    let mut labels = Labels { unused: columns.unused(), ..Labels::default() };
    let mut lines = Vec::new();
    for record in reader.records() {
        let read = match &record {
            Ok(record) => columns.line(record, &places),
            Err(_) => Err("it is not text in UTF-8".to_owned()),
        };
        let line = match &record {
            Ok(record) => record.position().map_or(0, csv::Position::line),
            Err(error) => error.position().map_or(0, csv::Position::line),
        };
        match read {
            Ok(said) => lines.push(LabelLine { line, ..said }),
            Err(reason) => labels.faults.push(RowFault { line, reason }),
        }
    }
    combine(&lines, columns.place("instance").is_some(), &mut labels);
    labels.faults.sort_by_key(|fault| fault.line);
    Ok(labels)
}

struct Columns<'a> {
    titles: &'a [String],
    findings: &'a [String],
    groups: &'a [String],
}

impl Columns<'_> {
    fn place(&self, title: &str) -> Option<usize> {
        self.titles.iter().position(|t| t == title)
    }

    fn unused(&self) -> Vec<String> {
        const KNOWN: [&str; 5] = ["study", "accession", "patient", "group", "instance"];
        let unused = self.titles.iter().filter(|t| !KNOWN.contains(&t.as_str()) && !self.findings.contains(t));
        unused.map(|t| t.chars().take(40).collect()).collect()
    }

    fn line(&self, record: &csv::StringRecord, places: &Places<'_>) -> Result<LabelLine, String> {
        if record.len() > self.titles.len() {
            return Err(format!("it has {} fields, not {}", record.len(), self.titles.len()));
        }
        let field = |title: &str| self.place(title).and_then(|at| record.get(at)).filter(|text| !text.is_empty());
        let short = |title: &str| field(title).map(|text| text_of(title, text)).transpose();
        let (patient, group) = (short("patient")?, short("group")?);
        let study = match (field("study"), short("accession")?) {
            (Some(uid), None) => {
                let uid = Uid::parse(uid).map_err(|e| format!("study is no UID: {}", e.reason))?;
                Some(places.patients.get_key_value(&uid).ok_or("its study is not here; import it later")?.0.clone())
            }
            (None, Some(number)) => match places.by_number.get(number.as_str()).map(Vec::as_slice) {
                Some([study]) => Some((*study).clone()),
                Some(several) => {
                    return Err(format!("{} studies have its accession number; give the study", several.len()));
                }
                None => return Err("no study here has its accession number; import it later".into()),
            },
            (Some(_), Some(_)) => return Err("it has both study and accession; keep one".into()),
            (None, None) => None,
        };
        if let (Some(study), Some(patient)) = (&study, &patient)
            && places.patients.get(study).is_some_and(|((found, _), _)| *found != Some(patient.as_str()))
        {
            return Err("its study is of another patient".into());
        }
        if group.as_ref().is_some_and(|g| !self.groups.is_empty() && !self.groups.contains(g)) {
            return Err(format!("its group is none of those of the race model: {}", self.groups.join(", ")));
        }
        let mut outcomes = BTreeMap::new();
        for finding in self.findings {
            let value = match field(finding) {
                None => continue,
                Some("0") => false,
                Some("1") => true,
                Some(_) => return Err(format!("{finding} is neither 0 nor 1 nor empty")),
            };
            outcomes.insert(finding.clone(), value);
        }
        if study.is_none() && !outcomes.is_empty() {
            return Err("it has outcomes and names no study".into());
        }
        let whole = match (&study, &patient) {
            (Some(study), _) => places.patients.get(study).map(|(_, whole)| whole).ok_or("its study is not here")?,
            (None, Some(patient)) => places.of_patient(patient)?,
            (None, None) => return Err("it names neither study nor patient".into()),
        };
        if group.is_none() && outcomes.is_empty() {
            return Err("it says nothing: no group, no outcome".into());
        }
        Ok(LabelLine { line: 0, patient: whole.clone(), group, study, outcomes })
    }
}

/// Who and what is here.
struct Places<'a> {
    by_number: BTreeMap<&'a str, Vec<&'a Uid>>,
    /// Patient and issuer of each study, and all studies of that patient.
    patients: BTreeMap<Uid, (Identity<'a>, Arc<[Uid]>)>,
    by_patient: BTreeMap<Identity<'a>, Arc<[Uid]>>,
}

type Identity<'a> = (Option<&'a str>, Option<&'a str>);

impl<'a> Places<'a> {
    fn of(known: &'a [KnownStudy]) -> Self {
        let mut by_number: BTreeMap<&str, Vec<&Uid>> = BTreeMap::new();
        let mut by_patient: BTreeMap<Identity<'_>, Vec<Uid>> = BTreeMap::new();
        let identity = |one: &'a KnownStudy| (one.patient.as_deref(), one.issuer.as_deref());
        for one in known {
            if let Some(number) = &one.accession {
                by_number.entry(number).or_default().push(&one.study);
            }
            by_patient.entry(identity(one)).or_default().push(one.study.clone());
        }
        let by_patient: BTreeMap<Identity<'_>, Arc<[Uid]>> =
            by_patient.into_iter().map(|(identity, studies)| (identity, studies.into())).collect();
        // A study that names no patient stands for itself.
        let whole = |one: &'a KnownStudy| match one.patient {
            Some(_) => by_patient[&identity(one)].clone(),
            None => [one.study.clone()].into(),
        };
        let patients = known.iter().map(|one| (one.study.clone(), (identity(one), whole(one)))).collect();
        Self { by_number, patients, by_patient }
    }

    fn of_patient(&self, patient: &str) -> Result<&Arc<[Uid]>, String> {
        let mut identities = self.by_patient.iter().filter(|((id, _), _)| *id == Some(patient));
        match (identities.next(), identities.next()) {
            (Some((_, studies)), None) => Ok(studies),
            (Some(_), Some(_)) => Err("several issuers give its Patient ID; name the study".into()),
            (None, _) => Err("no study here is of its patient; import it later".into()),
        }
    }
}

/// Finds the lines that contradict each other, which become faults; all others agree on each study.
fn combine(lines: &[LabelLine], by_image: bool, labels: &mut Labels) {
    // By the first study of each patient.
    let mut groups: BTreeMap<&Uid, BTreeSet<&str>> = BTreeMap::new();
    let mut outcomes: BTreeMap<(&Uid, &str), BTreeSet<bool>> = BTreeMap::new();
    for line in lines {
        if let (Some(group), Some(first)) = (&line.group, line.patient.first()) {
            groups.entry(first).or_default().insert(group);
        }
        for (study, finding, value) in line.said() {
            outcomes.entry((study, finding)).or_default().insert(value);
        }
    }
    let contradiction = |line: &LabelLine| -> Option<String> {
        let several = |first| groups.get(first).is_some_and(|groups| groups.len() > 1);
        if line.group.is_some() && line.patient.first().is_some_and(several) {
            return Some("its patient has several self-reported groups in this file".into());
        }
        let (_, finding, _) = line.said().find(|(study, f, _)| !by_image && outcomes[&(*study, *f)].len() > 1)?;
        Some(format!("another line has another outcome of {finding} for its study"))
    };
    for line in lines {
        match contradiction(line) {
            Some(reason) => labels.faults.push(RowFault { line: line.line, reason }),
            None => {
                let whole = line.said().map(|(study, f, _)| (f.to_owned(), outcomes[&(study, f)].contains(&true)));
                labels.lines.push(LabelLine { outcomes: whole.collect(), ..line.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(rows: &[(&str, &str, &str, &str)]) -> Vec<KnownStudy> {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let one = |(study, accession, patient, issuer): &(&str, &str, &str, &str)| KnownStudy {
            study: Uid::parse(study).unwrap(),
            accession: some(accession),
            patient: some(patient),
            issuer: some(issuer),
        };
        rows.iter().map(one).collect()
    }

    fn read(text: &str) -> Result<Labels, String> {
        let known = known(&[
            ("1.1", "A1", "p1", ""),
            ("1.2", "A2", "p1", ""),
            ("1.3", "A3", "p2", ""),
            ("1.4", "A3", "p3", "x"),
            ("1.5", "A5", "p3", "y"),
            ("1.6", "A6", "", ""),
        ]);
        let keys = |keys: &[&str]| keys.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>();
        read_labels(text.as_bytes(), &keys(&["ptx", "effusion"]), &keys(&["A", "B"]), &known)
    }

    /// Study, group and outcomes as text, such as `1.1 A ptx+ effusion-`.
    fn shown(labels: &Labels) -> Vec<String> {
        let mut studies: BTreeMap<&Uid, StudyLabels> = BTreeMap::new();
        for line in &labels.lines {
            let group = |study| (study, line.group.clone());
            for (study, group) in line.patient.iter().map(group).filter(|(_, group)| group.is_some()) {
                studies.entry(study).or_default().group = group;
            }
            if let Some(study) = &line.study {
                studies.entry(study).or_default().outcomes.extend(line.outcomes.clone());
            }
        }
        let one = |(study, l): (&Uid, StudyLabels)| {
            let outcomes = l.outcomes.iter().map(|(f, v)| format!(" {f}{}", if *v { '+' } else { '-' }));
            format!("{study} {}{}", l.group.as_deref().unwrap_or("–"), outcomes.collect::<String>())
        };
        studies.into_iter().map(one).collect()
    }

    #[test]
    fn studies_are_found_by_uid_number_or_patient_and_groups_hold_for_all_of_a_patient() {
        let labels = read(
            "\u{feff}study,accession,patient,group,ptx,effusion,remark\n1.1,,p1,,1,0,x\n,A2,,A,0,,\n1.6,,,B,,,\n,,p2,B,,,\n",
        )
        .unwrap();
        assert_eq!(labels.faults, []);
        assert_eq!(labels.unused, ["remark"]);
        assert_eq!(shown(&labels), ["1.1 A effusion- ptx+", "1.2 A ptx-", "1.3 B", "1.6 B"]);
    }

    #[test]
    fn a_line_with_a_fault_says_why_and_tells_no_cell() {
        let rows = [
            ("1.9,,,A,1,", "its study is not here"),
            ("x,,,A,1,", "study is no UID"),
            (",A3,,A,1,", "2 studies have its accession number"),
            (",A9,,A,1,", "no study here has its accession number"),
            ("1.1,A1,,A,1,", "both study and accession"),
            ("1.1,,p2,A,1,", "its study is of another patient"),
            (",,p3,A,,", "several issuers give its Patient ID"),
            (",,p9,A,,", "no study here is of its patient"),
            (",,,A,,", "neither study nor patient"),
            (",,p1,,1,", "outcomes and names no study"),
            ("1.1,,,C,1,", "none of those of the race model: A, B"),
            ("1.1,,,A,yes,", "ptx is neither 0 nor 1 nor empty"),
            ("1.1,,,,,", "says nothing"),
            ("1.1,,,A,1,0,7,8", "8 fields, not 6"),
        ];
        for (row, reason) in rows {
            let labels = read(&format!("study,accession,patient,group,ptx,effusion\n{row}\n1.3,,,B,0,\n")).unwrap();
            let [fault] = labels.faults.as_slice() else { panic!("{row}: {:?}", labels.faults) };
            assert!(fault.line == 2 && fault.reason.contains(reason), "{row}: {fault:?}");
            assert_eq!(shown(&labels), ["1.3 B ptx-"], "{row}");
        }
        for (text, reason) in [
            ("group,ptx\nA,1\n", "lacks a column study, accession or patient"),
            ("study,other\n1.1,1\n", "lacks a column group, and one for a finding: ptx, effusion"),
            ("study,ptx,ptx\n1.1,1,1\n", "is there twice"),
        ] {
            assert!(read(text).unwrap_err().contains(reason), "{text}");
        }
    }

    #[test]
    fn lines_that_contradict_each_other_are_all_refused() {
        let labels = read("study,group,ptx\n1.1,A,1\n1.2,B,0\n1.3,A,1\n1.3,,0\n1.6,,1\n1.6,,1\n").unwrap();
        assert_eq!(shown(&labels), ["1.6 – ptx+"]);
        let lines: Vec<u64> = labels.faults.iter().map(|f| f.line).collect();
        assert_eq!(lines, [2, 3, 4, 5]);
        assert!(labels.faults[0].reason.contains("several self-reported groups"), "1.1 and 1.2 are of one patient");
        assert!(labels.faults[3].reason.contains("another outcome of ptx"));
        // One line for each image: the finding is there if any has it.
        let labels = read("study,instance,ptx\n1.3,9.1,0\n1.3,9.2,1\n").unwrap();
        assert_eq!((shown(&labels), labels.faults.len()), (vec!["1.3 – ptx+".to_owned()], 0));
    }
}
