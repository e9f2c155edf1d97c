#![allow(clippy::unwrap_used)]

use std::time::UNIX_EPOCH;

use secrecy::ExposeSecret;
use sqlx::{Connection, Executor, SqliteConnection};

use super::*;
use crate::hint::Hint;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn limits(requests: Option<u64>, tokens: Option<u64>, budget: Option<f64>) -> KeyLimits {
    KeyLimits {
        models: Vec::new(),
        requests_per_minute: requests,
        tokens_per_minute: tokens,
        budget_per_day: budget,
    }
}

#[test]
fn models_by_name_or_by_their_beginning() {
    let table: [(&[&str], &str, bool); 9] = [
        (&[], "any", true),
        (&["prompt-r1"], "prompt-r1", true),
        (&["prompt-r1"], "prompt-r1/a", false),
        (&["prompt-r1/*"], "prompt-r1/a", true),
        (&["a", "b"], "c", false),
        (&["*"], "any", true),
        // No model is named.
        (&[], "", true),
        (&["*"], "", false),
        (&["a", ""], "", false),
    ];
    for (models, asked, allowed) in table {
        let models: Vec<String> = models.iter().map(|&model| model.to_owned()).collect();
        let limits = KeyLimits { models, ..KeyLimits::default() };
        assert_eq!(limits.allows(asked), allowed, "{limits:?} {asked}");
    }
}

#[test]
fn keys_differ_and_only_their_hash_is_stored() {
    let make = || NewKey::new("a", KeyLimits::default(), 1).unwrap();
    let (one, other) = (make(), make());
    let bearer = one.bearer.expose_secret();
    let (id, secret) = key::split(bearer).unwrap();
    assert_eq!((id, secret.len()), (one.key.id.as_str(), 64));
    assert!(!format!("{:?}", one.key).contains(secret));
    assert!(one.key.accepts(secret) && !other.key.accepts(secret));
    let revoked = Key { revoked_at: Some(2), ..one.key.clone() };
    assert!(!revoked.accepts(secret));
    for wrong in ["", "pr1-", "pr1-a-b", "sk-abc", &bearer[1..], &bearer[..bearer.len() - 1]] {
        assert_eq!(key::split(wrong), None, "{wrong}");
    }
}

#[tokio::test]
async fn the_embedded_store_keeps_keys_and_spending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd ?#%name.db");
    let store = Store::embedded(&path).await.unwrap();
    assert!(!store.has_keys().await.unwrap());
    let new = NewKey::new("a", limits(Some(1), None, Some(0.5)), 7).unwrap();
    store.create(&new).await.unwrap();
    drop(store);
    let store = Store::embedded(&path).await.unwrap();
    assert!(path.exists() && store.has_keys().await.unwrap());
    let kept = store.find(&new.key.id).await.unwrap().unwrap();
    assert_eq!(kept, new.key);
    assert_eq!(store.list().await.unwrap(), [kept]);
    assert_eq!(store.find("other").await.unwrap(), None);
    store.revoke(&new.key.id, 9).await.unwrap();
    assert_eq!(store.find(&new.key.id).await.unwrap().unwrap().revoked_at, Some(9));
    assert!(matches!(store.revoke("other", 9).await, Err(StoreError::NoKey(_))));
    for (day, micros, sum) in [(1, 5, 5), (1, 7, 12), (2, 1, 1)] {
        store.spend(&new.key.id, day, micros).await.unwrap();
        assert_eq!(store.spent(&new.key.id, day).await.unwrap(), sum);
    }
}

#[test]
fn a_url_of_something_else_is_no_store() {
    let config = AccessConfig { store_url_env: Some("URL".into()), ..AccessConfig::default() };
    let error = config.store_url(&|_| Some("mysql://u:planted@h/d".into())).unwrap_err();
    assert!(!error.explained().contains("planted"), "{error}");
    assert_eq!(error.hint().as_deref(), Some("`postgres://USER:PASSWORD@HOST/DATABASE`"));
}

#[tokio::test]
async fn limits_of_a_minute_and_of_a_day() {
    let store = Store::connect(&"sqlite::memory:".into()).await.unwrap();
    let limiter = Limiter::new(None);
    let key = |limits| NewKey::new("a", limits, 0).unwrap().key;
    let admit = async |key: &Key, now| limiter.admit(key, 1, Some(&store), at(now)).await;
    let record = async |key: &Key, tokens, cost, now| {
        limiter.record(key, Some(&store), tokens, cost, at(now)).await;
    };

    let by_requests = key(limits(Some(2), None, None));
    assert_eq!(admit(&by_requests, 60).await, Ok(()));
    assert_eq!(admit(&by_requests, 61).await, Ok(()));
    let retry_after = Duration::from_secs(15);
    let refused = Err(Refusal::Requests { limit: 2, retry_after });
    assert_eq!(admit(&by_requests, 105).await, refused);
    assert_eq!(admit(&by_requests, 120).await, Ok(()));

    let by_tokens = key(limits(None, Some(100), None));
    assert_eq!(admit(&by_tokens, 60).await, Ok(()));
    record(&by_tokens, 99, 0.0, 61).await;
    assert_eq!(admit(&by_tokens, 62).await, Ok(()));
    record(&by_tokens, 1, 0.0, 62).await;
    let retry_after = Duration::from_secs(57);
    assert_eq!(admit(&by_tokens, 63).await, Err(Refusal::Tokens { limit: 100, retry_after }));
    assert_eq!(admit(&by_tokens, 120).await, Ok(()));
    // A request counts in the minute in which it ends, even if no request began in that minute.
    record(&by_tokens, 100, 0.0, 181).await;
    let retry_after = Duration::from_secs(58);
    assert_eq!(admit(&by_tokens, 182).await, Err(Refusal::Tokens { limit: 100, retry_after }));
    // A request that read the clock before the minute changed does not set it back.
    assert_eq!(admit(&by_tokens, 240).await, Ok(()));
    record(&by_tokens, 100, 0.0, 240).await;
    record(&by_tokens, 1, 0.0, 239).await;
    assert!(admit(&by_tokens, 239).await.is_err());
    assert!(admit(&by_tokens, 241).await.is_err());
    // A clock that is set back does not block callers for long.
    assert_eq!(admit(&by_tokens, 60).await, Ok(()));

    let by_money = key(limits(None, None, Some(0.01)));
    assert_eq!(admit(&by_money, 10).await, Ok(()));
    record(&by_money, 5, 0.009_999, 11).await;
    assert_eq!(admit(&by_money, 80_000).await, Ok(()));
    record(&by_money, 5, 0.000_000_1, 80_001).await;
    let retry_after = Duration::from_secs(400);
    let refused = Err(Refusal::Budget { limit: 0.01, retry_after });
    assert_eq!(admit(&by_money, 86_000).await, refused);
    assert_eq!(admit(&by_money, 86_400).await, Ok(()));
}

#[test]
fn what_is_wrong_with_tls_to_redis_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let good = file("good.pem", &made.cert.pem());
    let key = file("key.pem", &made.signing_key.serialize_pem());
    let tls = |ca: &Option<_>, certificate: &Option<_>, key: &Option<_>| {
        let (ca, certificate, key) = (ca.clone(), certificate.clone(), key.clone());
        Some(RedisTlsConfig { ca, certificate, key })
    };
    let (empty, missing) = (file("empty.pem", ""), Some(folder.path().join("missing")));
    let url = "rediss://u:planted@localhost/0";
    let table = [
        ("redis://u:planted@localhost/0", tls(&good, &None, &None), "`rediss://`"),
        ("rediss://u:planted@localhost/0#insecure", None, "`access.redis_tls.ca`"),
        ("rediss://u:planted@localhost:port/0", None, "its URL"),
        (url, tls(&empty, &None, &None), "no certificate"),
        (url, tls(&missing, &None, &None), "`access.redis_tls.ca`"),
        (url, tls(&good, &good, &None), "`key`"),
        (url, tls(&None, &empty, &key), "`access.redis_tls.certificate`"),
        (url, tls(&None, &good, &empty), "`access.redis_tls.key`"),
    ];
    let new = |url: &str, tls: Option<RedisTlsConfig>| {
        RedisCounters::new(&url.into(), tls.as_ref()).map_err(|error| error.explained())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _entered = runtime.enter();
    for (url, tls, reason) in table {
        let error = new(url, tls).err().unwrap();
        assert!(error.contains(reason) && !error.contains("planted"), "{error}");
    }
    assert!(new(url, None).is_ok());
    assert!(new(url, tls(&good, &good, &key)).is_ok());
}

#[tokio::test]
async fn spending_is_written_down_a_little_later_and_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::embedded(&folder.path().join("keys.db")).await.unwrap();
    let limiter = Limiter::new(None);
    let keys = [(); 2].map(|()| NewKey::new("a", limits(None, None, Some(1.0)), 0).unwrap().key);
    for (key, day, cost) in [(0, 0, 0.25), (1, 0, 0.5), (0, 0, 0.25), (0, 1, 0.125)] {
        limiter.record(&keys[key], Some(&store), 1, cost, at(day * 86_400)).await;
    }
    limiter.finish(&store, Instant::now() + Duration::from_secs(20)).await;
    for (key, day, micros) in [(0, 0, 500_000), (1, 0, 500_000), (0, 1, 125_000)] {
        assert_eq!(store.spent(&keys[key].id, day).await.unwrap(), micros);
    }

    // Without a flush at the end it is written as well, and another process sees it.
    let other = Limiter::new(None);
    for limiter in [&limiter, &other] {
        assert_eq!(limiter.admit(&keys[0], 1, Some(&store), at(0)).await, Ok(()));
    }
    limiter.record(&keys[0], Some(&store), 1, 0.5, at(0)).await;
    let refused = async {
        while other.admit(&keys[0], 1, Some(&store), at(0)).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), refused).await.unwrap();
    // The process that wrote it counts nothing twice.
    assert_eq!(store.spent(&keys[0].id, 0).await.unwrap(), 1_000_000);
    let more = Key { limits: limits(None, None, Some(1.000_001)), ..keys[0].clone() };
    assert_eq!(limiter.admit(&more, 1, Some(&store), at(0)).await, Ok(()));
}

#[tokio::test]
async fn a_key_whose_spending_cannot_be_written_holds_no_other_up_and_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.db");
    let store = Store::embedded(&path).await.unwrap();
    let limiter = Limiter::new(None);
    let keys = [(); 8].map(|()| NewKey::new("a", limits(None, None, Some(1.0)), 0).unwrap().key);
    for key in &keys {
        limiter.record(key, Some(&store), 1, 0.25, at(0)).await;
    }
    let mut other =
        SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let broken = &keys[0].id;
    let trigger = format!(
        "CREATE TRIGGER broken BEFORE INSERT ON prompt_r1_spending WHEN NEW.key_id = '{broken}'
         BEGIN SELECT RAISE(ABORT, 'on purpose'); END"
    );
    other.execute(trigger.as_str()).await.unwrap();
    let finished = limiter.finish(&store, Instant::now() + Duration::from_secs(60));
    let mended = async {
        for key in &keys[1..] {
            while store.spent(&key.id, 0).await.unwrap() != 250_000 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        assert_eq!(store.spent(broken, 0).await.unwrap(), 0);
        other.execute("DROP TRIGGER broken").await.unwrap();
    };
    tokio::join!(finished, mended);
    assert_eq!(store.spent(broken, 0).await.unwrap(), 250_000);
}
