//! The messages of the Tinker protocol of SkyRL 0.4.0 and the SDK 0.25.0. Unknown fields are
//! ignored, in JSON and in protobuf.
//!
//! A request for a computation is answered at once with the id of a future, whose result can be
//! polled any number of times. Trajectories and their scores are protobuf of the package
//! `tinker_public`, everything else is JSON.

use std::collections::HashMap;

use prost::Message;
use serde::Deserialize;

/// The content type of protobuf.
pub const PROTOBUF: &str = "application/x-protobuf";

/// The response to a request that creates a future.
#[derive(Debug, Deserialize)]
pub struct Accepted {
    /// The id of the future.
    pub request_id: String,
    /// The new model, if that was requested.
    pub model_id: Option<String>,
}

/// The result of a future that is JSON. Each call has some of these fields.
#[derive(Debug, Default, Deserialize)]
pub struct Finished {
    /// `try_again` if the future is to be polled later.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// The location of saved weights, as `tinker://MODEL/weights/NAME`.
    pub path: Option<String>,
    /// The metrics of an update.
    #[serde(default)]
    pub metrics: HashMap<String, Option<f64>>,
}

/// The response to `create_session`.
#[derive(Debug, Deserialize)]
pub struct Session {
    /// Its name.
    pub session_id: String,
    /// A message of the operator.
    pub warning_message: Option<String>,
    /// Why there is none.
    pub error_message: Option<String>,
}

/// The response to `get_server_capabilities`.
#[derive(Debug, Deserialize)]
pub struct Capabilities {
    /// The models that can be trained.
    pub supported_models: Vec<Supported>,
}

/// A model that can be trained.
#[derive(Debug, Deserialize)]
pub struct Supported {
    /// Its name.
    pub model_name: String,
}

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
pub struct Problem {
    /// What is wrong: a text, or a list of fields.
    pub detail: Option<serde_json::Value>,
}

/// Trajectories to score and, unless `forward_only`, to accumulate the gradient of.
#[derive(Clone, PartialEq, Message)]
pub struct ForwardBackwardRequest {
    #[prost(string, tag = "1")]
    pub model_id: String,
    /// Increases with each request for the model; 0 for none.
    #[prost(int32, tag = "2")]
    pub seq_id: i32,
    #[prost(message, repeated, tag = "3")]
    pub data: Vec<Datum>,
    #[prost(string, tag = "4")]
    pub loss_fn: String,
    #[prost(bool, tag = "6")]
    pub forward_only: bool,
}

/// One trajectory: position `i` of every tensor scores token `i + 1`.
#[derive(Clone, PartialEq, Message)]
pub struct Datum {
    #[prost(message, repeated, tag = "1")]
    pub model_input: Vec<Chunk>,
    #[prost(map = "string, message", tag = "2")]
    pub loss_fn_inputs: HashMap<String, TensorData>,
}

#[derive(Clone, PartialEq, Message)]
pub struct Chunk {
    #[prost(message, optional, tag = "1")]
    pub encoded_text: Option<EncodedText>,
}

#[derive(Clone, PartialEq, Message)]
pub struct EncodedText {
    /// Little-endian `i32`.
    #[prost(bytes = "vec", tag = "1")]
    pub tokens: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorData {
    #[prost(bytes = "vec", tag = "1")]
    pub dense: Vec<u8>,
    #[prost(enumeration = "Dtype", tag = "3")]
    pub dtype: i32,
    #[prost(int64, repeated, tag = "4")]
    pub shape: Vec<i64>,
}

/// The type of the values of a tensor, which are little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Dtype {
    Unspecified = 0,
    Float32 = 1,
    Int64 = 2,
}

/// Scores of trajectories.
#[derive(Clone, PartialEq, Message)]
pub struct ForwardBackwardOutput {
    #[prost(message, repeated, tag = "2")]
    pub loss_fn_outputs: Vec<ArrayRecord>,
    #[prost(map = "string, double", tag = "3")]
    pub metrics: HashMap<String, f64>,
}

/// Fields of `num_datums` trajectories, concatenated.
#[derive(Clone, PartialEq, Message)]
pub struct ArrayRecord {
    #[prost(map = "string, message", tag = "2")]
    pub fields: HashMap<String, BatchedTensor>,
    #[prost(int64, tag = "3")]
    pub num_datums: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct BatchedTensor {
    #[prost(bytes = "vec", tag = "1")]
    pub data: Vec<u8>,
    /// Little-endian `i64`: the offset of each trajectory's bytes, and the end of the last.
    #[prost(bytes = "vec", tag = "2")]
    pub offsets: Vec<u8>,
    #[prost(enumeration = "Dtype", tag = "3")]
    pub dtype: i32,
}

impl Datum {
    /// A trajectory of `ids`, at least two, without inputs of a loss.
    pub fn new(ids: &[u32]) -> Self {
        let (given, targets) = (&ids[..ids.len() - 1], &ids[1..]);
        let tokens = given.iter().flat_map(|&id| (id as i32).to_le_bytes()).collect();
        let chunk = Chunk { encoded_text: Some(EncodedText { tokens }) };
        let dense = targets.iter().flat_map(|&id| i64::from(id).to_le_bytes()).collect();
        let targets =
            TensorData { dense, dtype: Dtype::Int64.into(), shape: vec![targets.len() as i64] };
        let inputs = HashMap::from([("target_tokens".to_owned(), targets)]);
        Self { model_input: vec![chunk], loss_fn_inputs: inputs }
    }

    /// Adds an input of the loss, one value for each position.
    pub fn with(mut self, name: &str, values: impl IntoIterator<Item = f32>) -> Self {
        let dense: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        let shape = vec![(dense.len() / size_of::<f32>()) as i64];
        let tensor = TensorData { dense, dtype: Dtype::Float32.into(), shape };
        self.loss_fn_inputs.insert(name.to_owned(), tensor);
        self
    }
}

impl ForwardBackwardOutput {
    /// The log-probabilities of every position of each trajectory.
    ///
    /// # Errors
    /// Explains what is missing or inconsistent.
    pub fn log_probs(&self) -> Result<Vec<Vec<f32>>, String> {
        let mut all = Vec::new();
        for record in &self.loss_fn_outputs {
            let field = record.fields.get("logprobs").ok_or("it has no field `logprobs`")?;
            let rows = field.rows()?;
            if rows.len() as i64 != record.num_datums {
                return Err(format!(
                    "`logprobs` has {} rows, not {}",
                    rows.len(),
                    record.num_datums
                ));
            }
            all.extend(rows);
        }
        Ok(all)
    }
}

impl BatchedTensor {
    fn rows(&self) -> Result<Vec<Vec<f32>>, String> {
        if self.dtype != i32::from(Dtype::Float32) {
            return Err(format!("`logprobs` is of the type {}, not of f32", self.dtype));
        }
        let offsets: Vec<i64> = values(&self.offsets, i64::from_le_bytes)
            .ok_or("the offsets of `logprobs` are cut off")?;
        let row = |pair: &[i64]| {
            let (begin, end) = (usize::try_from(pair[0]).ok()?, usize::try_from(pair[1]).ok()?);
            values(self.data.get(begin..end)?, f32::from_le_bytes)
        };
        let rows: Option<Vec<Vec<f32>>> = offsets.windows(2).map(row).collect();
        rows.ok_or_else(|| "the offsets of `logprobs` do not fit its data".to_owned())
    }
}

/// Bytes as values of `N` bytes each; `None` if some are left over.
fn values<T, const N: usize>(bytes: &[u8], read: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let (whole, []) = bytes.as_chunks::<N>() else { return None };
    Some(whole.iter().map(|&bytes| read(bytes)).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The SDK's own serialisation of the same request, with fields in the order of their numbers.
    #[test]
    fn a_request_has_the_bytes_of_the_sdk() {
        let request = ForwardBackwardRequest {
            model_id: "m".into(),
            seq_id: 3,
            data: vec![Datum::new(&[1, 2, 300])],
            loss_fn: "cross_entropy".into(),
            forward_only: true,
        };
        let expected = [
            b"\x0a\x01m\x10\x03".as_slice(),
            b"\x1a\x38\x0a\x0c\x0a\x0a\x0a\x08\x01\0\0\0\x02\0\0\0",
            b"\x12\x28\x0a\x0dtarget_tokens\x12\x17",
            b"\x0a\x10\x02\0\0\0\0\0\0\0\x2c\x01\0\0\0\0\0\0\x18\x02\x22\x01\x02",
            b"\x22\x0dcross_entropy\x30\x01",
        ];
        let found = request.encode_to_vec();
        assert_eq!(found.escape_ascii().to_string(), expected.concat().escape_ascii().to_string());
    }

    fn output(offsets: &[i64], data: &[f32], datums: i64) -> ForwardBackwardOutput {
        let field = BatchedTensor {
            data: data.iter().flat_map(|value| value.to_le_bytes()).collect(),
            offsets: offsets.iter().flat_map(|value| value.to_le_bytes()).collect(),
            dtype: Dtype::Float32.into(),
        };
        let fields = HashMap::from([("logprobs".to_owned(), field)]);
        let record = ArrayRecord { fields, num_datums: datums };
        ForwardBackwardOutput { loss_fn_outputs: vec![record], ..Default::default() }
    }

    #[test]
    fn rows_are_cut_by_their_offsets() {
        let found = output(&[0, 8, 8, 12], &[-1.0, -2.0, -3.0], 3).log_probs().unwrap();
        assert_eq!(found, [vec![-1.0, -2.0], vec![], vec![-3.0]]);
        for (offsets, datums, said) in [
            (&[0, 8, 16][..], 2, "do not fit"),
            (&[8, 0], 1, "do not fit"),
            (&[-4, 4], 1, "do not fit"),
            (&[0, 6], 1, "do not fit"),
            (&[0, 12], 2, "1 rows, not 2"),
        ] {
            let error = output(offsets, &[-1.0, -2.0, -3.0], datums).log_probs().unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn unknown_fields_are_ignored() {
        let mut bytes = output(&[0, 4], &[-1.0], 1).encode_to_vec();
        bytes.extend(b"\xfa\x01\x03new"); // field 31, three bytes
        let found = ForwardBackwardOutput::decode(&bytes[..]).unwrap();
        assert_eq!(found.log_probs().unwrap(), [vec![-1.0]]);
    }
}
