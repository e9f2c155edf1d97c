//! The model a run starts from: a folder, or a new one of a given shape.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use serde_json::{Map, Value};

use crate::atomic_file;
use crate::hint::Reason;
use crate::model::spec::LayerKind;
use crate::model::{
    Adapter, Family, Model, Spec, Weights, check_adapter, check_finite, first_not_finite, misplaced,
};
use crate::protocol::{
    Opening, Piece, Protocol, SETTINGS_FILE, Settings, TAGS, TEMPLATE_FILES, TEMPLATES,
    own_templates,
};
use crate::tokenization::word_level::{
    CONVERSATION_TEMPLATE, LAST_MESSAGE_TEMPLATE, write_word_level,
};
use crate::tokenization::{ChatTokenizer, write_texts};
use crate::world::{WorldConfig, vocabulary};

use super::adapter_text::check_text;
use super::config::{NewModel, StartConfig};
use super::error::TrainError;
use super::json_file;
use super::origin::{model_parts, weights_hash};
use super::run_folder::{RunFolder, TEXT_FILES, copy_templates, copy_tokenizer};

impl StartConfig {
    /// Checks the settings and the folder, without reading weights.
    ///
    /// # Errors
    /// Explains what is missing or conflicting.
    pub fn check(&self) -> Result<(), TrainError> {
        if self.path.is_some() == self.new.is_some() {
            return Err(TrainError::Config(neither()));
        }
        if self.lora.is_some() && self.adapter.is_some() {
            return Err(TrainError::Config(both()));
        }
        let folder = self.path.as_deref();
        if let Some(reason) = folder.and_then(|path| misplaced(path, self.adapter.as_slice())) {
            return Err(TrainError::Config(reason));
        }
        if let (Some(folder), Some(adapter)) = (folder, &self.adapter) {
            not_applied_yet(adapter, folder)?;
        }
        Ok(())
    }
}

fn neither() -> Reason {
    reason!(
        "`model` needs either `path` or `new`";
        hint: "`[model] path = \"models/policy\"` continues from the bundled policy"
    )
}

fn both() -> Reason {
    reason!(
        "`model` has both `lora`, a new adapter, and `adapter`, one to continue";
        hint: "the folder of `adapter` says its rank and targets itself"
    )
}

/// A model ready to be trained.
pub struct Start {
    /// The model.
    pub model: Model,
    /// Its tokenizer and chat template.
    pub text: Arc<ChatTokenizer>,
    /// The folder or file they came from.
    pub folder: PathBuf,
    /// The folder of the adapter that is continued or merged.
    adapter: Option<PathBuf>,
    /// The protocol templates, unless they are the model's own.
    templates: Option<PathBuf>,
    /// Characters of a reply that the policy is shown while it is trained, where that is known.
    observation_chars: Option<usize>,
    /// The device and type of the model.
    pub device: String,
}

impl Start {
    /// Loads or creates the model. A new one gets its vocabulary from `world`.
    ///
    /// # Errors
    /// When the model is missing, has parts that cannot be trained, or a weight is not finite.
    pub fn prepare(
        config: &StartConfig,
        run: &RunFolder,
        world: &WorldConfig,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let folder = match (&config.path, &config.new) {
            (Some(path), None) => path.clone(),
            (None, Some(new)) => {
                let folder = run.start();
                // Without a checkpoint it is what an earlier attempt left, maybe of another shape.
                if run.is_fresh() && folder.exists() {
                    std::fs::remove_dir_all(&folder)?;
                }
                if !folder.join("model.safetensors").is_file() {
                    make(new, &folder, world, seed)?;
                }
                folder
            }
            _ => {
                return Err(TrainError::Config(neither()));
            }
        };
        Self::open(config, folder, seed)
    }

    /// Loads the model in `folder`, or of a `.gguf` file, with the adapter that `config` names.
    ///
    /// # Errors
    /// As [`Start::prepare`].
    pub fn open(config: &StartConfig, folder: PathBuf, seed: u64) -> Result<Self, TrainError> {
        if let Some(reason) = misplaced(&folder, config.adapter.as_slice()) {
            return Err(TrainError::Config(reason));
        }
        let device = config.device.open()?;
        let dtype = config.dtype.on(&device);
        let text = Arc::new(ChatTokenizer::load_for(&folder, config.adapter.as_deref())?);
        let mut model = Model::load(&folder, dtype, &device)?;
        check_saved(model.spec(), &folder)?;
        check_finite(&folder, &model.weights().named(model.spec()))?;
        text.check_size(model.spec().vocab_size).map_err(TrainError::Config)?;
        let shape = model.spec();
        let adapter = match (&config.lora, &config.adapter) {
            (None, None) => None,
            (Some(new), None) => Some(Adapter::new(shape, new.clone(), seed, dtype, &device)?),
            (None, Some(path)) => {
                check_adapter(path)?;
                not_applied_yet(path, &folder)?;
                check_text(path, &text, &folder)?;
                let adapter = Adapter::load(path, shape, dtype, &device)?;
                check_finite(path, &adapter.named())?;
                Some(adapter)
            }
            (Some(_), Some(_)) => {
                return Err(TrainError::Config(both()));
            }
        };
        if let Some(adapter) = adapter {
            model = model.with_adapter(adapter);
        }
        model.set_recompute(config.recompute);
        let device = format!("{}, {}", device_name(&device), dtype.as_str());
        tracing::info!(device, model = %folder.display(), "the model is loaded");
        if text.turn_end().is_none() {
            tracing::warn!(
                "neither the chat template nor the model's files say which token ends a turn: none is learnt"
            );
        }
        let (adapter, templates) = (config.adapter.clone(), config.templates.clone());
        Ok(Self { model, text, folder, adapter, templates, observation_chars: None, device })
    }

    /// The same for episodes that show the policy at most `limit` characters of a reply. Saved
    /// folders say so.
    pub fn showing(self, limit: usize) -> Self {
        Self { observation_chars: Some(limit), ..self }
    }

    /// The protocol of this model: that of the run, otherwise its own templates, which may be its
    /// adapter's, otherwise the built-in ones.
    ///
    /// # Errors
    /// When a template cannot be read or does not render.
    pub fn protocol(&self) -> Result<Protocol, TrainError> {
        Ok(Protocol::load(self.templates().as_deref())?)
    }

    fn templates(&self) -> Option<PathBuf> {
        self.templates.clone().or_else(|| self.own_templates())
    }

    /// The protocol templates that belong to the model: those of its adapter, otherwise those in
    /// its folder. Serving takes the same.
    pub fn own_templates(&self) -> Option<PathBuf> {
        own_templates(self.adapter.iter().chain([&self.folder]))
    }

    /// The files that prompts and their tokens are made by, with their names in a model's folder.
    pub fn text_files(&self) -> Vec<(String, PathBuf)> {
        let own = TEXT_FILES.into_iter().map(|name| (name.to_owned(), self.folder.join(name)));
        let lent = self.adapter.iter().filter(|_| self.text.has_lent_template());
        let lent = lent.flat_map(|adapter| {
            let file =
                move |name: &'static str| (format!("model.adapter/{name}"), adapter.join(name));
            TEXT_FILES.into_iter().map(file)
        });
        let templates = self.templates();
        let templates = templates.iter().flat_map(|folder| {
            let names = TEMPLATE_FILES.into_iter().map(|(name, _)| name).chain([SETTINGS_FILE]);
            names.map(move |name| (format!("{TEMPLATES}/{name}"), folder.join(name)))
        });
        own.chain(lent).chain(templates).filter(|(_, path)| path.is_file()).collect()
    }

    /// The parts of the model besides its weights and texts that say what is trained, with their
    /// names.
    pub fn parts(&self) -> Vec<(String, PathBuf)> {
        let own = match self.folder.is_dir() {
            true => ("config.json".to_owned(), self.folder.join("config.json")),
            // A GGUF file has its settings and its texts inside.
            false => ("model.path".to_owned(), self.folder.clone()),
        };
        // A checkpoint has the adapter's values, but not its scale, and not where it began.
        let adapter = self.adapter.iter().flat_map(|adapter| model_parts("model.adapter", adapter));
        [own].into_iter().chain(adapter).filter(|(_, path)| path.exists()).collect()
    }

    /// Saves `model` with this tokenizer as a folder that can be served, including its templates:
    /// later versions of the built-in ones do not affect it.
    ///
    /// # Errors
    /// When a weight is not finite, or a file cannot be written.
    pub fn save(&self, model: &Model, folder: &Path) -> Result<(), TrainError> {
        let named = model.adapter().map(Adapter::named).unwrap_or_default();
        let named = [model.weights().named(model.spec()), named].concat();
        if let Some(name) = first_not_finite(&named)? {
            return Err(TrainError::Config(reason!(
                "`{name}` of the trained model has values that are not finite, so it is not saved";
                hint: "lower `schedule.peak`, and begin again in another `output`"
            )));
        }
        if self.text.has_lent_template() {
            std::fs::create_dir_all(folder)?;
            write_texts(&self.text, folder)?;
        } else {
            copy_tokenizer(&self.folder, folder)?;
        }
        self.save_protocol(&folder.join(TEMPLATES))?;
        model.save(folder)?;
        self.save_turn_end(folder)?;
        if let Some(adapter) = model.adapter() {
            let own = folder.join("adapter");
            adapter.save(&own, Some(&self.folder.display().to_string()))?;
            atomic_file::write(&own.join(BASE), weights_hash(&self.folder)? + "\n")?;
            if self.text.has_lent_template() {
                write_texts(&self.text, &own)?;
            }
            self.save_protocol(&own.join(TEMPLATES))?;
        }
        Ok(())
    }

    /// Writes the templates and settings of the protocol into the folder `to`.
    fn save_protocol(&self, to: &Path) -> Result<(), TrainError> {
        Protocol::record(self.templates().as_deref(), to)?;
        let Some(limit) = self.observation_chars else { return Ok(()) };
        let settings = Settings::load(Some(to))?;
        let observation_chars = Some(settings.observation_chars(limit));
        Ok(Settings { observation_chars, ..settings }.write(to)?)
    }

    /// Writes the stop tokens into `generation_config.json`, the end of a turn first.
    fn save_turn_end(&self, folder: &Path) -> Result<(), TrainError> {
        let Some(end) = self.text.turn_end() else { return Ok(()) };
        let mut ends = vec![end];
        ends.extend(self.text.tokenizer.end_ids().iter().copied().filter(|&id| id != end));
        let path = folder.join("generation_config.json");
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let mut settings: Map<String, Value> = serde_json::from_str(&text).unwrap_or_default();
        settings.insert("eos_token_id".into(), ends.into());
        Ok(json_file::write(&path, &settings)?)
    }
}

/// In an adapter's folder: the hash of its base weights.
pub(super) const BASE: &str = "base.sha256";

/// Fails if what is made of the model in `folder` could not be saved, which is done at the end.
///
/// # Errors
/// Says why.
pub fn check_saved(spec: &Spec, folder: &Path) -> Result<(), TrainError> {
    spec.in_folder().map(drop).map_err(|reason| {
        let shown = folder.display();
        TrainError::Config(reason.map_text(|text| format!("`{shown}` could not be saved: {text}")))
    })
}

/// Fails if the weights in `base` already include the adapter, or are not those it was trained on.
///
/// # Errors
/// Says which of the two.
pub fn not_applied_yet(adapter: &Path, base: &Path) -> Result<(), TrainError> {
    let parent = adapter.canonicalize().ok().and_then(|path| Some(path.parent()?.to_owned()));
    if parent.is_some() && parent == base.canonicalize().ok() {
        return Err(TrainError::Config(reason!(
            "the weights in `{}` hold the adapter `{}` already", base.display(), adapter.display();
            hint: "leave the adapter out to use the merged weights, or give the base that the adapter was trained on"
        )));
    }
    let Ok(expected) = std::fs::read_to_string(adapter.join(BASE)) else { return Ok(()) };
    let found = weights_hash(base).map_err(|source| TrainError::read(base, source))?;
    if found != expected.trim() {
        return Err(TrainError::Config(reason!(
            "the adapter `{}` was trained on other weights than those in `{}`", adapter.display(), base.display();
            hint: "`base_model_name_or_path` in its `adapter_config.json` says which; remove its `{BASE}` to use it all the same"
        )));
    }
    Ok(())
}

fn device_name(device: &Device) -> &'static str {
    match device {
        Device::Cpu => "cpu",
        Device::Cuda(_) => "cuda",
        Device::Metal(_) => "metal",
    }
}

fn make(new: &NewModel, folder: &Path, world: &WorldConfig, seed: u64) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder)?;
    if let Some(templates) = &new.templates {
        copy_templates(templates, folder)?;
    }
    let mut lines = vocabulary(world)?;
    let protocol = Protocol::load(new.templates.as_deref())?;
    let opening = Opening { max_turns: 9, ..Opening::default() };
    lines.extend(protocol.opening(&opening)?.into_iter().filter_map(|piece| match piece {
        Piece::Markup(text) => Some(text),
        Piece::Text(_) => None,
    }));
    let tags: Vec<String> =
        TAGS.iter().flat_map(|tag| [format!("<{tag}>"), format!("</{tag}>")]).collect();
    let template =
        if new.last_message_only { LAST_MESSAGE_TEMPLATE } else { CONVERSATION_TEMPLATE };
    let vocab_size = write_word_level(folder, &lines, &tags, template)?;
    let spec = Spec {
        vocab_size,
        hidden_size: new.hidden_size,
        intermediate_size: new.intermediate_size,
        layers: vec![LayerKind::default(); new.num_hidden_layers],
        num_attention_heads: new.num_attention_heads,
        num_key_value_heads: new.num_key_value_heads,
        head_dim: new.head_dim,
        max_position_embeddings: new.max_position_embeddings,
        tie_word_embeddings: true,
        ..Family::Qwen3.spec()
    };
    Weights::random(&spec, seed, &Device::Cpu)?.save(folder, &spec)?;
    Ok(())
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
