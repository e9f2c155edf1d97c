//! `server check` and what a configuration names.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::json;

use crate::one_file::tiny;
use crate::process::{command, outcome, run};

/// This text with its version, and with folders in place of their names.
fn filled(folder: &Path, text: &str) -> String {
    let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("models");
    let text = text
        .replace("POLICY", &models.join("policy-warm").display().to_string())
        .replace("LARGE", &models.join("large-model").display().to_string())
        .replace("HERE", &folder.display().to_string());
    format!("schema_version = 1\n{text}")
}

/// The exit status and output of the check of this text.
fn checked(folder: &Path, text: &str) -> (i32, String) {
    let file = folder.join("config.toml");
    std::fs::write(&file, filled(folder, text)).unwrap();
    run(&["check", file.to_str().unwrap()])
}

const GRPO: &str = "output = 'HERE/run'\nsteps = 1\ngroups_per_step = 1\ngroup_size = 2\n\
    [model]\npath = 'POLICY'\n[large_model]\npath = 'LARGE'\n\
    [tasks]\nkind = 'world'\nquestions = ['comparison']\n";
const SFT: &str = "output = 'HERE/run'\nsteps = 1\n[model]\npath = 'POLICY'\n\
    [data]\nkind = 'world_facts'\n";
const SERVE: &str = "[large_models.m]\nurl = 'http://127.0.0.1:9/v1'\nmodel = 'm'\n";
const ENV: &str = "model = 'POLICY'\nlarge_model = { path = 'LARGE' }\n";
const EVAL: &str = "output = 'HERE/out'\narms = ['direct']\n\
    data = [{ kind = 'file', path = 'HERE/rows.jsonl' }]\nlocal_models.a.path = 'LARGE'\n";

#[test]
fn check_reports_missing_files_and_models() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("rows.jsonl"), "{\"question\":\"q\",\"answer\":\"a\"}\n")
        .unwrap();
    std::fs::write(folder.path().join("good.j2"), "{{ question }}").unwrap();
    for good in [
        GRPO.to_owned(),
        format!("{GRPO}[reward.external]\ncommand = ['sh', 'x']"),
        SFT.to_owned(),
        SERVE.to_owned(),
        format!("server.listen = 'localhost:8080'\n{SERVE}"),
        format!("server.listen = '[::1]:8080'\n{SERVE}"),
        format!("local_models.a.path = 'some/model'\n{SERVE}"),
        ENV.to_owned(),
        EVAL.replace("'direct'", "'template:HERE/good.j2', 'policy:POLICY', 'script:sh x'"),
    ] {
        let (status, said) = checked(folder.path(), &good);
        assert!(status == 0 && said.contains("is valid"), "{good}: {said}");
    }
    let arms = |arm: &str| EVAL.replace("'direct'", &format!("'direct', '{arm}'"));
    for (bad, named) in [
        (format!("{GRPO}[reward.coefficients]\nalpha = -1.0"), "reward.coefficients.alpha"),
        (format!("{GRPO}[reward.external]\ncommand = ['/no/such']"), "`reward.external.command`"),
        (format!("{GRPO}[reward.external]\ncommand = ['no-such']"), "`no-such`"),
        (format!("{GRPO}[judge]\nprompt = 'nofile.j2'"), "`judge.prompt`"),
        (format!("{GRPO}[judge.large_model]\npath = 'models/no'"), "`judge.large_model.path`"),
        (GRPO.replace("'POLICY'", "'POLICY'\ntemplates = 'nofolder'"), "`model.templates`"),
        (GRPO.replace("LARGE", "models/nothing"), "`large_model.path`"),
        (SFT.replace("'POLICY'", "'POLICY'\ntemplates = 'nofolder'"), "`model.templates`"),
        (format!("local_models.a.path = 'models/nope'\n{SERVE}"), "`local_models.a.path`"),
        (format!("policy.model = 'models/nope'\n{SERVE}"), "`policy.model`"),
        (format!("templates = 'nofolder'\n{SERVE}"), "`templates`"),
        (format!("{SERVE}fallbacks = ['nope']\n"), "no large model is called `nope`"),
        (format!("{SERVE}tokenizer = 'no/tokenizer.json'\n"), "`large_models.m.tokenizer`"),
        (format!("{SERVE}ca = 'no/ca.pem'\n"), "`large_models.m.ca`"),
        (format!("server.listen = 'nonsense'\n{SERVE}"), "`server.listen` = `nonsense`"),
        (
            format!("tls = {{ certificate = 'no.pem', key = 'no.pem' }}\n{SERVE}"),
            "`tls.certificate`",
        ),
        (
            format!(
                "policy.model = 'POLICY'\ncanary = {{ share = 0.5, policy.model = 'POLICY' }}\n{SERVE}"
            ),
            "two policies are called `policy-warm`",
        ),
        (
            format!("policy.remote = {{ url = 'nonsense', model = 'm' }}\n{SERVE}"),
            "`policy.remote.url` = `nonsense`",
        ),
        (
            GRPO.replace("path = 'LARGE'", "endpoint = { url = 'nonsense', model = 'm' }"),
            "`large_model.endpoint.url` = `nonsense`",
        ),
        (
            ENV.replace(
                "path = 'LARGE'",
                "endpoint = { url = 'http://h', model = 'm', prices.input_per_million = nan }",
            ),
            "`large_model.endpoint.prices.input_per_million` = `NaN`",
        ),
        (format!("episode.max_cost = -1\n{EVAL}"), "`episode.max_cost` is -1"),
        (format!("server.listen = 'nonsense'\n{ENV}"), "`server.listen` = `nonsense`"),
        (ENV.replace("LARGE", "models/nothing"), "`large_model.path`"),
        (ENV.replace("POLICY", "models/nothing"), "`model` names"),
        (arms("template:nofile.j2"), "nofile.j2"),
        (arms("self-consistency:3:nofile.j2"), "nofile.j2"),
        (arms("policy:models/nothing"), "models/nothing"),
        (arms("script:/no/prog x"), "`/no/prog`"),
        (EVAL.replace("LARGE", "models/nope"), "`local_models.a.path`"),
        (format!("{EVAL}local_models.a.params.seed = 1.5\n"), "`local_models.a.params`: `seed`"),
        (
            format!("local_models.a = {{ path = 'LARGE', params.max_tokens = -1 }}\n{SERVE}"),
            "`local_models.a.params`: `max_tokens`",
        ),
        (
            GRPO.replace("'LARGE'", "'LARGE'\nparams.temperature = true"),
            "`large_model.params`: `temperature`",
        ),
        (ENV.replace("'LARGE'", "'LARGE', params.top_p = 7"), "`large_model.params`: `top_p`"),
    ] {
        let (status, said) = checked(folder.path(), &bad);
        assert!(status != 0 && said.contains(named), "{bad}: {said}");
    }
}

#[test]
fn a_configuration_may_be_a_pipe() {
    let folder = tempfile::tempdir().unwrap();
    let piped = |text: &str| {
        let mut child = command(&["check", "/dev/stdin"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(filled(folder.path(), text).as_bytes()).unwrap();
        outcome(&child.wait_with_output().unwrap())
    };
    for good in [GRPO, SFT, SERVE, ENV] {
        let (status, said) = piped(good);
        assert!(status == 0 && said.contains("`/dev/stdin` is valid"), "{good}: {said}");
    }
    let (status, said) = piped(&format!("episode.max_turnz = 3\n{SERVE}"));
    assert!(status != 0 && said.contains("`max_turnz`"), "{said}");
}

#[test]
fn a_model_is_checked_as_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let file = tiny(folder.path());
    let file = file.to_str().unwrap();
    for (model, kind) in [(file, "llama"), ("models/policy", "qwen3")] {
        let (status, said) = run(&["check", model]);
        let engine = format!("policy.engine: native, because it supports `{kind}` models");
        assert!(status == 0 && said.contains(&engine), "{said}");
    }
    let (status, said) = run(&["check", folder.path().to_str().unwrap()]);
    assert!(status != 0 && said.contains("holds no `config.json`"), "{said}");
    let (status, said) = run(&["serve", "--config", file]);
    assert!(status != 0 && said.contains("`--policy` names a model"), "{said}");
}

#[test]
fn an_adapter_without_its_base_says_what_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors", "README.md"] {
        std::fs::copy(Path::new("models/arithmetic").join(name), folder.path().join(name)).unwrap();
    }
    let adapter = folder.path().to_str().unwrap();
    for args in [&["solve", "x", "--policy", adapter][..], &["check", adapter]] {
        let (status, said) = run(args);
        assert!(status != 0 && said.contains("`SmolLM2-135M-Instruct-Q4_1.gguf`"), "{said}");
        assert!(said.contains("README.md` may say how to get it"), "{said}");
        assert_eq!(said.matches("hint: ").count(), 1, "{said}");
    }
}

/// Copies the files of the policy into a new folder of this name in `folder`, without one of them.
fn copied(folder: &Path, name: &str, without: &str) -> PathBuf {
    let to = folder.join(name);
    std::fs::create_dir(&to).unwrap();
    for entry in std::fs::read_dir("models/policy-warm").unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() && !path.ends_with(without) {
            std::fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

/// Changes a name in the directory of a file of tensors.
fn rename(file: &Path, from: &str, to: &str) {
    let mut bytes = std::fs::read(file).unwrap();
    assert_eq!(from.len(), to.len());
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn weights_that_cannot_be_loaded_are_said_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let weights = "model.safetensors";
    copied(folder.path(), "weightless", weights);
    let old = copied(folder.path(), "old", weights);
    std::fs::write(old.join("pytorch_model.bin"), "").unwrap();
    let odd = copied(folder.path(), "odd", weights);
    let config = std::fs::read_to_string(odd.join("config.json")).unwrap();
    std::fs::write(odd.join("config.json"), config.replace("\"qwen3\"", "\"mamba\"")).unwrap();
    let lack = copied(folder.path(), "lack", "none");
    rename(&lack.join(weights), "model.layers.0.mlp.up_proj", "model.layers.0.mlp.ux_proj");
    let cut = copied(folder.path(), "cut", "none").join(weights);
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() - 1]).unwrap();
    let file = tiny(folder.path());
    rename(&file, "blk.0.ffn_up.weight", "blk.0.ffn_ux.weight");
    for (model, said) in [
        ("weightless", "holds neither `model.safetensors`"),
        ("old", "save it again; that writes safetensors"),
        ("lack", "holds no `model.layers.0.mlp.up_proj.weight`"),
        ("cut", "the file may be truncated"),
        ("tiny.gguf", "holds `blk.0.ffn_ux.weight`, which"),
    ] {
        let named = format!("HERE/{model}");
        for text in [
            format!("policy.model = '{named}'\n{SERVE}"),
            format!("local_models.a.path = '{named}'\n{SERVE}"),
            SFT.replace("POLICY", &named),
            GRPO.replace("POLICY", &named),
            GRPO.replace("LARGE", &named),
            ENV.replace("LARGE", &named),
        ] {
            let (status, output) = checked(folder.path(), &text);
            assert!(status != 0 && output.contains(said), "{text}: {output}");
        }
    }
    // For mistral.rs, and for servers that have the weights.
    let (status, output) = checked(folder.path(), &format!("policy.model = 'HERE/odd'\n{SERVE}"));
    assert!(status != 0 && output.contains("there is no `.safetensors` file in it"), "{output}");
    let (status, output) = checked(folder.path(), &ENV.replace("POLICY", "HERE/weightless"));
    assert_eq!(status, 0, "{output}");
}

#[test]
fn an_adapter_in_the_place_of_a_model_or_beside_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let with_adapter = |folder: &Path| {
        for name in ["adapter_config.json", "adapter_model.safetensors"] {
            std::fs::copy(Path::new("models/arithmetic").join(name), folder.join(name)).unwrap();
        }
    };
    with_adapter(&copied(folder.path(), "both", "none"));
    with_adapter(&copied(folder.path(), "alone", "model.safetensors"));
    let beside = "also holds an adapter, which is not applied";
    let alone = "holds an adapter and no model";
    for (text, said, hint) in [
        (format!("policy.model = 'HERE/both'\n{SERVE}"), beside, "`--adapter`"),
        (SFT.replace("POLICY", "HERE/both"), beside, "`--adapter`"),
        (GRPO.replace("POLICY", "HERE/both"), beside, "`--adapter`"),
        (GRPO.replace("LARGE", "HERE/both"), beside, "server export BASE"),
        (format!("local_models.a.path = 'HERE/both'\n{SERVE}"), beside, "server export BASE"),
        (format!("local_models.a.path = 'HERE/alone'\n{SERVE}"), alone, "server export BASE"),
        (ENV.replace("LARGE", "HERE/alone"), alone, "server export BASE"),
        (SFT.replace("POLICY", "HERE/alone"), alone, "as its `adapter`"),
    ] {
        let (status, output) = checked(folder.path(), &text);
        let is_said = output.contains(said) && output.contains(hint);
        assert!(status != 0 && is_said, "{text}: {output}");
    }
    let both = folder.path().join("both");
    let both = both.to_str().unwrap();
    for args in [
        &["solve", "x", "--policy", both][..],
        &["solve", "x", "--policy", "models/policy-warm", "--large-model-path", both],
        &["export", both, "--out", "unwritten"],
    ] {
        let (status, output) = run(args);
        assert!(status != 0 && output.contains(beside), "{args:?}: {output}");
    }
}

#[test]
fn models_that_cannot_be_loaded_are_said_before_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str, without: &str| copied(folder.path(), name, without);
    copy("mute", "chat_template.jinja");
    copy("wordless", "tokenizer.json");
    let odd = copy("odd", "templates");
    let config = std::fs::read_to_string(odd.join("config.json")).unwrap();
    let config = config.replace("\"qwen3\"", "\"mamba\"");
    assert!(config.contains("mamba"), "{config}");
    std::fs::write(odd.join("config.json"), config).unwrap();
    for (key, model, said) in [
        ("policy.model", "mute", "the chat template of"),
        ("policy.model", "wordless", "tokenizer.json"),
        ("local_models.a.path", "mute", "the chat template of"),
        ("local_models.a.path", "odd", "mamba"),
    ] {
        let text = format!("{key} = 'HERE/{model}'\n{SERVE}");
        let (status, output) = checked(folder.path(), &text);
        assert!(status != 0 && output.contains(said), "{text}: {output}");
    }
    // mistral.rs is asked for what the native engine does not know.
    let (status, output) = checked(folder.path(), &format!("policy.model = 'HERE/odd'\n{SERVE}"));
    assert!(status == 0 && output.contains("mistralrs, because"), "{output}");
    for text in [GRPO, SFT, ENV].map(|text| text.replace("POLICY", "HERE/mute")) {
        let (status, output) = checked(folder.path(), &text);
        assert!(status != 0 && output.contains("the chat template of"), "{text}: {output}");
    }
    let grpo = GRPO.replace("LARGE", "HERE/mute");
    let (status, output) = checked(folder.path(), &grpo);
    assert!(status != 0 && output.contains("cannot use `large_model.path`"), "{output}");
}

#[test]
fn conversations_that_training_would_refuse_are_said() {
    let folder = tempfile::tempdir().unwrap();
    let sft = SFT.replace("kind = 'world_facts'", "kind = 'chat'\npath = 'HERE/rows.jsonl'");
    let row = |roles: &[&str]| {
        let message = |role: &&str| json!({"role": role, "content": "a"});
        json!({"messages": roles.iter().map(message).collect::<Vec<_>>()}).to_string()
    };
    for (roles, is_good) in [
        (&["system", "user", "assistant"][..], true),
        (&["user", "assistant", "user"], false),
        (&["assistant", "user", "assistant"], false),
        (&["user", "system", "assistant"], false),
    ] {
        std::fs::write(folder.path().join("rows.jsonl"), row(roles)).unwrap();
        let (status, said) = checked(folder.path(), &sft);
        assert_eq!(status == 0, is_good, "{roles:?}: {said}");
        assert!(is_good || said.contains(&roles.join(", ")), "{said}");
    }
}

#[test]
fn as_many_rows_may_be_rejected_as_in_training() {
    let folder = tempfile::tempdir().unwrap();
    let row = |n| match n % 5 {
        0 => "{\"x\":1}".to_owned(),
        _ => format!("{{\"question\":\"q{n}\",\"answer\":\"a\"}}"),
    };
    let rows: Vec<String> = (0..20).map(row).collect();
    std::fs::write(folder.path().join("rows.jsonl"), rows.join("\n")).unwrap();
    let data = "path = 'HERE/rows.jsonl'";
    let grpo = GRPO
        .replace("kind = 'world'\nquestions = ['comparison']", &format!("kind = 'file'\n{data}"));
    let sft = SFT.replace("kind = 'world_facts'", &format!("kind = 'chat'\n{data}"));
    for text in [grpo, sft] {
        let (status, said) = checked(folder.path(), &text);
        assert!(status != 0 && said.contains("rejected"), "{said}");
        let (status, said) = checked(folder.path(), &format!("max_rejected = 0.5\n{text}"));
        assert!(status == 0 && said.contains(" of 16"), "{said}");
    }
}
