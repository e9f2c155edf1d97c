//! `server export`: a model as a folder that can be served, or as a GGUF file.

use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, ValueEnum};

use crate::config::name_of_model;
use crate::gguf::Entry;
use crate::model::{Adapter, GgufType, check_finite, disk_hint, misplaced};
use crate::tokenization::{GgufTokenizer, gguf_entries};
use crate::train::config::StartConfig;
use crate::train::error::TrainError;
use crate::train::start::Start;

use super::output::print_line;
use super::telemetry::Telemetry;
use super::{Failure, hub};

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("output").args(["out", "gguf"]).required(true).multiple(true)))]
pub struct ExportArgs {
    /// A folder, a `.gguf` file, a Hugging Face id, or `ID:FILE.gguf`
    model: String,
    /// An adapter to merge into it: a folder as PEFT writes it, or a Hugging Face id
    #[arg(long, value_name = "FOLDER")]
    adapter: Option<PathBuf>,
    /// Write a folder with safetensors, tokenizer and chat template; it must be new or empty
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Write a GGUF file, as llama.cpp and Ollama read it
    #[arg(long, value_name = "FILE")]
    gguf: Option<PathBuf>,
    /// The type of the weights in the GGUF file (default: f16)
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Write the tokenizer for servers that receive token ids (`policy.engine = "tokens"`): rules
    /// for splitting texts are left out where GGUF files cannot express them
    #[arg(long)]
    ids_only: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    /// 32-bit floating point
    #[value(name = "f32")]
    F32,
    /// 16-bit floating point
    #[value(name = "f16")]
    F16,
    /// 8 bits, about half the size
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 to 6 bits, less than a third of the size: llama.cpp's mixture Q4_K_M
    #[value(name = "q4_k", alias = "q4_k_m")]
    Q4K,
}

/// Runs `server export`.
pub fn run(args: ExportArgs) -> Result<(), Failure> {
    Telemetry::start(None)?;
    args.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let path = runtime.block_on(hub::resolve(&args.model))?;
    let adapter = args.adapter.as_ref();
    let adapter =
        adapter.map(|adapter| runtime.block_on(hub::resolve_adapter(adapter))).transpose()?;
    let config = StartConfig {
        path: Some(path.clone()),
        adapter: adapter.clone(),
        ..StartConfig::default()
    };
    if Adapter::is_adapter_only(&path)
        && let Some(reason) = misplaced(&path, config.adapter.as_slice())
    {
        let hint = "give the model that it was made for, and this folder by `--adapter`";
        return Err(reason.with_hint(hint).into());
    }
    config.check()?;
    let start = Start::open(&config, path.clone(), 0)?;
    let weights = start.model.merged().map_err(anyhow::Error::from)?;
    if let Some(adapter) = &adapter {
        let merged = check_finite(adapter, &weights.named(start.model.spec()));
        merged.map_err(anyhow::Error::from).context("the adapter cannot be merged")?;
    }
    if let Some(folder) = &args.out {
        write_folder(folder, || start.save(&start.model, folder))?;
        print_line(folder.display())?;
    }
    if let Some(file) = &args.gguf {
        if let Some(templates) = start.own_templates() {
            tracing::warn!(
                templates = %templates.display(),
                "a GGUF file cannot hold the model's protocol templates: where it is served, set `templates` to a copy of them"
            );
        }
        let spec = start.model.spec();
        let wanted = match args.ids_only {
            true => GgufTokenizer::IdsOnly,
            false => GgufTokenizer::Texts,
        };
        let settings = gguf_entries(&path, &start.text, spec.vocab_size, wanted);
        let mut settings = settings.map_err(anyhow::Error::from)?;
        settings.push(("general.name".into(), Entry::Text(name_of_model(&args.model).to_owned())));
        let kind = match args.kind.unwrap_or(Kind::F16) {
            Kind::F32 => GgufType::F32,
            Kind::F16 => GgufType::F16,
            Kind::Q8_0 => GgufType::Q8_0,
            Kind::Q4K => GgufType::Q4K,
        };
        let written = weights.write_gguf(spec, settings, kind, file);
        written.map_err(|error| unwritten(file, error.into()))?;
        print_line(file.display())?;
    }
    Ok(())
}

/// Has `write` fill a folder that is new or empty. After an error it is as before.
fn write_folder(
    folder: &Path,
    write: impl FnOnce() -> Result<(), TrainError>,
) -> anyhow::Result<()> {
    let was_there = folder.exists();
    write().map_err(|error| {
        // If this fails too, the first error says more.
        std::fs::remove_dir_all(folder).ok();
        if was_there {
            std::fs::create_dir(folder).ok();
        }
        unwritten(folder, error.into())
    })
}

/// An error of writing to `path`. Where the disk is full, what to do is not what a training run
/// advises.
fn unwritten(path: &Path, error: anyhow::Error) -> anyhow::Error {
    let is_full = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| disk_hint(error).is_some())
    };
    match error.chain().any(is_full) {
        true => reason!(
            "cannot write `{}`: {error}", path.display();
            hint: "free some disk space, and export again; what was written is removed"
        )
        .into(),
        false => error.context(format!("cannot write `{}`", path.display())),
    }
}

impl ExportArgs {
    /// Fails if something would be overwritten, or the outputs would be ambiguous.
    fn check(&self) -> anyhow::Result<()> {
        let flags = [("--type", self.kind.is_some()), ("--ids-only", self.ids_only)];
        let given = flags.into_iter().find(|(_, is_given)| *is_given);
        if let (None, Some((flag, _))) = (&self.gguf, given) {
            return Err(reason!(
                "`{flag}` is about a GGUF file, but `--gguf` names none";
                hint: "add `--gguf FILE`, or leave `{flag}` out"
            )
            .into());
        }
        let is_taken = |folder: &Path| {
            folder.is_file() || std::fs::read_dir(folder).is_ok_and(|mut all| all.next().is_some())
        };
        if let Some(folder) = self.out.as_deref().filter(|folder| is_taken(folder)) {
            return Err(
                reason!("`{}` is not empty", folder.display(); hint: "name a new folder").into()
            );
        }
        match self.gguf.as_deref() {
            Some(file) if file.exists() => Err(
                reason!("there is a file `{}` already", file.display(); hint: "name a new file")
                    .into(),
            ),
            Some(file) if !crate::gguf::Gguf::is_path(file) => {
                bail!("`{}` does not end in `.gguf`", file.display())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::hint::{Hint, Reason};

    #[test]
    fn a_failed_export_leaves_the_folder_as_it_was() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("out");
        for was_there in [false, true] {
            if was_there {
                std::fs::create_dir(&folder).unwrap();
            }
            let error = write_folder(&folder, || {
                std::fs::create_dir_all(folder.join("templates"))?;
                std::fs::write(folder.join("tokenizer.json"), "{")?;
                Err(io::Error::from(io::ErrorKind::StorageFull).into())
            });
            let error = error.unwrap_err();
            let reason = error.downcast_ref::<Reason>().unwrap();
            assert!(reason.text.contains(folder.to_str().unwrap()), "{reason}");
            let hint = reason.hint().unwrap();
            assert!(hint.contains("export again") && !hint.contains("--resume"), "{hint}");
            assert_eq!(folder.exists(), was_there);
        }
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        write_folder(&folder, || Ok(std::fs::write(folder.join("a"), "")?)).unwrap();
        assert!(folder.join("a").exists());
    }
}
