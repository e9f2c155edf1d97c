//! Sums of gradients by the name of the trainable tensor they belong to.

use std::collections::HashMap;

use candle_core::{DType, Tensor};

use super::error::ModelError;
use super::ops::{composed, host};

/// One gradient for each trainable tensor, f32, in the model's order. A weight without an entry is
/// frozen: no gradient is computed for it.
#[derive(Debug)]
pub struct Gradients {
    names: Vec<String>,
    sums: Vec<Tensor>,
    /// The index of each name in `sums`.
    indices: HashMap<String, usize>,
}

impl Gradients {
    /// Zeros in the shapes of `trainable`.
    ///
    /// # Errors
    /// When the device has no memory left.
    pub fn zeros(trainable: &[(String, &Tensor)]) -> Result<Self, ModelError> {
        let mut gradients = Self { names: Vec::new(), sums: Vec::new(), indices: HashMap::new() };
        for (name, tensor) in trainable {
            gradients.indices.insert(name.clone(), gradients.sums.len());
            gradients.names.push(name.clone());
            gradients.sums.push(Tensor::zeros(
                tensor.shape(),
                composed::wide(tensor.dtype()),
                tensor.device(),
            )?);
        }
        Ok(gradients)
    }

    /// Back to zero, keeping the memory.
    ///
    /// # Errors
    /// When the device fails.
    pub fn clear(&mut self) -> Result<(), ModelError> {
        for sum in &mut self.sums {
            if host::is_host(sum) {
                host::update(sum, |values| values.fill(0.0))?;
            } else {
                *sum = sum.zeros_like()?;
            }
        }
        Ok(())
    }

    /// Names and gradients, in the order of [`super::Model::trainable`].
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.names.iter().map(String::as_str).zip(&self.sums)
    }

    /// The gradient of `name`; `None` when it is frozen or unknown.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.indices.get(name).map(|&index| &self.sums[index])
    }

    /// The gradient of `name` to add to; `None` if it is frozen.
    pub(crate) fn slot(&mut self, name: &str) -> Option<&mut Tensor> {
        self.indices.get(name).map(|&index| &mut self.sums[index])
    }

    /// Multiplies every gradient by `factor`.
    ///
    /// # Errors
    /// When the device fails.
    pub fn scale(&mut self, factor: f32) -> Result<(), ModelError> {
        for sum in &mut self.sums {
            if host::is_host(sum) {
                host::update(sum, |values| values.iter_mut().for_each(|value| *value *= factor))?;
            } else {
                *sum = sum.affine(f64::from(factor), 0.0)?;
            }
        }
        Ok(())
    }

    /// The Euclidean norm over all gradients together; summed in f64 in a fixed order.
    ///
    /// # Errors
    /// When the device fails.
    pub fn norm(&self) -> Result<f64, ModelError> {
        let mut squares = 0.0;
        for sum in &self.sums {
            squares += if host::is_host(sum) {
                host::sum_of_squares(&host::values(sum)?)
            } else {
                sum.sqr()?.sum_all()?.to_dtype(DType::F64)?.to_scalar::<f64>()?
            };
        }
        Ok(squares.sqrt())
    }
}
