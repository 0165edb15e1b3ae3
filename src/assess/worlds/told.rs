//! What is said of a study and to whom: abstentions by name, disclosure, the profile as a file and as text.

use super::*;

#[test]
fn every_precondition_is_named_when_it_fails() {
    let profile = BIASED.profile(16, 80);
    let settings = |per_study_inference, days: Option<u64>| RiskSettings {
        per_study_inference,
        profile_age_max: days.map(|d| Duration::from_secs(86_400 * d)),
        ..SETTINGS
    };
    let usual = settings(true, None);
    let race_ok = race(&[0.005, 0.99, 0.005]);
    let other_race = StudyScore { model: identity("other", Purpose::Race), ..race_ok.clone() };
    let broken = race(&[0.5, 0.8, 0.1]);
    let mut renamed = clinical(0.42);
    renamed.model.version = "2".into();
    let (mut moved, mut unknown) = (clinical(0.42), clinical(0.42));
    if let (ModelOutputs::Findings(m), ModelOutputs::Findings(u)) = (&mut moved.outputs, &mut unknown.outputs) {
        m[0].threshold = Probability::new(0.6).unwrap();
        u[0].key = "nodule".into();
    }
    let check = |race: Result<&StudyScore, IndReason>,
                 clinical: StudyScore,
                 profile: Option<&Profile>,
                 s,
                 level,
                 reasons: &[IndReason]| {
        let audit = identity("race", Purpose::Race);
        let input = AssessInput {
            audit: &audit,
            race,
            clinical: &[clinical],
            results: &[],
            upstream: &[],
            unknown: &[],
            prior: None,
        };
        let a = assess(&input, profile, &s, day(40)).unwrap().findings.remove(0);
        assert_eq!((a.level, a.reasons.as_slice()), (level, reasons));
        assert_eq!(a.spread.is_some(), level != Level::Indeterminate);
    };
    use IndReason::{Failed, NoCal, Off, Range, Scope, Stale};
    let (some, indeterminate, by_score) = (Some(&profile), Level::Indeterminate, Level::ScoreDependent);
    check(Ok(&race_ok), clinical(0.42), some, usual, Level::Elevated, &[]);
    check(Ok(&race_ok), clinical(0.42), None, usual, indeterminate, &[NoCal]);
    check(Ok(&race_ok), unknown, some, usual, indeterminate, &[NoCal]);
    check(Ok(&race_ok), renamed, some, usual, indeterminate, &[Stale]);
    check(Ok(&race_ok), moved, some, usual, indeterminate, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), some, settings(true, Some(39)), indeterminate, &[Stale]);
    // Another aggregation or calibration makes other scores of the same weights.
    let [race_key, clinical_key] =
        [("race", Purpose::Race), ("clinical", Purpose::Clinical)].map(|(n, p)| identity(n, p).key());
    let digest = |text: &str| crate::domain::Digest::of(text.as_bytes());
    let fitted =
        Profile { cards: [&race_key, &clinical_key].map(|k| (k.clone(), digest("then"))).into(), ..profile.clone() };
    let with =
        |profile: &Profile, key: &String, card: &str| profile.clone().for_cards(&[(key.clone(), digest(card))].into());
    check(Ok(&race_ok), clinical(0.42), Some(&with(&fitted, &clinical_key, "now")), usual, indeterminate, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), Some(&with(&fitted, &race_key, "now")), usual, by_score, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), Some(&with(&fitted, &clinical_key, "then")), usual, Level::Elevated, &[]);
    check(Ok(&race_ok), clinical(0.42), Some(&with(&profile, &clinical_key, "now")), usual, Level::Elevated, &[]);
    check(Ok(&race_ok), clinical(0.42), some, settings(true, Some(41)), Level::Elevated, &[]);
    // Old studies that were fitted again, and a profile of a time to come.
    let last_date = Some(day(-2).date_naive());
    let again = Profile {
        fitted_at: day(39),
        cohort: CohortDescription { last_date, ..profile.cohort.clone() },
        ..profile.clone()
    };
    let to_come = Profile { fitted_at: day(60), ..profile.clone() };
    for stale in [&again, &to_come] {
        check(Ok(&race_ok), clinical(0.42), Some(stale), settings(true, Some(41)), indeterminate, &[Stale]);
        check(Ok(&race_ok), clinical(0.42), Some(stale), usual, Level::Elevated, &[]);
    }
    check(Err(Failed), clinical(0.42), some, usual, by_score, &[Failed]);
    check(Err(Scope), clinical(0.42), some, usual, by_score, &[Scope]);
    check(Ok(&broken), clinical(0.42), some, usual, by_score, &[Failed]);
    check(Ok(&other_race), clinical(0.42), some, usual, by_score, &[Stale]);
    check(Ok(&race_ok), clinical(0.42), some, settings(false, None), by_score, &[Off]);
    check(Err(Failed), clinical(0.42), None, settings(false, None), indeterminate, &[NoCal, Off]);
    let far = assessed(&profile, 0.9999, &[0.005, 0.99, 0.005]);
    assert!(far.level == indeterminate && far.reasons.contains(&Range), "{:?}", far.reasons);
    let audit = identity("race", Purpose::Race);
    let drifting = AssessInput {
        audit: &audit,
        race: Err(IndReason::Failed),
        clinical: &[clinical(0.42)],
        results: &[],
        upstream: &[IndReason::Drift],
        unknown: &[],
        prior: None,
    };
    let a = assess(&drifting, some, &usual, day(1)).unwrap().findings.remove(0);
    assert_eq!((a.level, a.reasons), (indeterminate, vec![IndReason::Drift, Failed]));
    assert!(a.expected_error.is_none());
    // A clinical model that does not know such images has no statement; one that does has its own.
    for (unknown, expected) in [
        (identity("clinical", Purpose::Clinical).key(), vec![IndReason::Ood, Failed]),
        ("other@1#0".to_owned(), vec![Failed]),
    ] {
        let input = AssessInput { upstream: &[], unknown: &[unknown], ..drifting };
        let a = assess(&input, some, &usual, day(1)).unwrap().findings.remove(0);
        assert_eq!(a.reasons, expected);
        assert_eq!(a.level == indeterminate, expected.contains(&IndReason::Ood));
    }
    // A profile holds for posteriors under the mix that it was fitted under, and says nothing of individuals else.
    let race_ok = race(&[0.9, 0.05, 0.05]);
    let (mix, other) = (Digest::of(b"mix"), Digest::of(b"other mix"));
    let reweighed = Profile { race_prior: Some(mix.clone()), ..profile.clone() };
    for (profile, prior, stale) in [
        (&profile, None, false),
        (&profile, Some(&mix), true),
        (&reweighed, Some(&mix), false),
        (&reweighed, Some(&other), true),
        (&reweighed, None, true),
    ] {
        let input = AssessInput { race: Ok(&race_ok), upstream: &[], prior, ..drifting };
        let a = assess(&input, Some(profile), &usual, day(1)).unwrap().findings.remove(0);
        assert_eq!(a.reasons.contains(&Stale), stale, "{prior:?} {:?}", a.reasons);
    }
    let impossible = AssessInput { clinical: &[clinical(f64::NAN)], ..drifting };
    assert!(assess(&impossible, some, &usual, day(1)).is_err());
}

#[test]
fn a_posterior_where_the_cohort_has_none_says_nothing_of_the_individual() {
    let profile = BIASED.profile(22, 80);
    // A limit from 2,400 patients has a standard error of .15 points of coverage, a fresh cohort as much again.
    let beyond = |seed: u64| {
        let fresh = assessed_cohort(&BIASED, 100 + seed, &BIASED.profile(seed, 50));
        share(&fresh, |a| a.reasons.contains(&IndReason::Ood))
    };
    let mean = (22..28).map(beyond).sum::<f64>() / 6.0;
    assert!((0.0015..0.0085).contains(&mean), "{mean}, .005 ± 4 standard errors were expected");
    // Torn between two groups without a thought of the third, far between all centres.
    let torn = [0.5, 0.5 - 1e-6, 1e-6];
    let a = assessed(&profile, 0.42, &torn);
    assert_eq!((a.level, a.reasons.as_slice()), (Level::ScoreDependent, [IndReason::Ood].as_slice()));
    assert!(a.spread.is_some() && a.disclosed.is_none());
    // A withheld destination cannot tell it from a study whose posterior the cohort knows.
    let usual = assessed(&profile, 0.42, &[0.005, 0.99, 0.005]);
    assert_eq!(usual.level, Level::Elevated);
    let seen = |a| released(&a, Disclosure::Withheld, DELTA);
    assert_eq!(seen(a), seen(usual));
}

#[test]
fn level_two_is_never_told_where_groups_are_withheld() {
    let profile = BIASED.profile(17, 80);
    let elevated = profile.findings[0].elevated.iter().find(|e| e.direction == Direction::Miss).unwrap();
    assert!(elevated.patients.unwrap() >= 11, "{elevated:?}");
    // The level is what R alone says: nothing in it comes from the posterior.
    let mut finding = assessed(&profile, 0.3, &[0.2, 0.6, 0.2]);
    finding.level = Level::Elevated;
    finding.expected_error = Some(Interval { estimate: 0.3, lower: 0.2, upper: 0.4 });
    let mut check = |lower: f64, upper: f64, disclosure, expected: Level, reason: Option<IndReason>| {
        finding.spread = Some(Interval { estimate: (lower + upper) / 2.0, lower, upper });
        finding.reasons.clear();
        let seen = released(&finding, disclosure, DELTA);
        assert_eq!((seen.level, seen.reasons.first().copied()), (expected, reason), "{lower} {upper}");
        assert_eq!(seen.spread.is_some(), expected != Level::Indeterminate);
        assert_eq!(seen.disclosed.is_some(), disclosure == Disclosure::Probabilities && finding.disclosed.is_some());
    };
    check(0.06, 0.3, Disclosure::Withheld, Level::ScoreDependent, None);
    check(0.01, 0.04, Disclosure::Withheld, Level::NotElevated, None);
    check(0.01, 0.3, Disclosure::Withheld, Level::Indeterminate, Some(IndReason::Wide));
    check(0.01, 1.0, Disclosure::Withheld, Level::Indeterminate, Some(IndReason::Cells));
    check(0.01, 0.3, Disclosure::Probabilities, Level::Elevated, None);
}

#[test]
fn a_withheld_level_is_the_same_for_every_posterior() {
    let profile = BIASED.profile(24, 60);
    let posteriors =
        [[0.99, 0.005, 0.005], [0.005, 0.99, 0.005], [0.005, 0.005, 0.99], [0.34, 0.33, 0.33], [0.6, 0.3, 0.1]];
    let mut levels = std::collections::BTreeSet::new();
    for k in 1..100 {
        let score = f64::from(k) / 100.0;
        let told: Vec<String> = posteriors
            .iter()
            .map(|p| released(&assessed(&profile, score, p), Disclosure::Withheld, DELTA))
            .inspect(|a| {
                levels.insert(a.level);
            })
            .map(|a| serde_json::to_string(&a).unwrap())
            .collect();
        assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "score {score}: {told:#?}");
    }
    assert!(levels.contains(&Level::ScoreDependent) && !levels.contains(&Level::Elevated), "{levels:?}");
    // The posterior does matter to those who may know: it makes level 2 of level 1.
    assert_eq!(assessed(&profile, 0.42, &posteriors[1]).level, Level::Elevated);
}

#[test]
fn a_profile_survives_its_file_and_does_not_depend_on_the_order_of_rows() {
    let world = World { patients: 1200, studies: 2, ..BIASED };
    let mut cohort = world.cohort(18);
    let profile = fit(&cohort, &options(18, 60)).unwrap();
    let bytes = profile.to_json();
    assert_eq!(Profile::parse(&bytes).unwrap(), profile);
    assert_eq!(profile.cohort.studies, 2 * profile.cohort.patients);
    cohort.rows.reverse();
    assert_eq!(fit(&cohort, &options(18, 60)).unwrap().id, profile.id);
    assert_ne!(fit(&cohort, &options(19, 60)).unwrap().id, profile.id);

    // As many draws of as many findings as are allowed are more than a node reads.
    let mut large = Profile { bootstrap: 10_000, ..profile.clone() };
    let draws = &mut large.findings[0].curves.as_mut().unwrap().draws;
    *draws = draws.iter().cycle().take(10_000).cloned().collect();
    let named = |k| FindingProfile { finding: format!("finding-{k}"), ..large.findings[0].clone() };
    large.findings = (0..16).map(named).collect();
    assert!(large.refusal().unwrap().contains("take fewer draws") && profile.refusal().is_none());

    let text = String::from_utf8(bytes).unwrap();
    let first_draw = text.split("\"draws\": [").nth(1).unwrap().trim_start().split('\n').next().unwrap();
    let check = |from: &str, to: &str, message: &str| {
        assert!(text.contains(from), "{from}");
        let error = Profile::parse(text.replacen(from, to, 1).as_bytes()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check("\"format\": 2", "\"format\": 1", "format 1");
    check("\"site\": \"a world\"", "\"site\": \"another\"", "was edited");
    check("\"threshold\": 0.5", "\"threshold\": 1.5", "threshold");
    check("\"bootstrap\": 60", "\"bootstrap\": 1000000000", "bootstrap");
    check("\"site\"", "\"sight\"", "unknown field");
    for name in ["\\u001b[2J", "\\u009b2J", "\\u202e", &"x".repeat(1001)] {
        check("a world", name, "hides characters");
        check("\"pneumothorax\"", &format!("\"{name}\""), "hides characters");
    }
    check(first_draw, "\"1 2 3\",", "parameter vector");
    check(first_draw, "\"1 inf\",", "finite numbers");
    check("\"admitted\": true", "\"admitted\": false", "inconsistent");
    check("\"scale\": 1.", "\"scale\": 0.00000001", "score scale");
    check("\"z_low\": -", "\"z_low\": ", "score scale");
    assert!(Profile::parse(&vec![b' '; Profile::BYTES_MAX + 1]).unwrap_err().to_string().contains("bytes"));
}

#[test]
fn no_small_number_of_patients_is_in_a_profile() {
    let mut cohort = World { patients: 900, ..NULL }.cohort(21);
    let mut left = 5;
    cohort.rows.retain(|row| {
        left -= i32::from(row.group == "A");
        row.group != "A" || left >= 0
    });
    cohort.rows.iter_mut().take(7).for_each(|row| row.view = "AP".into());
    let profile = fit(&cohort, &options(21, 60)).unwrap();
    let finding = &profile.findings[0];
    assert_eq!((finding.groups[0].patients, finding.groups[0].events, finding.groups[0].z_range), (None, None, None));
    // The smaller of the others would tell it, with the number of all studies.
    let told = |counts: Vec<Option<usize>>| counts.into_iter().flatten().count();
    assert_eq!(told(finding.groups.iter().map(|g| g.patients).collect()), 1);
    assert_eq!(told(finding.groups.iter().map(|g| g.events).collect()), 1);
    assert_eq!(
        (told(profile.cohort.group_patients.clone()), told(profile.cohort.views.into_values().collect())),
        (1, 0)
    );
    assert_eq!(finding.groups[1].admitted, finding.groups[2].admitted);
}

#[test]
fn a_summary_shows_what_the_profile_says() {
    let profile = BIASED.profile(20, 60);
    let text = render(&profile);
    for part in [
        "pneumothorax",
        "flags enabled",
        "  admitted",
        "race model here: AUC A 0.9",
        "RDER-ELEV",
        "false alarm",
        "miss",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let json = serde_json::to_value(summary(&profile)).unwrap();
    assert_eq!(json["findings"][0]["table"].as_array().unwrap().len(), 9);
    assert!(json.to_string().len() < 20_000);
}

#[test]
fn cohorts_that_make_no_sense_are_refused() {
    let good = World { patients: 600, ..NULL }.cohort(21);
    let check = |change: &dyn Fn(&mut Cohort), bootstrap, message: &str| {
        let mut cohort = good.clone();
        change(&mut cohort);
        let error = fit(&cohort, &options(1, bootstrap)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    };
    check(&|c| c.rows.clear(), 60, "no rows");
    check(&|c| c.rows[3].score = 1.5, 60, "score");
    check(&|c| c.rows[3].group = "D".into(), 60, "group");
    check(&|c| c.rows[3].posteriors = Some(vec![0.5, 0.5]), 60, "posteriors");
    check(&|c| c.groups.truncate(1), 60, "groups");
    check(&|c| c.findings.push(c.findings[0].clone()), 60, "findings");
    check(&|c| c.findings[0].threshold = f64::NAN, 60, "threshold");
    check(&|_| (), 3, "bootstrap");
    check(&|c| c.rows[3].view = "\u{1b}[2J".into(), 60, "hides characters");
}

#[test]
fn a_result_from_elsewhere_counts_as_any_score_and_without_one_is_indeterminate() {
    let profile = BIASED.profile(16, 80);
    let (audit, scored) = (identity("race", Purpose::Race), clinical(0.42));
    let ModelOutputs::Findings(findings) = &scored.outputs else { panic!("a clinical model has findings") };
    let given = |given: Given| {
        let result = StudyResult {
            model: scored.model.clone(),
            findings: vec![(findings[0].clone(), given)],
            images: scored.images.clone(),
        };
        let race = Err(IndReason::Failed);
        let input = AssessInput {
            audit: &audit,
            race,
            clinical: &[],
            results: &[result],
            upstream: &[],
            unknown: &[],
            prior: None,
        };
        assess(&input, Some(&profile), &SETTINGS, day(1)).unwrap().findings.remove(0)
    };
    let race = Err(IndReason::Failed);
    let clinical = [scored.clone()];
    let input = AssessInput {
        audit: &audit,
        race,
        clinical: &clinical,
        results: &[],
        upstream: &[],
        unknown: &[],
        prior: None,
    };
    let here = assess(&input, Some(&profile), &SETTINGS, day(1)).unwrap().findings.remove(0);
    assert_eq!(given(Given::Score(Probability::new(0.42).unwrap())), here);
    for (given, positive, reason) in [
        (given(Given::Label { positive: true }), Some(true), IndReason::NoCal),
        (given(Given::Absent(IndReason::Conflict)), None, IndReason::Conflict),
    ] {
        assert_eq!((given.level, given.reasons.as_slice()), (Level::Indeterminate, &[reason][..]));
        assert_eq!((given.score, given.positive, given.direction), (None, positive, None));
        assert!(given.expected_error.is_none() && given.spread.is_none() && given.disclosed.is_none());
    }
}

#[test]
fn diagnostics_of_a_fit_are_the_same_bytes_and_show_what_was_planted() {
    let cohort = BIASED.cohort(41);
    let profile = fit(&cohort, &options(41, 80)).unwrap();
    let files = diagnostics(&cohort, &profile);
    assert_eq!(files, diagnostics(&cohort, &profile));
    let names: Vec<&str> = files.iter().map(|f| f.name.as_str()).collect();
    assert_eq!(names, ["calibration.csv", "diagnostics.md", "01-pneumothorax.svg"]);
    let text = |i: usize| std::str::from_utf8(&files[i].bytes).unwrap();
    let rows: Vec<Vec<&str>> = text(0).lines().skip(1).map(|line| line.split(',').collect()).collect();
    assert!(rows.len() >= 24, "eight bins of each group or more: {}", rows.len());
    // The isotonic fit, which knows of no curve, lies in the simultaneous band nearly everywhere.
    let number = |row: &[&str], i: usize| row[i].parse::<f64>().unwrap();
    let outside = rows.iter().filter(|r| number(r, 10) < number(r, 12) || number(r, 10) > number(r, 13)).count();
    assert!(outside * 5 <= rows.len(), "{outside} of {}", rows.len());
    // Group B's share is the larger at the same score.
    let near = |group: &str| {
        let own = rows.iter().filter(|r| r[1] == group);
        own.min_by(|a, b| (number(a, 6) - 0.4).abs().total_cmp(&(number(b, 6) - 0.4).abs())).map(|r| number(r, 11))
    };
    assert!(near("B") > near("A").map(|v| v + 0.1), "{:?} {:?}", near("B"), near("A"));
    assert!(text(1).contains("flags enabled") && text(1).contains("![calibration by group](01-pneumothorax.svg)"));
    let svg = text(2);
    // Lines and markers stand in the legend too.
    assert_eq!((svg.matches("<polyline").count(), svg.matches("<polygon").count()), (6, 3));
    assert_eq!(svg.matches("stroke=\"white\"").count(), rows.len() + 3);
    assert!(!svg.contains("href") && !text(0).contains("p00"), "nothing beside it, nobody in it");
}

#[test]
fn a_diff_says_who_what_and_where() {
    let (old, new) = (NULL.profile(3, 80), BIASED.profile(43, 80));
    let same = diff(&old, &old);
    assert!(same.findings[0].levels.is_empty() && same.findings[0].curves.iter().all(|c| !c.moved.apart));
    let changed = diff(&old, &new);
    let finding = &changed.findings[0];
    let curve = |group: &str| finding.curves.iter().find(|c| c.group == group).unwrap().moved;
    assert!(curve("B").apart && (curve("B").new.estimate - curve("B").old.estimate).abs() > 0.15, "{finding:?}");
    assert!(!curve("A").apart, "{:?}", curve("A"));
    assert_eq!(
        (finding.old.as_ref().unwrap().gate.unwrap().1, finding.new.as_ref().unwrap().gate.unwrap().1),
        (false, true)
    );
    assert!(finding.levels.iter().any(|l| l.new == "RDER-ELEV"), "{:?}", finding.levels);
    // Runs of scores ascend and do not overlap.
    assert!(finding.levels.windows(2).all(|w| w[0].from <= w[0].to && w[0].to < w[1].from));
    let text = render_diff(&changed);
    for part in ["flags disabled → p", "bands apart", "scores that change their level", "self-reported B", &new.id] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let other = Profile { findings: Vec::new(), ..new.clone() };
    assert!(render_diff(&diff(&old, &other)).contains("only in the old profile"));
}

#[test]
fn every_way_of_being_stale_is_told() {
    let profile = BIASED.profile(44, 60);
    let key = |name, purpose| identity(name, purpose).key();
    let fitting = Deployed {
        findings: vec![("pneumothorax".into(), key("clinical", Purpose::Clinical), 0.5)],
        race_model: Some(key("race", Purpose::Race)),
        ..Deployed::default()
    };
    let with_cards = Profile {
        cards: [("clinical", Purpose::Clinical), ("race", Purpose::Race)]
            .map(|(n, p)| (key(n, p), Digest::of(b"then")))
            .into(),
        ..profile.clone()
    };
    let check = |profile: &Profile, deployed: &Deployed, settings: RiskSettings, expected: &[&str]| {
        let found = misfits(profile, deployed, &settings, day(40));
        let texts: Vec<&str> = found.iter().map(|m| m.text.as_str()).collect();
        assert_eq!(texts.len(), expected.len(), "{texts:?}");
        assert!(texts.iter().zip(expected).all(|(t, e)| t.contains(e)), "{texts:?}");
    };
    let aged = RiskSettings { profile_age_max: Some(Duration::from_secs(39 * 86_400)), ..SETTINGS };
    let of = |findings: &[(&str, &str, f64)]| Deployed {
        findings: findings.iter().map(|(f, m, t)| ((*f).into(), (*m).into(), *t)).collect(),
        ..fitting.clone()
    };
    let own = key("clinical", Purpose::Clinical);
    check(&profile, &fitting, SETTINGS, &[]);
    check(&profile, &fitting, aged, &["knows of nothing after 2023-11-14, 40 days ago"]);
    check(&profile, &of(&[("pneumothorax", "other@1#0", 0.5)]), SETTINGS, &["other@1#0 is deployed"]);
    check(
        &profile,
        &of(&[("pneumothorax", &own, 0.6)]),
        SETTINGS,
        &["with threshold 0.5, the model's is another, 0.6"],
    );
    let two = of(&[("pneumothorax", &own, 0.5), ("nodule", &own, 0.5)]);
    check(&profile, &two, SETTINGS, &["knows nothing of nodule"]);
    check(&profile, &of(&[("nodule", &own, 0.5)]), SETTINGS, &["does not give any more", "knows nothing of nodule"]);
    check(&profile, &of(&[]), SETTINGS, &["which is not configured"]);
    let now = Deployed { cards: [(own.clone(), Digest::of(b"now"))].into(), ..fitting.clone() };
    check(&with_cards, &now, SETTINGS, &["with another card of"]);
    let race = Deployed { cards: [(key("race", Purpose::Race), Digest::of(b"now"))].into(), ..fitting.clone() };
    check(&with_cards, &race, SETTINGS, &["another card of the race model"]);
    check(&with_cards, &race, RiskSettings { per_study_inference: false, ..SETTINGS }, &[]);
    let stranger = Deployed { race_model: Some("race@2#0".into()), ..fitting.clone() };
    check(&profile, &stranger, SETTINGS, &["which is not configured: fit it again"]);
    check(&Profile { race_model: None, ..profile.clone() }, &fitting, SETTINGS, &["without race posteriors"]);
    let reweighed = Deployed { race_prior: Some(Digest::of(b"mix")), ..fitting.clone() };
    check(&profile, &reweighed, SETTINGS, &["another models.race_prior"]);
}
