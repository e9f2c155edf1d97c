//! AdamW: Adam with decoupled weight decay, with clipping by global norm and resumable state.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;

use crate::hint::Hint;
use crate::model::ops::host;
use crate::model::ops::host::simd::multiversion;
use crate::model::{Gradients, ModelError, files};

/// Values a task updates.
const CHUNK: usize = 16 * 1024;

/// Settings, as in torch's AdamW. The learning rate is given with each step.
#[derive(Debug, Clone, PartialEq)]
pub struct AdamWConfig {
    /// Decay of the mean gradient and of the mean squared gradient.
    pub betas: (f64, f64),
    /// Added to the root of the mean squared gradient.
    pub eps: f64,
    /// Weights shrink by `learning rate × weight_decay` each step.
    pub weight_decay: f64,
    /// Whether one-dimensional tensors, which are the norms, decay too.
    pub decay_vectors: bool,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self { betas: (0.9, 0.999), eps: 1e-8, weight_decay: 0.01, decay_vectors: false }
    }
}

/// Why an optimizer step cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum AdamWError {
    /// The gradient holds a NaN or an infinity. Nothing was changed.
    #[error("the gradient is not finite")]
    NonFinite,
    /// The state does not belong to this model.
    #[error("the optimizer's state does not fit the model: {0}")]
    Mismatch(String),
    /// A tensor or a file failed.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl Hint for AdamWError {
    fn hint(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            Self::NonFinite => "lower the learning rate or skip the batch".into(),
            Self::Model(error) => return error.hint(),
            Self::Mismatch(_) => return None,
        })
    }
}

impl From<candle_core::Error> for AdamWError {
    fn from(error: candle_core::Error) -> Self {
        Self::Model(error.into())
    }
}

/// Gradients that are finite and clipped.
#[derive(Debug)]
pub struct Clipped<'a> {
    gradients: &'a Gradients,
    /// The global norm before clipping.
    pub norm: f64,
}

/// Scales `gradients` so that their global norm is at most `limit` (infinity: leave them).
///
/// # Errors
/// When a gradient is not finite, or the device fails.
pub fn clip(gradients: &mut Gradients, limit: f64) -> Result<Clipped<'_>, AdamWError> {
    let norm = gradients.norm()?;
    if !norm.is_finite() {
        return Err(AdamWError::NonFinite);
    }
    if norm > limit {
        // torch adds the 1e-6, and results are compared with its.
        gradients.scale((limit / (norm + 1e-6)) as f32)?;
    }
    Ok(Clipped { gradients, norm })
}

/// One tensor's moments, and its f32 master copy if the model's own type is narrower.
#[derive(Debug)]
struct Moments {
    name: String,
    mean: Tensor,
    square: Tensor,
    master: Option<Tensor>,
}

/// The optimizer and its state.
#[derive(Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    states: Vec<Moments>,
}

/// Constants of one step, the same for every element.
#[derive(Clone, Copy)]
struct Factors {
    /// The factor of weight decay.
    keep: f32,
    /// `1 − β₁` and `1 − β₂`, and `β₂`.
    mean: f32,
    square: f32,
    square_keep: f32,
    /// `learning rate / (1 − β₁ᵗ)`
    rate: f32,
    /// `1 / √(1 − β₂ᵗ)`
    root: f32,
    eps: f32,
}

impl AdamW {
    /// Fresh state for the tensors that [`crate::model::Model::trainable`] lists.
    ///
    /// # Errors
    /// When the configuration is impossible, or the device has no memory left.
    pub fn new(config: AdamWConfig, trainable: &[(String, &Tensor)]) -> Result<Self, AdamWError> {
        let mut states = Vec::new();
        for (name, tensor) in trainable {
            let zeros = || Tensor::zeros(tensor.shape(), DType::F32, tensor.device());
            let master = match tensor.dtype() {
                DType::F32 => None,
                _ => Some(tensor.to_dtype(DType::F32)?),
            };
            states.push(Moments { name: name.clone(), mean: zeros()?, square: zeros()?, master });
        }
        Ok(Self { config, steps: 0, states })
    }

    /// Steps made so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Updates the parameters, which [`crate::model::Model::trainable_mut`] lists, against the
    /// gradient. Each becomes a new tensor, so shared old ones do not change.
    ///
    /// # Errors
    /// When the parameters are not those that the state is for, or the device fails.
    pub fn step(
        &mut self,
        mut parameters: Vec<(String, &mut Tensor)>,
        clipped: &Clipped,
        learning_rate: f64,
    ) -> Result<(), AdamWError> {
        self.check(parameters.iter().map(|(name, tensor)| (name.as_str(), &**tensor)))?;
        let t = (self.steps + 1).min(i32::MAX as u64) as i32;
        let (beta1, beta2) = self.config.betas;
        for ((name, parameter), state) in parameters.iter_mut().zip(&mut self.states) {
            let gradient = clipped
                .gradients
                .get(name)
                .ok_or_else(|| AdamWError::Mismatch(format!("`{name}` has no gradient")))?;
            let decays = parameter.rank() > 1 || self.config.decay_vectors;
            let decay = if decays { self.config.weight_decay } else { 0.0 };
            let factors = Factors {
                keep: (1.0 - learning_rate * decay) as f32,
                mean: (1.0 - beta1) as f32,
                square: (1.0 - beta2) as f32,
                square_keep: beta2 as f32,
                rate: (learning_rate / (1.0 - beta1.powi(t))) as f32,
                root: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
                eps: self.config.eps as f32,
            };
            let dtype = parameter.dtype();
            let old = state.master.as_ref().unwrap_or(parameter);
            let new = if host::is_host(old) && host::is_host(gradient) {
                update_host(old, gradient, state, factors)?
            } else {
                let (new, mean, square) = updated(old, gradient, state, factors)?;
                (state.mean, state.square) = (mean, square);
                new
            };
            if state.master.is_some() {
                **parameter = new.to_dtype(dtype)?;
                state.master = Some(new);
            } else {
                **parameter = new;
            }
        }
        self.steps += 1;
        Ok(())
    }

    /// Writes moments, master copies and the step count as safetensors, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), AdamWError> {
        let steps = Tensor::new(self.steps as i64, &Device::Cpu)?;
        let mut tensors = vec![("steps".to_owned(), &steps)];
        for state in &self.states {
            tensors.push((format!("mean.{}", state.name), &state.mean));
            tensors.push((format!("square.{}", state.name), &state.square));
            if let Some(master) = &state.master {
                tensors.push((format!("master.{}", state.name), master));
            }
        }
        Ok(files::save_tensors(path, &tensors)?)
    }

    /// Reads the state that [`AdamW::save`] wrote while training tensors of these names and shapes.
    ///
    /// # Errors
    /// When the file cannot be read, or is of other tensors.
    pub fn load(
        config: AdamWConfig,
        trainable: &[(String, &Tensor)],
        path: &Path,
    ) -> Result<Self, AdamWError> {
        let mut fresh = Self::new(config, trainable)?;
        let device = trainable.first().map_or(&Device::Cpu, |(_, tensor)| tensor.device());
        let mut tensors = files::load_tensors(path, device)?;
        fresh.steps = take(&mut tensors, "steps")?.to_scalar::<i64>()?.unsigned_abs();
        for state in &mut fresh.states {
            let mut part = |kind: &str, like: &mut Tensor| -> Result<(), AdamWError> {
                let name = format!("{kind}.{}", state.name);
                let read = take(&mut tensors, &name)?;
                if read.shape() != like.shape() || read.dtype() != DType::F32 {
                    return Err(AdamWError::Mismatch(format!(
                        "`{name}` has shape {:?}, not {:?}",
                        read.dims(),
                        like.dims()
                    )));
                }
                *like = read;
                Ok(())
            };
            part("mean", &mut state.mean)?;
            part("square", &mut state.square)?;
            if let Some(master) = &mut state.master {
                part("master", master)?;
            }
        }
        match tensors.keys().next() {
            None => Ok(fresh),
            Some(name) => Err(AdamWError::Mismatch(format!("the model has no `{name}`"))),
        }
    }

    fn check<'a>(
        &self,
        parameters: impl ExactSizeIterator<Item = (&'a str, &'a Tensor)>,
    ) -> Result<(), AdamWError> {
        if parameters.len() != self.states.len() {
            return Err(AdamWError::Mismatch(format!(
                "{} tensors are trainable, the state knows {}",
                parameters.len(),
                self.states.len()
            )));
        }
        for ((name, tensor), state) in parameters.zip(&self.states) {
            if name != state.name || tensor.shape() != state.mean.shape() {
                return Err(AdamWError::Mismatch(format!("`{name}` {:?}", tensor.dims())));
            }
        }
        Ok(())
    }
}

fn take(tensors: &mut HashMap<String, Tensor>, name: &str) -> Result<Tensor, AdamWError> {
    tensors.remove(name).ok_or_else(|| AdamWError::Mismatch(format!("`{name}` is missing")))
}

/// Updates the moments in place and returns the new values.
fn update_host(
    old: &Tensor,
    gradient: &Tensor,
    state: &Moments,
    factors: Factors,
) -> candle_core::Result<Tensor> {
    let (values, gradient) = (host::values(old)?, host::values(gradient)?);
    let mut new = values.to_vec();
    host::update(&state.mean, |mean| {
        host::update(&state.square, |square| {
            new.par_chunks_mut(CHUNK)
                .zip(gradient.par_chunks(CHUNK))
                .zip(mean.par_chunks_mut(CHUNK).zip(square.par_chunks_mut(CHUNK)))
                .for_each(|((new, gradient), (mean, square))| {
                    update_chunk(new, gradient, mean, square, factors);
                });
        })
    })??;
    host::tensor(new, old.shape())
}

multiversion! {
    fn update_chunk(values: &mut [f32], gradient: &[f32], mean: &mut [f32], square: &mut [f32], factors: Factors) {
        // Products and sums are rounded separately, as in torch.
        let _ = FMA;
        let moments = mean.iter_mut().zip(square);
        for ((value, g), (mean, square)) in values.iter_mut().zip(gradient).zip(moments) {
            *mean += (g - *mean) * factors.mean;
            *square = *square * factors.square_keep + g * g * factors.square;
            let denominator = square.sqrt() * factors.root + factors.eps;
            *value = *value * factors.keep - factors.rate * *mean / denominator;
        }
    }
}

/// The same with candle's operations: new values, mean and square.
fn updated(
    old: &Tensor,
    gradient: &Tensor,
    state: &Moments,
    factors: Factors,
) -> candle_core::Result<(Tensor, Tensor, Tensor)> {
    let gradient = gradient.to_dtype(DType::F32)?;
    let mean = (&state.mean + ((&gradient - &state.mean)? * f64::from(factors.mean))?)?;
    let square = ((&state.square * f64::from(factors.square_keep))?
        + (gradient.sqr()? * f64::from(factors.square))?)?;
    let denominator = square.sqrt()?.affine(f64::from(factors.root), f64::from(factors.eps))?;
    let change = ((&mean * f64::from(factors.rate))? / denominator)?;
    Ok((((old * f64::from(factors.keep))? - change)?, mean, square))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    const NAMES: [&str; 2] = ["matrix", "vector"];

    fn config() -> AdamWConfig {
        AdamWConfig { betas: (0.9, 0.95), weight_decay: 0.1, ..Default::default() }
    }

    fn trace() -> HashMap<String, Tensor> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/adamw/trace.safetensors");
        files::load_tensors(Path::new(path), &Device::Cpu).unwrap()
    }

    fn named(tensors: &[Tensor]) -> Vec<(String, &Tensor)> {
        NAMES.iter().map(|name| (*name).to_owned()).zip(tensors).collect()
    }

    /// One step of the trace; returns the norm before clipping.
    fn step(
        optimizer: &mut AdamW,
        tensors: &mut [Tensor],
        trace: &HashMap<String, Tensor>,
        at: usize,
    ) -> f64 {
        let mut gradients = Gradients::zeros(&named(tensors)).unwrap();
        for name in NAMES {
            *gradients.slot(name).unwrap() = trace[&format!("{at}.{name}.gradient")].clone();
        }
        let clipped = clip(&mut gradients, 1.0).unwrap();
        let parameters = NAMES.iter().map(|name| (*name).to_owned()).zip(tensors).collect();
        optimizer.step(parameters, &clipped, 0.01 * (at + 1) as f64).unwrap();
        clipped.norm
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn assert_near(a: &Tensor, b: &Tensor, tolerance: f32, what: &str) {
        assert_eq!(a.shape(), b.shape());
        for (a, b) in values(a).into_iter().zip(values(b)) {
            assert!((a - b).abs() <= tolerance, "{what}: {a} is not {b}");
        }
    }

    #[test]
    fn follows_torch() {
        let trace = trace();
        let mut tensors = NAMES.map(|name| trace[&format!("start.{name}")].clone());
        let mut optimizer = AdamW::new(config(), &named(&tensors)).unwrap();
        for at in 0..12 {
            let norm = step(&mut optimizer, &mut tensors, &trace, at);
            let expected = f64::from(trace[&format!("{at}.norm")].to_scalar::<f32>().unwrap());
            assert!((norm - expected).abs() < 1e-6 * expected.max(1.0));
            for (name, tensor) in named(&tensors) {
                assert_near(tensor, &trace[&format!("{at}.{name}.value")], 1e-6, &name);
            }
        }
    }

    #[test]
    fn resumes_bit_for_bit() {
        let trace = trace();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        for dtype in [DType::F32, DType::BF16] {
            let mut tensors =
                NAMES.map(|name| trace[&format!("start.{name}")].to_dtype(dtype).unwrap());
            let mut optimizer = AdamW::new(config(), &named(&tensors)).unwrap();
            for at in 0..5 {
                step(&mut optimizer, &mut tensors, &trace, at);
            }
            optimizer.save(&path).unwrap();
            let mut other = tensors.clone();
            let mut resumed = AdamW::load(config(), &named(&other), &path).unwrap();
            for at in 5..8 {
                step(&mut optimizer, &mut tensors, &trace, at);
                step(&mut resumed, &mut other, &trace, at);
            }
            assert_eq!(resumed.steps(), 8);
            for (a, b) in tensors.iter().zip(&other) {
                let (a, b) = (a.to_dtype(DType::F32).unwrap(), b.to_dtype(DType::F32).unwrap());
                assert_near(&a, &b, 0.0, "resumed");
            }
        }
    }

    #[test]
    fn a_narrow_type_keeps_a_master() {
        let tensor = Tensor::ones(4, DType::BF16, &Device::Cpu).unwrap();
        let mut tensors = [tensor.clone(), tensor];
        let mut optimizer = AdamW::new(AdamWConfig::default(), &named(&tensors)).unwrap();
        for _ in 0..100 {
            let mut gradients = Gradients::zeros(&named(&tensors)).unwrap();
            for name in NAMES {
                let slot = gradients.slot(name).unwrap();
                *slot = slot.ones_like().unwrap();
            }
            let clipped = clip(&mut gradients, f64::INFINITY).unwrap();
            let parameters = NAMES.map(str::to_owned).into_iter().zip(&mut tensors).collect();
            optimizer.step(parameters, &clipped, 1e-4).unwrap();
        }
        // A single step of 1e-4 is below bf16's resolution at 1: only a master copy accumulates
        // them.
        let value = values(&tensors[0].to_dtype(DType::F32).unwrap())[0];
        assert!((value - 0.99).abs() < 0.004, "{value}");
    }

    #[test]
    fn a_gradient_that_is_not_finite_is_refused() {
        let tensors = NAMES.map(|_| Tensor::ones(3, DType::F32, &Device::Cpu).unwrap());
        for bad in [f32::NAN, f32::INFINITY] {
            let mut gradients = Gradients::zeros(&named(&tensors)).unwrap();
            *gradients.slot("vector").unwrap() =
                Tensor::new(&[0.0, bad, 0.0], &Device::Cpu).unwrap();
            assert!(matches!(clip(&mut gradients, 1.0), Err(AdamWError::NonFinite)));
        }
    }

    #[test]
    fn the_state_of_another_model_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optimizer.safetensors");
        let tensors = [3, 4].map(|n| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap());
        AdamW::new(config(), &named(&tensors)).unwrap().save(&path).unwrap();
        let wider = [3, 5].map(|n| Tensor::ones(n, DType::F32, &Device::Cpu).unwrap());
        for other in [named(&wider), named(&tensors[..1])] {
            assert!(matches!(AdamW::load(config(), &other, &path), Err(AdamWError::Mismatch(_))));
        }
    }

    #[test]
    fn host_and_portable_updates_agree() {
        let trace = trace();
        let tensor = trace["start.matrix"].clone();
        let gradient = &trace["3.matrix.gradient"];
        let factors = Factors {
            keep: 0.99,
            mean: 0.1,
            square: 0.01,
            square_keep: 0.99,
            rate: 0.3,
            root: 2.0,
            eps: 1e-8,
        };
        let named = [("matrix".to_owned(), &tensor)];
        let optimizer = AdamW::new(config(), &named).unwrap();
        let state = &optimizer.states[0];
        let (new, mean, square) = updated(&tensor, gradient, state, factors).unwrap();
        let host = update_host(&tensor, gradient, state, factors).unwrap();
        assert_near(&host, &new, 1e-6, "value");
        assert_near(&state.mean, &mean, 1e-7, "mean");
        assert_near(&state.square, &square, 1e-7, "square");
    }
}
