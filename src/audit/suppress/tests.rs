//! The attacker: everything that is told becomes an equation, and linear programs say what each number may be.

use serde_json::json;

use super::super::dataset::{Base, Dataset};
use super::super::slice::{Dimension, Sliced};
use super::super::world::World;
use super::*;
use crate::stats::reference::answers_of;

const DIMENSIONS: [Dimension; 3] = [Dimension::Site, Dimension::Month, Dimension::AgeBand];

/// What an attacker knows, and what is true.
struct Attack {
    /// How many numbers there are.
    size: usize,
    equations: Vec<(Vec<(usize, i64)>, usize)>,
    /// Small numbers: their place, and their value.
    small: Vec<(usize, usize)>,
    told: usize,
    blocks: usize,
}

impl Attack {
    /// Four numbers of studies, by outcome and decision.
    fn block(&mut self, of: &Confusion) -> usize {
        let first = self.size;
        self.size += 4;
        for k in 0..4 {
            if (1..PATIENTS_MIN).contains(&patients(of, k)) {
                self.small.push((first + k, atom(of, k)));
            }
        }
        first
    }

    fn tell(&mut self, first: usize, of: &Confusion, told: Told) {
        let mut equation = |atoms: &[usize], sum: usize| {
            self.equations.push((atoms.iter().map(|k| (first + k, 1)).collect(), sum));
        };
        let atoms = [0, 1, 2, 3].map(|k| atom(of, k));
        if told.studies {
            equation(&[0, 1, 2, 3], atoms.iter().sum());
        }
        if told.events {
            equation(&[0, 1], atoms[0] + atoms[1]);
        }
        if told.misses {
            equation(&[0], atoms[0]);
        }
        if told.alarms {
            equation(&[2], atoms[2]);
        }
        self.blocks += 1;
        self.told += usize::from(told.studies) + usize::from(told.misses);
    }

    /// The whole is the sum of these.
    fn sum(&mut self, whole: usize, parts: &[usize]) {
        for k in 0..4 {
            let terms = parts.iter().map(|part| (part + k, 1)).chain([(whole + k, -1)]);
            self.equations.push((terms.collect(), 0));
        }
    }
}

/// `careful`: as the audit tells; otherwise small numbers alone are left out.
fn attack(dataset: &Dataset, careful: bool) -> Attack {
    let base = dataset.base(0);
    let count = dataset.groups.len() + 1;
    let never: Vec<bool> = (0..count).map(|g| g + 1 == count).collect();
    let lines = Lines::of(&base.rows, &|r| r.group, &never);
    let naive = |of: &Confusion| Told::of(STEPS.map(|step| !step.is_small(of)));
    let mut attack = Attack { size: 0, equations: Vec::new(), small: Vec::new(), told: 0, blocks: 0 };
    let all = counted_by(&base.rows, 1, |_| 0)[0];
    let whole = attack.block(&all);
    attack.tell(whole, &all, if careful { lines.whole() } else { naive(&all) });
    let of_group = counted_by(&base.rows, count, |r| r.group);
    let groups: Vec<usize> = of_group.iter().map(|of| attack.block(of)).collect();
    attack.sum(whole, &groups);
    for (g, of) in of_group.iter().enumerate().take(count - 1) {
        attack.tell(groups[g], of, if careful { lines.line(g) } else { naive(of) });
    }
    for dimension in DIMENSIONS {
        one(&mut attack, &base, &dataset.sliced(dimension, 0), (&lines, whole, &groups), careful);
    }
    attack
}

fn one(
    attack: &mut Attack,
    base: &Base,
    sliced: &Sliced,
    (lines, whole, groups): (&Lines, usize, &[usize]),
    careful: bool,
) {
    let (levels, count) = (sliced.levels.len(), groups.len());
    let naive = |of: &Confusion| Told::of(STEPS.map(|step| !step.is_small(of)));
    let table = table(&base.rows, lines, &|r| r.group, &|r| sliced.level[r.study], levels);
    let of_level = counted_by(&base.rows, levels, |r| sliced.level[r.study]);
    let cells = counted_by(&base.rows, count * levels, |r| r.group * levels + sliced.level[r.study]);
    let columns: Vec<usize> = of_level.iter().map(|of| attack.block(of)).collect();
    let inner: Vec<usize> = cells.iter().map(|of| attack.block(of)).collect();
    for (l, of) in of_level.iter().enumerate() {
        attack.tell(columns[l], of, if careful { table.columns.line(l) } else { naive(of) });
        attack.sum(columns[l], &(0..count).map(|g| inner[g * levels + l]).collect::<Vec<_>>());
    }
    attack.sum(whole, &columns);
    for (g, group) in groups.iter().enumerate() {
        attack.sum(*group, &inner[g * levels..(g + 1) * levels]);
        for l in 0..levels {
            let at = g * levels + l;
            assert!(!careful || g + 1 < count || table.cells[at] == Told::default(), "studies without a group");
            if g + 1 < count {
                attack.tell(inner[at], &cells[at], if careful { table.cells[at] } else { naive(&cells[at]) });
            }
        }
    }
}

/// Small numbers that the attacker knows, or knows to be small. Each is looked at, or at most `singly` of those about which
/// a common program says nothing.
fn exposed(attacks: &[Attack], singly: usize) -> Vec<Vec<String>> {
    let inputs: serde_json::Map<String, serde_json::Value> = attacks
        .iter()
        .enumerate()
        .map(|(i, a)| {
            let numbers: Vec<usize> = a.small.iter().map(|s| s.0).collect();
            // Of few patients with many studies the number itself is not to be known.
            let both: Vec<usize> = a.small.iter().filter(|s| s.1 >= PATIENTS_MIN).map(|s| s.0).collect();
            let given = json!({
                "size": a.size, "equations": a.equations, "numbers": numbers, "both": both, "enough": PATIENTS_MIN,
                "singly": singly,
            });
            (i.to_string(), json!({"of": "attack", "given": given}))
        })
        .collect();
    let answers = answers_of("audit.py", &serde_json::Value::Object(inputs));
    let one = |(i, attack): (usize, &Attack)| {
        let ranges = answers[i.to_string()].as_array().unwrap();
        let found = attack.small.iter().zip(ranges).filter_map(|((cell, value), range)| {
            // Not looked at: there were more than enough before it.
            let side = |at: usize| range[at].as_f64();
            let (least, most) = (side(0)?, side(1)?);
            let safe = most >= PATIENTS_MIN as f64 - 1e-6 && most - least >= 1.0 - 1e-6;
            (!safe).then(|| format!("number {cell} is {value}: {least} to {most}"))
        });
        found.collect()
    };
    attacks.iter().enumerate().map(one).collect()
}

fn worlds() -> Vec<Dataset> {
    let common = World { shares: vec![0.6, 0.3, 0.1], ..World::default() };
    let worlds = [
        World { patients: 1500, ..common.clone() },
        World { patients: 900, sites: 6, months: 6, labelled: 0.8, ..common.clone() },
        World { patients: 400, studies_most: 3, sites: 4, threshold: 0.1, ..common.clone() },
        World {
            patients: 2000,
            shares: vec![0.9, 0.06, 0.03, 0.01],
            mean: vec![-1.5; 4],
            shift: vec![0.0; 4],
            ..common.clone()
        },
        World { patients: 1000, labelled: 0.99, threshold: 0.6, months: 12, ..common.clone() },
        World { patients: 150, sites: 5, ..common.clone() },
        World { patients: 30, ..common.clone() },
        World { patients: 3000, sites: 9, months: 12, mean: vec![-4.0; 3], labelled: 0.95, ..common },
    ];
    worlds.iter().enumerate().map(|(seed, world)| world.dataset(seed as u64)).collect()
}

#[test]
fn no_small_number_can_be_had_from_all_tables_together() {
    let attacks: Vec<Attack> = worlds().iter().map(|dataset| attack(dataset, true)).collect();
    for ((at, attack), exposed) in attacks.iter().enumerate().zip(exposed(&attacks, usize::MAX >> 1)) {
        assert!(!attack.small.is_empty(), "world {at} has no small number");
        assert!(exposed.is_empty(), "world {at}: {} of {}: {exposed:#?}", exposed.len(), attack.small.len());
    }
    // Suppression that tells nothing would be safe too.
    let share = |at: usize| attacks[at].told as f64 / (2 * attacks[at].blocks) as f64;
    let shares: Vec<f64> = (0..attacks.len()).map(share).collect();
    println!("{shares:.2?}");
    assert!(shares[0] > 0.5, "{shares:.2?}");
}

#[test]
fn leaving_small_numbers_out_alone_does_not_stop_the_attacker() {
    let attacks: Vec<Attack> = worlds().iter().skip(5).take(1).map(|dataset| attack(dataset, false)).collect();
    assert!(exposed(&attacks, 10).iter().all(|exposed| !exposed.is_empty()));
}

#[test]
fn lines_with_small_totals_are_left_out_with_another() {
    let dataset = World { patients: 2000, shares: vec![0.6, 0.3965, 0.0035], ..World::default() }.dataset(3);
    let base = dataset.base(0);
    let lines = Lines::of(&base.rows, &|r| r.group, &[false, false, false, true]);
    let small = counted_by(&base.rows, 4, |r| r.group)[2].all.patients;
    assert!((1..PATIENTS_MIN).contains(&small), "{small}");
    assert_eq!(lines.line(2), Told::default());
    assert_eq!(lines.line(1), Told::default(), "the rest of all others would be the small one");
    assert!(lines.line(0).studies && lines.whole().studies);
    assert_eq!(lines.line(3), Told::default());
    let nobody = Lines::of(&[], &|_| 0, &[false, true]);
    assert!(nobody.whole().misses && nobody.line(0).misses, "nobody is no small number");
}
