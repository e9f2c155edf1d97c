//! Settings of a model: its device, its number type, its adapter.

use serde::{Deserialize, Serialize};

use super::slots::Projection;

/// The device of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// `auto`: the first CUDA device if the program was built for CUDA and there is one, otherwise
    /// the CPU.
    #[default]
    Auto,
    /// `cpu`
    Cpu,
    /// `cuda`, or `cuda:N` for another than the first.
    Cuda(usize),
}

/// The number type of a model's computation. An optimizer always uses f32.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DtypeChoice {
    /// bf16 on CUDA, f32 on the CPU.
    #[default]
    Auto,
    /// f32
    F32,
    /// bf16. Slow on a CPU, where it only serves to try out what a GPU will do.
    Bf16,
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let ordinal = match text.as_str() {
            "auto" => return Ok(Self::Auto),
            "cpu" => return Ok(Self::Cpu),
            "cuda" => Some(0),
            other => other.strip_prefix("cuda:").and_then(|ordinal| ordinal.parse().ok()),
        };
        ordinal.map(Self::Cuda).ok_or_else(|| {
            format!("unknown variant `{text}`, expected one of `auto`, `cpu`, `cuda`, `cuda:N`")
        })
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        match choice {
            DeviceChoice::Auto => "auto".into(),
            DeviceChoice::Cpu => "cpu".into(),
            DeviceChoice::Cuda(0) => "cuda".into(),
            DeviceChoice::Cuda(ordinal) => format!("cuda:{ordinal}"),
        }
    }
}

/// What to adapt, and how strongly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// Width of the low-rank product.
    pub rank: usize,
    /// The product is scaled by `alpha / rank`.
    pub alpha: f64,
    /// The projections that get one, in every layer.
    pub targets: Vec<Projection>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn names_of_devices() {
        for (text, choice) in [
            ("auto", DeviceChoice::Auto),
            ("cpu", DeviceChoice::Cpu),
            ("cuda", DeviceChoice::Cuda(0)),
            ("cuda:3", DeviceChoice::Cuda(3)),
        ] {
            assert_eq!(DeviceChoice::try_from(text.to_owned()).unwrap(), choice);
            assert_eq!(String::from(choice), text);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "CUDA"] {
            let error = DeviceChoice::try_from(text.to_owned()).unwrap_err();
            assert!(error.contains(&format!("unknown variant `{text}`")), "{error}");
        }
    }
}
