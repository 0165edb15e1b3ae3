//! The Open Inference Protocol v2 in JSON: what is asked, and what an answer holds. Pure.
//!
//! An answer is believed as far as it fits the question: model and version, each output once, of a floating-point
//! type, its shape and its number of values by the batch and the card. NaN is no JSON, and null is no number. Left
//! out: the binary tensor extension, and the network (`batch`).

use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::domain::Contract;
use crate::infer::{InferError, Package, Server, Shape, probabilities};

/// Values of one request: some 40 MB as JSON.
pub(super) const VALUES_MAX: usize = 4 << 20;
/// Bytes of an answer beside its values.
const ANSWER_BYTES: usize = 64 << 10;
/// Bytes of a value, with room for whatever way of writing it.
const VALUE_BYTES: usize = 64;

#[derive(Serialize)]
struct Asked<'a> {
    inputs: [Tensor<'a>; 1],
    outputs: Vec<Named<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    shape: Vec<usize>,
    datatype: &'static str,
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Named<'a> {
    name: &'a str,
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    model_name: String,
    model_version: Option<String>,
    #[serde(default)]
    outputs: Vec<Output>,
}

#[derive(Deserialize)]
struct Output {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    data: Flat,
}

/// Numbers, in one list or nested by the shape.
#[derive(Default)]
struct Flat(Vec<f64>);

/// What a server says of its model.
#[derive(Deserialize)]
pub(super) struct Metadata {
    name: String,
    versions: Option<Vec<String>>,
    #[serde(default)]
    inputs: Vec<TensorMetadata>,
    #[serde(default)]
    outputs: Vec<TensorMetadata>,
}

#[derive(Deserialize)]
struct TensorMetadata {
    name: String,
    datatype: Option<String>,
    shape: Option<Vec<i64>>,
}

/// The path of the model, behind the root of the server.
pub(super) fn model_path(server: &Server) -> String {
    match &server.version {
        Some(version) => format!("/v2/models/{}/versions/{version}", server.model),
        None => format!("/v2/models/{}", server.model),
    }
}

/// How many images fit into one request.
pub(super) fn images_max(server: &Server, contract: &Contract) -> usize {
    server.batch_max.min(VALUES_MAX / contract.network_len().max(1)).max(1)
}

/// The longest answer to a request with so many images, bytes.
pub(super) fn answer_bytes_max(package: &Package, images: usize) -> usize {
    ANSWER_BYTES + package.columns * images * VALUE_BYTES
}

/// The body of a request for these images.
pub(super) fn question(server: &Server, contract: &Contract, images: &[Vec<f32>]) -> Vec<u8> {
    let (c, side) = (usize::from(contract.channels), contract.size as usize);
    let data = match server.shape {
        Shape::Nchw | Shape::Flat => images.concat(),
        Shape::Nhwc => images.iter().flat_map(|image| channels_last(image, c)).collect(),
    };
    let input =
        Tensor { name: &server.input, shape: shape(server.shape, images.len(), c, side), datatype: "FP32", data };
    let asked = Asked { inputs: [input], outputs: server.outputs.iter().map(|name| Named { name }).collect() };
    serde_json::to_vec(&asked).expect("numbers and texts are JSON")
}

fn shape(rule: Shape, n: usize, c: usize, side: usize) -> Vec<usize> {
    match rule {
        Shape::Nchw => vec![n, c, side, side],
        Shape::Nhwc => vec![n, side, side, c],
        Shape::Flat => vec![n, c * side * side],
    }
}

fn channels_last(image: &[f32], channels: usize) -> impl Iterator<Item = f32> + '_ {
    let plane = image.len() / channels.max(1);
    (0..plane).flat_map(move |at| (0..channels).map(move |c| image[c * plane + at]))
}

/// What an answer says of each of `images` images; an error where it says nothing that can be used of any.
pub(super) fn answer(
    server: &Server,
    package: &Package,
    images: usize,
    body: &[u8],
) -> Result<Vec<Result<Vec<f64>, InferError>>, InferError> {
    let bad = |reason: String| InferError::BadOutput(reason);
    let told: Told = serde_json::from_slice(body).map_err(|e| bad(format!("the answer is no JSON of tensors: {e}")))?;
    if !told.model_name.is_empty() && told.model_name != server.model {
        return Err(bad(format!("the answer is of model {}, not {}", cleaned(&told.model_name), server.model)));
    }
    if let (Some(asked), Some(found)) = (&server.version, told.model_version.filter(|v| !v.is_empty()))
        && *asked != found
    {
        return Err(bad(format!("the answer is of version {}, not {asked}", cleaned(&found))));
    }
    let mut rows = vec![Vec::new(); images];
    for name in &server.outputs {
        let mut named = told.outputs.iter().filter(|output| output.name == *name);
        let (Some(output), None) = (named.next(), named.next()) else {
            return Err(bad(format!("the answer does not hold output {name} once")));
        };
        if !matches!(output.datatype.as_str(), "FP16" | "BF16" | "FP32" | "FP64") {
            return Err(bad(format!("output {name} has the datatype {}, not FP32", cleaned(&output.datatype))));
        }
        let columns = columns(&output.shape, images)
            .filter(|columns| columns.checked_mul(images) == Some(output.data.0.len()))
            .ok_or_else(|| {
                let values = output.data.0.len();
                bad(format!("output {name} has the shape {:?} and {values} values for {images} images", output.shape))
            })?;
        for (row, values) in rows.iter_mut().zip(output.data.0.chunks(columns)) {
            row.extend_from_slice(values);
        }
    }
    if let Some(row) = rows.first().filter(|row| row.len() != package.columns) {
        let (found, expected) = (row.len(), package.columns);
        return Err(bad(format!("the outputs have {found} columns, the card's labels ask for {expected}")));
    }
    let scored = |row: Vec<f64>| {
        let used: Vec<f64> = package.column_of.iter().map(|column| row[*column]).collect();
        probabilities(package.activation, &used)
    };
    Ok(rows.into_iter().map(scored).collect())
}

/// Values for each image by a shape of `[images, …]`, or `[images]` with one each.
fn columns(shape: &[i64], images: usize) -> Option<usize> {
    let (first, rest) = shape.split_first()?;
    if usize::try_from(*first).ok()? != images || rest.len() > 3 {
        return None;
    }
    let columns = rest.iter().try_fold(1_usize, |all, size| all.checked_mul(usize::try_from(*size).ok()?))?;
    (columns > 0).then_some(columns)
}

/// A server's description of its model, or why it is none.
pub(super) fn description(body: &[u8]) -> Result<Metadata, String> {
    serde_json::from_slice(body).map_err(|e| format!("its description of the model cannot be read: {e}"))
}

/// What a server's description of its model says against the card. What it leaves open says nothing.
pub(super) fn contradiction(server: &Server, contract: &Contract, columns: usize, told: &Metadata) -> Option<String> {
    if told.name != server.model {
        return Some(format!("it describes model {}, not {}", cleaned(&told.name), server.model));
    }
    let versions = told.versions.as_deref().unwrap_or_default();
    if let Some(version) = server.version.as_ref().filter(|v| !versions.is_empty() && !versions.contains(v)) {
        return Some(format!("it has no version {version}"));
    }
    let (c, side) = (usize::from(contract.channels), contract.size as usize);
    if !told.inputs.is_empty() {
        let expected: Vec<usize> = shape(server.shape, 1, c, side);
        let Some(input) = told.inputs.iter().find(|input| input.name == server.input) else {
            return Some(format!("it has no input {}", server.input));
        };
        if let Some(other) = input.datatype.as_deref().filter(|datatype| *datatype != "FP32") {
            return Some(format!("its input {} takes {}, not FP32", server.input, cleaned(other)));
        }
        // The batch is its own; a size of -1 is any.
        let fits = |found: &Vec<i64>| {
            let any = |(found, expected): (&i64, &usize)| *found < 0 || usize::try_from(*found) == Ok(*expected);
            found.len() == expected.len() && found.iter().zip(&expected).skip(1).all(any)
        };
        if let Some(other) = input.shape.as_ref().filter(|found| !found.is_empty() && !fits(found)) {
            return Some(format!("its input {} has the shape {other:?}, the card's is {expected:?}", server.input));
        }
    }
    if !told.outputs.is_empty()
        && let Some(absent) = server.outputs.iter().find(|name| !told.outputs.iter().any(|o| o.name == **name))
    {
        return Some(format!("it has no output {absent}, of which the card takes some of its {columns} columns"));
    }
    None
}

/// A server's text as it may be shown: short, and without what breaks a line.
fn cleaned(text: &str) -> String {
    text.chars().take(64).map(|c| if c.is_control() { '?' } else { c }).collect()
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        /// A number, or a list of such: depth is bounded by the JSON reader, number by the bytes of the answer.
        enum Part {
            Number(f64),
            List(Vec<f64>),
        }
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Part;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number or a list of numbers")
            }
            fn visit_f64<E>(self, v: f64) -> Result<Part, E> {
                Ok(Part::Number(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Part, E> {
                Ok(Part::Number(v as f64))
            }
            fn visit_u64<E>(self, v: u64) -> Result<Part, E> {
                Ok(Part::Number(v as f64))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Part, A::Error> {
                let mut all = Vec::new();
                while let Some(part) = list.next_element()? {
                    match part {
                        Part::Number(number) => all.push(number),
                        Part::List(numbers) => all.extend(numbers),
                    }
                }
                Ok(Part::List(all))
            }
        }
        impl<'de> Deserialize<'de> for Part {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(Parts)
            }
        }
        match Part::deserialize(deserializer)? {
            Part::List(numbers) => Ok(Self(numbers)),
            Part::Number(_) => Err(serde::de::Error::custom("a number in place of a list")),
        }
    }
}
