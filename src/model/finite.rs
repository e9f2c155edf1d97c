//! Weights that are not finite.

use std::path::Path;

use candle_core::{DType, Tensor};

use super::error::ModelError;
use crate::hint::Reason;

/// Fails if a weight of the model or adapter at `path` is not finite.
///
/// # Errors
/// Names the tensor.
pub fn check_finite(path: &Path, tensors: &[(String, &Tensor)]) -> Result<(), ModelError> {
    match first_not_finite(tensors)? {
        Some(name) => {
            let path = path.display().to_string();
            Err(ModelError::Invalid { path, reason: not_finite(name) })
        }
        None => Ok(()),
    }
}

/// The name of the first tensor with a value that is not finite.
///
/// # Errors
/// When a tensor cannot be computed with.
pub fn first_not_finite<'a>(
    tensors: &'a [(String, &Tensor)],
) -> Result<Option<&'a str>, ModelError> {
    for (name, tensor) in tensors {
        // Zero for each finite value; a plain sum could overflow.
        let zero = tensor.to_dtype(DType::F32)?.affine(0.0, 0.0)?.sum_all()?.to_scalar::<f32>()?;
        if zero.is_nan() {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

/// What is wrong with the tensor `name`.
pub(super) fn not_finite(name: &str) -> Reason {
    reason!(
        "`{name}` has values that are not finite";
        hint: "the model was damaged, or diverged before it was saved"
    )
}
