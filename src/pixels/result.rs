//! Structured Reports of others, read by the rules of a card: what a clinical product says of which images.
//!
//! Runs in the locked worker, as all parsing of stored bytes does. The content tree is walked within limits on bytes,
//! items and depth; of by-reference relationships only those to an image are followed, so that every item is met once.
//! Neighbours: `prescan` (the elements), `child` (checks the answer). Left out: whether the report is the product's own, and what several
//! reports come to (`analyse`, `results`).

use std::collections::{BTreeMap, BTreeSet};

use super::dataset::{Item, Source, Tag};
use super::{Limits, prescan};
use crate::domain::{
    CodeKey, FindingRule, LabelRule, Probability, Refusal, RefusalCode, ReportKind, ReportRules, ResultDevice,
    ResultDocument, Said, Timestamp, Uid,
};

/// Bytes of a report.
const BYTES_MAX: u64 = 16 << 20;
/// Items of its content tree, and items within items.
const ITEMS_MAX: usize = 50_000;
const DEPTH_MAX: u32 = 32;
/// Statements that are taken from one report, images of one statement and of all, predecessors.
pub(super) const SAID_MAX: usize = 2000;
pub(super) const IMAGES_MAX: usize = 2000;
const IMAGES_ALL_MAX: usize = 100_000;
pub(super) const PREDECESSORS_MAX: usize = 100;
/// Characters of a text of the equipment (VR LO).
pub(super) const TEXT_MAX: usize = 64;

const CONTENT: Tag = 0x0040_A730;
const CONCEPT_NAME: Tag = 0x0040_A043;
const CONCEPT_CODE: Tag = 0x0040_A168;
const VALUE_TYPE: Tag = 0x0040_A040;
/// Referenced Content Item Identifier: the place of another item of the report (PS3.3 C.17.3.2.5).
const REFERENCED_ITEM: Tag = 0x0040_DB73;

const MEASUREMENT_GROUP: (&str, &str) = ("125007", "DCM");
const FINDING: (&str, &str) = ("121071", "DCM");
const CHEST_CAD_REPORT: (&str, &str) = ("112000", "DCM");
const SINGLE_IMAGE_FINDING: (&str, &str) = ("111059", "DCM");

/// What the report says by each of these rules, or why it says nothing that can be used. A refusal where it cannot be
/// read at all.
pub(super) fn read_result_object(
    mut object: Box<dyn Source>,
    rules: &[ReportRules],
    limits: &Limits,
) -> Result<Vec<Result<ResultDocument, String>>, Refusal> {
    let unreadable = |e: std::io::Error| Refusal::new(RefusalCode::Malformed, format!("the file has no length: {e}"));
    let bytes = object.seek(std::io::SeekFrom::End(0)).map_err(unreadable)?;
    if bytes > BYTES_MAX {
        let detail = format!("a report of {bytes} bytes; {BYTES_MAX} are read at most");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    let scan = prescan::scan_report(object, limits)?;
    let mut items = 0;
    measure(&scan.root, 0, &mut items)?;
    Ok(rules.iter().map(|rules| read(&scan.root, rules)).collect())
}

/// Refuses a tree that is too deep or too large before anything recurses over it.
fn measure(item: &Item, depth: u32, items: &mut usize) -> Result<(), Refusal> {
    *items += 1;
    if depth > DEPTH_MAX || *items > ITEMS_MAX {
        let detail = format!("a content tree of more than {ITEMS_MAX} items, or deeper than {DEPTH_MAX}");
        return Err(Refusal::new(RefusalCode::TooLarge, detail));
    }
    item.items(CONTENT).iter().try_for_each(|child| measure(child, depth + 1, items))
}

fn read(root: &Item, rules: &ReportRules) -> Result<ResultDocument, String> {
    let said = match rules.kind {
        ReportKind::Tid1500 => by_measurement_groups(root, rules)?,
        ReportKind::ChestCad => by_image_findings(root, rules)?,
        ReportKind::Paths => by_paths(root, rules)?,
    };
    let text = |tag| root.text(tag).unwrap_or_default().chars().take(TEXT_MAX).collect::<String>();
    let mut predecessors = references(root.items(0x0040_A360))?;
    predecessors.truncate(PREDECESSORS_MAX);
    Ok(ResultDocument {
        said,
        observed_at: observed_at(root),
        device: ResultDevice {
            manufacturer: text(0x0008_0070),
            model_name: text(0x0008_1090),
            serial_number: text(0x0018_1000),
            software_versions: root
                .texts(0x0018_1020)
                .into_iter()
                .take(8)
                .map(|v| v.chars().take(TEXT_MAX).collect())
                .collect(),
        },
        predecessors,
    })
}

/// How much a report said so far: what exceeds the limits is not gathered first.
#[derive(Default)]
struct Amount {
    said: usize,
    images: usize,
}

impl Amount {
    fn add(&mut self, said: &Said) -> Result<(), String> {
        self.said += 1;
        self.images += said.images.len();
        if self.said > SAID_MAX || self.images > IMAGES_ALL_MAX {
            return Err(format!("more than {SAID_MAX} statements, or {IMAGES_ALL_MAX} images of all"));
        }
        Ok(())
    }
}

/// TID 1500: each measurement group with one of the findings.
fn by_measurement_groups(root: &Item, rules: &ReportRules) -> Result<Vec<Said>, String> {
    let (mut said, mut amount) = (Vec::new(), Amount::default());
    for group in all(root).filter(|item| is_named(item, MEASUREMENT_GROUP)) {
        let found = group.items(CONTENT).iter().filter(|i| is_named(i, FINDING)).filter_map(|i| code(i, CONCEPT_CODE));
        let found: Vec<CodeKey> = found.collect();
        let Some(rule) = rules.findings.iter().find(|rule| found.contains(&rule.code)) else { continue };
        if let Some(one) = statement(root, rule, rules, group)? {
            amount.add(&one)?;
            said.push(one);
        }
    }
    if said.is_empty() { Err("no measurement group with a finding of the card".into()) } else { Ok(said) }
}

/// TID 4100: a product that found nothing lists nothing, and the report still is its result.
fn by_image_findings(root: &Item, rules: &ReportRules) -> Result<Vec<Said>, String> {
    if !is_named(root, CHEST_CAD_REPORT) {
        return Err("not a Chest CAD report (112000, DCM)".into());
    }
    let mut amount = Amount::default();
    let mut highest: BTreeMap<(String, Vec<Uid>), Said> = BTreeMap::new();
    for item in all(root).filter(|item| is_named(item, SINGLE_IMAGE_FINDING)) {
        let Some(rule) = rules.findings.iter().find(|rule| code(item, CONCEPT_CODE).as_ref() == Some(&rule.code))
        else {
            continue;
        };
        let Some(said) = statement(root, rule, rules, item)? else { continue };
        amount.add(&said)?;
        let kept = highest.entry((said.finding.clone(), said.images.clone())).or_insert_with(|| said.clone());
        // Several marks of one kind on one image: there is such a finding if the likeliest is one.
        if said.score.map(Probability::get) > kept.score.map(Probability::get) {
            kept.score = said.score;
        }
        kept.positive = kept.positive.max(said.positive);
    }
    Ok(highest.into_values().collect())
}

/// Each finding at the end of its path; one that is not there is not said.
fn by_paths(root: &Item, rules: &ReportRules) -> Result<Vec<Said>, String> {
    let (mut said, mut amount) = (Vec::new(), Amount::default());
    for rule in &rules.findings {
        let Some((last, parents)) = rule.path.split_last() else { continue };
        let mut within = vec![root];
        for concept in parents {
            let children = within.into_iter().flat_map(|item| item.items(CONTENT));
            within = children.filter(|item| code(item, CONCEPT_NAME).as_ref() == Some(concept)).collect();
        }
        for parent in within {
            // Once for all that it holds.
            let mut of_parent = None;
            for item in parent.items(CONTENT).iter().filter(|i| code(i, CONCEPT_NAME).as_ref() == Some(last)) {
                let score = number(item)?;
                let positive = decision(item, rules.label.as_ref());
                if score.is_none() && positive.is_none() {
                    continue;
                }
                let mut images = images_below(root, item)?;
                if images.is_empty() && !std::ptr::eq(parent, root) {
                    if of_parent.is_none() {
                        of_parent = Some(images_below(root, parent)?);
                    }
                    images = of_parent.clone().unwrap_or_default();
                }
                let one = Said { finding: rule.key.clone(), images, score, positive };
                amount.add(&one)?;
                said.push(one);
            }
        }
    }
    if said.is_empty() { Err("nothing at the paths of the card".into()) } else { Ok(said) }
}

/// What the item and its children say of this finding, if anything.
fn statement(root: &Item, rule: &FindingRule, rules: &ReportRules, item: &Item) -> Result<Option<Said>, String> {
    let (mut score, mut positive) = (None, None);
    for child in item.items(CONTENT) {
        let name = code(child, CONCEPT_NAME);
        if name.as_ref() == Some(&rules.probability)
            && let Some(found) = number(child)?
        {
            if score.is_some_and(|before| before != found) {
                return Err(format!("finding {} has two probabilities in one place", rule.key));
            }
            score = Some(found);
        }
        if rules.label.as_ref().is_some_and(|label| name.as_ref() == Some(&label.concept)) {
            positive = positive.max(decision(child, rules.label.as_ref()));
        }
    }
    if score.is_none() && positive.is_none() {
        return Ok(None);
    }
    Ok(Some(Said { finding: rule.key.clone(), images: images_below(root, item)?, score, positive }))
}

/// The probability of a NUM item; `None` where it is no number. An error for one that is no probability.
fn number(item: &Item) -> Result<Option<Probability>, String> {
    if item.code_string(VALUE_TYPE).as_deref() != Some("NUM") {
        return Ok(None);
    }
    let Some(measured) = item.items(0x0040_A300).first() else { return Ok(None) };
    let value = measured.decimal(0x0040_A30A).ok_or("a number that is none")?;
    let unit = code(measured, 0x0040_08EA).map(|unit| unit.value).unwrap_or_default();
    let fraction = match unit.as_str() {
        "%" => value / 100.0,
        "1" | "{0:1}" | "{ratio}" => value,
        other => return Err(format!("a probability in the unit {other:?}, neither % nor 1")),
    };
    let probability = Probability::new(fraction).map_err(|_| format!("{value} {unit} is no probability"))?;
    Ok(Some(probability))
}

fn decision(item: &Item, label: Option<&LabelRule>) -> Option<bool> {
    let (value, label) = (code(item, CONCEPT_CODE)?, label?);
    if label.positive.contains(&value) {
        return Some(true);
    }
    label.negative.contains(&value).then_some(false)
}

/// The images that the item or anything below it refers to, each once, in order: itself, or by the place of an image in
/// the same report, as CAD reports refer to their image library.
fn images_below(root: &Item, item: &Item) -> Result<Vec<Uid>, String> {
    let mut images = BTreeSet::new();
    for item in all(item) {
        let referenced = item.bytes(REFERENCED_ITEM);
        let item = match referenced {
            Some(place) => at(root, place).ok_or("a reference to an item that the report does not have")?,
            None => item,
        };
        let kind = item.code_string(VALUE_TYPE).unwrap_or_default();
        if kind == "IMAGE" {
            if let Some(reference) = item.items(0x0008_1199).first() {
                images.insert(sop_instance(reference)?);
            }
        } else if referenced.is_some() && !matches!(kind.as_str(), "NUM" | "CODE" | "TEXT") {
            // It may have images of its own, and what is said may be about them.
            return Err(format!("a reference to an item of the report that is of the type {kind:?}, not IMAGE"));
        }
        if images.len() > IMAGES_MAX {
            return Err(format!("more than {IMAGES_MAX} images of one statement"));
        }
    }
    Ok(images.into_iter().collect())
}

/// The item at a place: 1 for the root, then the number of each item within the one before.
fn at<'a>(root: &'a Item, place: &[u8]) -> Option<&'a Item> {
    let mut numbers = place.chunks_exact(4).filter_map(|n| Some(u32::from_le_bytes(n.try_into().ok()?)));
    numbers.next().filter(|first| *first == 1)?;
    numbers.try_fold(root, |item, number| item.items(CONTENT).get(usize::try_from(number).ok()?.checked_sub(1)?))
}

/// The SOP instances of a sequence of studies, series and instances (PS3.3 Table C.17-3a).
fn references(studies: &[Item]) -> Result<Vec<Uid>, String> {
    let series = studies.iter().flat_map(|study| study.items(0x0008_1115));
    series.flat_map(|series| series.items(0x0008_1199)).map(sop_instance).collect()
}

fn sop_instance(reference: &Item) -> Result<Uid, String> {
    let text = reference.text(0x0008_1155).ok_or("a reference without a SOP Instance UID")?;
    Uid::parse(&text).map_err(|e| format!("a reference to an invalid SOP Instance UID: {}", e.reason))
}

/// The item and everything below it. Depth and number were measured before.
fn all(item: &Item) -> Box<dyn Iterator<Item = &Item> + '_> {
    Box::new(std::iter::once(item).chain(item.items(CONTENT).iter().flat_map(all)))
}

fn is_named(item: &Item, (value, scheme): (&str, &str)) -> bool {
    code(item, CONCEPT_NAME).is_some_and(|name| name.value == value && name.scheme == scheme)
}

/// The first code of a sequence: its value, or its long one, and its scheme.
fn code(item: &Item, tag: Tag) -> Option<CodeKey> {
    let code = item.items(tag).first()?;
    let value = code.text(0x0008_0100).or_else(|| code.text(0x0008_0119))?;
    Some(CodeKey { value, scheme: code.text(0x0008_0102)? })
}

/// Content Date and Time, with the offset from UTC where the report states one.
fn observed_at(root: &Item) -> Option<Timestamp> {
    use chrono::{FixedOffset, NaiveDate, NaiveTime, TimeZone as _};
    let date = NaiveDate::parse_from_str(&root.text(0x0008_0023)?, "%Y%m%d").ok()?;
    let time = root.text(0x0008_0033).unwrap_or_else(|| "000000".into());
    let (whole, fraction) = time.split_once('.').unwrap_or((&time, ""));
    let padded: String = whole.chars().chain("000000".chars().skip(whole.chars().count())).collect();
    let time = NaiveTime::parse_from_str(&padded, "%H%M%S").ok()?;
    let micros: u32 = fraction.chars().chain(std::iter::repeat('0')).take(6).collect::<String>().parse().ok()?;
    let at = date.and_time(time) + chrono::TimeDelta::microseconds(i64::from(micros));
    let offset = root.text(0x0008_0201).and_then(|text| {
        let (sign, digits) = text.split_at_checked(1)?;
        let digits: i32 = digits.parse().ok().filter(|_| digits.len() == 4)?;
        let seconds = (digits / 100 * 60 + digits % 100) * 60;
        FixedOffset::east_opt(if sign == "-" { -seconds } else { seconds })
    });
    match offset {
        Some(offset) => Some(offset.from_local_datetime(&at).single()?.to_utc()),
        None => Some(at.and_utc()),
    }
}
