//! The model a run starts from: a folder, or a new one of a given shape.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Device;
use serde::{Deserialize, Serialize};

use crate::dataset::world::{World, WorldConfig};
use crate::model::spec::LayerKind;
use crate::model::{
    Adapter, AdapterConfig, DeviceChoice, DtypeChoice, Family, Model, Spec, Weights,
};
use crate::protocol::{Opening, Piece, Protocol, TAGS};
use crate::tokenization::TextSide;
use crate::tokenization::word_level::{
    CONVERSATION_TEMPLATE, LAST_MESSAGE_TEMPLATE, write_word_level,
};

use super::error::TrainError;
use super::run_folder::{RunFolder, TEMPLATES, copy_text_side};

/// Which model is trained.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StartConfig {
    /// A folder with weights, tokenizer and chat template.
    pub path: Option<PathBuf>,
    /// Or a new model for the bundled world, with random weights and a vocabulary of its words.
    pub new: Option<NewModel>,
    /// A folder of protocol templates that the policy is taught, and carries from then on. Default:
    /// those in its own folder, or the built-in ones.
    pub templates: Option<PathBuf>,
    /// Train a new low-rank adapter instead of the weights.
    pub lora: Option<AdapterConfig>,
    /// Or go on with the adapter in this PEFT folder.
    pub adapter: Option<PathBuf>,
    /// Where it is trained, and GRPO samples its episodes.
    pub device: DeviceChoice,
    /// In which type; also that of the finished folder. A run goes on in the type it began in.
    pub dtype: DtypeChoice,
    /// Keep only each layer's input and compute the rest again on the way back: less memory, a
    /// third more time.
    pub recompute: bool,
}

/// The shape of a new model; see `config.json` of any Qwen3.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewModel {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Number of layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// Whether it reads the last message only, as a model without memory.
    #[serde(default)]
    pub last_message_only: bool,
    /// A folder of protocol templates that it is to carry.
    #[serde(default)]
    pub templates: Option<PathBuf>,
}

/// A model ready to be trained.
pub struct Start {
    /// The model.
    pub model: Model,
    /// Its tokenizer and chat template.
    pub text: Arc<TextSide>,
    /// The folder they came from.
    pub folder: PathBuf,
    /// The protocol templates, if they are not those of the folder.
    templates: Option<PathBuf>,
}

impl Start {
    /// Loads or makes the model. `world` gives a new one its vocabulary.
    pub fn prepare(
        config: &StartConfig,
        run: &RunFolder,
        world: &WorldConfig,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let device = config.device.open()?;
        let dtype = config.dtype.on(&device);
        let folder = match (&config.path, &config.new) {
            (Some(path), None) => path.clone(),
            (None, Some(new)) => {
                let folder = run.start();
                if !folder.join("model.safetensors").is_file() {
                    make(new, &folder, world, seed)?;
                }
                folder
            }
            _ => {
                return Err(TrainError::Config(
                    "`model` needs either `path` or `new`\nhint: `[model] path = \"models/policy\"` goes on from the bundled policy".into(),
                ));
            }
        };
        let text = Arc::new(TextSide::load(&folder)?);
        let mut model = Model::load(&folder, dtype, &device)?;
        let shape = model.spec();
        let adapter = match (&config.lora, &config.adapter) {
            (None, None) => None,
            (Some(new), None) => Some(Adapter::new(shape, new.clone(), seed, dtype, &device)?),
            (None, Some(folder)) => Some(Adapter::load(folder, shape, dtype, &device)?),
            (Some(_), Some(_)) => {
                return Err(TrainError::Config(
                    "`model` has both `lora`, a new adapter, and `adapter`, one to go on with\nhint: the folder of `adapter` says its rank and targets itself".into(),
                ));
            }
        };
        if let Some(adapter) = adapter {
            model = model.with_adapter(adapter);
        }
        model.set_recompute(config.recompute);
        Ok(Self { model, text, folder, templates: config.templates.clone() })
    }

    /// The protocol this model was or will be taught: that of the run, else its own templates, else
    /// the built-in ones.
    pub fn protocol(&self) -> Result<Protocol, TrainError> {
        Ok(Protocol::load(self.templates().as_deref())?)
    }

    fn templates(&self) -> Option<PathBuf> {
        let own = self.folder.join(TEMPLATES);
        self.templates.clone().or_else(|| own.is_dir().then_some(own))
    }

    /// Writes `model` with this text side as a folder that can be served, by the templates that it
    /// was taught: later versions of the built-in ones do not change what it reads.
    pub fn save(&self, model: &Model, folder: &Path) -> Result<(), TrainError> {
        copy_text_side(&self.folder, folder)?;
        Protocol::record(self.templates().as_deref(), &folder.join(TEMPLATES))?;
        model.save(folder)?;
        if let Some(adapter) = model.adapter() {
            adapter.save(&folder.join("adapter"))?;
        }
        Ok(())
    }
}

fn make(new: &NewModel, folder: &Path, world: &WorldConfig, seed: u64) -> Result<(), TrainError> {
    std::fs::create_dir_all(folder)?;
    if let Some(templates) = &new.templates {
        std::fs::create_dir_all(folder.join(TEMPLATES))?;
        for entry in std::fs::read_dir(templates)? {
            let entry = entry?;
            std::fs::copy(entry.path(), folder.join(TEMPLATES).join(entry.file_name()))?;
        }
    }
    let mut lines = World::generate(world)?.vocabulary_corpus(200, 0)?;
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
