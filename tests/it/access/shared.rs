//! Keys in a real PostgreSQL, limits in a real Redis.

use std::sync::Arc;

use prompt_r1::access::{Access, AccessConfig, RedisTlsConfig, Store};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{id, make, outcome, solve};
use crate::eventually::eventually;
use crate::loopback::Loopback;
use crate::server::{Server, Setup};
use crate::services::Services;

/// A Redis and its configuration.
struct Redis {
    url: String,
    tls: Option<RedisTlsConfig>,
}

impl Redis {
    fn plain(url: &str) -> Self {
        Self { url: url.to_owned(), tls: None }
    }
}

impl Services {
    /// Redis over TLS, with the authority and the certificate of these names.
    fn encrypted(&self, ca: &str, certificate: Option<&str>) -> Redis {
        let file = |name: &str, kind: &str| Some(self.certificates.join(format!("{name}.{kind}")));
        let tls = RedisTlsConfig {
            ca: file(ca, "pem"),
            certificate: certificate.and_then(|name| file(name, "pem")),
            key: certificate.and_then(|name| file(name, "key")),
        };
        Redis { url: self.rediss.clone(), tls: Some(tls) }
    }

    async fn access(&self, redis: &Redis) -> Arc<Access> {
        let config = AccessConfig {
            store_url_env: Some("STORE".into()),
            redis_url_env: Some("REDIS".into()),
            redis_tls: redis.tls.clone(),
            ..AccessConfig::default()
        };
        let (postgres, redis) = (self.postgres.clone(), redis.url.clone());
        let urls = move |name: &str| {
            Some(SecretString::from(if name == "STORE" { postgres.clone() } else { redis.clone() }))
        };
        Arc::new(Access::open(&config, &urls).await.unwrap())
    }

    async fn server(&self, redis: &Redis, upstream: &Loopback) -> Server {
        let mut setup = Setup::relay();
        setup.endpoint = json!({"prices": {"input_per_million": 1e6, "output_per_million": 1e6}});
        setup.access = Some(self.access(redis).await);
        setup.start(upstream).await
    }

    async fn key(&self, limits: Value) -> (Store, String) {
        let store = Store::connect(&self.postgres.clone().into()).await.unwrap();
        let key = make(&store, limits).await;
        (store, key)
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn postgres_keeps_keys_and_spending() {
    let services = Services::find();
    let (store, key) = services.key(json!({"budget_per_day": 1.5})).await;
    let kept = store.find(id(&key)).await.unwrap().unwrap();
    assert_eq!((kept.limits.budget_per_day, kept.revoked_at), (Some(1.5), None));
    assert!(store.list().await.unwrap().contains(&kept));
    for (micros, sum) in [(5, 5), (7, 12)] {
        store.spend(id(&key), 1, micros).await.unwrap();
        assert_eq!(store.spent(id(&key), 1).await.unwrap(), sum);
    }
    store.revoke(id(&key), 9).await.unwrap();
    assert_eq!(store.find(id(&key)).await.unwrap().unwrap().revoked_at, Some(9));
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn replicas_share_limits() {
    let services = Services::find();
    let upstream = Loopback::start().await;
    let table = [
        (json!({"requests_per_minute": 3}), 3, "rate_limit_exceeded"),
        // A call has 18, and the policy adds a few.
        (json!({"tokens_per_minute": 40}), 2, "rate_limit_exceeded"),
        (json!({"budget_per_day": 45.0}), 3, "insufficient_quota"),
    ];
    for (limits, allowed, code) in table {
        let (_, key) = services.key(limits.clone()).await;
        let redis = Redis::plain(&services.redis);
        let replicas =
            [services.server(&redis, &upstream).await, services.server(&redis, &upstream).await];
        for turn in 0..allowed {
            let response = solve(&replicas[turn % 2], &key).await;
            assert_eq!(response.status(), 200, "{limits} {turn}");
        }
        for replica in &replicas {
            let (status, refused, wait) = outcome(solve(replica, &key).await).await;
            assert_eq!((status, refused.as_str()), (429, code), "{limits}");
            assert!(wait.is_some());
        }
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn without_redis_each_process_counts_for_itself() {
    let services = Services::find();
    let upstream = Loopback::start().await;
    let (_, key) = services.key(json!({"requests_per_minute": 1})).await;
    // No server listens there.
    let server = services.server(&Redis::plain("redis://127.0.0.1:1/0"), &upstream).await;
    assert_eq!(solve(&server, &key).await.status(), 200);
    assert_eq!(outcome(solve(&server, &key).await).await.0, 429);
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn what_was_spent_while_redis_was_away_is_not_forgotten() {
    let services = Services::find();
    let upstream = Loopback::start().await;
    let (store, key) = services.key(json!({"budget_per_day": 15.0})).await;
    let away = services.server(&Redis::plain("redis://127.0.0.1:1/0"), &upstream).await;
    assert_eq!(solve(&away, &key).await.status(), 200);
    let day = 1_700_000_000 / 86_400;
    eventually("spending", async || store.spent(id(&key), day).await.unwrap() > 0).await;
    let back = services.server(&Redis::plain(&services.redis), &upstream).await;
    assert_eq!(outcome(solve(&back, &key).await).await.1, "insufficient_quota");
}

#[tokio::test]
#[ignore = "needs PostgreSQL and Redis: tests/services.sh"]
async fn limits_are_shared_over_tls_with_a_redis_that_can_be_trusted() {
    let services = Services::find();
    let upstream = Loopback::start().await;
    let table = [
        ("ca", None, true),
        ("ca", Some("client"), true),
        // Redis's client certificate must be signed by an authority that it knows.
        ("ca", Some("other"), false),
        ("other", None, false),
    ];
    for (ca, certificate, is_shared) in table {
        let (_, key) = services.key(json!({"requests_per_minute": 2})).await;
        let redis = services.encrypted(ca, certificate);
        let replicas =
            [services.server(&redis, &upstream).await, services.server(&redis, &upstream).await];
        for replica in &replicas {
            assert_eq!(solve(replica, &key).await.status(), 200, "{ca} {certificate:?}");
        }
        let third = solve(&replicas[0], &key).await.status();
        assert_eq!(third, if is_shared { 429 } else { 200 }, "{ca} {certificate:?}");
    }
}
