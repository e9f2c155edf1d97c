//! Keys in a real PostgreSQL, limits in a real Redis.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use prompt_r1::access::{Access, AccessConfig, Store};
use secrecy::SecretString;
use serde_json::{Value, json};

use super::{id, make, outcome, solve};
use crate::loopback::Loopback;
use crate::server::{Server, Setup};

/// Where both are.
#[derive(Clone)]
pub struct Services {
    pub postgres: String,
    pub redis: String,
}

/// What was started for these tests; ends when its input does, which is with this process.
static STARTED: Mutex<Option<(Child, Services)>> = Mutex::new(None);

impl Services {
    /// Those that the environment names, or ones that are started now.
    pub fn find() -> Self {
        let variable = |name: &str| std::env::var(name).ok();
        let named = variable("PROMPT_R1_TEST_POSTGRES").zip(variable("PROMPT_R1_TEST_REDIS"));
        if let Some((postgres, redis)) = named {
            return Self { postgres, redis };
        }
        let mut started = STARTED.lock().unwrap();
        let (_, services) = started.get_or_insert_with(Self::start);
        services.clone()
    }

    fn start() -> (Child, Self) {
        let tell = "echo \"$PROMPT_R1_TEST_POSTGRES $PROMPT_R1_TEST_REDIS\"; cat";
        let mut script = Command::new("tests/services.sh");
        script.args(["sh", "-c", tell]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut script = script.spawn().expect("cannot start `tests/services.sh`");
        let mut line = String::new();
        BufReader::new(script.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let (postgres, redis) = line.trim().split_once(' ').expect(
            "PostgreSQL and Redis do not start\nhint: apt-get install postgresql redis-server",
        );
        (script, Self { postgres: postgres.to_owned(), redis: redis.to_owned() })
    }

    async fn access(&self, redis: &str) -> Arc<Access> {
        let config = AccessConfig {
            store_url_env: Some("STORE".into()),
            redis_url_env: Some("REDIS".into()),
            ..AccessConfig::default()
        };
        let (postgres, redis) = (self.postgres.clone(), redis.to_owned());
        let urls = move |name: &str| {
            Some(SecretString::from(if name == "STORE" { postgres.clone() } else { redis.clone() }))
        };
        Arc::new(Access::open(&config, &urls).await.unwrap())
    }

    async fn server(&self, redis: &str, upstream: &Loopback) -> Server {
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
        // A call takes 18, and the policy's own words a few more.
        (json!({"tokens_per_minute": 40}), 2, "rate_limit_exceeded"),
        (json!({"budget_per_day": 45.0}), 3, "insufficient_quota"),
    ];
    for (limits, allowed, code) in table {
        let (_, key) = services.key(limits.clone()).await;
        let replicas = [
            services.server(&services.redis, &upstream).await,
            services.server(&services.redis, &upstream).await,
        ];
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
    // Nobody listens there.
    let server = services.server("redis://127.0.0.1:1/0", &upstream).await;
    assert_eq!(solve(&server, &key).await.status(), 200);
    assert_eq!(outcome(solve(&server, &key).await).await.0, 429);
}
