//! Content items of a Structured Report (PS3.3 C.17.3): a tree by value, and its encoding.
//!
//! Neighbours: `tree` builds the items, `write` encodes elements. Left out: by-reference relationships, spatial
//! coordinates, dates and persons, which this report never uses.

use dicom_core::VR;
use dicom_object::InMemDicomObject;

use super::codes::{self, Concept};
use super::write::{put, put_code, put_items};
use crate::domain::{Code, Uid};

/// Relationship of an item to its parent (PS3.3 C.17.3.2.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Relation {
    Contains,
    HasConceptMod,
    HasObsContext,
    HasAcqContext,
    HasProperties,
}

/// Value type and value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Container {
        template: Option<&'static str>,
    },
    Text(String),
    Code(Code),
    /// A decimal string, in percent.
    Percent(String),
    /// A decimal string without a unit.
    Number(String),
    UidRef(Uid),
    Image {
        sop_class: Uid,
        sop_instance: Uid,
    },
}

/// A content item with its children.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Item {
    relation: Relation,
    name: Option<Code>,
    value: Value,
    children: Vec<Item>,
}

impl Item {
    pub(super) fn container(relation: Relation, name: Concept) -> Self {
        Self::new(relation, Some(name.into()), Value::Container { template: None })
    }

    /// A container that follows a template of PS3.16.
    pub(super) fn templated(relation: Relation, name: Concept, template: &'static str) -> Self {
        Self::new(relation, Some(name.into()), Value::Container { template: Some(template) })
    }

    pub(super) fn text(relation: Relation, name: Concept, text: impl Into<String>) -> Self {
        Self::new(relation, Some(name.into()), Value::Text(text.into()))
    }

    pub(super) fn code(relation: Relation, name: Concept, code: impl Into<Code>) -> Self {
        Self::new(relation, Some(name.into()), Value::Code(code.into()))
    }

    pub(super) fn percent(relation: Relation, name: Concept, value: impl Into<String>) -> Self {
        Self::new(relation, Some(name.into()), Value::Percent(value.into()))
    }

    pub(super) fn number(relation: Relation, name: Concept, value: impl Into<String>) -> Self {
        Self::new(relation, Some(name.into()), Value::Number(value.into()))
    }

    pub(super) fn uid(relation: Relation, name: Concept, uid: Uid) -> Self {
        Self::new(relation, Some(name.into()), Value::UidRef(uid))
    }

    pub(super) fn image(name: Option<Concept>, sop_class: &Uid, sop_instance: &Uid) -> Self {
        let value = Value::Image { sop_class: sop_class.clone(), sop_instance: sop_instance.clone() };
        Self::new(Relation::Contains, name.map(Code::from), value)
    }

    /// The item with `child` as its last child.
    pub(super) fn with(mut self, child: Item) -> Self {
        self.children.push(child);
        self
    }

    /// The item with further children.
    pub(super) fn with_all(mut self, children: impl IntoIterator<Item = Item>) -> Self {
        self.children.extend(children);
        self
    }

    /// Characters of free text in the item and below it.
    pub(super) fn text_length(&self) -> usize {
        let own = if let Value::Text(text) = &self.value { text.len() } else { 0 };
        own + self.children.iter().map(Item::text_length).sum::<usize>()
    }

    /// Adds the item to the document as its root: no relationship.
    pub(super) fn write_root(&self, document: &mut InMemDicomObject) {
        self.write_into(document);
    }

    fn new(relation: Relation, name: Option<Code>, value: Value) -> Self {
        Self { relation, name, value, children: Vec::new() }
    }

    fn to_object(&self) -> InMemDicomObject {
        let mut object = InMemDicomObject::new_empty();
        put(&mut object, 0x0040_a010, VR::CS, self.relation.term());
        self.write_into(&mut object);
        object
    }

    fn write_into(&self, object: &mut InMemDicomObject) {
        put(object, 0x0040_a040, VR::CS, self.value.value_type());
        if let Some(name) = &self.name {
            put_code(object, 0x0040_a043, name);
        }
        self.value.write_into(object);
        if !self.children.is_empty() {
            put_items(object, 0x0040_a730, self.children.iter().map(Item::to_object).collect());
        }
    }
}

impl Relation {
    fn term(self) -> &'static str {
        match self {
            Relation::Contains => "CONTAINS",
            Relation::HasConceptMod => "HAS CONCEPT MOD",
            Relation::HasObsContext => "HAS OBS CONTEXT",
            Relation::HasAcqContext => "HAS ACQ CONTEXT",
            Relation::HasProperties => "HAS PROPERTIES",
        }
    }
}

impl Value {
    fn value_type(&self) -> &'static str {
        match self {
            Value::Container { .. } => "CONTAINER",
            Value::Text(_) => "TEXT",
            Value::Code(_) => "CODE",
            Value::Percent(_) | Value::Number(_) => "NUM",
            Value::UidRef(_) => "UIDREF",
            Value::Image { .. } => "IMAGE",
        }
    }

    fn write_into(&self, object: &mut InMemDicomObject) {
        match self {
            Value::Container { template } => {
                put(object, 0x0040_a050, VR::CS, "SEPARATE");
                if let Some(identifier) = template {
                    let mut item = InMemDicomObject::new_empty();
                    put(&mut item, 0x0008_0105, VR::CS, "DCMR");
                    put(&mut item, 0x0040_db00, VR::CS, identifier);
                    put_items(object, 0x0040_a504, vec![item]);
                }
            }
            Value::Text(text) => put(object, 0x0040_a160, VR::UT, text),
            Value::Code(code) => put_code(object, 0x0040_a168, code),
            Value::Percent(value) | Value::Number(value) => {
                let unit = if matches!(self, Value::Percent(_)) { codes::PERCENT } else { codes::NO_UNITS };
                let mut measured = InMemDicomObject::new_empty();
                put_code(&mut measured, 0x0040_08ea, &unit.code());
                put(&mut measured, 0x0040_a30a, VR::DS, value);
                put_items(object, 0x0040_a300, vec![measured]);
            }
            Value::UidRef(uid) => put(object, 0x0040_a124, VR::UI, uid.as_str()),
            Value::Image { sop_class, sop_instance } => {
                put_items(object, 0x0008_1199, vec![sop_reference(sop_class, sop_instance)]);
            }
        }
    }
}

/// An item of a Referenced SOP Sequence (PS3.3 Table 10-11).
pub(super) fn sop_reference(sop_class: &Uid, sop_instance: &Uid) -> InMemDicomObject {
    let mut item = InMemDicomObject::new_empty();
    put(&mut item, 0x0008_1150, VR::UI, sop_class.as_str());
    put(&mut item, 0x0008_1155, VR::UI, sop_instance.as_str());
    item
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_carries_its_relationship_and_a_root_does_not() {
        let tree = Item::templated(Relation::Contains, codes::REPORT_TITLE, "1500")
            .with(Item::code(Relation::HasConceptMod, codes::LANGUAGE, codes::ENGLISH_US))
            .with(Item::text(Relation::Contains, codes::COMMENT, "text"));
        let mut document = InMemDicomObject::new_empty();
        tree.write_root(&mut document);
        assert!(document.element_by_name("RelationshipType").is_err());
        let children = document.element_by_name("ContentSequence").unwrap().items().unwrap();
        let relations: Vec<_> =
            children.iter().map(|c| c.element_by_name("RelationshipType").unwrap().to_str().unwrap()).collect();
        assert_eq!(relations, ["HAS CONCEPT MOD", "CONTAINS"]);
        assert_eq!(tree.text_length(), 4);
    }
}
