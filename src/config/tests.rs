#![allow(clippy::unwrap_used)]

use super::*;
use crate::hint::Hint;

fn loaded(text: &str, overrides: &Overrides) -> Result<Config, ConfigError> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    Config::load(Some(file.path()), overrides)
}

const ENDPOINT: &str = "[large_models.b]\nurl = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n";

#[test]
fn what_is_not_said_follows_from_the_rest() {
    use PolicyEngine::{Auto, Direct, LargeModel, Native, Remote};
    let remote = "[policy.remote]\nurl = \"http://127.0.0.1:9/v1\"\nmodel = \"p\"\n";
    let second = ENDPOINT.replace("models.b", "models.a");
    let table: [(&str, String, PolicyEngine, Option<&str>, &str); 7] = [
        ("the bundled models", String::new(), Auto, Some("models/policy"), "atlas"),
        ("an endpoint alone", ENDPOINT.to_owned(), Direct, None, "b"),
        ("the first of two", format!("{ENDPOINT}{second}"), Direct, None, "a"),
        (
            "a default",
            format!("default_large_model = \"b\"\n{ENDPOINT}{second}"),
            Direct,
            None,
            "b",
        ),
        ("a policy of its own", format!("policy.model = \"p\"\n{ENDPOINT}"), Auto, Some("p"), "b"),
        ("a remote policy", format!("{remote}{ENDPOINT}"), Remote, None, "b"),
        (
            "an engine by name",
            format!("policy.engine = \"large_model\"\n{ENDPOINT}"),
            LargeModel,
            None,
            "b",
        ),
    ];
    for (name, text, engine, model, default) in table {
        let config = loaded(&text, &Overrides::default()).unwrap();
        let found = (config.policy.engine, config.policy.model.as_deref());
        assert_eq!(found, (Some(engine), model), "{name}");
        assert_eq!(config.default_large_model(), default, "{name}");
    }
    // A flag for the policy replaces all of the file's policy settings.
    let overrides = Overrides { policy: Some("other".into()), ..Overrides::default() };
    let text =
        format!("policy = {{ model = \"p\", adapter = \"a\", engine = \"native\" }}\n{ENDPOINT}");
    let config = loaded(&text, &overrides).unwrap();
    assert_eq!(config.policy.model.as_deref(), Some("other"));
    assert_eq!((config.policy.engine, config.policy.adapter), (Some(Auto), None));
    let overrides =
        Overrides { policy_engine: Some(Native), policy: Some("x".into()), ..Overrides::default() };
    assert_eq!(loaded(ENDPOINT, &overrides).unwrap().policy.engine, Some(Native));
    let overrides = Overrides { policy_engine: Some(Direct), ..Overrides::default() };
    let text = format!("policy = {{ model = \"p\", name = \"n\" }}\n{ENDPOINT}");
    assert_eq!(loaded(&text, &overrides).unwrap().policy.name, None);
}

#[test]
fn settings_that_cannot_be_are_named() {
    let table = [
        ("schema_version = 2", "`schema_version` is 2"),
        ("default_large_model = \"c\"", "add a table `[large_models.c]`"),
        ("policy.engine = \"native\"", "`policy.model` names none"),
        ("policy.engine = \"remote\"", "no table `[policy.remote]`"),
        (
            "policy = { model = \"p\", adapter = \"a\", engine = \"mistralrs\" }",
            "`policy.adapter` is set",
        ),
        (
            "policy = { model = \"p\", adapters.a = \"a\", engine = \"mistralrs\" }",
            "`policy.adapters` is set, but `policy.engine` is another than `native`",
        ),
        ("policy = { adapters.a = \"a\" }", "`policy.adapters` is set, but there is no policy"),
        ("policy = { adapter = \"a\" }", "`policy.model` (`--policy`)"),
        ("policy = { engine = \"large_model\", adapters.a = \"a\" }", "merge the adapter with"),
        ("policy = { model = \"p\", adapters.\"a/b\" = \"a\" }", "`a/b` in `policy.adapters`"),
        ("policy = { model = \"p\", adapters.direct = \"a\" }", "`direct` in `policy.adapters`"),
        ("policy = { engine = \"direct\", name = \"a\" }", "`policy.name` is set"),
        ("policy.name = \"a\"", "`policy.engine` is `direct`"),
        ("policy = { model = \"p\", name = \"direct\" }", "`policy.name` is `direct`"),
        ("policy.model = \"runs/direct.gguf\"", "`policy.name` is `direct`"),
        ("policy.sampling.temperature = 5.5", "`policy.sampling` needs a `temperature`"),
        ("policy.sampling.top_p = 0.0", "`policy.sampling` needs a `temperature`"),
        ("canary = { share = 1.5, policy = { model = \"p\" } }", "`canary.share` = 1.5"),
        ("canary = { share = 0.5, policy = { engine = \"native\" } }", "`canary.policy.model`"),
        ("episode.max_turns = 0", "`episode.max_turns` must be at least 1"),
        ("episode.deadline_ms = 0", "`episode.deadline_ms` must be at least 1"),
        ("episode.max_cost = -1", "`episode.max_cost` is -1, but it must be above 0"),
        ("episode.max_cost = 0.0", "`episode.max_cost` is 0, but"),
        ("episode.max_cost = nan", "`episode.max_cost` is NaN, but"),
        ("episode.max_cost = inf", "`episode.max_cost` is inf, but"),
        ("server.idle_timeout_s = 0", "`server.idle_timeout_s` must be at least 1"),
        (
            "server.header_timeout_s = 9223372036854775807",
            "`server.header_timeout_s` = 9223372036854775807 is more than",
        ),
        ("server.max_in_flight = 0", "`server.max_in_flight` must be at least 1"),
        ("record = { folder = \"x\", queue = 0 }", "`record.queue` must be at least 1"),
        (
            "policy.remote = { url = \"http://h/v1\", model = \"p\", prices.input_per_million = -1 }",
            "`policy.remote.prices.input_per_million` = `-1`",
        ),
        ("policy.remote = { url = \"h/v1\", model = \"p\" }", "`policy.remote.url` = `h/v1`"),
        (
            "canary = { share = 0.5, policy.remote = { url = \"h\", model = \"p\" } }",
            "`canary.policy.remote.url` = `h`",
        ),
        (
            "[large_models.a]\nurl = \"http://h/v1\"\nmodel = \"m\"\nfallbacks = [\"c\"]",
            "called `c`",
        ),
        ("local_models.b = { path = \"p\" }", "two large models are called `b`"),
        (
            "policy.model = \"x/p\"\ncanary = { share = 0.5, policy.model = \"y/p/\" }",
            "two policies are called `p`",
        ),
        ("canary = { share = 0.5, policy = {} }", "two policies are called `direct`"),
        ("episode.observation_chars = 0", "`episode.observation_chars` must be at least 1"),
        (
            "server = { bounds.bodies_bytes = 20000000 }",
            "`server.bounds.bodies_bytes` is 20000000, but a body of `server.body_limit_bytes` = 10485760",
        ),
        ("local_models.a = { path = \"p\", params.top_p = 7 }", "`local_models.a.params`: `top_p`"),
        (
            "local_models.a = { path = \"p\", params.temperature = \"0.7\" }",
            "must be a number from 0 to 2",
        ),
        ("local_models.a = { path = \"p\", params.top_k = 1 }", "it does not know `top_k`"),
        ("record = {}", "`[record]` needs one of"),
        ("episode.max_turn = 1", "did you mean `max_turns`?"),
        ("policy.engine = \"nativ\"", "did you mean `native`?"),
    ];
    for (line, expected) in table {
        let error = loaded(&format!("{line}\n{ENDPOINT}"), &Overrides::default()).unwrap_err();
        assert!(error.explained().contains(expected), "{line}: {error}");
    }
    let missing = Config::load(Some(Path::new("/no/such.toml")), &Overrides::default());
    assert!(matches!(missing, Err(ConfigError::Read { .. })));
}

#[test]
fn a_top_k_of_zero_keeps_all_tokens() {
    for top_k in [0, 1, 20] {
        let text = format!("policy.sampling.top_k = {top_k}\n{ENDPOINT}");
        let config = loaded(&text, &Overrides::default()).unwrap();
        let sampling = config.policy.sampling.unwrap().of_seed(3);
        assert_eq!(sampling.top_k, std::num::NonZeroUsize::new(top_k));
        assert_eq!(sampling.is_filtered(), top_k > 0 || sampling.top_p < 1.0);
    }
}

#[test]
fn adapters_of_flags() {
    let overrides = |adapters: &[&str]| Overrides {
        policy: Some("base".into()),
        adapter: adapters.iter().map(|adapter| adapter.parse().unwrap()).collect(),
        ..Overrides::default()
    };
    let text = format!("policy = {{ model = \"p\", adapters.old = \"old\" }}\n{ENDPOINT}");
    let config = loaded(&text, &overrides(&["a=x/one", "./b=c", "d.1=y=z"])).unwrap();
    assert_eq!(config.policy.adapter.as_deref(), Some(Path::new("./b=c")));
    let named = [("a", "x/one"), ("d.1", "y=z")].map(|(name, path)| (name.into(), path.into()));
    assert_eq!(config.policy.adapters, BTreeMap::from(named));
    // Without another policy, they stand beside those of the file.
    let more = Overrides { policy: None, ..overrides(&["a=x"]) };
    let names = loaded(&text, &more).unwrap().policy.adapters.into_keys();
    assert_eq!(names.collect::<Vec<_>>(), ["a", "old"]);
    for (flags, said) in [
        (["a=x", "a=y"], "`--adapter` has two folders for `a`"),
        (["x", "y"], "name them, `--adapter NAME=FOLDER`"),
        (["x", "=y"], "`` in `policy.adapters` cannot be the name"),
        (["x", "a b/c=y"], "`a b/c` in `policy.adapters` cannot be the name"),
        (["x", "direct=y"], "`direct` in `policy.adapters` cannot be the name"),
    ] {
        let error = loaded(ENDPOINT, &overrides(&flags)).unwrap_err();
        assert!(error.explained().contains(said), "{error}");
    }
}

#[test]
fn a_flag_moves_a_configured_large_model() {
    let settings =
        "api_key_env = \"KEY\"\nrequests_per_minute = 1\nprices.input_per_million = 2.5\n";
    let text = format!("{ENDPOINT}{settings}");
    let moved = |text: &str, name: &str, url: &str| {
        let (large_model, large_model_url) = (Some(name.to_owned()), Some(url.to_owned()));
        let overrides = Overrides { large_model, large_model_url, ..Overrides::default() };
        let mut config = loaded(text, &overrides).unwrap();
        assert_eq!(config.default_large_model(), name);
        config.large_models.remove(name).unwrap()
    };
    for (url, key) in [
        ("http://127.0.0.1:9/v2", Some("KEY")),
        ("http://127.0.0.1:10/v1", None),
        ("https://127.0.0.1:9/v1", None),
        ("http://h:9/v1", None),
    ] {
        let model = moved(&text, "b", url);
        assert_eq!((model.url.as_str(), model.model.as_str()), (url, "m"));
        assert_eq!(model.prices.unwrap().input_per_million, 2.5);
        assert_eq!((model.requests_per_minute, model.api_key_env.as_deref()), (Some(1), key));
    }
    let keyless = text.replace("KEY", "");
    assert_eq!(moved(&keyless, "b", "http://h/v1").api_key_env.as_deref(), Some(""));
    let other = moved(&text, "gpt", "http://h/v1");
    assert_eq!(other, LargeModelConfig::new("http://h/v1", "gpt"));

    let local = "local_models.c = { path = \"old\", params.top_p = 0.5 }";
    let overrides = Overrides {
        large_model: Some("c".into()),
        large_model_path: Some("new".into()),
        ..Overrides::default()
    };
    let config = loaded(&format!("{local}\n{ENDPOINT}"), &overrides).unwrap();
    let model = &config.local_models["c"];
    assert_eq!((model.path.as_path(), model.params.len()), (Path::new("new"), 1));
}

#[test]
fn policies_and_large_models_are_named_by_one_rule() {
    for (path, expected) in [
        ("models/tiny.gguf", "tiny"),
        ("models/qwen2.5-1.5b", "qwen2.5-1.5b"),
        ("models/tiny/", "tiny"),
        ("someone/tiny-GGUF:tiny-Q8_0.gguf", "tiny-Q8_0"),
        ("someone/tiny", "tiny"),
    ] {
        let overrides = Overrides {
            policy: Some(path.into()),
            large_model_path: Some(path.into()),
            ..Overrides::default()
        };
        let config = loaded("", &overrides).unwrap();
        assert_eq!(config.policy.model_name(), expected);
        assert_eq!(config.default_large_model(), expected);
    }
}
