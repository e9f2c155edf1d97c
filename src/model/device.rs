//! The device and number type of a model.
//!
//! On a GPU the trainer runs `ops::composed` and the native engine decodes by `generate::device`;
//! on a CPU the trainer runs `ops::host` and the engine decodes by `generate::decoder`.

use candle_core::{DType, Device};

use super::config::{DeviceChoice, DtypeChoice};
use super::error::ModelError;

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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    #[cfg(not(feature = "cuda"))]
    use crate::hint::Hint;

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
