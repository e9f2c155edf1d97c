//! The device and number type of a model.
//!
//! On a GPU the trainer runs `ops::composed` and the native engine decodes by `generate::device`;
//! on a CPU the trainer runs `ops::host` and the engine decodes by `generate::decoder`.

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::error::ModelError;

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

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// When this build or this machine has no such device.
    pub fn open(self) -> Result<Device, ModelError> {
        let has_cuda = candle_core::utils::cuda_is_available();
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Auto if !has_cuda => Ok(Device::Cpu),
            Self::Auto => Ok(Device::new_cuda(0).unwrap_or_else(|error| {
                tracing::warn!(%error, "there is no usable CUDA device: on the CPU");
                Device::Cpu
            })),
            Self::Cuda(_) if !has_cuda => Err(ModelError::Device(reason!(
                "the device is to be `{}`, but this program was built without CUDA", String::from(self);
                hint: "build it with `--features cuda`, or leave `device` out"
            ))),
            Self::Cuda(ordinal) => Device::new_cuda(ordinal).map_err(|error| {
                ModelError::Device(reason!(
                    "the device `{}` cannot be used: {error}", String::from(self);
                    hint: "`nvidia-smi` lists the devices there are"
                ))
            }),
        }
    }
}

impl DtypeChoice {
    /// The type on `device`.
    pub fn on(self, device: &Device) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::BF16,
            Self::Auto if device.is_cuda() => DType::BF16,
            Self::Auto => DType::F32,
        }
    }
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    #[cfg(not(feature = "cuda"))]
    use crate::hint::Hint;

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

    #[test]
    fn types_follow_the_device() {
        for (choice, dtype) in [
            (DtypeChoice::Auto, DType::F32),
            (DtypeChoice::F32, DType::F32),
            (DtypeChoice::Bf16, DType::BF16),
        ] {
            assert_eq!(choice.on(&Device::Cpu), dtype);
        }
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_device_that_the_program_was_not_built_for_is_named() {
        let error = DeviceChoice::Cuda(1).open().unwrap_err().explained();
        assert!(error.contains("`cuda:1`") && error.contains("--features cuda"), "{error}");
        assert!(matches!(DeviceChoice::Auto.open(), Ok(Device::Cpu)));
    }
}
