//! A policy named by its Hugging Face id, downloaded by the real binary.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device};
use prompt_r1::model::{Adapter, AdapterConfig, Projection, Spec};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{command, outcome};

mod site;

use site::{Repository, Site};

const ID: &str = "someone/tiny";
const TOKEN: &str = "hf_planted0123456789abcdef";
const QUESTION: &str = "What is Grania's president's birthplace?";

fn policy() -> Repository {
    Repository::of(&"1f0c".repeat(10), Path::new("models/policy"))
}

/// Runs `solve` with the policy `model`, the hub at `url` and the cache in `home`.
fn solve(model: &str, url: &str, home: &Path, variables: &[(&str, &str)]) -> (i32, String) {
    let mut command = command(&["solve", QUESTION, "--json", "--policy", model]);
    command.env("HF_ENDPOINT", url).env("HF_HOME", home).env("HF_TOKEN", TOKEN);
    command.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").env("NO_PROXY", "*");
    command.envs(variables.iter().copied());
    let outcome = outcome(&command.output().unwrap());
    assert!(!outcome.1.contains(TOKEN), "{}", outcome.1);
    outcome
}

/// The answer, and the tokens of the episode.
fn episode(outcome: (i32, String)) -> (Value, Value) {
    let (status, text) = outcome;
    assert_eq!(status, 0, "{text}");
    let json = text.find("{\n").unwrap_or_else(|| panic!("{text}"));
    let values = serde_json::Deserializer::from_str(&text[json..]).into_iter();
    let episode: Value = values.map(Result::unwrap).next().unwrap();
    let ids = &episode["trajectory"]["trace"]["ids"];
    assert!(ids.as_array().is_some_and(|ids| !ids.is_empty()), "{episode}");
    (episode["answer"].clone(), ids.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_by_its_id() {
    let hub = Site::start(TOKEN).await;
    // Besides the needed files, what repositories also contain.
    let extras = ["README.md", "pytorch_model.bin", "consolidated.safetensors", "onnx/config.json"];
    let published =
        extras.iter().fold(policy(), |published, name| published.with(name, "of no use"));
    hub.publish(ID, published);
    let home = TempDir::new().unwrap();
    let local = episode(solve("models/policy", &hub.url, home.path(), &[]));
    assert_eq!(hub.asked(), [""; 0]);

    // Its own templates are downloaded: the same tokens are sampled.
    let fetched = episode(solve(ID, &hub.url, home.path(), &[]));
    assert_eq!(fetched, local);
    let files: Vec<_> = policy().files.into_keys().collect();
    assert!(files.contains(&"templates/policy.j2".to_owned()));
    assert_eq!(hub.asked(), files);

    // Cached files are not downloaded again, and work without the hub.
    assert_eq!(episode(solve(ID, &hub.url, home.path(), &[("RUST_LOG", "trace")])), local);
    assert_eq!(hub.asked(), [""; 0]);
    let url = hub.url.clone();
    drop(hub);
    let (status, text) = solve(ID, &url, home.path(), &[]);
    assert!(text.contains("using what is in the cache"), "{text}");
    assert_eq!(episode((status, text)), local);
    let (status, text) = solve(ID, &url, home.path(), &[("HF_HUB_OFFLINE", "1")]);
    assert!(!text.contains("using what is in the cache"), "{text}");
    assert_eq!(episode((status, text)), local);
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_are_read_as_other_clients_read_them() {
    let hub = Site::start(TOKEN).await;
    hub.publish(ID, policy());
    let home = TempDir::new().unwrap();
    let cache = home.path().join("elsewhere");
    let cache = [("HF_HUB_CACHE", cache.to_str().unwrap())];
    std::fs::write(home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    let url = format!("{}/", hub.url);
    let fetched = episode(solve(ID, &url, home.path(), &[cache[0], ("HF_TOKEN", "")]));
    assert!(!hub.asked().is_empty());
    assert!(!home.path().join("hub").exists());
    let offline = [cache[0], ("HF_HUB_OFFLINE", "1")];
    assert_eq!(episode(solve(ID, &url, home.path(), &offline)), fetched);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cache_that_has_it_all_is_not_written() {
    let hub = Site::start(TOKEN).await;
    hub.publish(ID, policy());
    let home = TempDir::new().unwrap();
    let fetched = episode(solve(ID, &hub.url, home.path(), &[]));
    let refs = home.path().join("hub/models--someone--tiny/refs");
    // As another client leaves it. In the place of a file, a folder cannot be written, not even by
    // root.
    let pinned = refs.join(policy().sha);
    std::fs::remove_file(&pinned).unwrap();
    std::fs::create_dir(&pinned).unwrap();
    let main = std::fs::File::options().write(true).open(refs.join("main")).unwrap();
    main.set_modified(std::time::UNIX_EPOCH).unwrap();
    assert_eq!(episode(solve(ID, &hub.url, home.path(), &[])), fetched);
    let modified = refs.join("main").metadata().unwrap().modified().unwrap();
    assert_eq!(modified, std::time::UNIX_EPOCH);
}

#[test]
fn a_large_model_of_an_evaluation_by_its_id() {
    let home = TempDir::new().unwrap();
    // As a download leaves it.
    let Repository { sha, files } =
        Repository::of(&"1f0c".repeat(10), Path::new("models/large-model"));
    let cached = home.path().join("hub/models--someone--tiny");
    for (name, bytes) in files {
        let file = cached.join("snapshots").join(&sha).join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, bytes).unwrap();
    }
    std::fs::create_dir(cached.join("refs")).unwrap();
    std::fs::write(cached.join("refs/main"), sha).unwrap();
    let output = home.path().join("out");
    let config = home.path().join("eval.toml");
    let text = format!(
        "schema_version = 1\noutput = {output:?}\narms = [\"direct\"]\n\
         [[data]]\nkind = \"world_facts\"\nphrasing = \"known\"\nn = 2\n\
         [local_models.tiny]\npath = {ID:?}\n"
    );
    std::fs::write(&config, text).unwrap();
    let mut command = command(&["eval", "--config", config.to_str().unwrap()]);
    command.env("HF_HOME", home.path()).env("HF_HUB_OFFLINE", "1").env_remove("HF_HUB_CACHE");
    let (status, text) = outcome(&command.output().unwrap());
    assert_eq!(status, 0, "{text}");
    let rows = std::fs::read_to_string(output.join("rows.jsonl")).unwrap();
    assert_eq!(rows.lines().count(), 2, "{rows}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_adapter_by_its_id_with_its_base() {
    const ADAPTER: &str = "someone/tiny-lora";
    let hub = Site::start(TOKEN).await;
    hub.publish(ID, policy());
    let home = TempDir::new().unwrap();
    // A fresh adapter changes nothing. As PEFT publishes it: without a `config.json`.
    let spec = Spec::load(Path::new("models/policy")).unwrap();
    let config = AdapterConfig { rank: 2, alpha: 4.0, targets: vec![Projection::Query] };
    let adapter = Adapter::new(&spec, config, 1, DType::F32, &Device::Cpu).unwrap();
    let folder = home.path().join("adapter");
    adapter.save(&folder, Some(ID)).unwrap();
    hub.publish(ADAPTER, Repository::of(&"3c".repeat(20), &folder));
    let expected = episode(solve(ID, &hub.url, home.path(), &[]));
    hub.asked();
    assert_eq!(episode(solve(ADAPTER, &hub.url, home.path(), &[])), expected);
    assert_eq!(hub.asked(), ["adapter_config.json", "adapter_model.safetensors"]);
    let offline = [("HF_HUB_OFFLINE", "1")];
    assert_eq!(episode(solve(ADAPTER, &hub.url, home.path(), &offline)), expected);
    // Beside a base on this machine.
    let home = TempDir::new().unwrap();
    let beside =
        |adapter| solve("models/policy", &hub.url, home.path(), &[("PROMPT_R1_ADAPTER", adapter)]);
    assert_eq!(episode(beside(ADAPTER)), expected);
    assert_eq!(hub.asked(), ["adapter_config.json", "adapter_model.safetensors"]);
    let (status, text) = beside("someone/nothing");
    assert!(status == 1 && text.contains("someone/nothing"), "{status}: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentence_model_by_its_id_with_how_it_pools() {
    let hub = Site::start(TOKEN).await;
    let tiny = Repository::of(&"2b".repeat(20), Path::new("tests/golden/ssim/tiny"));
    let module = |path: &str, class: &str| json!({ "path": path, "type": class });
    let modules = json!([module("", "models.Transformer"), module("1_Pooling", "models.Pooling")]);
    let tiny = tiny.with("modules.json", modules.to_string());
    for (mode, status, said) in [("mean", 0, ""), ("cls", 1, "it does not pool by the mean")] {
        let pooling = json!({ "pooling_mode": mode }).to_string();
        hub.publish(ID, tiny.clone().with("1_Pooling/config.json", pooling));
        let home = TempDir::new().unwrap();
        let config = home.path().join("eval.toml");
        let text = format!(
            "schema_version = 1\noutput = {:?}\narms = [\"direct\"]\n\
             [[data]]\nkind = \"world_facts\"\nphrasing = \"known\"\nn = 2\n\
             [metrics]\nsentence_model = {ID:?}\nby_source = {{ world_facts = \"ssim\" }}\n",
            home.path().join("out")
        );
        std::fs::write(&config, text).unwrap();
        let mut command = command(&["eval", "--config", config.to_str().unwrap()]);
        command.env("HF_ENDPOINT", &hub.url).env("HF_HOME", home.path()).env("HF_TOKEN", TOKEN);
        command.env_remove("HF_HUB_OFFLINE").env_remove("HF_HUB_CACHE").env("NO_PROXY", "*");
        let (found, text) = outcome(&command.output().unwrap());
        assert!(found == status && text.contains(said), "{mode}: {text}");
        assert!(hub.asked().contains(&"1_Pooling/config.json".to_owned()));
    }
}

/// The policy with its weights in two files and an index.
fn sharded() -> Repository {
    let mut whole = policy();
    let bytes = whole.files.remove("model.safetensors").unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let mut shards: [Vec<_>; 2] = Default::default();
    let mut map = HashMap::new();
    for (at, (name, tensor)) in tensors.tensors().into_iter().enumerate() {
        map.insert(name.clone(), format!("model-0000{}-of-00002.safetensors", at % 2 + 1));
        shards[at % 2].push((name, tensor));
    }
    for (at, shard) in shards.into_iter().enumerate() {
        let name = format!("model-0000{}-of-00002.safetensors", at + 1);
        whole = whole.with(&name, safetensors::serialize(shard, None).unwrap());
    }
    whole.with("model.safetensors.index.json", json!({ "weight_map": map }).to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_is_cut_is_gone_on_with() {
    const LAST: &str = "model-00002-of-00002.safetensors";
    let hub = Site::start(TOKEN).await;
    hub.publish(ID, sharded());
    hub.break_file(Some(LAST));
    let home = TempDir::new().unwrap();
    let (status, text) = solve(ID, &hub.url, home.path(), &[]);
    assert!(
        status == 1 && text.contains("502") && text.contains("hint: the hub has a fault"),
        "{text}"
    );
    // Half a model is not used.
    let (status, text) = solve(ID, &hub.url, home.path(), &[("HF_HUB_OFFLINE", "1")]);
    assert!(status == 1 && text.contains("is not in the cache"), "{text}");

    hub.asked();
    hub.break_file(None);
    let fetched = episode(solve(ID, &hub.url, home.path(), &[]));
    assert_eq!(hub.asked(), [LAST]);
    assert_eq!(fetched, episode(solve("models/policy", &hub.url, home.path(), &[])));

    // The next revision is used once it exists, and not before.
    let next = Repository { sha: "2e1d".repeat(10), ..sharded() };
    hub.publish(ID, next.with("config.json", "{}"));
    hub.break_file(Some("tokenizer.json"));
    let (_, text) = solve(ID, &hub.url, home.path(), &[]);
    assert!(text.contains("using what is in the cache"), "{text}");
    hub.break_file(None);
    let (status, text) = solve(ID, &hub.url, home.path(), &[]);
    assert!(status == 1 && text.contains("2e1d"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gguf_file_by_its_name() {
    const FILE: &str = "tiny.gguf";
    let home = TempDir::new().unwrap();
    let file = crate::one_file::tiny(home.path());
    let hub = Site::start(TOKEN).await;
    hub.publish(ID, policy().with(FILE, std::fs::read(&file).unwrap()));
    let named = format!("{ID}:{FILE}");

    // Files that arrive damaged are not used, and downloaded again.
    hub.spoil_file(Some(FILE));
    let (status, text) = solve(&named, &hub.url, home.path(), &[]);
    assert!(
        status == 1 && text.contains("SHA-256") && text.contains("hint: it is removed"),
        "{text}"
    );
    assert!(!text.contains("check the network"), "{text}");
    hub.spoil_file(None);
    hub.asked();
    let fetched = episode(solve(&named, &hub.url, home.path(), &[]));
    assert_eq!(hub.asked(), [FILE]);
    assert_eq!(fetched, episode(solve(file.to_str().unwrap(), &hub.url, home.path(), &[])));

    // The rest of the repository was not downloaded, and is not considered cached.
    let offline = &[("HF_HUB_OFFLINE", "1")];
    assert_eq!(episode(solve(&named, &hub.url, home.path(), offline)), fetched);
    let (status, text) = solve(ID, &hub.url, home.path(), offline);
    assert!(status == 1 && text.contains("is not in the cache"), "{text}");
    assert_eq!(hub.asked(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_repositories_are_refused_before_the_download() {
    const PART: &str = "big-00001-of-00002.gguf";
    let hub = Site::start(TOKEN).await;
    let mut bare = policy();
    bare.files.remove("tokenizer.json");
    hub.publish("someone/bare", bare);
    hub.publish("someone/parts", policy().with(PART, "GGUF"));
    let home = TempDir::new().unwrap();
    for (model, said) in [
        ("someone/bare".to_owned(), "it holds no `tokenizer.json`"),
        (format!("someone/parts:{PART}"), "is one of 2 parts of a model"),
    ] {
        let (status, text) = solve(&model, &hub.url, home.path(), &[]);
        assert!(status == 1 && text.contains("hint: ") && text.contains(said), "{text}");
        assert_eq!(hub.asked(), [""; 0], "{model}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_repositories_are_reported() {
    let hub = Site::start(TOKEN).await;
    let without = |name: &str| {
        let mut left = policy();
        left.files.remove(name);
        left
    };
    let gguf = without("model.safetensors").with("tiny-Q4_K_M.gguf", "GGUF");
    hub.publish("someone/gguf", gguf);
    hub.publish("someone/adapter", without("config.json").with("adapter_config.json", "{}"));
    let adapter = policy().with("adapter_config.json", "{}");
    hub.publish("someone/both", adapter.with("adapter_model.safetensors", "of no use"));
    hub.publish("someone/bad-index", policy().with("model.safetensors.index.json", "{}"));
    let outside = json!({"weight_map": {"a": "../../other.safetensors"}}).to_string();
    hub.publish("someone/outside", policy().with("model.safetensors.index.json", outside));
    let outside = Repository { sha: "../../../outside".into(), ..policy() };
    hub.publish("someone/elsewhere", outside);
    hub.say("someone/gated", 403, "Access to this model is restricted.");
    hub.say("someone/private", 401, "Invalid username or password.");
    hub.say("someone/html", 200, "<html>Sign in to the Wi-Fi</html>");
    hub.say("someone/busy", 429, "slow down");
    let home = TempDir::new().unwrap();
    for (id, hint) in [
        ("someone/missing", "check the id"),
        ("someone/gated", "set `HF_TOKEN`"),
        ("someone/private", "set `HF_TOKEN`"),
        ("someone/gguf", "name one of them: `someone/gguf:tiny-Q4_K_M.gguf`"),
        ("someone/gguf:tiny.gguf", "its GGUF files are `someone/gguf:tiny-Q4_K_M.gguf`"),
        ("someone/adapter:tiny.gguf", "nor another GGUF file"),
        ("someone/adapter", "an adapter must be merged"),
        ("someone/both", "download it into a folder"),
        ("someone/bad-index", "does not say where its weights are"),
        ("someone/outside", "does not say where its weights are"),
        ("someone/html", "what answered is not the hub"),
        ("someone/busy", "limits how often it is asked"),
        ("not-an-id", "a Hugging Face id such as"),
        ("someone/elsewhere", "is `HF_ENDPOINT` a hub?"),
        ("someone/tiny@main", "a revision cannot be given"),
    ] {
        let (status, text) = solve(id, &hub.url, home.path(), &[("RUST_LOG", "trace")]);
        assert!(status == 1 && text.contains("hint: ") && text.contains(hint), "{id}: {text}");
    }
    assert!(!home.path().join("outside").exists());
    let blocked = home.path().join("a-file");
    std::fs::write(&blocked, "").unwrap();
    let (status, text) = solve("someone/bad-index", &hub.url, &blocked, &[]);
    assert!(status == 1 && text.contains("`HF_HOME`"), "{text}");
    let (status, text) = solve(ID, "https://127.0.0.1:1", home.path(), &[]);
    assert!(status == 1 && text.contains("check the network"), "{text}");
    assert_eq!(text.matches("error sending request").count(), 1, "{text}");
}
