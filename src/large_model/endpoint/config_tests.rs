#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::Arc;

use super::*;
use crate::hint::Hint;
use crate::large_model::{Endpoint, EndpointSetup, LargeModel};

fn config(toml: &str) -> LargeModelConfig {
    let required = "url = \"https://api.example.com/v1\"\nmodel = \"m\"\n";
    toml::from_str(&format!("{required}{toml}")).unwrap()
}

#[test]
fn defaults_are_what_the_documentation_says() {
    let config = config("");
    assert_eq!((config.timeouts.connect_ms, config.timeouts.first_byte_ms), (5_000, 600_000));
    assert_eq!((config.timeouts.idle_ms, config.timeouts.total_ms), (600_000, 600_000));
    let retries = config.retries;
    assert_eq!((retries.max, retries.base_ms, retries.cap_ms), (3, 250, 8_000));
    assert_eq!((config.breaker.failures, config.breaker.pause_ms), (8, 10_000));
    assert_eq!((config.max_in_flight, config.max_reply_bytes), (256, 16_777_216));
    assert_eq!(config.api_key_env, None);
    assert!(config.params.is_empty() && config.fallbacks.is_empty());
    assert_eq!(config.prices_of("m"), None);
}

#[test]
fn what_is_written_is_read_back() {
    let config = config(
        "api_key_env = \"K\"\nmax_in_flight = 3\nfallbacks = [\"b\"]\n[params]\ntemperature = 0.5\n\
         [timeouts]\nidle_ms = 7\n[prices]\ninput_per_million = 2.5\n",
    );
    assert_eq!((config.timeouts.idle_ms, config.timeouts.connect_ms), (7, 5_000));
    assert_eq!(config.prices_of("m").unwrap().input_per_million, 2.5);
    let text = toml::to_string(&config).unwrap();
    assert_eq!(toml::from_str::<LargeModelConfig>(&text).unwrap(), config);
}

#[test]
fn every_model_has_its_own_price() {
    let config = config(
        "[prices]\ninput_per_million = 2.5\n[model_prices.\"o1-pro\"]\ninput_per_million = 150\n",
    );
    let price = |prices: Option<Prices>| prices.map(|prices| prices.input_per_million);
    assert_eq!(price(config.prices_of("m")), Some(2.5));
    assert_eq!(price(config.prices_of("o1-pro")), Some(150.0));
    assert_eq!(price(config.prices_of("other")), None);
    assert_eq!(config.prices_or_default("other").input_per_million, 2.5);
}

#[test]
fn unknown_keys_are_errors() {
    for key in ["modle = 1", "[timeouts]\nidle = 1", "[retries]\nx = 1", "[breaker]\nx = 1"] {
        let text = format!("url = \"http://h\"\nmodel = \"m\"\n{key}\n");
        let error = toml::from_str::<LargeModelConfig>(&text).unwrap_err();
        assert!(error.to_string().contains("unknown field"), "{key}: {error}");
    }
}

#[test]
fn urls() {
    for (url, expected) in [
        ("https://api.example.com/v1", Ok("https://api.example.com/v1")),
        (" http://127.0.0.1:8000 ", Ok("http://127.0.0.1:8000/")),
        ("http://[::1]:8000/api/v3/", Ok("http://[::1]:8000/api/v3/")),
        ("", Err("`large_models.x.url` = ``: relative URL without a base")),
        ("api.example.com/v1", Err("relative URL without a base\nhint: write it like `https://")),
        ("localhost:8000/v1", Err("it is not an http or https URL\nhint: write it like")),
        ("ftp://example.com/v1", Err("it is not an http or https URL")),
        ("http://", Err("empty host")),
        ("https://user:planted@example.com/v1", Err("it contains credentials\nhint: put the key")),
        ("https://planted@example.com/v1", Err("`example.com/v1`: it contains credentials")),
        ("https://example.com/v1?key=planted", Err("it has a query or a fragment")),
        ("https://example.com/v1#planted", Err("it has a query or a fragment")),
        ("https://example.com/v1/chat/completions/", Err("leave `/chat/completions` out")),
    ] {
        let config = LargeModelConfig { url: url.to_owned(), ..config("") };
        match (config.validate("large_models.x"), expected) {
            (Ok(parsed), Ok(expected)) => assert_eq!(parsed.as_str(), expected),
            (Err(error), Err(expected)) => {
                let error = error.explained();
                assert!(error.contains(expected) && !error.contains("planted"), "{url}: {error}");
            }
            (result, _) => panic!("{url}: {result:?}"),
        }
    }
}

#[test]
fn values_out_of_range() {
    for (toml, key) in [
        ("max_in_flight = 0", "`large_models.x.max_in_flight` = `0`"),
        ("max_reply_bytes = 0", "`large_models.x.max_reply_bytes` = `0`"),
        ("[timeouts]\nconnect_ms = 0", "`large_models.x.timeouts.connect_ms` = `0`"),
        ("[timeouts]\nfirst_byte_ms = 0", "timeouts.first_byte_ms"),
        ("[timeouts]\nidle_ms = 0", "timeouts.idle_ms"),
        (
            "[timeouts]\ntotal_ms = 9_000_000_000",
            "`large_models.x.timeouts.total_ms` = `9000000000`",
        ),
        (
            "[params]\ntemperature = nan",
            "`large_models.x.params` = `temperature`: it is no finite number",
        ),
        (
            "[prices]\ninput_per_million = -5.0",
            "`large_models.x.prices.input_per_million` = `-5`: it is negative",
        ),
        (
            "[prices]\noutput_per_million = nan",
            "`large_models.x.prices.output_per_million` = `NaN`",
        ),
        (
            "[prices]\noutput_per_million = inf",
            "`large_models.x.prices.output_per_million` = `inf`",
        ),
        (
            "[model_prices.\"a.b\"]\ninput_per_million = -0.1",
            "`large_models.x.model_prices.\"a.b\".input_per_million` = `-0.1`",
        ),
        ("[params]\nstream = true", "`large_models.x.params` = `stream`"),
        ("[params]\nmodel = \"y\"", "`large_models.x.params` = `model`"),
    ] {
        let error = config(toml).validate("large_models.x").unwrap_err().to_string();
        assert!(error.contains(key), "{toml}: {error}");
    }
    let empty = LargeModelConfig { model: " ".to_owned(), ..config("") };
    assert!(
        empty
            .validate("large_models.x")
            .unwrap_err()
            .to_string()
            .contains("`large_models.x.model`")
    );
}

#[test]
fn keys_come_from_the_named_variable() {
    let build = |toml: &str, value: Option<&str>| {
        let value = value.map(str::to_owned);
        let keys = |name: &str| match name {
            "OPENAI_API_KEY" | "MINE" => value.clone().map(Into::into),
            _ => None,
        };
        let setup = EndpointSetup { keys: &keys, observer: Arc::new(()), seed: 0 };
        let endpoint = Endpoint::new("x", &config(toml), &setup);
        endpoint.map(|endpoint| endpoint.has_key()).map_err(|error| error.explained())
    };
    assert_eq!(build("", None), Ok(false));
    assert_eq!(build("", Some("sk-planted")), Ok(true));
    assert_eq!(build("", Some(" sk-planted\n")), Ok(true));
    assert_eq!(build("", Some(" ")), Ok(false));
    assert_eq!(build("api_key_env = \"\"", Some("sk-planted")), Ok(false));
    assert_eq!(build("api_key_env = \"MINE\"", Some("sk-planted")), Ok(true));
    let unset = build("api_key_env = \"OTHER\"", Some("sk-planted")).unwrap_err();
    assert!(unset.contains("`OTHER`: the variable is not set\nhint: export it"), "{unset}");
    for value in ["sk planted", "sk\nplanted", "sk-planted\u{7f}"] {
        let error = build("", Some(value)).unwrap_err();
        assert!(error.contains("`OPENAI_API_KEY`: its value is not a key"), "{error}");
        assert!(!error.contains("planted"), "{error}");
    }
}

#[test]
fn identity_is_all_that_replies_depend_on() {
    let identity = |toml: &str, model: &str| {
        let config = LargeModelConfig { model: model.to_owned(), ..config(toml) };
        let setup = EndpointSetup { keys: &|_| None, observer: Arc::new(()), seed: 0 };
        Endpoint::new("x", &config, &setup).unwrap().identity()
    };
    assert_eq!(identity("", "m"), identity("max_in_flight = 3", "m"));
    assert_ne!(identity("", "m"), identity("", "n"));
    assert_ne!(identity("", "m"), identity("[params]\ntemperature = 1", "m"));
}
