//! Sentence embeddings by a BERT encoder with mean pooling, such as all-MiniLM-L6-v2. Forward only.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use candle_core::{D, DType, Device, Tensor};
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::{Tokenizer, TruncationParams};

use super::error::ModelError;
use super::files;
use crate::hint::Reason;

/// Characters of a text that are tokenised: many times what fits the longest sequence.
const READ_CHARS: usize = 32_768;

/// A sentence encoder. Longer texts than its longest sequence are truncated, as its library does.
pub struct SentenceModel {
    tokenizer: Tokenizer,
    /// Whether texts are read in small letters, whatever the tokenizer does.
    is_lower_case: bool,
    heads: usize,
    /// `(vocab, hidden)`
    words: Tensor,
    /// `(positions, hidden)`, the embedding of the first token type added.
    positions: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
}

/// The shape of a BERT, in the names of `config.json`.
#[derive(Deserialize)]
struct Shape {
    model_type: String,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    #[serde(default = "gelu")]
    hidden_act: String,
}

fn epsilon() -> f64 {
    1e-12
}

fn gelu() -> String {
    "gelu".into()
}

/// How the library around the encoder uses it.
#[derive(Default, Deserialize)]
struct Settings {
    max_seq_length: Option<usize>,
    do_lower_case: Option<bool>,
}

/// A step of the library, in `modules.json`.
#[derive(Deserialize)]
struct Module {
    path: String,
    #[serde(rename = "type")]
    class: String,
}

struct Linear {
    /// `(in, out)`
    weight: Tensor,
    /// `(out)`
    bias: Tensor,
}

struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

struct Layer {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    attention_norm: Norm,
    up: Linear,
    down: Linear,
    norm: Norm,
}

impl SentenceModel {
    /// Reads `config.json`, `tokenizer.json` and `model.safetensors` in `folder`, and if they exist
    /// `sentence_bert_config.json`, `modules.json` and the settings of the pooling.
    ///
    /// # Errors
    /// When a file cannot be read, or describes a model that this crate would compute differently.
    pub fn load(folder: &Path) -> Result<Self, ModelError> {
        let invalid =
            |reason: Reason| ModelError::Invalid { path: folder.display().to_string(), reason };
        let shape: Shape = read_json(folder, "config.json")?
            .ok_or_else(|| invalid("it has no `config.json`".into()))?;
        if shape.model_type != "bert" || shape.hidden_act != "gelu" {
            return Err(invalid(reason!(
                "only a `bert` with `gelu` can embed sentences, but this is a `{}` with `{}`", shape.model_type, shape.hidden_act;
                hint: "name a folder or hub id such as `sentence-transformers/all-MiniLM-L6-v2`"
            )));
        }
        if let Some(reason) = unread_step(folder)? {
            return Err(invalid(reason));
        }
        let settings: Settings =
            read_json(folder, "sentence_bert_config.json")?.unwrap_or_default();
        let longest = settings.max_seq_length.unwrap_or(usize::MAX);
        let longest = longest.min(shape.max_position_embeddings);
        let tokenizer = tokenizer(&folder.join("tokenizer.json"), longest).map_err(|error| {
            invalid(format!("its `tokenizer.json` cannot be read: {error}").into())
        })?;

        let path = folder.join("model.safetensors");
        let mut tensors = Tensors {
            path: path.display().to_string(),
            tensors: files::load_tensors(&path, &Device::Cpu)?,
            epsilon: shape.layer_norm_eps,
        };
        let types = tensors.take("embeddings.token_type_embeddings.weight")?;
        let positions = tensors.take("embeddings.position_embeddings.weight")?;
        let positions = positions.broadcast_add(&types.get(0)?)?;
        let words = tensors.take("embeddings.word_embeddings.weight")?;
        let norm = tensors.norm("embeddings.LayerNorm")?;
        let layers = (0..shape.num_hidden_layers)
            .map(|index| tensors.layer(&format!("encoder.layer.{index}")))
            .collect::<Result<_, _>>()?;
        let (heads, is_lower_case) =
            (shape.num_attention_heads, settings.do_lower_case == Some(true));
        Ok(Self { tokenizer, is_lower_case, heads, words, positions, norm, layers })
    }

    /// The embedding of `text`: `hidden` numbers of Euclidean length 1.
    ///
    /// # Errors
    /// When the text cannot be tokenized or computed.
    pub fn embed(&self, text: &str) -> Result<Vec<f32>, ModelError> {
        let head = text.char_indices().nth(READ_CHARS).map_or(text, |(end, _)| &text[..end]);
        let head: Cow<'_, str> =
            if self.is_lower_case { head.to_lowercase().into() } else { head.into() };
        let encoding = self.tokenizer.encode(&*head, true);
        let encoding = encoding
            .map_err(|error| ModelError::Batch(format!("the text is not tokenised: {error}")))?;
        let mean = self.states(encoding.get_ids())?.mean(0)?;
        let length = mean.sqr()?.sum_all()?.sqrt()?;
        Ok(mean.broadcast_div(&length)?.to_vec1()?)
    }

    /// The last hidden states, `(tokens, hidden)`.
    fn states(&self, ids: &[u32]) -> Result<Tensor, ModelError> {
        let words = self.words.index_select(&Tensor::new(ids, &Device::Cpu)?, 0)?;
        let mut states = self.norm.forward(&(words + self.positions.narrow(0, 0, ids.len())?)?)?;
        for layer in &self.layers {
            states = layer.forward(&states, self.heads)?;
        }
        Ok(states)
    }
}

impl Layer {
    fn forward(&self, input: &Tensor, heads: usize) -> Result<Tensor, ModelError> {
        let (tokens, hidden) = input.dims2()?;
        let width = hidden / heads;
        // (heads, tokens, width)
        let split = |projection: &Linear| -> Result<Tensor, ModelError> {
            let all = projection.forward(input)?.reshape((tokens, heads, width))?;
            Ok(all.transpose(0, 1)?.contiguous()?)
        };
        let (query, key, value) = (split(&self.query)?, split(&self.key)?, split(&self.value)?);
        let scores = query.matmul(&key.transpose(1, 2)?.contiguous()?)?;
        let scores = (scores / (width as f64).sqrt())?;
        let context = softmax(&scores)?.matmul(&value)?;
        let context = context.transpose(0, 1)?.reshape((tokens, hidden))?;
        let states = self.attention_norm.forward(&(self.output.forward(&context)? + input)?)?;
        let wide = self.up.forward(&states)?.gelu_erf()?;
        self.norm.forward(&(self.down.forward(&wide)? + states)?)
    }
}

impl Linear {
    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        Ok(input.matmul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

impl Norm {
    fn forward(&self, input: &Tensor) -> Result<Tensor, ModelError> {
        let centred = input.broadcast_sub(&input.mean_keepdim(D::Minus1)?)?;
        let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + self.epsilon)?.sqrt()?;
        let scaled = centred.broadcast_div(&deviation)?.broadcast_mul(&self.weight)?;
        Ok(scaled.broadcast_add(&self.bias)?)
    }
}

fn softmax(scores: &Tensor) -> Result<Tensor, ModelError> {
    let raised = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?.exp()?;
    Ok(raised.broadcast_div(&raised.sum_keepdim(D::Minus1)?)?)
}

/// A checkpoint's tensors, removed by name.
struct Tensors {
    path: String,
    tensors: HashMap<String, Tensor>,
    epsilon: f64,
}

impl Tensors {
    fn take(&mut self, name: &str) -> Result<Tensor, ModelError> {
        // Some checkpoints name the encoder inside a larger model.
        let found = self.tensors.remove(name);
        let found = found.or_else(|| self.tensors.remove(&format!("bert.{name}")));
        let tensor = found.ok_or_else(|| ModelError::Invalid {
            path: self.path.clone(),
            reason: format!("it has no tensor `{name}`").into(),
        })?;
        Ok(tensor.to_dtype(DType::F32)?)
    }

    fn linear(&mut self, name: &str) -> Result<Linear, ModelError> {
        let weight = self.take(&format!("{name}.weight"))?.t()?.contiguous()?;
        Ok(Linear { weight, bias: self.take(&format!("{name}.bias"))? })
    }

    fn norm(&mut self, name: &str) -> Result<Norm, ModelError> {
        Ok(Norm {
            weight: self.take(&format!("{name}.weight"))?,
            bias: self.take(&format!("{name}.bias"))?,
            epsilon: self.epsilon,
        })
    }

    fn layer(&mut self, name: &str) -> Result<Layer, ModelError> {
        Ok(Layer {
            query: self.linear(&format!("{name}.attention.self.query"))?,
            key: self.linear(&format!("{name}.attention.self.key"))?,
            value: self.linear(&format!("{name}.attention.self.value"))?,
            output: self.linear(&format!("{name}.attention.output.dense"))?,
            attention_norm: self.norm(&format!("{name}.attention.output.LayerNorm"))?,
            up: self.linear(&format!("{name}.intermediate.dense"))?,
            down: self.linear(&format!("{name}.output.dense"))?,
            norm: self.norm(&format!("{name}.output.LayerNorm"))?,
        })
    }
}

/// What the library does with texts and the encoder's states, other than the mean over a text's
/// tokens, where it does something else.
fn unread_step(folder: &Path) -> Result<Option<Reason>, ModelError> {
    let modules: Option<Vec<Module>> = read_json(folder, "modules.json")?;
    let is_listed = modules.is_some();
    let mut pooling = if is_listed { None } else { Some("1_Pooling".to_owned()) };
    for Module { path, class } in modules.into_iter().flatten() {
        match class.rsplit('.').next().unwrap_or_default() {
            "Transformer" if path.is_empty() => {}
            "Normalize" => {}
            "Pooling" => pooling = Some(path),
            _ => {
                return Ok(Some(
                    format!("its module `{class}` in `{path}` is not supported").into(),
                ));
            }
        }
    }
    let prompts: Option<Value> = read_json(folder, "config_sentence_transformers.json")?;
    if prompts.is_some_and(|prompts| !prompts["default_prompt_name"].is_null()) {
        return Ok(Some("it puts a prompt before texts, which is not supported".into()));
    }
    let Some(pooling) = pooling else { return Ok(None) };
    let file = format!("{pooling}/config.json");
    let settings: Option<Value> = read_json(folder, &file)?;
    Ok(match settings {
        None if is_listed => Some(format!("it has no `{file}`, which says how it pools").into()),
        Some(settings) if !is_mean(&settings) => {
            Some("it does not pool by the mean, which is all this reads".into())
        }
        _ => None,
    })
}

/// Whether these settings of a pooling mean the mean and nothing beside it, in the form of the
/// library's version 6 or of earlier ones.
fn is_mean(settings: &Value) -> bool {
    match &settings["pooling_mode"] {
        Value::Null => {
            let flags = settings.as_object().into_iter().flatten();
            let is_on = |(key, value): &(&String, &Value)| {
                key.starts_with("pooling_mode_") && value.as_bool() == Some(true)
            };
            flags.filter(is_on).all(|(key, _)| key == "pooling_mode_mean_tokens")
        }
        mode => [json!("mean"), json!(["mean"])].contains(mode),
    }
}

fn tokenizer(path: &Path, longest: usize) -> Result<Tokenizer, String> {
    let mut tokenizer = Tokenizer::from_file(path).map_err(|error| error.to_string())?;
    // The file's own settings are for batches of one fixed length.
    tokenizer.with_padding(None);
    let truncation = TruncationParams { max_length: longest, ..TruncationParams::default() };
    tokenizer.with_truncation(Some(truncation)).map_err(|error| error.to_string())?;
    Ok(tokenizer)
}

/// A file in `folder`, if it exists.
fn read_json<T: for<'d> Deserialize<'d>>(
    folder: &Path,
    name: &str,
) -> Result<Option<T>, ModelError> {
    let path = folder.join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ModelError::Io { path: path.display().to_string(), source }),
    };
    serde_json::from_str(&text).map(Some).map_err(|error| ModelError::Invalid {
        path: path.display().to_string(),
        reason: error.to_string().into(),
    })
}
