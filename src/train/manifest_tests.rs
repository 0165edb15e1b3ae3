//! Tests of `manifest`: tables as sites have them, and what is wrong with some.

use super::*;
use crate::train::recipe::{SplitRecipe, fixtures};
use crate::train::split;

const RECIPE: &str = r#"
name = "toy"
version = "0.1.0"
manufacturer = "Example Imaging"
purpose = "race"
seed = 3
[data]
manifest = "table.csv"
[[output.groups]]
key = "Black"
code = "2054-5"
[[output.groups]]
key = "White"
code = "2106-3"
"#;

fn read(recipe: &str, table: &str) -> anyhow::Result<Manifest> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("table.csv"), table).unwrap();
    let recipe = fixtures::recipe_in(dir.path(), &[recipe, fixtures::TOY, fixtures::CARD].concat()).unwrap();
    Manifest::read(recipe.data.manifest.as_ref().unwrap(), Path::new("/images"), &recipe)
}

fn reasons(manifest: &Manifest) -> Vec<(usize, &str)> {
    manifest.rejected.iter().map(|r| (r.line, r.reason.as_str())).collect()
}

#[test]
fn a_patient_with_two_groups_is_dropped_and_every_row_that_is_not_used_is_named() {
    let table = "file,patient,group\na.png,P1,Black\nb.png,P2,White\nc.png,P2,Black\nd.png,P3,White\ne.png,P3,\n\
                 f.png,P4,Other\ng.png,,White\nh.png,P1,Black\n";
    let manifest = read(RECIPE, table).unwrap();
    let used: Vec<_> = manifest.rows.iter().map(|r| (r.file.to_str().unwrap(), r.sample.patient.as_str())).collect();
    assert_eq!(used, [("/images/a.png", "P1"), ("/images/d.png", "P3"), ("/images/h.png", "P1")]);
    let two = "the patient has more than one group";
    let other = "a group that the recipe does not have";
    assert_eq!(reasons(&manifest), [(3, two), (4, two), (6, "no group"), (7, other), (8, "no patient")]);
    // Without a column for it, each file is a study.
    assert_ne!(manifest.rows[0].sample.study, manifest.rows[2].sample.study);

    let dir = tempfile::tempdir().unwrap();
    write_rejected(&dir.path().join("rejected.csv"), &manifest.rejected).unwrap();
    let written = std::fs::read_to_string(dir.path().join("rejected.csv")).unwrap();
    assert!(written.starts_with("line,file,reason\n3,b.png,the patient has more than one group\n"), "{written}");
}

#[test]
fn columns_and_groups_are_called_what_the_recipe_says() {
    let names = "columns = { file = \"path\", patient = \"subject_id\", group = \"race\", study = \"study_id\" }\n\
                 group_names = { \"BLACK/AFRICAN AMERICAN\" = \"Black\", \"WHITE\" = \"White\" }";
    let recipe = RECIPE.replace("manifest =", &format!("{names}\nmanifest ="));
    let table =
        "path,subject_id,study_id,race\na.jpg,1,s1,WHITE\nb.jpg,1,s1,WHITE\nc.jpg,2,s2,BLACK/AFRICAN AMERICAN\n";
    let manifest = read(&recipe, table).unwrap();
    let of = |i: usize| (manifest.rows[i].sample.study.as_str(), manifest.rows[i].sample.target.clone());
    assert_eq!([of(0), of(1), of(2)], [("s1", Target::Group(1)), ("s1", Target::Group(1)), ("s2", Target::Group(0))]);
}

#[test]
fn given_parts_are_used_and_nobody_may_be_in_two() {
    let table = |second: &str| {
        format!("file,patient,group,split\na.png,P1,Black,train\nb.png,P1,Black,{second}\nc.png,P2,White,test\n")
    };
    let samples: Vec<Sample> = read(RECIPE, &table("train")).unwrap().rows.into_iter().map(|r| r.sample).collect();
    let split = split::by_patient(&samples, SplitRecipe::default(), 1);
    assert_eq!((split.train, split.validation, split.test), (vec![0, 1], vec![], vec![2]));
    let check = |second: &str, expected: &str| {
        let error = format!("{:#}", read(RECIPE, &table(second)).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    check("test", "/images/a.png and /images/b.png are of one patient, but in different parts");
    check("", "2 of 3 rows name their part");
    check("holdout", "line 3: split is \"holdout\", train, validation or test is possible");
}

#[test]
fn faults_of_a_table_are_named() {
    let check = |table: &str, expected: &str| {
        let error = format!("{:#}", read(RECIPE, table).unwrap_err());
        assert!(error.contains(expected), "{error}");
    };
    check("file,subject,group\na,1,White\n", "there is no column patient; data.columns says");
    check("file,patient,group\na,1,White\na,1,White\n", "line 3: a is listed twice");
    check("file,patient,group\n,1,White\n", "line 2: column file is empty");
    check("file,patient,group\na,1,Green\n", "no row fits");
    check("file,patient,group\na,1\n", "table.csv");
    let clinical = RECIPE.replace("\"race\"", "\"clinical\"").replace(
        "[[output.groups]]\nkey = \"Black\"\ncode = \"2054-5\"\n[[output.groups]]\nkey = \"White\"\ncode = \"2106-3\"",
        "[[output.findings]]\nkey = \"mass\"\nthreshold = \"youden\"\ncode = { value = \"4147007\", scheme = \"SCT\", meaning = \"Mass\" }",
    );
    let said = |table: &str| format!("{:#}", read(&clinical, table).unwrap_err());
    assert!(said("file,patient\na,1\n").contains("there is no column mass for this finding"));
    assert!(said("file,patient,mass\na,1,2\n").contains("line 2: mass is \"2\", 0, 1 or nothing is possible"));
    // A finding's model keeps patients with two groups; their group is not known.
    let manifest = read(&clinical, "file,patient,mass,group\na,1,1,White\nb,1,0,Black\nc,2,,White\n").unwrap();
    let groups: Vec<_> = manifest.rows.iter().map(|r| r.sample.group.as_str()).collect();
    assert_eq!(groups, ["", "", "White"]);
    assert_eq!(manifest.rows[2].sample.target, Target::Findings(vec![None]));

    // What images of one study say of it must agree; the same name is another study of another patient.
    let table =
        "file,patient,study,mass\na,1,study1,1\nb,2,study1,0\nc,3,study1,1\nd,3,study1,0\ne,3,study2,0\nf,1,study1,\n";
    let manifest = read(&clinical, table).unwrap();
    let used: Vec<_> = manifest.rows.iter().map(|r| r.file.to_str().unwrap()).collect();
    assert_eq!(used, ["/images/a", "/images/b", "/images/e", "/images/f"]);
    let contradict = "the study's rows contradict one another about a finding";
    assert_eq!(reasons(&manifest), [(4, contradict), (5, contradict)]);
}
