//! Tests of the worlds with a group signal in one place: it is there, and nowhere else.

use rustfft::FftPlanner;
use rustfft::num_complex::Complex32;

use super::super::patient::Patient;
use super::super::{Canvas, PhantomOptions, Projection, Textures, World, canvas, generate, picture};

const SIDE: u32 = 320;

struct Set {
    options: PhantomOptions,
    textures: Textures,
}

impl Set {
    fn of(world: &str) -> Self {
        let options = PhantomOptions { size: (SIDE, SIDE), ..PhantomOptions::new(World::named(world).unwrap(), 1, 21) };
        let (rows, cols) = (options.size.0 as usize, options.size.1 as usize);
        Self { textures: Textures::new(rows, cols, canvas::FIELD_HEIGHT_MM / rows as f64), options }
    }

    fn patient(&self, number: u32) -> Patient {
        Patient::draw(&self.options.world, self.options.seed, number, 0.3)
    }

    /// As it is stored, 0..1.
    fn stored(&self, patient: &Patient, projection: Projection) -> Vec<f32> {
        let canvas: Canvas = picture(patient, projection, &self.options, &self.textures);
        canvas.values.iter().map(|v| v.clamp(0.0, 1.0).powf(patient.device.gamma as f32)).collect()
    }

    /// The same patient as of another group, less as of the first one.
    fn difference(&self, number: u32, projection: Projection, group: usize) -> (Vec<f32>, Vec<f32>) {
        let patient = self.patient(number);
        let of = |group: usize| self.stored(&Patient { group, ..patient.clone() }, projection);
        let (first, other) = (of(0), of(group));
        let apart = other.iter().zip(&first).map(|(a, b)| a - b).collect();
        (first, apart)
    }
}

fn energy(values: &[f32]) -> f64 {
    values.iter().map(|v| f64::from(*v).powi(2)).sum()
}

/// Share of the power whose distance from the mean, in cycles per side, is in the range.
fn share_of_frequencies(values: &[f32], range: std::ops::Range<f64>) -> f64 {
    let n = SIDE as usize;
    let fft = FftPlanner::new().plan_fft_forward(n);
    let mut wave: Vec<Complex32> = values.iter().map(|v| Complex32::new(*v, 0.0)).collect();
    fft.process(&mut wave);
    let mut turned: Vec<Complex32> = (0..n * n).map(|i| wave[i % n * n + i / n]).collect();
    fft.process(&mut turned);
    let cycles = |k: usize| if k > n / 2 { k as f64 - n as f64 } else { k as f64 };
    let (mut within, mut all) = (0.0, 0.0);
    for (i, value) in turned.iter().enumerate() {
        let power = f64::from(value.norm_sqr());
        all += power;
        if range.contains(&cycles(i / n).hypot(cycles(i % n))) {
            within += power;
        }
    }
    within / all
}

/// What the same patient's pictures differ by, were it of another group.
fn check(world: &str, check: impl Fn(&[f32], &[f32])) {
    let set = Set::of(world);
    for number in 1..=5 {
        for (projection, group) in [(Projection::Pa, 1), (Projection::Pa, 2), (Projection::Lateral, 1)] {
            let (first, apart) = set.difference(number, projection, group);
            // Root mean square of 3e-4 of the range: a wave of 1 % amplitude over 1/20 of the picture.
            assert!(energy(&apart) > 9e-8 * apart.len() as f64, "{world}: groups look alike");
            check(&first, &apart);
        }
    }
}

#[test]
fn the_low_frequency_world_differs_below_ten_cycles_alone() {
    check("low-frequency", |_, apart| {
        let share = share_of_frequencies(apart, 0.0..10.0);
        assert!(share > 0.9999, "{share}");
    });
}

#[test]
fn the_high_frequency_world_differs_above_sixty_cycles_alone() {
    check("high-frequency", |_, apart| {
        let share = share_of_frequencies(apart, 60.0..1e3);
        assert!(share > 0.9999, "{share}");
    });
}

#[test]
fn the_one_patch_world_differs_in_its_cell_alone() {
    check("one-patch", |_, apart| {
        let side = SIDE as usize;
        let within =
            |at: usize| [at / side, at % side].iter().all(|place| (side / 3 + 1..2 * side / 3).contains(place));
        // The same but for the rounding of powers there and back.
        assert!(apart.iter().enumerate().all(|(at, v)| within(at) || v.abs() < 1e-6));
    });
}

#[test]
fn the_bone_bright_world_differs_where_it_is_bright_and_stays_so() {
    let plain = Set::of("null");
    let set = Set::of("bone-bright");
    for number in 1..=5 {
        // Signals take no random numbers: but for them pictures are those of the null world.
        let drawn = plain.stored(&plain.patient(number), Projection::Pa);
        for group in 0..3 {
            let seen = set.stored(&Patient { group, ..set.patient(number) }, Projection::Pa);
            for (seen, drawn) in seen.iter().zip(&drawn) {
                assert!((seen.min(0.62) - drawn.min(0.62)).abs() < 1e-6, "{seen} {drawn}");
                assert!(*drawn > 0.65 || (seen - drawn).abs() < 1e-6, "{seen} {drawn}");
            }
        }
    }
    check("bone-bright", |_, _| ());
}

#[test]
fn the_habitus_world_differs_by_body_mass_index_alone() {
    let set = Set::of("habitus");
    for number in 1..=3 {
        for projection in [Projection::Pa, Projection::Lateral] {
            let (_, apart) = set.difference(number, projection, 1);
            assert!(apart.iter().all(|v| *v == 0.0), "of one habitus all groups look alike");
            let slim = set.patient(number);
            let heavy = Patient { bmi: slim.bmi.map(|bmi| bmi + 8.0), ..slim.clone() };
            let [slim, heavy] = [slim, heavy].map(|patient| set.stored(&patient, projection).iter().sum::<f32>());
            assert!(heavy > 1.03 * slim, "{heavy} {slim}");
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let columns = |world: &str| {
        let options = PhantomOptions { size: (64, 64), patients: 150, ..Set::of("null").options };
        let options = PhantomOptions { world: World::named(world).unwrap(), ..options };
        let labels = generate(&options, &dir.path().join(world), &|_, _| {}).unwrap().labels;
        let mut table = csv::Reader::from_path(labels).unwrap();
        let rows: Vec<super::super::Label> = table.deserialize().collect::<Result<_, _>>().unwrap();
        (table.headers().unwrap().iter().any(|name| name == "bmi"), rows)
    };
    let (has_bmi, rows) = columns("null");
    assert!(!has_bmi && rows.iter().all(|row| row.bmi.is_none()));
    let (has_bmi, rows) = columns("habitus");
    assert!(has_bmi);
    for group in &World::named("habitus").unwrap().groups {
        let own: Vec<f64> = rows.iter().filter(|row| row.group == group.group).filter_map(|row| row.bmi).collect();
        let (mean, planted) = (own.iter().sum::<f64>() / own.len() as f64, group.bmi.unwrap());
        // Five standard errors of some 50 patients.
        assert!((mean - planted.mean).abs() < 5.0 * planted.sd / 30f64.sqrt(), "{}: {mean}", group.group);
    }
}

/// Probability that a value of `a` exceeds one of `b`.
fn auc(a: &[f64], b: &[f64]) -> f64 {
    let wins = a.iter().flat_map(|x| b.iter().map(move |y| f64::from(u8::from(x > y)))).sum::<f64>();
    wins / (a.len() * b.len()) as f64
}

/// A sum over the pixels, weighted by what the pictures of five patients differ by, tells others' groups apart; where
/// nothing is planted the same sum does not.
#[test]
fn a_linear_read_out_tells_the_groups_apart() {
    let pictures = |set: &Set| -> Vec<(usize, Vec<f32>)> {
        let patients = (1..=60).map(|number| set.patient(number));
        patients.map(|patient| (patient.group, set.stored(&patient, Projection::Pa))).collect()
    };
    let plain = pictures(&Set::of("null"));
    for world in ["low-frequency", "high-frequency", "one-patch", "bone-bright", "habitus"] {
        let set = Set::of(world);
        let mut weights = vec![0f64; (SIDE * SIDE) as usize];
        for number in 1001..=1005 {
            let brightness = || vec![1.0; weights.len()];
            let apart = if world == "habitus" { brightness() } else { set.difference(number, Projection::Pa, 1).1 };
            weights.iter_mut().zip(apart).for_each(|(sum, v)| *sum += f64::from(v));
        }
        let tell = |pictures: &[(usize, Vec<f32>)]| {
            let sum = |stored: &[f32]| stored.iter().zip(&weights).map(|(v, w)| f64::from(*v) * w).sum::<f64>();
            let of = |group: usize| -> Vec<f64> {
                pictures.iter().filter(|(own, _)| *own == group).map(|(_, stored)| sum(stored)).collect()
            };
            auc(&of(1), &of(0))
        };
        let (planted, plain) = (tell(&pictures(&set)), tell(&plain));
        // 20 against 20 without a difference: standard error .093.
        assert!(planted > 0.9 && (plain - 0.5).abs() < 0.35, "{world}: {planted}, without: {plain}");
    }
}

#[test]
fn waves_that_a_picture_is_too_small_for_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let options = PhantomOptions { size: (320, 128), ..Set::of("high-frequency").options };
    let error = generate(&options, dir.path(), &|_, _| {}).unwrap_err().to_string();
    assert!(error.contains("size 320x128 is too small"), "{error}");
}
