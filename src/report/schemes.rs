//! Coding schemes of a report: which need a Coding Scheme Identification (PS3.3 C.12.1.1.1), and which codes of the
//! source can be carried over at all.
//!
//! A code that a reader cannot interpret, because nothing says what its scheme is, is not copied. Neighbours:
//! `codes` knows the schemes, `header` writes the declarations.

use std::collections::{BTreeMap, BTreeSet};

use dicom_core::VR;
use dicom_object::InMemDicomObject;
use uuid::Uuid;

use super::write::{plain, put};
use super::{ReportError, codes};
use crate::domain::{
    AttributeValue, Attributes, Code, FindingAssessment, InstanceHeader, Uid, is_private_scheme, is_public_scheme,
};

const CODING_SCHEME_IDENTIFICATION: u32 = 0x0008_0110;

/// The namespace of the UIDs of private schemes.
const NAMESPACE: Uuid = Uuid::from_u128(0x6d0c_0fb0_54cf_4bc2_9a64_5e02_70a2_9a01);

/// The schemes that the report declares: designator to UID and name.
#[derive(Debug, Default)]
pub(super) struct Schemes {
    /// Private schemes of model cards, which a scheme of the source's may share the designator with.
    of_models: BTreeSet<String>,
    used: BTreeMap<String, (String, String)>,
    /// What the source declares of its own.
    of_source: BTreeMap<String, (String, String)>,
}

impl Schemes {
    /// With the private scheme declared, and the source's own declarations at hand.
    pub(super) fn new(source: &InstanceHeader) -> Self {
        let mut schemes = Self::of(source);
        schemes.declare(codes::PRIVATE_SCHEME);
        schemes
    }

    /// For an object without private codes.
    pub(super) fn of(source: &InstanceHeader) -> Self {
        Self { of_source: declarations(source), ..Self::default() }
    }

    /// Notes that codes of this scheme are used. Returns whether a reader can know the scheme.
    pub(super) fn declare(&mut self, designator: &str) -> bool {
        if is_public_scheme(designator) || self.used.contains_key(designator) {
            return true;
        }
        let known = codes::declaration(designator).map(|(uid, name)| (uid.to_owned(), name.to_owned()));
        let Some(declaration) = known.or_else(|| self.of_source.get(designator).cloned()) else { return false };
        self.used.insert(designator.to_owned(), declaration);
        true
    }

    /// Declares the private schemes of these findings' codes, as belonging to the manufacturers of their models. The same
    /// designator and manufacturers have the same UID everywhere.
    pub(super) fn declare_private(&mut self, findings: &[FindingAssessment]) {
        let mut owners: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for f in findings {
            for code in f.finding.site.iter().chain([&f.finding.code]) {
                if is_private_scheme(&code.scheme) && codes::declaration(&code.scheme).is_none() {
                    owners.entry(&code.scheme).or_default().insert(&f.clinical.manufacturer);
                }
            }
        }
        for (designator, owners) in owners {
            let owners = owners.into_iter().collect::<Vec<_>>().join(", ");
            let uid = Uid::from_uuid(Uuid::new_v5(&NAMESPACE, format!("{designator}\n{owners}").as_bytes()));
            self.of_models.insert(designator.to_owned());
            self.used.insert(designator.to_owned(), (uid.to_string(), format!("private codes of {owners}")));
        }
    }

    /// Notes the scheme of a code that the report cannot do without.
    ///
    /// # Errors
    /// [`ReportError::Code`] if the code breaks a length limit or its scheme is unknown.
    pub(super) fn require(&mut self, code: &Code) -> Result<(), ReportError> {
        let error =
            |reason: String| ReportError::Code { value: code.value.clone(), scheme: code.scheme.clone(), reason };
        if let Some(fault) = code.fault() {
            return Err(error(fault));
        }
        if !self.declare(&code.scheme) {
            return Err(error("its scheme is unknown to readers: use DCM, SCT, LN, UMLS, RADLEX or CDCREC".into()));
        }
        Ok(())
    }

    /// Notes the schemes of the codes in a copied value, if all of them can be declared.
    pub(super) fn declare_copied(&mut self, value: &AttributeValue) {
        let codes = codes_in(value);
        let known = |c: &Option<Code>| c.as_ref().is_some_and(|c| self.is_known(&c.scheme));
        if codes.iter().all(known) {
            codes.into_iter().flatten().for_each(|c| {
                self.declare(&c.scheme);
            });
        }
    }

    /// Whether every code in a copied value is complete and of a scheme that the report declares.
    pub(super) fn covers(&self, value: &AttributeValue) -> bool {
        let declared = |scheme: &str| self.used.contains_key(scheme) && !self.of_models.contains(scheme);
        codes_in(value).iter().all(|c| c.as_ref().is_some_and(|c| is_public_scheme(&c.scheme) || declared(&c.scheme)))
    }

    /// The items of the Coding Scheme Identification Sequence.
    pub(super) fn items(&self) -> Vec<InMemDicomObject> {
        let item = |(designator, (uid, name)): (&String, &(String, String))| {
            let mut item = InMemDicomObject::new_empty();
            put(&mut item, 0x0008_0102, VR::SH, designator);
            put(&mut item, 0x0008_010c, VR::UI, uid);
            put(&mut item, 0x0008_0115, VR::ST, name);
            item
        };
        self.used.iter().map(item).collect()
    }

    fn is_known(&self, designator: &str) -> bool {
        is_public_scheme(designator)
            || codes::declaration(designator).is_some()
            || (self.of_source.contains_key(designator) && !self.of_models.contains(designator))
    }
}

/// Every code within a copied value, at any depth; `None` for one that is incomplete, too long or not plain ASCII.
pub(super) fn codes_in(value: &AttributeValue) -> Vec<Option<Code>> {
    let AttributeValue::Items(items) = value else { return Vec::new() };
    let mut codes = Vec::new();
    for item in items {
        // Code Value, Long Code Value, URN Code Value
        if [0x0008_0100, 0x0008_0119, 0x0008_0120].iter().any(|tag| item.contains_key(tag)) {
            codes.push(code_of(item));
        }
        codes.extend(item.values().flat_map(|a| codes_in(&a.value)));
    }
    codes
}

fn code_of(item: &Attributes) -> Option<Code> {
    let code = Code::new(&text(item, 0x0008_0100)?, &text(item, 0x0008_0102)?, &text(item, 0x0008_0104)?);
    code.fault().is_none().then_some(code)
}

/// The source's own Coding Scheme Identification, as far as it has UID and name.
fn declarations(source: &InstanceHeader) -> BTreeMap<String, (String, String)> {
    let Some(AttributeValue::Items(items)) = source.copied.get(&CODING_SCHEME_IDENTIFICATION).map(|a| &a.value) else {
        return BTreeMap::new();
    };
    let declaration = |item: &Attributes| {
        let uid = Uid::parse(&text(item, 0x0008_010c)?).ok()?;
        let name = plain(&text(item, 0x0008_0115)?, 64);
        let designator = text(item, 0x0008_0102).filter(|d| d.len() <= 16)?;
        (!name.is_empty()).then(|| (designator, (uid.to_string(), name)))
    };
    items.iter().filter_map(declaration).collect()
}

/// A non-empty ASCII value without its padding.
fn text(item: &Attributes, tag: u32) -> Option<String> {
    let AttributeValue::Bytes(bytes) = &item.get(&tag)?.value else { return None };
    let text = std::str::from_utf8(bytes).ok()?.trim_matches([' ', '\0']);
    (text.is_ascii() && !text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Attribute;

    fn code_item(value: &str, scheme: &str, meaning: &str) -> Attributes {
        let attribute =
            |vr: &str, text: &str| Attribute { vr: vr.into(), value: AttributeValue::Bytes(text.as_bytes().to_vec()) };
        Attributes::from([
            (0x0008_0100, attribute("SH", value)),
            (0x0008_0102, attribute("SH", scheme)),
            (0x0008_0104, attribute("LO", meaning)),
        ])
    }

    #[test]
    fn a_copied_code_needs_a_scheme_that_can_be_declared() {
        let rows: &[(&str, &str, &str, bool)] = &[
            ("363680008", "SCT", "Radiographic imaging", true),
            ("P5-0900E", "SRT", "Plain film", true),
            ("71020", "C4", "Chest X-ray", true),
            ("XR1", "99LOCAL", "Chest X-ray", false),
            ("XR1", "L", "Chest X-ray", false),
            ("", "SCT", "Chest X-ray", false),
            ("XR1", "SCT", "Thorax\u{e9}", false),
        ];
        for (value, scheme, meaning, expected) in rows {
            let copied = AttributeValue::Items(vec![code_item(value, scheme, meaning)]);
            let mut schemes = Schemes::default();
            schemes.declare_copied(&copied);
            assert_eq!(schemes.covers(&copied), *expected, "{value} {scheme}");
        }
    }

    #[test]
    fn a_required_code_of_an_unknown_scheme_is_an_error_that_names_it() {
        let error = Schemes::default().require(&Code::new("X", "99LOCAL", "Something")).unwrap_err();
        assert!(error.to_string().contains("99LOCAL"), "{error}");
    }
}
